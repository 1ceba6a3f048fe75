"""Webhook quotas: the rows that an account's webhooks can create are bounded, and no change is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime import redis_client
from runtime.settings import override_settings, settings
from store.accounts import copper_credentials
from store.db.database import create_owner_pool, run_with_retry, transaction
from store.ingest import inbox, webhook_quotas
from store.ingest.inbox import CATCH_UP, SyncSource
from tests.integration.test_webhook_endpoints import delivery, dropped, inbox_rows, notification, post_xero
from tests.support.admin import sign_in
from tests.support.commands import patina as run_patina
from tests.support.databases import clear_budgets
from tests.support.processes import Processes, patina
from tests.support.serving import http_client, serving, wait_until
from tests.support.world import World
from web.app import create
from worker.sync import requested_catch_ups
from worker.sync.requested_catch_ups import NO_CATCH_UP, CatchUpOutcome
from worker.vendors.copper.subscriptions import SECRET_KEY
from worker.vendors.sync_types import RunKind

LIMIT = 20


@pytest.fixture
def limited(world: World) -> World:
    """An account with a quota of 20 rows a day, so that the end of a minute does not reset it."""
    override_settings({"COPPER_WEBHOOK_RECORDS_PER_MINUTE": str(LIMIT), "COPPER_WEBHOOK_RECORDS_PER_DAY": str(LIMIT)})
    world.settle()
    return world


def begin_minute() -> None:
    """Wait for the next minute if this one is nearly over, so that a test runs within one minute."""

    def has_time() -> bool:
        with transaction() as session:
            second: float = session.execute(text("SELECT extract(second FROM clock_timestamp())")).scalar_one()
        return second < 30

    wait_until(has_time, seconds=40, description="the next minute")


def tell(world: World, *ids: int, web: httpx.Client | None = None, **fields: Any) -> int:
    path, body = notification(world, ids=list(ids), **fields)
    return (web or world.web).post(path, json=body).status_code


def count_stored(world: World) -> int:
    """The number of inbox rows with a record."""
    return len([row for row in inbox_rows() if row.account_id == world.account and row.resource_id.isdigit()])


def requests() -> list[tuple[str, str]]:
    """The catch-up requests in the inbox for notifications beyond the quota: type and state."""
    with transaction() as session:
        rows = session.execute(
            text(
                "SELECT DISTINCT category, state FROM inbox WHERE category IN ('catch_up', "
                "'reconciliation') ORDER BY 1, 2"
            )
        )
        return [(row.category, row.state) for row in rows]


def begin(world: World) -> CatchUpOutcome:
    return requested_catch_ups.start_requested(SyncSource(world.account, 0))


def let_the_minute_pass() -> None:
    with transaction() as session:
        session.execute(text("UPDATE inbox SET not_before = now() WHERE category IN ('catch_up', 'reconciliation')"))


def runs_of(world: World) -> list[str]:
    return [run.kind for run in sorted(world.runs(), key=lambda run: run.id) if run.organisation_id == 0]


def test_notifications_beyond_the_quota_are_answered_200_and_not_stored(limited: World) -> None:
    before, counted = count_stored(limited), dropped("copper", "over_limit")
    statuses = {tell(limited, number) for number in range(1, 3 * LIMIT + 1)}

    assert statuses == {200}
    assert count_stored(limited) == before + LIMIT
    assert dropped("copper", "over_limit") == counted + 2 * LIMIT
    assert requests() == [("catch_up", "pending")], "one run makes up for all of them, when the minute is over"


def test_a_notification_counts_by_its_number_of_ids(limited: World) -> None:
    before = count_stored(limited)
    assert tell(limited, *range(1, LIMIT + 2)) == 200
    assert count_stored(limited) == before
    assert requests() == [("catch_up", "pending")]


def test_records_beyond_the_quota_are_fetched_after_the_minute(limited: World) -> None:
    person = limited.person("ann@acme.test")
    invoice = limited.invoice("new@acme.test")
    limited.settle()
    begin_minute()
    tell(limited, *range(1_000, 1_000 + LIMIT + 1))
    limited.simulate_copper("update_record", type="person", id=person, emails=["new@acme.test"])
    wait_until(lambda: limited.sandbox.state()["pending_deliveries"] == 0, description="delivery of all webhooks")
    assert limited.invoice_numbers("people", person) == []
    assert begin(limited) == NO_CATCH_UP, "the minute is not over"

    let_the_minute_pass()
    limited.settle()
    assert limited.invoice_numbers("people", person) == [invoice.number]
    assert requests() == [("catch_up", "done")]
    limited.check()


def test_a_deletion_beyond_the_quota_is_found_by_reconciliation(limited: World) -> None:
    person = limited.person("ann@acme.test")
    invoice = limited.invoice("ann@acme.test")
    limited.settle()
    assert limited.invoice_numbers("people", person) == [invoice.number]
    tell(limited, *range(1_000, 1_000 + LIMIT + 1))
    limited.simulate_copper("delete_record", type="person", id=person)
    wait_until(lambda: limited.sandbox.state()["pending_deliveries"] == 0, description="delivery of all webhooks")
    assert requests() == [("catch_up", "pending"), ("reconciliation", "pending")]

    let_the_minute_pass()
    limited.settle()
    assert runs_of(limited)[-1] == "reconciliation"
    assert {state for _, state in requests()} == {"done"}, "the one run answers for both"
    limited.check()

    with another_web() as another:
        tell(limited, *range(2_000, 2_000 + LIMIT + 1), web=another, event="delete")
    let_the_minute_pass()
    completed = begin(limited)
    assert completed.run is None
    assert 3_000 < (completed.retry_after or 0) <= 3_600, "at most one an hour"


@contextmanager
def another_web() -> Iterator[httpx.Client]:
    """Another web process of the same installation."""
    with serving(create()) as url, http_client(url) as client:
        yield client


def test_the_quota_is_shared_by_all_web_processes_and_works_without_redis(limited: World) -> None:
    before = count_stored(limited)
    redis_url = settings().redis_url or ""
    override_settings({"REDIS_URL": "unix:///nonexistent/redis.sock"})
    redis_client.shared_client.clear()
    with another_web() as another, ThreadPoolExecutor(8) as threads:
        clients = (limited.web, another)
        statuses = set(
            threads.map(lambda number: tell(limited, number, web=clients[number % 2]), range(1, 3 * LIMIT + 1))
        )
    override_settings({"REDIS_URL": redis_url})
    redis_client.shared_client.clear()

    assert statuses == {200}
    assert before + LIMIT * 3 // 4 <= count_stored(limited) <= before + LIMIT
    assert requests() == [("catch_up", "pending")]


def test_notifications_of_other_accounts_are_stored_meanwhile(limited: World) -> None:
    other = World(limited.sandbox, limited.web).open(name="Other")
    other.settle()
    tell(limited, *range(1, LIMIT + 2))
    before = count_stored(other)
    assert tell(other, 1) == 200
    assert count_stored(other) == before + 1


def test_the_quota_has_a_minute_limit_and_a_day_limit(limited: World) -> None:
    def take(rows: int, day_limit: int = 100) -> int:
        async def work() -> int:
            async with create_owner_pool(size=1) as pool:
                grant = await run_with_retry(
                    pool,
                    lambda one: webhook_quotas.acquire(
                        one, limited.account, rows, minute_limit=LIMIT, day_limit=day_limit
                    ),
                )
                assert grant is not None
                assert 0 <= grant.seconds <= 60
                return grant.rows

        return asyncio.run(work())

    with transaction() as session:
        session.execute(text("DELETE FROM webhook_quota"))
    assert [take(9), take(9), take(9)] == [9, 9, 0]
    with transaction() as session:
        session.execute(text("UPDATE webhook_quota SET minute = minute - interval '1 minute'"))
    assert [take(9), take(15, day_limit=40)] == [9, 0], "18 of this day are from the minute before"
    with transaction() as session:
        session.execute(text("UPDATE webhook_quota SET minute = '-infinity', day = day - 1"))
    assert [take(LIMIT + 1), take(LIMIT)] == [0, LIMIT]


def test_a_catch_up_started_within_the_minute_leaves_the_next_one_due(limited: World) -> None:
    """A run that was due from the minute before does not cover notifications dropped after it started."""
    begin_minute()
    tell(limited, *range(1, LIMIT + 2))
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO inbox (account_id, vendor, tenant, category, event_type, resource_id, "
                "dedupe_key, correlation_id)"
                " VALUES (:account, 'copper', '', 'catch_up', '', '', 'the minute before', '')"
            ),
            {"account": limited.account},
        )
    run = begin(limited).run
    assert run is not None
    assert run.kind == "catch_up"
    assert requests() == [("catch_up", "done"), ("catch_up", "pending")]


def test_reconnecting_does_not_reset_the_quota(limited: World) -> None:
    begin_minute()
    tell(limited, *range(1, LIMIT + 2))
    with transaction() as session:
        inbox.resume(session, SyncSource(limited.account, 0))
    assert begin(limited) == NO_CATCH_UP
    assert requests() == [("catch_up", "pending")]


def test_the_catch_up_request_is_committed_before_the_first_response(limited: World) -> None:
    """If it cannot be committed, nothing is acknowledged."""
    with transaction() as session:
        session.execute(text("ALTER TABLE inbox ADD CONSTRAINT no_request CHECK (category <> 'catch_up') NOT VALID"))
    path, body = notification(limited, ids=list(range(1, LIMIT + 2)))
    response = limited.web.post(path, json=body)
    assert (response.status_code, response.headers["connection"]) == (500, "close")
    with transaction() as session:
        session.execute(text("ALTER TABLE inbox DROP CONSTRAINT no_request"))
    assert tell(limited, *range(1, LIMIT + 2)) == 200
    assert requests() == [("catch_up", "pending")]


def test_workers_catch_up_by_themselves_after_a_flood(limited: World, processes: Processes) -> None:
    person = limited.person("ann@acme.test")
    invoice = limited.invoice("new@acme.test")
    limited.settle()
    tell(limited, *range(1_000, 1_000 + LIMIT + 1))
    limited.simulate_copper("update_record", type="person", id=person, emails=["new@acme.test"])
    wait_until(lambda: limited.sandbox.state()["pending_deliveries"] == 0, description="delivery of all webhooks")
    let_the_minute_pass()
    processes += [patina("worker"), patina("scheduler", environment={"SWEEP_INTERVAL_SECONDS": "1"})]
    wait_until(
        lambda: limited.invoice_numbers("people", person) == [invoice.number], seconds=60, description="the invoice"
    )


# Unreadable bodies


def test_an_account_stores_a_hundred_unreadable_bodies_and_counts_the_rest(world: World) -> None:
    counted = dropped("copper", "malformed")
    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(lambda number: tell(world, type=number), range(120)))
    assert statuses == {200}
    rows = [row for row in inbox_rows() if row.category == "malformed"]
    assert len(rows) == 100
    assert dropped("copper", "malformed") == counted + 20
    with transaction() as session:
        inbox.dismiss(session, world.account, None)
    assert tell(world, type=200) == 200
    assert len([row for row in inbox_rows() if (row.category, row.state) == ("malformed", "failed")]) == 1


def test_unreadable_bodies_without_an_account_are_bounded_as_well(world: World) -> None:
    counted = dropped("xero", "malformed")
    for number in range(12):
        assert post_xero(world.web, delivery(*[None] * 10, first=number + 1)).status_code == 200
    assert len([row for row in inbox_rows() if row.category == "malformed"]) == 100
    assert dropped("xero", "malformed") == counted + 20
    tell(world, type=1)
    assert len([row for row in inbox_rows() if row.category == "malformed"]) == 101, "the account's own room is its own"


def test_an_unreadable_body_is_stored_without_the_secret(world: World) -> None:
    with transaction() as session:
        secret = copper_credentials.get(session, world.account).webhook_secret
    nested = {"deep": [{SECRET_KEY.upper(): secret}, {"Patina_Secret ": "another"}, f"see {secret}!", {secret: 1}]}
    for more in (
        {"ids": "7", "more": nested, "long": "x" * 20_000},
        {"ids": [nested], "type": "person"},
        {"ids": [nested] * 101, "type": "person"},
        {"ids": [7], "type": "person", "event": secret},
        {"ids": [secret], "type": secret},
    ):
        path, body = notification(world, **more)
        assert world.web.post(path, json=body).status_code == 200
    with transaction() as session:
        rows = session.execute(text("SELECT i.*, convert_from(body, 'UTF8') AS said FROM inbox i")).mappings().all()
    assert len([row for row in rows if row["category"] == "malformed"]) == 3
    stored_text = str([dict(row) for row in rows]).lower()
    assert secret.lower() not in stored_text
    assert SECRET_KEY not in stored_text
    assert all(len(row["body"] or b"") <= 16 * 1024 for row in rows)


# Status


def test_status_shows_what_was_not_stored(limited: World) -> None:
    clear_budgets("throttle")
    tell(limited, *range(1, LIMIT + 2))
    tell(limited, 1, 2, type="task")
    tell(limited, 1, type="surprise")

    def recently() -> dict[str, int]:
        with transaction() as session:
            return {
                counter.reason: counter.events for counter in webhook_quotas.recently_dropped(session, limited.account)
            }

    expected = {"over_limit": LIMIT + 1, "task": 2, "other_type": 1}
    wait_until(lambda: recently() == expected, description="the web process to write down what it counted")
    page = sign_in(limited).open("/status").text
    assert "21 Copper events not kept: beyond the limit a minute or a day: fetched by a catch-up instead" in page
    assert "2 Copper events not kept: about tasks (last 7 days)." in page
    assert "1 Copper event not kept: of another type that is not shown" in page
    completed = run_patina("status", "--json")
    assert json.loads(completed.stdout)["accounts"][0]["dropped_events"][0] == {
        "vendor": "copper",
        "reason": "over_limit",
        "events": 21,
    }


def test_counts_of_a_closed_account_are_left_out(world: World) -> None:
    with transaction() as session:
        webhook_quotas.record_dropped(session, {(world.account, "copper", "task"): 2, (424_242, "copper", "task"): 1})
        webhook_quotas.record_dropped(session, {(world.account, "copper", "task"): 3})
        rows = session.execute(text("SELECT account_id, events FROM dropped_events")).all()
    assert [tuple(row) for row in rows] == [(world.account, 5)]
    with transaction() as session:
        assert webhook_quotas.delete_expired(session, 30) == 0
        session.execute(text("UPDATE dropped_events SET day = day - 31"))
        assert webhook_quotas.delete_expired(session, 30) == 1


def test_both_request_types_are_run_types() -> None:
    assert {CATCH_UP, inbox.RECONCILIATION} <= {run_kind.value for run_kind in RunKind}
