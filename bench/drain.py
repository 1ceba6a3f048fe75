"""Draining a full inbox by real worker processes, against the peer's handling of as many webhooks."""

from __future__ import annotations

from sqlalchemy import text

from bench import stage, vendors
from bench.figures import Figure, at_least, timed
from bench.peers import stripe_sync
from bench.vendors import SHAPES
from store import projection
from store.database import transaction
from store.inbox import Source
from tests.serving import wait_until
from tests.world import World
from worker import jobs

EVENTS = 100_000
GOAL = 3.0
PROCESSES = 2
WAITING = text("""
    INSERT INTO inbox (account_id, source, organisation_id, tenant, kind, event, resource_id, occurred_at, dedupe_key,
                       correlation_id)
    SELECT :account, 'xero', 1, :tenant, 'INVOICE', 'UPDATE', lpad(to_hex(1 + n % :invoices), 32, '0')::uuid::text,
           now(), sha256(convert_to(n || ' ' || clock_timestamp(), 'UTF8')), 'bench'
    FROM generate_series(0, :events - 1) AS n
""")
OPEN = text("SELECT EXISTS (SELECT FROM inbox WHERE state IN ('pending', 'leased'))")
# As if every invoice had been paid a little since it was last read: each event brings a true change.
OLDER = text("UPDATE invoice SET balance = balance - 1, updated_at = 'epoch'")


def fill(world: World, events: int) -> None:
    """Have events wait, and every invoice of the mirror be older than Xero's."""
    with transaction() as session:
        session.execute(OLDER)
        projection.rebuild(session, world.account)
        chosen = {"account": world.account, "tenant": str(stage.TENANT), "invoices": SHAPES["events"].invoices}
        session.execute(WAITING, {**chosen, "events": events})
    stage.vacuum("inbox", "invoice", "record_invoice")


def _empty() -> bool:
    with transaction() as session:
        return not session.execute(OPEN).scalar_one()


def _drained(world: World, events: int) -> float:
    """Events a second until none is left."""
    fill(world, events)
    with timed() as clock:
        jobs.wake_source(Source(world.account, 1))
        wait_until(_empty, seconds=300, what="an empty inbox")
    wait_until(world.quiet, seconds=60, what="quiet")
    return events / clock.seconds


def rates(rounds: int, processes: int, events: int = EVENTS) -> list[float]:
    """Events a second by so many worker processes, round by round."""
    with stage.empty(), vendors.running("events") as sandbox:
        world = vendors.connected(sandbox)
        workers = {"WORKER_PROCESSES": str(processes), "WORKER_THREADS": "2"}
        with stage.process("cli", "worker", environment=workers):
            world.backfill()
            _drained(world, 1_000)
            return [_drained(world, events) for _ in range(rounds)]


def measure(rounds: int) -> list[Figure]:
    """A hundred thousand events on twenty thousand invoices."""
    stripe_sync.install()
    invoices = SHAPES["events"].invoices
    theirs = []
    for _ in range(rounds):
        with stage.empty():
            theirs.append(stripe_sync.rate("webhooks", EVENTS, invoices))
    mine = rates(rounds, PROCESSES)
    what = f"events drained, {EVENTS:,} on {invoices:,} invoices, {PROCESSES} processes"
    return [at_least(what, mine, theirs, GOAL, "processWebhook of @supabase/stripe-sync-engine, once an event")]
