"""A baseline: the straightforward read endpoint with FastAPI and SQLModel (select, models, response model)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, HTTPException
from sqlmodel import Session, SQLModel, col, select

from store.db.database import engine
from store.models.accounts import Account, ApiKey
from store.models.read_model import RecordInvoice

router = APIRouter(prefix="/sqlmodel")


class InvoiceRead(SQLModel):
    """An invoice in the response."""

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


def get_session() -> Iterator[Session]:
    """One session per request."""
    with Session(engine()) as session:
        yield session


def get_account(session: Annotated[Session, Depends(get_session)], authorization: Annotated[str, Header()]) -> Account:
    """The account of the API key."""
    digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).digest()
    key = session.exec(select(ApiKey).where(ApiKey.key_hash == digest)).first()
    account = session.get(Account, key.account_id) if key else None
    if account is None:
        raise HTTPException(401)
    return account


@router.get("/v1/{type}/{id}/invoices", response_model=InvoicesRead)
def read(
    type: str,
    id: int,
    session: Annotated[Session, Depends(get_session)],
    account: Annotated[Account, Depends(get_account)],
    limit: int = 5,
) -> InvoicesRead:
    """A record's invoices, newest first."""
    rows = session.exec(
        select(RecordInvoice)
        .where(RecordInvoice.account_id == account.id)
        .where(RecordInvoice.record_type == {"people": "person", "companies": "company"}[type])
        .where(RecordInvoice.record_id == id)
        .order_by(col(RecordInvoice.created_at).desc(), col(RecordInvoice.invoice_id).desc())
        .limit(limit)
    ).all()
    return InvoicesRead(invoices=[InvoiceRead.model_validate(row) for row in rows], synced_at=account.synced_at)
