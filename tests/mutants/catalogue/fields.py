"""Mutants of custom fields in Copper: their values, when they are written, and what is not fetched again."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

TESTS = "integration/test_copper_fields.py::test_"
VALUES = "store/read_model/field_values.py"
WRITER = "worker/sync/field_writer.py"
FORMS = "unit/test_field_forms.py::test_"

FIELDS = (
    mutant(
        "fields count bills",
        VALUES,
        "WHERE NOT is_purchase(r.type) AND is_shown(a, r.record_type, r.type, 'AUTHORISED')),",
        "WHERE true),",
        f"{TESTS}every_type_of_record_has_the_values_that_its_page_shows",
    ),
    mutant(
        "a draft counts as invoiced",
        VALUES,
        "r.status IN ('AUTHORISED', 'PAID') AND credit_resource(r.type) IS NULL AS is_invoiced",
        "credit_resource(r.type) IS NULL AS is_invoiced",
        f"{TESTS}every_type_of_record_has_the_values_that_its_page_shows",
    ),
    mutant(
        "a credit note counts as outstanding in Copper",
        VALUES,
        "{AWAITS_PAYMENT} AND credit_resource(r.type) IS NULL AS awaits_payment",
        "{AWAITS_PAYMENT} AS awaits_payment",
        f"{TESTS}every_type_of_record_has_the_values_that_its_page_shows",
    ),
    mutant(
        "a payment does not reach the fields",
        "store/read_model/projection.py",
        '{mark_fields("removed", "written")}',
        '{mark_fields("removed")}',
        f"{TESTS}a_payment_changes_the_fields_and_a_deselected_field_is_emptied",
    ),
    mutant(
        "what becomes overdue at midnight does not reach the fields",
        "store/read_model/projection.py",
        '{mark_fields("emptied", "balanced")}',
        '{mark_fields("emptied")}',
        f"{TESTS}what_becomes_overdue_at_midnight_is_written",
    ),
    mutant(
        "the beginning of overdue waits for the interval",
        VALUES,
        'OR {_is_overdue("e.field_values")} <> {_is_overdue("v.written_values")}',
        "",
        f"{TESTS}a_burst_is_written_once_and_only_overdue_does_not_wait_for_the_interval",
    ),
    mutant(
        "our own writes are fetched",
        "webhooks/endpoints.py",
        "elif names_only_fields(payload, sender.own_fields):",
        "elif False:",
        f"{TESTS}a_thousand_writes_cause_no_further_write",
    ),
    mutant(
        "a change of our field hides one of another field",
        "webhooks/payloads.py",
        "all(parse_record_id(key) in definition_ids for key in changed)",
        "any(parse_record_id(key) in definition_ids for key in changed)",
        f"{FORMS}only_an_update_of_nothing_but_our_fields_is_ours",
    ),
    mutant(
        "a change of our field hides one of the name",
        "webhooks/payloads.py",
        'set(attributes) != {"custom_fields"}',
        '"custom_fields" not in attributes',
        f"{FORMS}only_an_update_of_nothing_but_our_fields_is_ours",
    ),
    mutant(
        "a deleted definition is created again by itself",
        "worker/vendors/copper/fields.py",
        "return None, FieldState.NEW if field.definition_id is None else FieldState.MISSING",
        "return None, FieldState.NEW",
        f"{TESTS}nothing_is_written_while_a_definition_is_not_as_expected",
    ),
    mutant(
        "a retyped definition is written to",
        "worker/vendors/copper/fields.py",
        "FieldState.READY if _is_usable(definition, field) else FieldState.RETYPED",
        "FieldState.READY",
        f"{TESTS}nothing_is_written_while_a_definition_is_not_as_expected",
        f"{FORMS}a_known_definition_is_recognised_by_its_id",
    ),
    mutant(
        "extending a definition takes it from other types of records",
        "worker/vendors/copper/fields.py",
        "sorted(definition.available_on | missing)",
        "sorted(missing)",
        f"{TESTS}definitions_are_created_once_and_whatever_they_are_called",
    ),
    mutant(
        "a refused record counts as written",
        WRITER,
        "                outcomes.refused[record] = reason\n",
        "                outcomes.written.append(record)\n",
        f"{TESTS}a_refused_record_waits_with_its_reason_and_delays_no_other",
    ),
    mutant(
        "people are written one by one",
        WRITER,
        "return owner is None or not owner.is_refused(record_type.plural, NO_BULK)",
        "return False",
        f"{TESTS}ten_records_cost_one_call_or_as_many_as_copper_allows",
    ),
    mutant(
        "what was changed by hand stays",
        "worker/vendors/copper/stages.py",
        "field_values.record_observed(session, run.account_id, observation, cutoff)",
        "pass",
        f"{TESTS}what_somebody_changed_by_hand_is_drift_and_written_again_without_another_call",
    ),
    mutant(
        "a dry run repairs fields",
        "worker/vendors/copper/stages.py",
        "if count and run_kind_of(run).writes:",
        "if count:",
        f"{TESTS}what_somebody_changed_by_hand_is_drift_and_written_again_without_another_call",
    ),
    mutant(
        "disconnecting leaves the fields",
        "store/accounts/deprovisioning.py",
        "        if records:\n",
        "        if not records:\n",
        f"{TESTS}disconnecting_empties_the_fields",
    ),
    mutant(
        "clearing never ends",
        WRITER,
        "    if current.state is FieldWriting.CLEARING and _seconds_until_due(account_id, interval) is None:\n",
        "    if False:\n",
        f"{TESTS}turning_off_empties_the_fields_or_leaves_them",
    ),
    mutant(
        "a new definition counts as having the old one's values",
        WRITER,
        "        if definition_id != known.definition_id:\n",
        "        if False:\n",
        f"{TESTS}a_definition_that_is_made_anew_gets_all_values",
    ),
    mutant(
        "a stopped writer is not told",
        "services/health.py",
        "    if snapshot.fields_error:\n",
        "    if False:\n",
        "integration/test_field_pages.py::test_refusals_are_told_on_the_page_and_in_the_status",
    ),
    mutant(
        "after an error values are written without looking at the definitions again",
        WRITER,
        "return current.error is None and current.check_age is not None",
        "return current.check_age is not None",
        f"{TESTS}after_an_error_the_definitions_are_compared_again_before_anything_is_written",
    ),
    mutant(
        "a record that may not be changed stops the others",
        WRITER,
        "            except VendorError as error:\n                detail",
        "            except InvalidRequestError as error:\n                detail",
        f"{TESTS}a_record_that_may_not_be_changed_delays_no_other",
    ),
    mutant(
        "two writers write at the same time",
        "store/accounts/copper_fields.py",
        "AND (leased_until IS NULL OR leased_until < now()) RETURNING account_id",
        "RETURNING account_id",
        f"{TESTS}one_writer_at_a_time_writes_for_an_account",
    ),
    mutant(
        "the end of emptying undoes what an admin has just turned on",
        "store/accounts/copper_fields.py",
        "WHERE account_id = :account AND state = 'clearing' RETURNING account_id",
        "WHERE account_id = :account RETURNING account_id",
        f"{TESTS}what_is_turned_on_while_emptying_ends_stays_on",
    ),
)
