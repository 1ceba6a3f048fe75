"""No statement of a hot path reads more because there are more accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from sandbox import server as sandbox_server
from store.db.database import conninfo, dispose_engine, transaction
from store.db.enums import RecordType
from store.ingest import inbox
from store.ingest.inbox import Delivery, NewEvent, SyncSource
from store.read_model import invoice_queries
from store.read_model.invoice_queries import PageRequest
from store.read_model.record_invoices import InvoiceFilter
from tests.support import databases, fleet
from tests.support.empty_vendors import serving_empty_vendors
from tests.support.fleet import FleetSize
from tests.support.plans import ExplainingConnection, Plan, explained
from web.panel.record_views import ViewKey, render_view
from worker.jobs import scheduler
from worker.sync import event_processor, run_processor
from worker.vendors.sync_types import RunKind

FEW, MANY = 10, 10_000
ACCOUNT = 5
# An index of a large table has a level or two more, for each of the rows that a statement looks up.
MAX_RATIO, MAX_MORE_BUFFERS = 2.0, 24


@contextmanager
def installation(accounts: int) -> Iterator[None]:
    """An installation with this many accounts, whose vendors have nothing new."""
    with databases.temporary(), serving_empty_vendors() as vendors:
        for prefix in ("budget", "dedup", "slot", "dramatiq"):
            databases.clear_budgets(prefix)
        override_settings(sandbox_server.environment(vendors))
        fleet.load(FleetSize(accounts))
        # The hourly tasks look at everything.
        scheduler.tick()
        yield


def execute(statement: str) -> None:
    with transaction() as session:
        session.execute(text(statement))


def event(key: str, tenant: str, category: str, resource_id: str) -> NewEvent:
    return NewEvent(tenant, category, "UPDATE", resource_id, datetime.now(UTC), sha256(key.encode()).hexdigest(), "c")


async def take_in(tenant: str, invoice: str) -> list[Plan]:
    """Webhooks of both vendors."""
    async with await ExplainingConnection.connect(conninfo()) as connection:
        connection.plans = []
        deliveries = [Delivery([event("xero", tenant, "INVOICE", invoice)], 1, 1)]
        assert (await inbox.accept_xero(connection, deliveries)).accepted == 1
        token_hash = sha256(f"webhook{ACCOUNT}".encode()).digest()
        assert await inbox.copper_sender(connection, token_hash) is not None
        await inbox.accept_copper(connection, ACCOUNT, [event("copper", "", "person", "1")])
        return connection.plans


async def read_page() -> list[Plan]:
    """A read by API key, by the role of such reads."""
    async with await ExplainingConnection.connect(conninfo()) as connection:
        connection.plans = []
        await connection.set_autocommit(False)
        await connection.cursor().execute("SELECT set_config('role', public.read_role(), true)")
        request = PageRequest(sha256(f"key{ACCOUNT}".encode()).digest(), RecordType.PERSON, 1)
        (page,) = await invoice_queries.read_pages(connection, [request])
        assert page is not None
        assert len(page.invoices) == 1
        return connection.plans


def catch_up() -> None:
    with transaction() as session:
        run_processor.start_scheduled_runs(session, {ACCOUNT: 0.0}, RunKind.CATCH_UP)
        pending = session.execute(text("SELECT id FROM sync_run WHERE account_id = :a AND state = 'running'"), {"a": 5})
        run_ids = list(pending.scalars())
    for run_id in run_ids:
        while run_processor.step(ACCOUNT, run_id).has_more:
            pass


def hot_paths() -> dict[str, list[Plan]]:
    """The plans of each hot path, of the same work at any number of accounts."""
    plans: dict[str, list[Plan]] = {}
    tenant = fleet.webhook_tenant(ACCOUNT)
    with transaction() as session:
        invoice = str(session.execute(text("SELECT md5('5invoice1')::uuid")).scalar_one())
    plans["webhook intake"] = asyncio.run(take_in(tenant, invoice))
    plans["read API"] = asyncio.run(read_page())
    with explained() as plans["panel"]:
        render_view(ViewKey(ACCOUNT, RecordType.PERSON, 1, InvoiceFilter(), None, "en_NZ"))
    execute("INSERT INTO projection_queue (account_id, entity_type, record_id) VALUES (7, 'person', 1)")
    with explained() as plans["sweep"]:
        scheduler.sweep()
    with explained() as plans["drain"]:
        event_processor.drain(SyncSource(ACCOUNT, ACCOUNT), 5.0)
    with explained() as plans["catch-up"]:
        catch_up()
    execute("UPDATE scheduled_task SET last_started_at = now() - interval '2 days' WHERE account_id IN (3, 4)")
    with explained() as plans["scheduler"]:
        scheduler.tick()
    return plans


@pytest.mark.long(seconds=40)
def test_no_statement_of_a_hot_path_reads_more_because_there_are_more_accounts() -> None:
    with installation(FEW):
        few = hot_paths()
    with installation(MANY):
        many = hot_paths()
    dispose_engine()
    problems = []
    for path, plans in many.items():
        assert [plan.statement for plan in plans] == [plan.statement for plan in few[path]], path
        assert plans, path
        for before, after in zip(few[path], plans, strict=True):
            allowed = max(before.buffers * MAX_RATIO, before.buffers + MAX_MORE_BUFFERS)
            if after.buffers > allowed:
                tables = ", ".join(sorted(after.scanned_tables))
                problems.append(f"{path}: {before.buffers} -> {after.buffers} buffers [{tables}] {after.title}")
    assert not problems, "\n".join(problems)
