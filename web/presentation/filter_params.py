"""The query parameters by which a record's invoices are filtered, sorted and searched."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field

from store.read_model.record_invoices import InvoiceFilter, InvoiceSort
from web.presentation.invoice_filters import NO_CURRENCY
from web.presentation.record_view import MAX_ROWS

MAX_SEARCH_LENGTH = 100


class FilterParams(BaseModel):
    """The query parameters of a record, on its page and in the panel; empty ones count as absent."""

    status: str = Field("", max_length=20)
    search: str = Field("", max_length=MAX_SEARCH_LENGTH)
    organisation: str = Field("", pattern="^[0-9]{0,18}$")
    currency: str = Field("", max_length=10)
    type: str = Field("", max_length=30)
    sort: InvoiceSort = InvoiceSort.CREATED
    limit: int | None = Field(None, ge=1, le=MAX_ROWS)

    def to_filter(self) -> InvoiceFilter:
        """The filter."""
        return InvoiceFilter(
            status=self.status,
            search=self.search.strip(),
            organisation_id=int(self.organisation) if self.organisation else None,
            currency="" if self.currency == NO_CURRENCY else self.currency or None,
            type=self.type,
            sort=self.sort,
        )


RecordFilters = Annotated[FilterParams, Query()]
