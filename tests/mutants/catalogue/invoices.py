"""Mutants of the list of invoices and of pins."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

LIST = "integration/test_invoice_pages.py::test_"
PINS = "integration/test_invoice_pins.py::test_"

INVOICES = (
    mutant(
        "the sums mix sales and bills",
        "web/presentation/invoice_list_view.py",
        "amounts.setdefault((group.is_purchase, group.currency), defaultdict(Decimal))",
        "amounts.setdefault((False, group.currency), defaultdict(Decimal))",
        f"{LIST}sums_are_of_what_is_filtered_and_never_mix_currencies_or_sales_with_bills",
    ),
    mutant(
        "an invoice without a due date is lost between pages",
        "store/read_model/account_invoices.py",
        "\"coalesce(r.due_date, 'infinity')\"",
        '"r.due_date"',
        f"{LIST}pages_in_any_order_have_every_invoice_once",
    ),
    mutant(
        "the search text is readable in the URL",
        "web/admin/invoices.py",
        "encrypted = searches.encrypt(Topic.INVOICES, browser_session.account_id, text)",
        "encrypted = text",
        f"{LIST}a_search_finds_numbers_and_contacts_and_hides_its_text_in_the_url",
    ),
    mutant(
        "a slow search ends in an error page",
        "store/read_model/account_invoices.py",
        "if isinstance(error.orig, QueryCanceled):",
        "if False:",
        f"{LIST}a_search_that_takes_too_long_says_so_and_keeps_the_form",
    ),
    mutant(
        "a pin shows its invoice on a deleted opportunity",
        "store/read_model/projection.py",
        "AND c.record_id = p.opportunity_id AND NOT c.is_deleted",
        "AND c.record_id = p.opportunity_id",
        f"{PINS}a_pin_waits_while_its_opportunity_or_its_invoice_is_deleted",
        "integration/test_matching_property.py::test_reasons_and_unmatched_lists_agree_with_the_stored_rows",
    ),
    mutant(
        "the deletion of a pinned opportunity is not projected",
        "store/mirror/mirror.py",
        "    if record_type is RecordType.OPPORTUNITY:\n        session.execute(MARK_PINNED_OPPORTUNITIES,",
        "    if False:\n        session.execute(MARK_PINNED_OPPORTUNITIES,",
        f"{PINS}a_pin_waits_while_its_opportunity_or_its_invoice_is_deleted",
    ),
    mutant(
        "the setting for pinned invoices has no effect until a rebuild",
        "web/admin/settings.py",
        "            invoice_pins.mark_opportunities(session, browser_session.account_id)\n",
        "            pass\n",
        f"{PINS}the_setting_projects_every_opportunity_and_is_audited",
    ),
)
