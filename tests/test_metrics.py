"""`/metrics` reads what it exports and no more, in as many statements for a thousand accounts as for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from sqlalchemy import event, text

from runtime.settings import override, settings
from store.database import engine, transaction
from tests.test_observability import TOKEN, value
from tests.world import World
from web.metrics import read_figures
from worker.budget import COPPER_KEPT_FREE, Budget, Purpose

ACCOUNTS = text("""
    WITH made AS (
        INSERT INTO account (copper_account_id, name)
        SELECT 1000 + n, 'Account ' || n FROM generate_series(1, :accounts) n RETURNING id),
    granted AS (
        INSERT INTO xero_grant (account_id, sealed, expires_at, status)
        SELECT id, '', now(), 'working' FROM made RETURNING account_id, id),
    credentials AS (
        INSERT INTO copper_credential (account_id, sealed, webhook_token_hash)
        SELECT id, '', decode(md5(id::text), 'hex') FROM made),
    organisations AS (
        INSERT INTO xero_organisation (account_id, grant_id, tenant_id, connection_id, name)
        SELECT account_id, id, gen_random_uuid(), gen_random_uuid(), 'Org' FROM granted)
    SELECT count(*) FROM made
""")
RUN = text("""
    INSERT INTO sync_run (account_id, organisation_id, kind, state, stage, drift)
    VALUES (:account, 0, 'reconciliation', :state, 'people', CAST(:drift AS jsonb))
""")


@contextmanager
def statements() -> Iterator[list[str]]:
    """The statements that this process sends until the block ends."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine(), "before_cursor_execute", note)


def scrape(world: World) -> str:
    override({"METRICS_TOKEN": TOKEN})
    return world.web.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text


def test_the_number_of_statements_does_not_grow_with_the_accounts(world: World) -> None:
    with statements() as few:
        read_figures()
    with transaction() as session:
        session.execute(ACCOUNTS, {"accounts": 300})
    with statements() as many:
        figures = read_figures()
    assert len(figures.account_ids) == 301
    assert len(figures.connections) == 602
    assert many == few
    assert len(many) < 10
    for table in ("record_invoice", "crm_record", "FROM invoice", "xero_contact"):
        assert not any(table in statement for statement in many), f"nothing of {table} is exported"


def test_all_budgets_are_asked_for_in_few_round_trips(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = settings().copper_minute_limit - settings().copper_minute_limit // COPPER_KEPT_FREE
    budgets = [Budget.of_copper(900_000 + number) for number in range(1_000)]
    budgets[700].take(Purpose.EVENTS)
    trips: list[object] = []
    send: Any = redis.connection.AbstractConnection.send_packed_command

    def counting(self: Any, *words: Any, **more: Any) -> Any:
        trips.append(self)
        return send(self, *words, **more)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", counting)
    left = Budget.all_left(budgets)
    assert len(trips) <= 8
    assert left[0] == (limit, None)
    assert left[700] == (limit - 1, None)
    assert left[3] == budgets[3].left()


def test_without_redis_everything_else_is_exported(world: World) -> None:
    with transaction() as session:
        session.execute(ACCOUNTS, {"accounts": 2})
    from worker.broker import client

    override({"REDIS_URL": "redis://127.0.0.1:1/0"})
    client.cache_clear()
    try:
        page = scrape(world)
    finally:
        client.cache_clear()
    assert value(page, "patina_inbox_waiting") == 0
    assert page.count("patina_inbox_waiting{") == 3
    assert "patina_budget_left{" not in page


def test_figures_are_those_of_each_account(world: World) -> None:
    with transaction() as session:
        session.execute(ACCOUNTS, {"accounts": 1})
        other = session.execute(text("SELECT max(id) FROM account")).scalar_one()
        session.execute(text("DELETE FROM call_meter"))
        meter = text(
            "INSERT INTO call_meter (account_id, organisation_id, day, purpose, calls, failed, refused, bytes_wire,"
            " bytes_plain) VALUES (:a, :o, now(), 'events', 5, 2, 1, 10, :plain)"
        )
        session.execute(meter, [{"a": other, "o": 0, "plain": 7}, {"a": other, "o": 3, "plain": 11}])
        event_row = text(
            "INSERT INTO inbox (account_id, source, organisation_id, tenant, kind, event, resource_id, dedupe_key,"
            " correlation_id, state, received_at) VALUES (:a, 'xero', 3, '', 'INVOICE', 'UPDATE', 'x',"
            " decode(md5(random()::text), 'hex'), '', :state, now() - interval '90 s')"
        )
        for state in ("pending", "leased", "failed", "done"):
            session.execute(event_row, {"a": other, "state": state})
        session.execute(text("UPDATE xero_grant SET status = 'reconnect' WHERE account_id = :a"), {"a": other})
        for state, drift in (
            ("done", '{"people": {"missing": 9}}'),
            ("done", '{"people": {"missing": 2, "stale": 1}}'),
            ("running", None),
        ):
            session.execute(RUN, {"account": other, "state": state, "drift": drift})
    page = scrape(world)
    mine, theirs = {"account": str(world.account)}, {"account": str(other)}
    assert value(page, "patina_vendor_calls_total", **theirs, organisation="3", outcome="answered") == 3
    assert value(page, "patina_vendor_calls_total", **theirs, organisation="0", outcome="refused") == 1
    assert value(page, "patina_vendor_calls_total", **theirs, organisation="0", outcome="failed") == 1
    assert value(page, "patina_egress_month_bytes", **theirs) == 11
    assert value(page, "patina_inbox_waiting", **theirs) == 2
    assert 90 <= value(page, "patina_inbox_oldest_seconds", **theirs) < 300
    assert value(page, "patina_inbox_quarantined", **theirs) == 1
    assert value(page, "patina_connections_lost", **theirs) == 1
    assert value(page, "patina_connections_lost", **mine) == 0
    assert value(page, "patina_drift_rows", **theirs, kind="people", drift="missing") == 2
    assert value(page, "patina_drift_rows", **theirs, kind="people", drift="stale") == 1
