"""Mutants of customer links, and of the total in the base currency."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

CUSTOMER_LINKS = (
    mutant(
        "a customer link may lead anywhere",
        "worker/vendors/xero/schemas.py",
        "if len(url) > MAX_ONLINE_URL or not ONLINE_URL.fullmatch(url):",
        "if len(url) > MAX_ONLINE_URL:",
        "unit/test_vendor_schemas.py::test_the_link_for_a_customer_only_leads_to_xero_over_https",
    ),
    mutant(
        "every click on a customer link calls Xero",
        "web/presentation/customer_links.py",
        "        if invoice.url:\n            return invoice.url\n",
        "",
        "integration/test_customer_links.py::test_a_link_takes_one_call_and_is_kept_through_later_changes",
    ),
    mutant(
        "any record gives the customer link of any invoice",
        "store/read_model/online_invoices.py",
        "x.record_type = :type AND x.record_id = :record",
        "x.record_type = :type AND :record > 0",
        "integration/test_customer_links.py::test_only_invoices_that_the_account_shows_on_the_record_have_a_link",
    ),
    mutant(
        "a read key gets customer links",
        "web/api/customer_links.py",
        "import BEARER_SECURITY, AdminCaller",
        "import BEARER_SECURITY, ReadCaller as AdminCaller",
        "integration/test_customer_links.py::test_only_the_panels_key_and_admin_keys_get_a_link",
    ),
    mutant(
        "a customer link is logged",
        "runtime/logs.py",
        'ONLINE_INVOICE.sub("in.xero.com/[secret]", scrubbed)',
        "scrubbed",
        "integration/test_customer_links.py::test_a_link_is_scrubbed_from_the_text_of_libraries",
    ),
    mutant(
        "a viewer may use up Xero's calls",
        "web/presentation/customer_links.py",
        "        await run_in_threadpool(rate_limits.limit_customer_links, viewer)\n",
        "",
        "integration/test_customer_links.py::test_fetching_is_limited_by_viewer_but_not_what_is_kept",
    ),
    mutant(
        "a customer link that could not be copied is not shown (JavaScript)",
        "web/static/panel.js",
        "if (await copyText(url, button)) return",
        "if (await copyText(url, button) || true) return",
        "browser/test_panel_browser.py::test_a_customer_link_that_cannot_be_copied_is_shown_selected",
    ),
)
BASE_TOTALS = (
    mutant(
        "amounts are multiplied by the exchange rate",
        "store/read_model/base_totals.py",
        "r.balance / i.currency_rate",
        "r.balance * i.currency_rate",
        "integration/test_base_totals.py::test_amounts_count_at_the_invoices_own_rates",
    ),
    mutant(
        "an unknown exchange rate counts as 1",
        "store/read_model/base_totals.py",
        "                 END AS base_amount",
        "                 ELSE r.balance END AS base_amount",
        "integration/test_base_totals.py::test_an_invoice_without_a_usable_rate_is_named_and_not_counted",
    ),
    mutant(
        "the total in the base currency repeats the only tile",
        "store/read_model/base_totals.py",
        '        if row["is_foreign"]\n',
        "",
        "integration/test_base_totals.py::test_nothing_is_said_where_everything_is_in_the_base_currency",
    ),
)
