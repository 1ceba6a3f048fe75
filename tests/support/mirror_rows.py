"""Rows of the mirror, for tests that write it themselves."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from store.mirror.rows import InvoiceRow


def build_invoice(invoice_id: UUID, contact_id: UUID | None, at: datetime, **values: Any) -> InvoiceRow:
    """An approved invoice of that time; `values` replace what it has otherwise."""
    defaults: dict[str, Any] = {
        "type": "ACCREC",
        "status": "AUTHORISED",
        "number": "INV",
        "issue_date": None,
        "due_date": None,
        "total": Decimal(1),
        "balance": Decimal(1),
        "currency": "NZD",
        "created_at": at,
        "created_source": "issue_date",
        "updated_at": at,
    }
    return InvoiceRow(invoice_id=invoice_id, contact_id=contact_id, **{**defaults, **values})
