"""Writing invoices to the mirror; the baseline is the peer's upsert of a fifth as many, as it is slow."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from bench import environment
from bench.figures import Figure, at_least, rounds_in_time, timed
from bench.peers import stripe_sync
from bench.peers.peer import is_installed
from store.db.database import transaction
from store.mirror import mirror
from store.mirror.rows import InvoiceRow
from worker.vendors.xero.client import PAGE_SIZE

INVOICES, PEER_INVOICES = 100_000, 20_000
GOAL = 10.0
MAX_SECONDS = 180.0
START = datetime(2024, 1, 1, tzinfo=UTC)


def build_rows(count: int) -> list[InvoiceRow]:
    """Invoices as Xero lists them, consecutive ones of different contacts."""
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
            created_at=START + timedelta(seconds=n),
            created_source="issue_date",
            updated_at=START,
        )
        for n in range(count)
    ]


def _measure_upserts(rows: list[InvoiceRow]) -> float:
    """Rows per second with one transaction per page, including the marks for the projection."""
    with environment.populated_database(), timed() as timer:
        for start in range(0, len(rows), PAGE_SIZE):
            with transaction() as session:
                mirror.upsert_invoices(session, 1, 1, rows[start : start + PAGE_SIZE], datetime.now(UTC))
    return len(rows) / timer.seconds


def _measure_peer() -> float:
    with environment.empty_database():
        return stripe_sync.rate("upserts", PEER_INVOICES)


def measure(rounds: int) -> list[Figure]:
    """100,000 new invoices, with one transaction per page."""
    if not is_installed("@supabase/stripe-sync-engine", stripe_sync.install):
        return []
    rows = build_rows(INVOICES)
    own_rates, peer_rates = [], []
    for _ in rounds_in_time(rounds, MAX_SECONDS):
        peer_rates.append(_measure_peer())
        own_rates.append(_measure_upserts(rows))
    name = f"invoices written to the mirror, {INVOICES:,} of them"
    baseline = f"upsertInvoices of @supabase/stripe-sync-engine with {PEER_INVOICES:,}"
    return [at_least(name, own_rates, peer_rates, GOAL, baseline)]
