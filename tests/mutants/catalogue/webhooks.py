"""Breaks of what takes webhooks."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

WEBHOOKS = (
    mutant(
        "an event of another category is ignored",
        "store/inbox.py",
        "FROM event WHERE organisation_id IS NOT NULL\n",
        "FROM event WHERE organisation_id IS NOT NULL AND kind IN ('INVOICE', 'CONTACT')\n",
        "test_receivers.py::test_an_event_of_another_category_shows_what_it_changed",
    ),
    mutant(
        "a Copper event that comes again while its twin is leased is not opened again",
        "store/inbox.py",
        "WHERE known.state IN ('leased', 'done', 'failed', 'dismissed')",
        "WHERE known.state IN ('done', 'failed', 'dismissed')",
        "test_receivers.py::test_an_equal_notification_while_the_first_is_leased_is_opened_again",
    ),
    mutant(
        "a Copper event that comes again after it was applied is dropped",
        "store/inbox.py",
        "WHERE known.state IN ('leased', 'done', 'failed', 'dismissed')",
        "WHERE known.state IN ('leased', 'failed', 'dismissed')",
        "test_receivers.py::test_an_equal_notification_after_the_first_was_applied_is_looked_at_again",
    ),
    mutant(
        "one bad event costs its delivery",
        "webhooks/payloads.py",
        "return _read_one_by_one(raw_events, origin)",
        'return [], [_malformed_body(NOBODY, "xero", origin, origin.body, "")]',
        "test_receivers.py::test_a_bad_event_is_put_aside_and_its_siblings_are_applied",
    ),
    mutant(
        "one bad id costs its notification",
        "webhooks/payloads.py",
        "            malformed.append(_malformed_id(whole, notification, index, value, secret))",
        "            return Notification(malformed=[whole])",
        "test_receivers.py::test_an_odd_id_is_put_aside_and_the_others_are_applied",
    ),
    mutant(
        "two changes that tell no millisecond are one",
        "webhooks/payloads.py",
        "if occurred is not None and occurred.microsecond else origin.hash",
        "if occurred is not None else origin.hash",
        "test_receivers.py::test_two_deliveries_that_tell_no_millisecond_are_two_events",
    ),
    mutant(
        "an event that nobody could read asks for no catch-up",
        "webhooks/payloads.py",
        "            if tenant:\n",
        "            if False:\n",
        "test_receivers.py::test_an_event_that_names_no_resource_has_its_organisation_caught_up",
    ),
    mutant(
        "a doubled signature is accepted",
        "webhooks/receivers.py",
        "if len(signatures) != 1 or not signature.xero",
        "if not signatures or not signature.xero",
        "test_receivers.py::test_a_doubled_signature_is_refused",
    ),
    mutant(
        "white space behind a signature is refused",
        "webhooks/signature.py",
        'signature.strip(" \\t").encode',
        "signature.encode",
        "test_receivers.py::test_white_space_around_the_signature_is_no_part_of_it",
    ),
    mutant(
        "a Copper account's secret is kept with what could not be read",
        "webhooks/payloads.py",
        "re.sub(re.escape(self.value.encode()), REMOVED, named, flags=re.IGNORECASE)",
        "named",
        "test_webhook_payloads.py::test_whatever_is_kept_of_a_notification_the_secret_is_not",
    ),
    mutant(
        "a set-up code works for a second account",
        "store/invitations.py",
        "WHERE code_hash = :hash AND used_at IS NULL AND revoked_at IS NULL AND expires_at > now()",
        "WHERE code_hash = :hash AND revoked_at IS NULL AND expires_at > now()",
        "test_admission.py::test_of_two_accounts_with_one_code_at_once_one_is_connected",
    ),
    mutant(
        "what stands for a minute's notifications is finished before the minute is over",
        "store/inbox.py",
        "WHERE {REQUESTS} AND (source = 'xero' OR not_before <= now())",
        "WHERE {REQUESTS}",
        "test_webhook_quotas.py::test_a_catch_up_that_begins_within_the_minute_leaves_the_next_one_due",
    ),
    mutant(
        "the window hands its code over whatever number it is told",
        "web/pages/panel_confirmation.py",
        'if given == number(values["challenge"]):',
        "if given:",
        "test_panel.py::test_a_colleague_who_is_sent_to_the_window_by_a_link_hands_no_code_over",
    ),
    mutant(
        "a body without a length may be of any size",
        "web/bounds.py",
        "            if size > BODY_LIMIT:\n                raise _too_large()\n",
        "",
        "test_receivers.py::test_a_body_over_a_mebibyte_is_refused_unread",
    ),
)
