"""`/metrics` requires its token and reads only what it exports, with as many statements for any number of accounts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from sqlalchemy import event, text

from runtime.settings import override_settings, settings
from store.db.database import engine, transaction
from tests.support.world import World
from tests.system.test_observability import TOKEN, value
from web.api.metrics import read_snapshot
from worker.vendors.rate_limit.budget import COPPER_SIGN_IN_SHARE, Budget, Priority

ACCOUNTS = text("""
    WITH made AS (
        INSERT INTO account (copper_account_id, name)
        SELECT 1000 + n, 'Account ' || n FROM generate_series(1, :accounts) n RETURNING id),
    granted AS (
        INSERT INTO xero_grant (account_id, encrypted_payload, expires_at, status)
        SELECT id, '', now(), 'active' FROM made RETURNING account_id, id),
    credentials AS (
        INSERT INTO copper_credential (account_id, encrypted_payload, webhook_token_hash)
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
    """The statements that this process executes until the block ends."""
    executed: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        executed.append(statement)

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield executed
    finally:
        event.remove(engine(), "before_cursor_execute", note)


def scrape(world: World) -> str:
    override_settings({"METRICS_TOKEN": TOKEN})
    return world.web.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text


def test_the_number_of_statements_does_not_grow_with_the_accounts(world: World) -> None:
    with statements() as few:
        read_snapshot()
    with transaction() as session:
        session.execute(ACCOUNTS, {"accounts": 300})
    with statements() as many:
        figures = read_snapshot()
    assert len(figures.account_ids) == 301
    assert len(figures.connections) == 602
    assert many == few
    assert len(many) < 10
    for table in ("record_invoice", "copper_record", "FROM xero_invoice", "xero_contact"):
        assert not any(table in statement for statement in many), f"nothing of {table} is exported"


def test_all_budgets_are_read_in_few_round_trips(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = settings().copper_calls_per_minute - settings().copper_calls_per_minute // COPPER_SIGN_IN_SHARE
    budgets = [Budget.for_copper(900_000 + number) for number in range(1_000)]
    budgets[700].acquire(Priority.EVENTS)
    trips: list[object] = []
    send: Any = redis.connection.AbstractConnection.send_packed_command

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        trips.append(self)
        return send(self, *arguments, **options)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", counting)
    remaining = Budget.remaining_of_all(budgets)
    assert len(trips) <= 8
    assert remaining[0] == (limit, None)
    assert remaining[700] == (limit - 1, None)
    assert remaining[3] == budgets[3].remaining()


def test_without_redis_all_other_metrics_are_exported(world: World) -> None:
    with transaction() as session:
        session.execute(ACCOUNTS, {"accounts": 2})
    from runtime.redis_client import shared_client

    override_settings({"REDIS_URL": "redis://127.0.0.1:1/0"})
    shared_client.cache_clear()
    try:
        page = scrape(world)
    finally:
        shared_client.cache_clear()
    assert value(page, "patina_inbox_pending_events") == 0
    assert page.count("patina_inbox_pending_events{") == 3
    assert "patina_api_calls_remaining{" not in page


def test_metrics_are_labelled_with_their_account(world: World) -> None:
    with transaction() as session:
        session.execute(ACCOUNTS, {"accounts": 1})
        other_account = session.execute(text("SELECT max(id) FROM account")).scalar_one()
        session.execute(text("DELETE FROM api_usage"))
        meter = text(
            "INSERT INTO api_usage (account_id, organisation_id, day, priority, calls, failed, "
            "rate_limited, bytes_compressed, bytes_uncompressed) VALUES (:a, :o, now(), 'events', 5, 2, 1, 10, :plain)"
        )
        session.execute(meter, [{"a": other_account, "o": 0, "plain": 7}, {"a": other_account, "o": 3, "plain": 11}])
        event_row = text(
            "INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, "
            "resource_id, dedupe_key,"
            " correlation_id, state, received_at) VALUES (:a, 'xero', 3, '', 'INVOICE', 'UPDATE', 'x',"
            " decode(md5(random()::text), 'hex'), '', :state, now() - interval '90 s')"
        )
        for state in ("pending", "leased", "failed", "done"):
            session.execute(event_row, {"a": other_account, "state": state})
        session.execute(
            text("UPDATE xero_grant SET status = 'needs_reauth' WHERE account_id = :a"), {"a": other_account}
        )
        for state, drift in (
            ("done", '{"people": {"missing": 9}}'),
            ("done", '{"people": {"missing": 2, "stale": 1}}'),
            ("running", None),
        ):
            session.execute(RUN, {"account": other_account, "state": state, "drift": drift})
    page = scrape(world)
    own_labels, other_labels = {"account": str(world.account)}, {"account": str(other_account)}
    assert value(page, "patina_vendor_calls_month", **other_labels, organisation="3", outcome="ok") == 3
    assert value(page, "patina_vendor_calls_month", **other_labels, organisation="0", outcome="rate_limited") == 1
    assert value(page, "patina_vendor_calls_month", **other_labels, organisation="0", outcome="error") == 1
    assert value(page, "patina_xero_download_month_bytes", **other_labels) == 11
    assert value(page, "patina_inbox_pending_events", **other_labels) == 2
    assert 90 <= value(page, "patina_inbox_oldest_event_age_seconds", **other_labels) < 300
    assert value(page, "patina_inbox_quarantined_events", **other_labels) == 1
    assert value(page, "patina_connections_broken", **other_labels) == 1
    assert value(page, "patina_connections_broken", **own_labels) == 0
    assert value(page, "patina_drift_rows", **other_labels, type="people", drift="missing") == 2
    assert value(page, "patina_drift_rows", **other_labels, type="people", drift="stale") == 1


def test_metrics_require_the_token(world: World) -> None:
    assert world.web.get("/metrics").status_code == 404
    override_settings({"METRICS_TOKEN": "a-token-of-sixteen"})
    assert world.web.get("/metrics").status_code == 401
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    world.advance_clock()
    world.reconcile()
    page = world.web.get("/metrics", headers={"Authorization": "Bearer a-token-of-sixteen"})
    assert page.status_code == 200
    calls = f'account="{world.account}",organisation="0",outcome="ok",priority="events"'
    assert f"patina_vendor_calls_month{{{calls}}} 1.0" in page.text
    assert f'patina_drift_rows{{account="{world.account}",drift="missing",type="invoices"}} 0.0' in page.text
    assert f'patina_inbox_pending_events{{account="{world.account}"}} 0.0' in page.text
    assert "patina_api_calls_remaining{" in page.text
