"""The read as one writes it first with FastAPI and SQLModel: select, models, response model. A yardstick."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, HTTPException
from sqlmodel import Session, SQLModel, col, select

from store.database import engine
from store.models import Account, ApiKey, RecordInvoice

router = APIRouter(prefix="/plain")


class InvoiceRead(SQLModel):
    """An invoice as it is answered."""

    invoice_id: UUID
    number: str | None
    type: str
    status: str
    issuer: str
    issue_date: date | None
    due_date: date | None
    total: Decimal
    balance: Decimal
    currency: str | None
    created_at: datetime
    created_source: str


class InvoicesRead(SQLModel):
    """A record's invoices."""

    invoices: list[InvoiceRead]
    synced_at: datetime | None


def session() -> Iterator[Session]:
    """A session a request."""
    with Session(engine()) as opened:
        yield opened


def account(database: Annotated[Session, Depends(session)], authorization: Annotated[str, Header()]) -> Account:
    """The account of the key."""
    digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).digest()
    key = database.exec(select(ApiKey).where(ApiKey.key_hash == digest)).first()
    found = database.get(Account, key.account_id) if key else None
    if found is None:
        raise HTTPException(401)
    return found


@router.get("/v1/{type}/{id}/invoices", response_model=InvoicesRead)
def read(
    type: str,
    id: int,
    database: Annotated[Session, Depends(session)],
    account: Annotated[Account, Depends(account)],
    limit: int = 5,
) -> InvoicesRead:
    """A record's invoices, newest first."""
    rows = database.exec(
        select(RecordInvoice)
        .where(RecordInvoice.account_id == account.id)
        .where(RecordInvoice.record_type == {"people": "person", "companies": "company"}[type])
        .where(RecordInvoice.record_id == id)
        .order_by(col(RecordInvoice.created_at).desc(), col(RecordInvoice.invoice_id).desc())
        .limit(limit)
    ).all()
    return InvoicesRead(invoices=[InvoiceRead.model_validate(row) for row in rows], synced_at=account.synced_at)
