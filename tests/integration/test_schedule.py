"""The schedule: due tasks start once with any number of schedulers, and missed ones are made up for at once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from store.db.database import transaction
from store.ingest import delivery_gaps, inbox
from store.sync import runs, scheduled_tasks
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs import scheduler
from worker.sync import run_processor
from worker.vendors.rate_limit.spread import seconds_between_runs
from worker.vendors.sync_types import RunKind


def execute(statement: str) -> None:
    with transaction() as session:
        session.execute(text(statement))


def count_runs(world: World, run_kind: RunKind) -> int:
    return sum(run.kind == run_kind for run in world.runs())


def test_concurrent_schedulers_start_a_due_catch_up_only_once(world: World) -> None:
    scheduler.catch_up()
    assert count_runs(world, RunKind.CATCH_UP) == 0, "an account's first catch-up is an interval after it came"
    execute("UPDATE scheduled_task SET last_started_at = now() - interval '16 minutes' WHERE name = 'catch_up'")
    threads = [threading.Thread(target=scheduler.catch_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert count_runs(world, RunKind.CATCH_UP) == 2, "one of Copper, one of the organisation"


def test_two_schedulers_and_two_workers_keep_the_data_consistent(world: World, processes: Processes) -> None:
    environment = {
        "CATCH_UP_INTERVAL_SECONDS": "1",
        "RELATIONS_REFRESH_INTERVAL_SECONDS": "1",
        "CREATED_DATE_LOOKUP_INTERVAL_SECONDS": "1",
        "GRANT_MAX_IDLE_DAYS": "0",
    }
    processes += [patina(name, environment=environment) for name in ("scheduler", "scheduler", "worker", "worker")]
    world.workers = True
    world.sandbox.faults(webhooks=[{"vendor": vendor, "loss": 1.0} for vendor in ("xero", "copper")])
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    invoice = world.invoice("ann@acme.test")
    wait_until(lambda: world.invoice_numbers("companies", company) == [invoice.number], description="the next catch-up")
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    wait_until(lambda: world.rows("people", ann)[0]["status"] == "PAID", description="the next catch-up")
    assert world.sandbox.state()["max_refresh_token_uses"] <= 1


def test_each_account_is_reconciled_once_a_night_in_its_own_time_zone(world: World) -> None:
    hour = datetime.now(UTC).hour

    def due(at: int, spread: float) -> bool:
        with transaction() as session:
            claims = scheduled_tasks.claim_nightly(session, "reconciliation", at, spread)
            return world.account in {claim.account_id for claim in claims}

    def last(ago: str) -> None:
        execute(f"UPDATE scheduled_task SET last_started_at = now() - interval '{ago}' WHERE name = 'reconciliation'")

    assert not due(hour, 0), "not on the day it came"
    last("25 hours")
    assert due(hour, 0)
    assert not due(hour, 0), "once a night"
    with transaction() as session:
        started_at = session.execute(text("SELECT last_started_at FROM scheduled_task WHERE name = 'reconciliation'"))
        (last_started_at,) = [started.astimezone(UTC) for started in started_at.scalars()]
    assert (last_started_at.hour, last_started_at.minute) == (hour, 0), "its next one is due at its own time again"
    last("20 hours")
    assert not due(hour, 0), "its time has not come"


def test_reconciliations_are_spread_over_the_night(database: str) -> None:
    override_settings({"RECONCILE_HOUR": "0", "RECONCILE_SPREAD_HOURS": "20"})
    execute(
        "INSERT INTO account (copper_account_id, name, created_at)"
        " SELECT id, 'A', now() - interval '30 h' FROM generate_series(1, 50) AS id"
    )
    with transaction() as session:
        assert scheduled_tasks.add_missing(session) == 50 * len(scheduled_tasks.RECURRING_TASKS)
        assert scheduled_tasks.add_missing(session) == 0
        claims = scheduled_tasks.claim_nightly(session, "reconciliation", 0, 20.0, gap=0.5)
        assert sorted(claim.delay for claim in claims) == [number / 2 for number in range(50)]
        assert not scheduled_tasks.claim_nightly(session, "reconciliation", 0, 20.0)
        rows = session.execute(
            text("SELECT account_id, last_started_at FROM scheduled_task WHERE name = 'reconciliation'")
        ).all()
    hours = {row.account_id: row.last_started_at.astimezone(UTC) for row in rows}
    for account_id, at in hours.items():
        since_midnight = (at - at.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
        assert since_midnight == pytest.approx(account_id * 7919 % 86_400 / 86_400 * 20 * 3_600, abs=1)
        assert timedelta(0) <= datetime.now(UTC) - at < timedelta(hours=24)
    assert len({at.hour for at in hours.values()}) > 10


def test_catch_ups_of_many_accounts_start_one_after_the_other(database: str) -> None:
    execute("INSERT INTO account (copper_account_id, name) SELECT id, 'A' FROM generate_series(1, 20) AS id")
    with transaction() as session:
        scheduled_tasks.add_missing(session)
        assert not scheduled_tasks.claim(session, "catch_up", 900, gap=2.0), "they have just come"
    execute("UPDATE scheduled_task SET last_started_at = now() - interval '1 h' WHERE account_id % 2 = 0")
    with transaction() as session:
        first = scheduled_tasks.claim(session, "catch_up", 900, gap=2.0)
        delays = sorted(claim.delay for claim in first)
        assert [delay - delays[0] for delay in delays] == pytest.approx([2.0 * number for number in range(10)])
        assert not scheduled_tasks.claim(session, "catch_up", 900, gap=2.0)
    execute("UPDATE scheduled_task SET last_started_at = now() - interval '1 h' WHERE account_id % 2 = 1")
    with transaction() as session:
        second = scheduled_tasks.claim(session, "catch_up", 900, gap=2.0)
    assert {claim.account_id for claim in second} == set(range(1, 21)) - {claim.account_id for claim in first}
    expected = [delays[-1] + 2.0 * number for number in range(1, 11)]
    assert sorted(claim.delay for claim in second) == pytest.approx(expected, abs=1.5)


def test_a_round_of_catch_ups_starts_in_bounded_transactions(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MAX_ACCOUNTS_PER_CLAIM", 2)
    execute("INSERT INTO account (copper_account_id, name) SELECT id, 'A' FROM generate_series(1, 7) AS id")
    with transaction() as session:
        scheduled_tasks.add_missing(session)
    execute("UPDATE scheduled_task SET last_started_at = now() - interval '1 day' WHERE name = 'catch_up'")
    scheduler.catch_up()
    with transaction() as session:
        claims = session.execute(
            text("SELECT count(*) FROM scheduled_task WHERE name = 'catch_up' GROUP BY xmin ORDER BY 1")
        )
        assert list(claims.scalars()) == [1, 2, 2, 2]
        assert not scheduled_tasks.claim(session, "catch_up", 60), "none of them is due again"


def test_a_limit_takes_the_accounts_that_have_waited_longest(database: str) -> None:
    execute("INSERT INTO account (copper_account_id, name) SELECT id, 'A' FROM generate_series(1, 5) AS id")
    with transaction() as session:
        scheduled_tasks.add_missing(session)
    execute("UPDATE scheduled_task SET last_started_at = now() - account_id * interval '1 h'")
    with transaction() as session:
        claimed = [scheduled_tasks.claim(session, "relations", 300, limit=2) for _ in range(3)]
    ids = [sorted(claim.account_id for claim in claims) for claims in claimed]
    assert sorted(account_id for claims in ids for account_id in claims) == sorted(range(min(ids[2]), min(ids[2]) + 5))
    assert ids[0] > ids[1] > ids[2]


def test_the_calls_of_all_accounts_leave_half_of_the_apps_minute() -> None:
    override_settings({"XERO_APP_CALLS_PER_MINUTE": "10000", "RATE_LIMIT_WINDOW_SECONDS": "60"})
    starts_a_minute = 60 / seconds_between_runs(scheduler.XERO_CALLS_PER_CATCH_UP)
    assert starts_a_minute * scheduler.XERO_CALLS_PER_CATCH_UP == pytest.approx(5_000)


def test_a_run_that_is_scheduled_for_later_can_be_started_at_once(world: World) -> None:
    with transaction() as session:
        scheduled = run_processor.start_scheduled_runs(session, {world.account: 600.0}, RunKind.CATCH_UP)
    assert [round(run.delay) for run in scheduled] == [600, 600]
    with transaction() as session:
        assert runs.list_pending(session) == []
        assert runs.running_kinds(session, world.account, 0) == set(), "it has not begun"
        run = runs.start_if_idle(session, world.account, 0, "catch_up", "users")
        assert run is not None
        assert run.id in {started.id for started in scheduled}
        assert runs.list_pending(session) == [(world.account, run.id)]
        assert runs.start_if_idle(session, world.account, 0, "catch_up", "users") is None


def test_the_schedule_starts_the_nightly_reconciliation(world: World) -> None:
    override_settings({"RECONCILE_HOUR": str(datetime.now(UTC).hour), "RECONCILE_SPREAD_HOURS": "0"})
    scheduler.reconcile()
    execute("UPDATE scheduled_task SET last_started_at = now() - interval '2 days' WHERE name = 'reconciliation'")
    scheduler.reconcile()
    assert count_runs(world, RunKind.RECONCILIATION) == 2


def deliver(*ranges: tuple[int, int]) -> None:
    with transaction() as session:
        for first, last in ranges:
            session.execute(
                text("INSERT INTO xero_delivery (first_sequence, last_sequence) VALUES (:first, :last)"),
                {"first": first, "last": last},
            )


def missed(seconds: float = 0.0) -> bool:
    with transaction() as session:
        return delivery_gaps.detect_gaps(session, seconds)


@pytest.mark.usefixtures("database")
def test_a_sequence_gap_counts_when_it_stays_open_and_is_reported_once() -> None:
    assert not missed()
    deliver((41, 43), (44, 44))
    assert not missed(), "the first delivery ever is where counting starts"
    deliver((47, 50), (51, 51))
    assert not missed(60), "it may still be filled"
    deliver((45, 46))
    assert not missed(), "out of order is no hole"
    deliver((54, 54))
    assert missed()
    assert not missed(), "it is told of once"
    deliver((52, 53), (55, 60))
    assert not missed(), "what comes late fills a hole that is known"
    deliver((1, 2))
    assert not missed(), "a new webhook counts from one"
    deliver((3, 5))
    assert not missed()
    deliver((7, 7))
    assert missed()


@pytest.mark.usefixtures("database")
def test_overlapping_and_repeated_deliveries_are_not_gaps() -> None:
    deliver((1, 10), (5, 12), (13, 13), (2, 3))
    assert not missed()
    deliver((12, 14))
    assert not missed()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM xero_delivery")).scalar_one() == 0


def test_missed_deliveries_are_caught_up_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    scheduler.detect_delivery_gaps()
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    invoice = world.invoice(contact)
    world.settle()
    world.sandbox.faults()
    world.contact("Somebody else")
    world.settle()
    scheduler.detect_delivery_gaps()
    assert count_runs(world, RunKind.CATCH_UP) == 0, "a hole is given a minute"

    monkeypatch.setattr(scheduler, "DELIVERY_GAP_GRACE_SECONDS", 0.0)
    scheduler.detect_delivery_gaps()
    assert count_runs(world, RunKind.CATCH_UP) == 2
    world.catch_up()
    assert world.invoice_numbers("people", ann) == [invoice.number]


def test_an_outage_of_the_web_process_is_caught_up_at_once(world: World) -> None:
    assert not scheduler.record_web_heartbeat()
    assert count_runs(world, RunKind.CATCH_UP) == 0
    execute("UPDATE heartbeat SET last_seen_at = now() - interval '1 minute'")
    assert scheduler.record_web_heartbeat()
    assert count_runs(world, RunKind.CATCH_UP) == 2
    assert not scheduler.record_web_heartbeat()


def test_completed_events_are_deleted_first_quarantined_ones_later_and_pending_ones_never(world: World) -> None:
    world.invoice("ann@acme.test")
    world.settle()
    execute(
        "UPDATE inbox SET received_at = now() - interval '31 days', finished_at = now() - interval '31 days'"
        " WHERE category = 'CONTACT'"
    )
    execute(
        "INSERT INTO inbox (account_id, vendor, tenant, category, event_type, resource_id, "
        "dedupe_key, correlation_id, state,"
        " received_at) SELECT id, 'xero', '', 'INVOICE', 'UPDATE', state, state::bytea, '', state,"
        " now() - interval '90 days' FROM account, unnest(ARRAY['failed', 'pending']) AS state"
    )
    execute("INSERT INTO api_usage (account_id, organisation_id, day, priority) VALUES (1, 0, '2020-01-01', 'events')")
    scheduler.purge_expired()
    with transaction() as session:
        rows = session.execute(text("SELECT category, state FROM inbox ORDER BY id")).all()
        assert session.execute(text("SELECT count(*) FROM api_usage WHERE day < '2021-01-01'")).scalar_one() == 0
    assert [tuple(row) for row in rows] == [("INVOICE", "done"), ("INVOICE", "failed"), ("INVOICE", "pending")]
    execute("UPDATE inbox SET received_at = now() - interval '200 days' WHERE state IN ('failed', 'pending')")
    execute("UPDATE scheduled_task SET last_started_at = 'epoch' WHERE name = 'retention'")
    scheduler.purge_expired()
    with transaction() as session:
        assert session.execute(text("SELECT state FROM inbox ORDER BY id")).scalars().all() == ["done", "pending"]
    execute("UPDATE inbox SET finished_at = 'epoch', received_at = 'epoch' WHERE state = 'done'")
    scheduler.purge_expired()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM inbox")).scalar_one() == 2, "once an hour"


def test_expired_rows_are_deleted_in_bounded_batches(world: World) -> None:
    execute(
        "INSERT INTO inbox (account_id, vendor, tenant, category, event_type, resource_id, "
        "dedupe_key, correlation_id, state,"
        " received_at, finished_at) SELECT 1, 'xero', '', 'INVOICE', 'UPDATE', n::text, n::text::bytea, '', 'done',"
        " 'epoch', 'epoch' FROM generate_series(1, 25) AS n"
    )
    with transaction() as session:
        assert inbox.delete_expired(session, 30, 180, 10) == 10
    with transaction() as session:
        assert inbox.delete_expired(session, 30, 180, 100) == 15


def test_a_failing_task_blocks_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    execute("UPDATE scheduled_task SET last_started_at = 'epoch'")
    monkeypatch.setattr(scheduler, "TASKS", (broken, scheduler.catch_up))
    scheduler.tick()
    with transaction() as session:
        names = session.execute(text("SELECT name FROM scheduled_task WHERE last_started_at > now() - interval '1 m'"))
        assert "catch_up" in set(names.scalars())


def test_the_schedule_looks_up_created_dates_and_refreshes_relations_of_due_accounts(world: World) -> None:
    for task in (scheduler.refresh_stale_relations, scheduler.backfill_created_dates, scheduler.refresh_idle_grants):
        task()
    names = {"relations", "created_dates"}
    execute("UPDATE scheduled_task SET last_started_at = 'epoch' WHERE account_id <> 0")
    for task in (scheduler.refresh_stale_relations, scheduler.backfill_created_dates):
        task()
    with transaction() as session:
        statement = text("SELECT name, last_started_at FROM scheduled_task WHERE name = ANY(:names)")
        rows = session.execute(statement, {"names": list(names)}).all()
    assert {row.name for row in rows} == names
    assert all(row.last_started_at > datetime.now(UTC) - timedelta(minutes=1) for row in rows)
