"""Mutants of the webhook endpoints."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

WEBHOOKS = (
    mutant(
        "an event of another category is ignored",
        "store/ingest/inbox.py",
        "FROM event WHERE organisation_id IS NOT NULL\n",
        "FROM event WHERE organisation_id IS NOT NULL AND category IN ('INVOICE', 'CONTACT')\n",
        "integration/test_webhook_endpoints.py::test_an_event_of_another_category_updates_the_affected_invoices",
    ),
    mutant(
        "a duplicate of a leased Copper event does not reopen it",
        "store/ingest/inbox.py",
        "WHERE existing.state IN ('leased', 'done', 'failed', 'dismissed')",
        "WHERE existing.state IN ('done', 'failed', 'dismissed')",
        "integration/test_webhook_endpoints.py::test_a_duplicate_of_a_leased_notification_reopens_it",
    ),
    mutant(
        "a duplicate of an applied Copper event is dropped",
        "store/ingest/inbox.py",
        "WHERE existing.state IN ('leased', 'done', 'failed', 'dismissed')",
        "WHERE existing.state IN ('leased', 'failed', 'dismissed')",
        "integration/test_webhook_endpoints.py::test_a_duplicate_of_an_applied_notification_is_processed_again",
    ),
    mutant(
        "a malformed event loses its delivery",
        "webhooks/payloads.py",
        "return _read_individually(raw_events, origin)",
        'return [], [_malformed_body(INSTALLATION, "xero", origin, origin.body, "")]',
        "integration/test_webhook_endpoints.py::test_a_malformed_event_is_quarantined_and_the_others_are_applied",
    ),
    mutant(
        "an invalid id loses its notification",
        "webhooks/payloads.py",
        "            malformed.append(_malformed_id(whole, notification, index, value, secret))",
        "            return Notification(malformed=[whole])",
        "integration/test_webhook_endpoints.py::test_an_invalid_id_is_quarantined_and_the_others_are_applied",
    ),
    mutant(
        "two changes without milliseconds are duplicates",
        "webhooks/payloads.py",
        "if occurred_at is not None and occurred_at.microsecond else origin.hash",
        "if occurred_at is not None else origin.hash",
        "integration/test_webhook_endpoints.py::test_two_events_without_milliseconds_are_not_duplicates",
    ),
    mutant(
        "an unreadable event requests no catch-up",
        "webhooks/payloads.py",
        "            if tenant:\n",
        "            if False:\n",
        "integration/test_webhook_endpoints.py::test_an_event_without_a_resource_requests_a_catch_up",
    ),
    mutant(
        "a doubled signature is accepted",
        "webhooks/endpoints.py",
        "if len(signatures) != 1 or not signature.verify_xero",
        "if not signatures or not signature.verify_xero",
        "integration/test_webhook_endpoints.py::test_a_doubled_signature_is_refused",
    ),
    mutant(
        "white space after a signature is refused",
        "webhooks/signature.py",
        'signature.strip(" \\t").encode',
        "signature.encode",
        "integration/test_webhook_endpoints.py::test_white_space_around_the_signature_is_ignored",
    ),
    mutant(
        "a Copper account's secret is stored with unreadable bodies",
        "webhooks/payloads.py",
        "re.sub(re.escape(self.value.encode()), REDACTED, json, flags=re.IGNORECASE)",
        "json",
        "integration/test_webhook_payloads.py::test_the_secret_of_a_notification_is_never_stored",
    ),
    mutant(
        "a set-up code works for a second account",
        "store/accounts/invitations.py",
        "WHERE code_hash = :hash AND used_at IS NULL AND revoked_at IS NULL AND expires_at > now()",
        "WHERE code_hash = :hash AND revoked_at IS NULL AND expires_at > now()",
        "integration/test_setup_codes.py::test_one_code_connects_only_one_of_two_concurrent_accounts",
    ),
    mutant(
        "a catch-up request is completed before its minute is over",
        "store/ingest/inbox.py",
        "WHERE {CATCH_UP_REQUESTS} AND (vendor = 'xero' OR not_before <= now())",
        "WHERE {CATCH_UP_REQUESTS}",
        "integration/test_webhook_quotas.py::test_a_catch_up_started_within_the_minute_leaves_the_next_one_due",
    ),
    mutant(
        "the window reveals its code for any number",
        "web/admin/panel_confirmation.py",
        'if number == verification_number(values["challenge"]):',
        "if number:",
        "integration/test_panel.py::test_a_colleague_lured_to_the_window_by_a_link_reveals_no_code",
    ),
    mutant(
        "a body without Content-Length has no size limit",
        "web/middleware/request_limits.py",
        "            if size > MAX_BODY_BYTES:\n                raise _too_large()\n",
        "",
        "integration/test_webhook_endpoints.py::test_a_body_over_a_mebibyte_is_refused_before_it_is_read",
    ),
)
