"""Draining a full inbox by real worker processes; the baseline is the peer's handling of a fifth as many webhooks."""

from __future__ import annotations

from sqlalchemy import text

from bench import environment, vendors
from bench.figures import Figure, at_least, rounds_in_time, timed
from bench.peers import stripe_sync
from bench.peers.peer import is_installed
from bench.vendors import SHAPES
from store.db.database import transaction
from store.ingest.inbox import SyncSource
from store.read_model import projection
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs import actors

EVENTS = 100_000
PEER_SHARE = 5
MAX_SECONDS = 120.0
GOAL = 5.0
PROCESSES = 2
FILL_INBOX = text("""
    INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, resource_id,
                       occurred_at, dedupe_key, correlation_id)
    SELECT :account, 'xero', 1, :tenant, 'INVOICE', 'UPDATE', lpad(to_hex(1 + n % :invoices), 32, '0')::uuid::text,
           now(), sha256(convert_to(n || ' ' || clock_timestamp(), 'UTF8')), 'bench'
    FROM generate_series(0, :events - 1) AS n
""")
HAS_OPEN_EVENTS = text("SELECT EXISTS (SELECT FROM inbox WHERE state IN ('pending', 'leased'))")
# Makes every invoice of the mirror older than Xero's, so that each event brings a change.
AGE_INVOICES = text("UPDATE xero_invoice SET balance = balance - 1, updated_at = 'epoch'")


def fill(world: World, events: int) -> None:
    """Add pending events, and make every invoice of the mirror older than Xero's."""
    with transaction() as session:
        session.execute(AGE_INVOICES)
        projection.rebuild(session, world.account)
        params = {"account": world.account, "tenant": str(environment.TENANT), "invoices": SHAPES["events"].invoices}
        session.execute(FILL_INBOX, {**params, "events": events})
    environment.vacuum("inbox", "xero_invoice", "record_invoice")


def _is_empty() -> bool:
    with transaction() as session:
        return not session.execute(HAS_OPEN_EVENTS).scalar_one()


def _measure_drain(world: World, events: int) -> float:
    """Events per second until the inbox is empty."""
    fill(world, events)
    with timed() as timer:
        actors.enqueue_drain(SyncSource(world.account, 1))
        wait_until(_is_empty, seconds=300, description="an empty inbox")
    wait_until(world.is_idle, seconds=60, description="quiet")
    return events / timer.seconds


def rates(rounds: int, processes: int, events: int = EVENTS) -> list[float]:
    """Events per second of each round, with this number of worker processes."""
    with environment.empty_database(), vendors.run_sandbox("events") as sandbox:
        world = vendors.connect_account(sandbox)
        variables = {"WORKER_PROCESSES": str(processes), "WORKER_THREADS": "2"}
        with environment.start_process("cli", "worker", variables=variables):
            world.backfill()
            _measure_drain(world, 1_000)
            return [_measure_drain(world, events) for _ in range(rounds)]


def measure(rounds: int) -> list[Figure]:
    """100,000 events on 20,000 invoices."""
    if not is_installed("@supabase/stripe-sync-engine", stripe_sync.install):
        return []
    invoices = SHAPES["events"].invoices
    peer_rates = []
    for _ in rounds_in_time(rounds, MAX_SECONDS):
        with environment.empty_database():
            peer_rates.append(stripe_sync.rate("webhooks", EVENTS // PEER_SHARE, invoices // PEER_SHARE))
    own_rates = rates(len(peer_rates), PROCESSES)
    name = f"events drained, {EVENTS:,} on {invoices:,} invoices, {PROCESSES} processes"
    baseline = "processWebhook of @supabase/stripe-sync-engine, per event"
    reason = "the sandbox, which answers 500 calls, and PostgreSQL take more than one of the two cores"
    return [at_least(name, own_rates, peer_rates, GOAL, baseline, miss_reason=reason)]
