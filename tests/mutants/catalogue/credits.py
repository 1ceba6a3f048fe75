"""Mutants of credits: what they count as, who sees them, and how they are fetched."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

TESTS = "integration/test_credits.py::test_"

CREDITS = (
    mutant(
        "a credit counts as owed",
        "store/read_model/balances.py",
        "coalesce(sum(b.open) FILTER (WHERE credit_resource(b.type) IS NULL), 0) AS open",
        "coalesce(sum(b.open), 0) AS open",
        f"{TESTS}a_credit_note_is_a_row_in_order_of_created_date_and_counts_as_credit",
    ),
    mutant(
        "credits that are turned off are shown",
        "alembic/versions/0001_baseline.py",
        "credit_resource(type) = ANY((settings).shown_credits)\n",
        "true\n",
        f"{TESTS}other_credits_show_once_the_account_chooses_them",
    ),
    mutant(
        "without any credits nothing is shown",
        "alembic/versions/0001_baseline.py",
        "(credit_resource(type) IS NULL OR credit_resource(type) = ANY((settings).shown_credits)\n",
        "(credit_resource(type) = ANY((settings).shown_credits)\n",
        f"{TESTS}events_of_credits_that_are_not_shown_still_refresh_the_invoices",
    ),
    mutant(
        "a supplier's credits are shown without bills",
        "alembic/versions/0001_baseline.py",
        "RETURN type IN ('ACCPAY', 'ACCPAYCREDIT', 'SPEND-PREPAYMENT', 'SPEND-OVERPAYMENT')",
        "RETURN type = 'ACCPAY'",
        f"{TESTS}suppliers_credits_show_with_bills_only",
    ),
    mutant(
        "an applied credit does not refresh its invoice",
        "worker/vendors/xero/connector.py",
        "result.documents.extend(_fetch_changed_invoices(client, credit_events))",
        "pass",
        f"{TESTS}applying_a_credit_note_shows_on_both_even_if_xero_sends_no_invoice_event",
    ),
    mutant(
        "a burst of credits is fetched one by one",
        "worker/vendors/xero/connector.py",
        "len(ids) > MAX_CREDITS_BY_ID",
        "len(ids) > MAX_CREDITS_BY_ID * 1_000",
        f"{TESTS}a_burst_of_credit_notes_is_fetched_as_one_page_of_changes",
    ),
    mutant(
        "a credit's CREATE event sets no created date",
        "worker/vendors/xero/connector.py",
        'CREATED_CATEGORIES = {"INVOICE", *CREDIT_CATEGORIES}',
        'CREATED_CATEGORIES = {"INVOICE"}',
        f"{TESTS}a_credit_note_is_a_row_in_order_of_created_date_and_counts_as_credit",
    ),
    mutant(
        "a reconciliation looks for credits among the invoices",
        "store/sync/refresh_candidates.py",
        "AND coalesce(credit_resource(type), 'invoices') = :resource",
        "AND :resource = 'invoices'",
        f"{TESTS}a_reconciliation_reports_and_repairs_drift_of_credits",
    ),
    mutant(
        "a merge leaves credits behind",
        "worker/vendors/xero/stages.py",
        "    for resource in client.organisation.shown_credits:\n",
        "    for resource in ():\n",
        f"{TESTS}credits_of_a_merged_contact_move_to_the_merge_target",
    ),
    mutant(
        "a used credit counts as credit to use",
        "store/read_model/record_invoices.py",
        "WHEN r.status = 'PAID' THEN 'USEDCREDIT'",
        "WHEN r.status = 'PAID' THEN 'CREDIT'",
        f"{TESTS}each_row_has_one_status_to_filter_by",
    ),
    mutant(
        "a credit counts as awaiting payment",
        "store/read_model/record_invoices.py",
        "CASE WHEN credit_resource(r.type) IS NULL THEN CASE",
        "CASE WHEN true THEN CASE",
        f"{TESTS}each_row_has_one_status_to_filter_by",
    ),
    mutant(
        "a permission for credits that are turned off is missed",
        "worker/vendors/xero/scopes.py",
        "(CREDIT_ENDPOINTS[resource] for resource in shown_credits)",
        "CREDIT_ENDPOINTS.values()",
        f"{TESTS}a_missing_scope_for_credits_is_reported_and_stops_nothing_else",
    ),
    mutant(
        "an allocation whose amount is unknown counts as nothing",
        "worker/vendors/xero/schemas.py",
        "if self.total is None or None in applied:",
        "if self.total is None:",
        "unit/test_vendor_schemas.py::test_what_is_left_of_a_credit_is_computed_only_if_it_can_be",
    ),
)
