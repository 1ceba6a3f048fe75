"""What one account can have stored by its webhooks is bounded, and nothing that changed is lost by it."""

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

from runtime.settings import override, settings
from store import inbox, webhook_quotas
from store.accounts import copper_access
from store.database import async_pool, transaction, using
from store.inbox import CATCH_UP, Source
from tests.databases import forget_budgets
from tests.processes import Processes, patina
from tests.serving import http_client, serving, wait_until
from tests.test_pages import sign_in
from tests.test_project import patina as run_patina
from tests.test_receivers import delivery, dropped, inbox_rows, notice, post_xero
from tests.world import World
from web.app import create
from worker import broker, requested_catch_ups
from worker.copper.subscriptions import SECRET_KEY
from worker.requested_catch_ups import NOTHING, Requested
from worker.steps import Kind

LIMIT = 20


@pytest.fixture
def limited(world: World) -> World:
    """An account that may have 20 rows a day, so that no minute's end gives it more."""
    override({"COPPER_NOTIFICATIONS_MINUTE_LIMIT": str(LIMIT), "COPPER_NOTIFICATIONS_DAY_LIMIT": str(LIMIT)})
    world.settle()
    return world


def begin_minute() -> None:
    """Wait for the next minute where this one is nearly over: a test is to see one."""

    def has_time() -> bool:
        with transaction() as session:
            second: float = session.execute(text("SELECT extract(second FROM clock_timestamp())")).scalar_one()
        return second < 30

    wait_until(has_time, seconds=40, what="the next minute")


def tell(world: World, *ids: int, web: httpx.Client | None = None, **more: Any) -> int:
    path, body = notice(world, ids=list(ids), **more)
    return (web or world.web).post(path, json=body).status_code


def kept(world: World) -> int:
    """Rows that name a record."""
    return len([row for row in inbox_rows() if row.account_id == world.account and row.resource_id.isdigit()])


def requests() -> list[tuple[str, str]]:
    """What stands in the inbox for notifications that were not kept, each once: kind and state."""
    with transaction() as session:
        rows = session.execute(
            text("SELECT DISTINCT kind, state FROM inbox WHERE kind IN ('catch_up', 'reconciliation') ORDER BY 1, 2")
        )
        return [(row.kind, row.state) for row in rows]


def begin(world: World) -> Requested:
    return requested_catch_ups.begin(Source(world.account, 0))


def let_the_minute_pass() -> None:
    with transaction() as session:
        session.execute(text("UPDATE inbox SET not_before = now() WHERE kind IN ('catch_up', 'reconciliation')"))


def runs_of(world: World) -> list[str]:
    return [run.kind for run in sorted(world.runs(), key=lambda run: run.id) if run.organisation_id == 0]


def test_notifications_beyond_the_limit_are_answered_200_and_not_kept(limited: World) -> None:
    before, counted = kept(limited), dropped("copper", "over_limit")
    statuses = {tell(limited, number) for number in range(1, 3 * LIMIT + 1)}

    assert statuses == {200}
    assert kept(limited) == before + LIMIT
    assert dropped("copper", "over_limit") == counted + 2 * LIMIT
    assert requests() == [("catch_up", "pending")], "one run makes up for all of them, when the minute is over"


def test_one_notification_counts_as_many_as_it_names(limited: World) -> None:
    before = kept(limited)
    assert tell(limited, *range(1, LIMIT + 2)) == 200
    assert kept(limited) == before
    assert requests() == [("catch_up", "pending")]


def test_what_was_not_kept_is_fetched_when_the_minute_is_over(limited: World) -> None:
    person = limited.person("ann@acme.test")
    invoice = limited.invoice("new@acme.test")
    limited.settle()
    begin_minute()
    tell(limited, *range(1_000, 1_000 + LIMIT + 1))
    limited.copper_act("change_record", type="person", id=person, emails=["new@acme.test"])
    wait_until(lambda: limited.sandbox.state()["waiting"] == 0, what="delivery of all webhooks")
    assert limited.shown("people", person) == []
    assert begin(limited) == NOTHING, "the minute is not over"

    let_the_minute_pass()
    limited.settle()
    assert limited.shown("people", person) == [invoice.number]
    assert requests() == [("catch_up", "done")]
    limited.check()


def test_a_deletion_that_was_not_kept_is_found_by_reading_everything(limited: World) -> None:
    person = limited.person("ann@acme.test")
    invoice = limited.invoice("ann@acme.test")
    limited.settle()
    assert limited.shown("people", person) == [invoice.number]
    tell(limited, *range(1_000, 1_000 + LIMIT + 1))
    limited.copper_act("delete_record", type="person", id=person)
    wait_until(lambda: limited.sandbox.state()["waiting"] == 0, what="delivery of all webhooks")
    assert requests() == [("catch_up", "pending"), ("reconciliation", "pending")]

    let_the_minute_pass()
    limited.settle()
    assert runs_of(limited)[-1] == "reconciliation"
    assert {state for _, state in requests()} == {"done"}, "the one run answers for both"
    limited.check()

    with another_web() as another:
        tell(limited, *range(2_000, 2_000 + LIMIT + 1), web=another, event="delete")
    let_the_minute_pass()
    done = begin(limited)
    assert done.run is None
    assert 3_000 < (done.again_in or 0) <= 3_600, "at most one an hour"


@contextmanager
def another_web() -> Iterator[httpx.Client]:
    """Another web process of the same installation."""
    with serving(create()) as url, http_client(url) as client:
        yield client


def test_the_limit_holds_over_all_web_processes_and_without_redis(limited: World) -> None:
    before = kept(limited)
    right = settings().redis_url or ""
    override({"REDIS_URL": "unix:///nonexistent/redis.sock"})
    broker.client.cache_clear()
    with another_web() as another, ThreadPoolExecutor(8) as threads:
        both = (limited.web, another)
        statuses = set(threads.map(lambda number: tell(limited, number, web=both[number % 2]), range(1, 3 * LIMIT + 1)))
    override({"REDIS_URL": right})
    broker.client.cache_clear()

    assert statuses == {200}
    assert before + LIMIT * 3 // 4 <= kept(limited) <= before + LIMIT
    assert requests() == [("catch_up", "pending")]


def test_another_accounts_notifications_are_kept_meanwhile(limited: World) -> None:
    other = World(limited.sandbox, limited.web).open(name="Other")
    other.settle()
    tell(limited, *range(1, LIMIT + 2))
    before = kept(other)
    assert tell(other, 1) == 200
    assert kept(other) == before + 1


def test_a_minute_ends_and_a_day_has_its_own_limit(limited: World) -> None:
    def take(rows: int, day_limit: int = 100) -> int:
        async def work() -> int:
            async with async_pool(size=1) as pool:
                grant = await using(
                    pool,
                    lambda one: webhook_quotas.take(
                        one, limited.account, rows, minute_limit=LIMIT, day_limit=day_limit
                    ),
                )
                assert grant is not None
                assert 0 <= grant.seconds <= 60
                return grant.rows

        return asyncio.run(work())

    with transaction() as session:
        session.execute(text("DELETE FROM notification_window"))
    assert [take(9), take(9), take(9)] == [9, 9, 0]
    with transaction() as session:
        session.execute(text("UPDATE notification_window SET minute = minute - interval '1 minute'"))
    assert [take(9), take(15, day_limit=40)] == [9, 0], "18 of this day are from the minute before"
    with transaction() as session:
        session.execute(text("UPDATE notification_window SET minute = '-infinity', day = day - 1"))
    assert [take(LIMIT + 1), take(LIMIT)] == [0, LIMIT]


def test_a_catch_up_that_begins_within_the_minute_leaves_the_next_one_due(limited: World) -> None:
    """The run that is due from the minute before does not answer for what is dropped after it began."""
    begin_minute()
    tell(limited, *range(1, LIMIT + 2))
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO inbox (account_id, source, tenant, kind, event, resource_id, dedupe_key, correlation_id)"
                " VALUES (:account, 'copper', '', 'catch_up', '', '', 'the minute before', '')"
            ),
            {"account": limited.account},
        )
    run = begin(limited).run
    assert run is not None
    assert run.kind == "catch_up"
    assert requests() == [("catch_up", "done"), ("catch_up", "pending")]


def test_a_reconnection_does_not_end_the_minute(limited: World) -> None:
    begin_minute()
    tell(limited, *range(1, LIMIT + 2))
    with transaction() as session:
        inbox.resume(session, Source(limited.account, 0))
    assert begin(limited) == NOTHING
    assert requests() == [("catch_up", "pending")]


def test_the_request_is_committed_before_the_first_answer(limited: World) -> None:
    """Where it cannot be, nothing is acknowledged."""
    with transaction() as session:
        session.execute(text("ALTER TABLE inbox ADD CONSTRAINT no_request CHECK (kind <> 'catch_up') NOT VALID"))
    path, body = notice(limited, ids=list(range(1, LIMIT + 2)))
    answer = limited.web.post(path, json=body)
    assert (answer.status_code, answer.headers["connection"]) == (500, "close")
    with transaction() as session:
        session.execute(text("ALTER TABLE inbox DROP CONSTRAINT no_request"))
    assert tell(limited, *range(1, LIMIT + 2)) == 200
    assert requests() == [("catch_up", "pending")]


def test_workers_catch_up_by_themselves_after_a_flood(limited: World, processes: Processes) -> None:
    person = limited.person("ann@acme.test")
    invoice = limited.invoice("new@acme.test")
    limited.settle()
    tell(limited, *range(1_000, 1_000 + LIMIT + 1))
    limited.copper_act("change_record", type="person", id=person, emails=["new@acme.test"])
    wait_until(lambda: limited.sandbox.state()["waiting"] == 0, what="delivery of all webhooks")
    let_the_minute_pass()
    processes += [patina("worker"), patina("scheduler", environment={"SWEEP_SECONDS": "1"})]
    wait_until(lambda: limited.shown("people", person) == [invoice.number], seconds=60, what="the invoice")


# What nobody can read


def test_an_account_keeps_a_hundred_unreadable_bodies_and_counts_the_rest(world: World) -> None:
    counted = dropped("copper", "malformed")
    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(lambda number: tell(world, type=number), range(120)))
    assert statuses == {200}
    rows = [row for row in inbox_rows() if row.kind == "malformed"]
    assert len(rows) == 100
    assert dropped("copper", "malformed") == counted + 20
    with transaction() as session:
        inbox.dismiss(session, world.account, None)
    assert tell(world, type=200) == 200
    assert len([row for row in inbox_rows() if (row.kind, row.state) == ("malformed", "failed")]) == 1


def test_unreadable_bodies_of_nobody_are_bounded_likewise(world: World) -> None:
    counted = dropped("xero", "malformed")
    for number in range(12):
        assert post_xero(world.web, delivery(*[None] * 10, first=number + 1)).status_code == 200
    assert len([row for row in inbox_rows() if row.kind == "malformed"]) == 100
    assert dropped("xero", "malformed") == counted + 20
    tell(world, type=1)
    assert len([row for row in inbox_rows() if row.kind == "malformed"]) == 101, "the account's own room is its own"


def test_an_unreadable_body_is_kept_without_the_secret_wherever_it_stands(world: World) -> None:
    with transaction() as session:
        secret = copper_access(session, world.account).webhook_secret
    nested = {"deep": [{SECRET_KEY.upper(): secret}, {"Patina_Secret ": "another"}, f"see {secret}!", {secret: 1}]}
    for more in (
        {"ids": "7", "more": nested, "long": "x" * 20_000},
        {"ids": [nested], "type": "person"},
        {"ids": [nested] * 101, "type": "person"},
        {"ids": [7], "type": "person", "event": secret},
        {"ids": [secret], "type": secret},
    ):
        path, body = notice(world, **more)
        assert world.web.post(path, json=body).status_code == 200
    with transaction() as session:
        rows = session.execute(text("SELECT i.*, convert_from(body, 'UTF8') AS said FROM inbox i")).mappings().all()
    assert len([row for row in rows if row["kind"] == "malformed"]) == 3
    told = str([dict(row) for row in rows]).lower()
    assert secret.lower() not in told
    assert SECRET_KEY not in told
    assert all(len(row["body"] or b"") <= 16 * 1024 for row in rows)


# Where a person sees it


def test_status_tells_what_was_not_kept(limited: World) -> None:
    forget_budgets("throttle")
    tell(limited, *range(1, LIMIT + 2))
    tell(limited, 1, 2, type="task")
    tell(limited, 1, type="surprise")

    def recently() -> dict[str, int]:
        with transaction() as session:
            return {one.reason: one.events for one in webhook_quotas.recently_dropped(session, limited.account)}

    wanted = {"over_limit": LIMIT + 1, "task": 2, "other_type": 1}
    wait_until(lambda: recently() == wanted, what="the web process to write down what it counted")
    page = sign_in(limited).open("/status").text
    assert "21 Copper events not kept: beyond the limit a minute or a day: fetched by a catch-up instead" in page
    assert "2 Copper events not kept: about tasks (last 7 days)." in page
    assert "1 Copper event not kept: of another type that is not shown" in page
    told = run_patina("status", "--json")
    assert json.loads(told.stdout)["accounts"][0]["dropped_events"][0] == {
        "source": "copper",
        "reason": "over_limit",
        "events": 21,
    }


def test_counts_of_an_account_that_was_closed_are_left_out(world: World) -> None:
    with transaction() as session:
        webhook_quotas.count_dropped(session, {(world.account, "copper", "task"): 2, (424_242, "copper", "task"): 1})
        webhook_quotas.count_dropped(session, {(world.account, "copper", "task"): 3})
        rows = session.execute(text("SELECT account_id, events FROM dropped_events")).all()
    assert [tuple(row) for row in rows] == [(world.account, 5)]
    with transaction() as session:
        assert webhook_quotas.purge(session, 30) == 0
        session.execute(text("UPDATE dropped_events SET day = day - 31"))
        assert webhook_quotas.purge(session, 30) == 1


def test_both_kinds_of_requests_are_kinds_of_runs() -> None:
    assert {CATCH_UP, inbox.RECONCILIATION} <= {kind.value for kind in Kind}
