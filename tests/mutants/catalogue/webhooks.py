"""Breaks of what takes webhooks."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

WEBHOOKS = (
    mutant(
        "an event of another category is ignored",
        "store/inbox.py",
        "CASE WHEN o.id IS NULL THEN 'ignored' ELSE 'pending' END, CASE WHEN o.id IS NULL THEN now() END",
        "CASE WHEN o.id IS NULL OR e.kind NOT IN ('INVOICE', 'CONTACT') THEN 'ignored' ELSE 'pending' END,\n"
        "               CASE WHEN o.id IS NULL OR e.kind NOT IN ('INVOICE', 'CONTACT') THEN now() END",
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
        "            malformed.append(_malformed_id(whole, notification, index, value))",
        "            return [], [whole]",
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
        "webhooks/receivers.py",
        "signature.copper(payload.pop(SECRET_KEY, None)",
        "signature.copper(payload.get(SECRET_KEY)",
        "test_receivers.py::test_coppers_malformed_but_authentic_body_is_kept_for_a_person",
    ),
    mutant(
        "a body without a length may be of any size",
        "web/bounds.py",
        "            if size > BODY_LIMIT:\n                raise _too_large()\n",
        "",
        "test_receivers.py::test_a_body_over_a_mebibyte_is_refused_unread",
    ),
)
