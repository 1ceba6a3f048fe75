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
from web.api.metrics import MAX_ACCOUNTS, read_snapshot
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
    assert figures.account_count == 301
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
    shared_client.clear()
    try:
        page = scrape(world)
    finally:
        shared_client.clear()
    assert value(page, "patina_inbox_pending_events") == 0
    assert value(page, "patina_accounts") == 3
    assert "\npatina_xero_app_calls_remaining " not in page


def test_accounts_that_need_a_person_are_named_and_the_others_summed(world: World) -> None:
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
    labels = {"account": str(other_account)}
    assert value(page, "patina_vendor_calls_month", vendor="xero", outcome="ok", priority="events") == 3
    assert value(page, "patina_vendor_calls_month", vendor="copper", outcome="rate_limited", priority="events") == 1
    assert value(page, "patina_vendor_calls_month", vendor="copper", outcome="error", priority="events") == 1
    assert value(page, "patina_xero_download_month_bytes") == 11
    assert value(page, "patina_inbox_pending_events") == 2
    assert 90 <= value(page, "patina_inbox_oldest_event_age_seconds") < 300
    assert 90 <= value(page, "patina_account_oldest_event_age_seconds", **labels) < 300
    assert value(page, "patina_inbox_quarantined_events", **labels) == 1
    assert value(page, "patina_inbox_quarantined_events", account="0") == 0
    assert value(page, "patina_connections_broken", **labels) == 1
    assert value(page, "patina_drift_rows", **labels, type="people", drift="missing") == 2
    assert value(page, "patina_drift_rows", **labels, type="people", drift="stale") == 1
    for problem in ("events_late", "events_quarantined", "connection_broken", "drift"):
        assert value(page, "patina_accounts_with_problem", problem=problem) == 1
    assert f'account="{world.account}"' not in page


def test_only_the_worst_accounts_are_named_and_all_are_counted(world: World) -> None:
    with transaction() as session:
        session.execute(ACCOUNTS, {"accounts": 130})
        session.execute(text("UPDATE xero_grant SET status = 'needs_reauth'"))
        session.execute(text("UPDATE copper_credential SET status = 'needs_reauth' WHERE account_id % 2 = 0"))
    page = scrape(world)
    assert page.count("patina_connections_broken{") == MAX_ACCOUNTS
    assert value(page, "patina_accounts_with_problem", problem="connection_broken") == 131
    numbers = [line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith("patina_connections_broken{")]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == "2.0"


def test_drift_that_a_later_reconciliation_did_not_find_is_over(world: World) -> None:
    for drift in ('{"people": {"missing": 9}}', '{"people": {"missing": 0}}'):
        with transaction() as session:
            session.execute(RUN, {"account": world.account, "state": "done", "drift": drift})
    assert "patina_drift_rows{" not in scrape(world)


def test_budgets_are_exported_once_half_of_the_day_is_used(world: World) -> None:
    override_settings({"XERO_CALLS_PER_DAY": "100"})
    usage = text(
        "INSERT INTO api_usage (account_id, organisation_id, day, priority, calls) SELECT account_id, id, "
        "CAST(now() AS date), 'background', :calls FROM xero_organisation"
    )
    with transaction() as session:
        session.execute(text("DELETE FROM api_usage"))
        session.execute(usage, {"calls": 49})
    assert "patina_api_calls_remaining{" not in scrape(world)
    with transaction() as session:
        session.execute(text("UPDATE api_usage SET calls = 50"))
    page = scrape(world)
    assert value(page, "patina_api_calls_remaining", account=str(world.account), window="day") <= 100
    assert 0 < value(page, "patina_xero_app_calls_remaining") <= settings().xero_app_calls_per_minute


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
    assert 'patina_vendor_calls_month{outcome="ok",priority="events",vendor="copper"} 1.0' in page.text
    assert "patina_drift_rows{" not in page.text
    assert "patina_inbox_pending_events 0.0" in page.text
    assert "patina_xero_app_calls_remaining " in page.text
