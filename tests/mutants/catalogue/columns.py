"""Faults in what a record's invoices are filtered and sorted by, which columns show, and what the panel is sent."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import mutant

TESTS = "integration/test_columns_and_filters.py::test_"

COLUMNS = (
    mutant(
        "what awaits payment can be hidden",
        "alembic/versions/0001_baseline.py",
        "(status = 'AUTHORISED' OR status <> ALL((settings).hidden_statuses))",
        "status <> ALL((settings).hidden_statuses)",
        "integration/test_credits.py::test_what_awaits_payment_cannot_be_hidden_by_its_status",
    ),
    mutant(
        "bills show on every type of record",
        "alembic/versions/0001_baseline.py",
        "record_type = ANY((settings).bill_record_types)",
        "(settings).bill_record_types <> '{}'",
        f"{TESTS}hidden_statuses_and_bills_by_record_type_show_nowhere",
    ),
    mutant(
        "the tile of bills lists invoices too",
        "web/presentation/invoice_filters.py",
        "row_type = InvoiceType.BILL if balance.is_purchase else InvoiceType.INVOICE",
        "row_type = InvoiceType.INVOICE",
        f"{TESTS}each_tile_lists_exactly_what_it_is_the_sum_of",
    ),
    mutant(
        "unpaid first puts what is overdue after the rest",
        "store/read_model/record_invoices.py",
        "array_position(ARRAY['OVERDUE', 'AUTHORISED'], row_status)",
        "array_position(ARRAY['AUTHORISED', 'OVERDUE'], row_status)",
        f"{TESTS}invoices_are_sorted_searched_and_filtered",
    ),
    mutant(
        "a search does not look at references",
        "store/read_model/record_invoices.py",
        " OR position(:search IN lower(r.reference)) > 0",
        "",
        f"{TESTS}invoices_are_sorted_searched_and_filtered",
    ),
    mutant(
        "a currency that a record does not have hides its invoices",
        "web/presentation/invoice_filters.py",
        "currency=_if_known(selected.currency, {facet.currency for facet in facets}),",
        "",
        f"{TESTS}a_kept_filter_of_another_record_hides_nothing_and_a_status_says_how_to_clear_it",
    ),
    mutant(
        "the number is no longer the first column",
        "web/admin/columns.py",
        "return (InvoiceColumn.NUMBER, *columns)",
        "return (*columns, InvoiceColumn.NUMBER)",
        f"{TESTS}the_number_is_always_the_first_column",
    ),
    mutant(
        "pages with a session are compressed",
        "web/middleware/compression.py",
        'PREFIXES = ("/static/", "/panel", "/v1/")',
        'PREFIXES = ("/",)',
        "integration/test_compression.py::test_static_files_the_panel_and_the_api_are_compressed_and_pages_and_exports_are_not",
    ),
    mutant(
        "a live change sends every row",
        "web/panel/record_views.py",
        "return self.changes if etag and etag == self.changes_since else self.html",
        "return self.html",
        "integration/test_panel.py::test_a_long_poll_is_answered_when_a_change_arrives",
    ),
    mutant(
        "a field that was requested is always null",
        "web/api/invoices.py",
        "with_details = not DETAIL_FIELDS.isdisjoint(requested or ())",
        "with_details = False",
        "integration/test_read_api.py::test_further_fields_are_in_the_response_if_they_are_requested",
    ),
)
