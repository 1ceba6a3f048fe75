"""Writing invoices to the mirror, against the peer's own upsert of as many."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from bench import stage
from bench.figures import Figure, at_least, timed
from bench.peers import stripe_sync
from store import mirror
from store.database import transaction
from store.mirror import InvoiceRow
from worker.xero.client import PAGE_SIZE

INVOICES = 100_000
GOAL = 10.0
BEGAN = datetime(2024, 1, 1, tzinfo=UTC)


def rows(number: int) -> list[InvoiceRow]:
    """Invoices as a page of Xero's listing brings them, each of another contact than the one before."""
    return [
        InvoiceRow(
            invoice_id=UUID(int=n + 1),
            contact_id=UUID(int=n % 20_000 + 1),
            type="ACCREC",
            status="AUTHORISED",
            number=f"INV-{n}",
            issue_date=date(2024, 1, 1),
            due_date=date(2024, 2, 1),
            total=Decimal(115),
            balance=Decimal(115),
            currency="NZD",
            created_at=BEGAN + timedelta(seconds=n),
            created_source="issue_date",
            updated_at=BEGAN,
        )
        for n in range(number)
    ]


def _ours(made: list[InvoiceRow]) -> float:
    """Rows a second, a page a transaction, marks for the projection included."""
    with stage.database(), timed() as clock:
        for start in range(0, len(made), PAGE_SIZE):
            with transaction() as session:
                mirror.upsert_invoices(session, 1, 1, made[start : start + PAGE_SIZE], datetime.now(UTC))
    return len(made) / clock.seconds


def _theirs() -> float:
    with stage.empty():
        return stripe_sync.rate("upserts", INVOICES)


def measure(rounds: int) -> list[Figure]:
    """A hundred thousand new invoices, a page a transaction."""
    stripe_sync.install()
    made = rows(INVOICES)
    mine, theirs = [], []
    for _ in range(rounds):
        theirs.append(_theirs())
        mine.append(_ours(made))
    what = f"invoices written to the mirror, {INVOICES:,} of them"
    return [at_least(what, mine, theirs, GOAL, "upsertInvoices of @supabase/stripe-sync-engine")]
