"""What one account or one stranger uses up is never what the others need."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event, text

from runtime.settings import override_settings
from services import access
from store.db.database import PoolFullError, conninfo, create_owner_pool, engine, transaction
from store.read_model import exports as stored_exports
from tests.integration.test_panel import panel as panel
from tests.integration.test_panel import part
from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.serving import serving, wait_until
from tests.support.world import World
from web.middleware.concurrency import BusyError, FairLimiter
from web.panel.long_polls import PollQuota
from web.presentation import exports
from worker.sync.change_channel import publish_change

LONG_POLLS = {"Prefer": "wait=20"}
ROWS = text("""
    INSERT INTO record_invoice (account_id, record_type, record_id, created_at, invoice_id, organisation_id, type,
        status, number, issuer, total, balance, currency, created_source)
    SELECT :account, 'person', n, now(), md5('row' || n)::uuid, 1, 'ACCREC', 'PAID', repeat('x', 200), 'Acme', 1, 0,
           'NZD', 'webhook'
    FROM generate_series(1, 60000) AS n
""")


@pytest.fixture(autouse=True)
def uncounted(database: str) -> None:
    """Nobody has tried to sign in yet."""
    clear_budgets("throttle")


@pytest.fixture
def other_world(world: World) -> World:
    """Another account, whose people notice nothing."""
    return World(world.sandbox, world.web).open(name="Other")


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(80) as executor:
        yield executor


def bearer(world: World, scope: str = "admin") -> dict[str, str]:
    return {"Authorization": f"Bearer {access.create_key(world.account, scope, [scope])}"}


def is_busy(response: httpx.Response) -> bool:
    """Whether an answer says that there is too much to do, and when to come back."""
    return response.status_code in {429, 503} and "busy" in response.text and int(response.headers["retry-after"]) > 0


def executed(condition: str) -> Callable[[], int]:
    """How many statements of the engine that contain `condition` were begun from now on."""
    counted = []

    @event.listens_for(engine(), "before_cursor_execute")
    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if condition in statement:
            counted.append(statement)

    return lambda: len(counted)


# Requests that call a vendor


def try_keys(world: World, count: int, callers: ThreadPoolExecutor) -> list[Future[httpx.Response]]:
    browsers = [AdminBrowser(world.web) for _ in range(count)]
    for browser in browsers:
        browser.open("/connect")
    return [callers.submit(browser.send, "/connect", key="a-key", email="ann@acme.test") for browser in browsers]


def test_sign_ins_during_slow_copper_calls_block_no_other_page(
    world: World, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, panel: dict[str, str]
) -> None:
    monkeypatch.setattr("web.auth.sign_in_attempts.FREE_ATTEMPTS", 1_000)
    override_settings({"INTERACTIVE_READ_TIMEOUT": "10"})
    admin = sign_in(world)
    world.sandbox.faults(api=[{"vendor": "copper", "type": "latency", "seconds": 12}])
    before = world.sandbox.calls("/account")
    tries = try_keys(world, 50, callers)
    wait_until(lambda: world.sandbox.calls("/account") > before, description="the first call of Copper")
    assert part(world, panel, "person", 1).status_code == 200
    assert admin.open("/keys").status_code == 200
    assert world.web.get("/v1/people/1/match", headers=bearer(world)).status_code == 200
    assert not all(attempt.done() for attempt in tries), "they are answered while Copper is still being asked"
    responses = [attempt.result() for attempt in tries]
    assert {response.status_code for response in responses} == {503}
    assert sum(is_busy(response) for response in responses) >= 30
    assert sum("Copper is unavailable right now" in response.text for response in responses) >= 1
    assert world.sandbox.calls("/account") <= before + 10


def test_a_slow_copper_is_reported_after_one_attempt_to_sign_in(world: World) -> None:
    override_settings({"INTERACTIVE_READ_TIMEOUT": "0.3"})
    account = world.sandbox.state()["accounts"][0]
    world.sandbox.faults(api=[{"vendor": "copper", "type": "latency", "seconds": 2}])
    before = world.sandbox.calls("/account")
    response = AdminBrowser(world.web).sign_in(account["api_key"], account["email"])
    assert response.status_code == 503
    assert "Copper is unavailable right now" in response.text
    assert account["api_key"] not in response.text
    assert int(response.headers["retry-after"]) > 0
    assert world.sandbox.calls("/account") == before + 1


def test_the_settings_are_shown_while_copper_is_slow(world: World) -> None:
    admin = sign_in(world)
    override_settings({"INTERACTIVE_READ_TIMEOUT": "0.3"})
    world.sandbox.faults(api=[{"vendor": "copper", "type": "latency", "seconds": 2}])
    response = admin.open("/settings")
    assert response.status_code == 200
    assert "load teams from Copper" in response.text


def test_all_processes_share_a_small_limit_of_concurrent_sign_in_checks(world: World) -> None:
    from web.admin.vendor_calls import MAX_SIGN_INS
    from worker.jobs.locks import concurrency_slot

    account = world.sandbox.state()["accounts"][0]
    browser = AdminBrowser(world.web)
    with ExitStack() as elsewhere:
        for _ in range(MAX_SIGN_INS):
            assert elsewhere.enter_context(concurrency_slot("sign-in", MAX_SIGN_INS))
        assert is_busy(browser.sign_in(account["api_key"], account["email"]))
    assert browser.sign_in(account["api_key"], account["email"]).status_code == 200


# The panel's long polls


@contextmanager
def holding(world: World, headers: dict[str, str], record: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that each have a request held; a request that is answered at once is none of them."""
    tag = part(world, headers, "person", record).headers["etag"]
    url = world.web.base_url
    request = (
        f"GET /panel/records/person/{record} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}\r\nPrefer: wait=20\r\n"
    )
    request += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection((url.host, url.port or 0))) for _ in range(count)]
        for open_socket in sockets:
            open_socket.settimeout(30)
            open_socket.sendall(request.encode())
        wait_until(
            lambda: REGISTRY.get_sample_value("patina_panel_long_polls_open") == count, description="all being held"
        )
        yield sockets


def long_poll(world: World, headers: dict[str, str], record: int) -> httpx.Response:
    """A long poll without an entity tag, which is answered at once if it has a slot."""
    return world.web.get(f"/panel/records/person/{record}", headers={**headers, **LONG_POLLS})


def test_a_viewer_has_a_few_long_polls_and_releases_their_slots(
    world: World, panel: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PollQuota.LIMITS, "address", 3)
    override_settings({"TRUSTED_PROXIES": "127.0.0.1"})
    with holding(world, panel, 1, 3):
        refused = long_poll(world, panel, 1)
        assert is_busy(refused)
        assert refused.headers["content-type"] == "application/problem+json"
        elsewhere = {**panel, "X-Forwarded-For": "198.51.100.7"}
        assert long_poll(world, elsewhere, 1).status_code == 200, "somebody else with the same panel is let in"
        assert part(world, panel, "person", 1).status_code == 200, "and looking is not following"
    # Long polls that nobody closes last at least 16 seconds.
    wait_until(
        lambda: REGISTRY.get_sample_value("patina_panel_long_polls_open") == 0,
        seconds=4,
        description="the slots of closed panels",
    )
    assert long_poll(world, panel, 1).status_code == 200


@pytest.mark.parametrize("record_word", ["key", "account"])
def test_all_viewers_of_an_account_together_leave_slots_to_other_accounts(
    world: World, other_world: World, panel: dict[str, str], monkeypatch: pytest.MonkeyPatch, record_word: str
) -> None:
    monkeypatch.setitem(PollQuota.LIMITS, record_word, 2)
    with holding(world, panel, 1, 2):
        # An account's are counted once it is known whose they are: a moment later.
        wait_until(lambda: is_busy(long_poll(world, panel, 1)), description="the third's refusal")
        assert long_poll(other_world, bearer(other_world, "panel"), 1).status_code == 200


def test_one_query_serves_all_long_polls_of_a_record(world: World, panel: dict[str, str]) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    started, queries_before = time.monotonic(), executed("ORDER BY r.created_at DESC, r.invoice_id DESC LIMIT")
    with holding(world, panel, person, 15) as sockets:
        for _ in range(3):
            publish_change(world.account)
        with transaction() as session:
            session.execute(text("UPDATE record_invoice SET status = 'PAID'"))
        publish_change(world.account)
        assert all(socket.recv(12) == b"HTTP/1.1 200" for socket in sockets)
        assert queries_before() <= 5 + 2 * (time.monotonic() - started), "two a second, not one for each of them"


def test_a_failing_query_is_reported_at_once_and_the_next_change_is_delivered(
    world: World, panel: dict[str, str]
) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    with holding(world, panel, person, 1) as (held_response,):
        _rename("record_balance", "elsewhere")
        publish_change(world.account)
        assert held_response.recv(10) == b"HTTP/1.1 5", "not held for the rest of its time"
        _rename("elsewhere", "record_balance")
    with holding(world, panel, person, 1) as (held_response,):
        with transaction() as session:
            session.execute(text("UPDATE record_invoice SET status = 'PAID'"))
        publish_change(world.account)
        assert held_response.recv(12) == b"HTTP/1.1 200"


def _rename(table: str, name: str) -> None:
    with transaction() as session:
        session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


def test_viewers_of_a_panel_are_limited_separately(world: World, panel: dict[str, str]) -> None:
    override_settings({"API_REQUESTS_PER_MINUTE": "3", "TRUSTED_PROXIES": "127.0.0.1"})
    first, second = {"X-Forwarded-For": "198.51.100.1"}, {"X-Forwarded-For": "198.51.100.2"}
    assert [part(world, {**panel, **first}, "person", 1).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert part(world, {**panel, **second}, "person", 1).status_code == 200


# Pages


def test_hanging_pages_of_an_account_do_not_block_other_accounts(
    world: World, other_world: World, callers: ThreadPoolExecutor
) -> None:
    own_browser, other_browser, other_key = sign_in(world), sign_in(other_world), bearer(other_world)
    override_settings({"PAGE_STATEMENT_TIMEOUT_SECONDS": "60"})
    cookies = dict(own_browser.http.cookies)
    with psycopg.connect(conninfo()) as connection:
        connection.execute("LOCK TABLE xero_contact IN ACCESS EXCLUSIVE MODE")
        hanging = [callers.submit(_open, world, "/unmatched", cookies) for _ in range(60)]
        wait_until(lambda: _waiting_backends() > 0, description="a page that waits for the lock")
        assert other_browser.open("/keys").status_code == 200
        assert other_world.web.get("/v1/companies", headers=other_key).status_code == 200
        wait_until(
            lambda: any(future.done() and is_busy(future.result()) for future in hanging),
            description="somebody being refused",
        )
        assert _waiting_backends() <= 4
    responses = [future.result() for future in hanging]
    assert all(response.status_code == 200 or is_busy(response) for response in responses)


def _open(world: World, path: str, cookies: dict[str, str]) -> httpx.Response:
    return httpx.get(
        f"{world.web.base_url}{path}", cookies=cookies, headers={"Accept": "text/html"}, timeout=60, trust_env=False
    )


def _waiting_backends() -> int:
    with psycopg.connect(conninfo()) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return int(row[0]) if row else 0


def test_pages_of_a_session_are_limited_per_minute(world: World) -> None:
    admin = sign_in(world)
    override_settings({"PAGE_REQUESTS_PER_MINUTE": "3"})
    responses = [admin.http.get("/keys") for _ in range(4)]
    refused = next(response for response in responses if response.status_code != 200)
    assert is_busy(refused)
    assert "text/html" in refused.headers["content-type"]
    assert sum(response.status_code == 200 for response in responses) <= 3
    assert world.web.get("/connect").status_code == 200, "who is not signed in is not counted with them"


def test_an_api_call_waits_no_longer_for_a_lock_than_a_page(world: World) -> None:
    override_settings({"PAGE_STATEMENT_TIMEOUT_SECONDS": "0.5"})
    with psycopg.connect(conninfo()) as connection:
        connection.execute("LOCK TABLE copper_record IN ACCESS EXCLUSIVE MODE")
        response = world.web.get("/v1/people/1/match", headers=bearer(world), timeout=20)
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")


def test_a_full_pool_is_distinguished_from_an_unavailable_database(world: World) -> None:
    admin = sign_in(world)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(engine().connect())
        response = admin.open("/keys")
    assert is_busy(response)
    assert "temporarily unavailable" not in response.text

    async def take_two() -> None:
        pool = create_owner_pool(size=1)
        await pool.open()
        try:
            async with pool.borrow():
                with pytest.raises(PoolFullError):
                    async with pool.borrow():
                        raise AssertionError("there is one connection")
        finally:
            await pool.close()

    asyncio.run(take_two())


# Exports


@pytest.fixture
def large(world: World) -> World:
    """The account, with an export that no buffer on the way holds."""
    with transaction() as session:
        session.execute(ROWS, {"account": world.account})
    return world


@contextmanager
def unread_download(world: World, headers: dict[str, str]) -> Iterator[None]:
    """A download whose reader takes the first bytes and nothing more."""
    url = world.web.base_url
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(20)
        reader.connect((url.host, url.port or 0))
        head = f"Host: localhost\r\nAuthorization: {headers['Authorization']}"
        reader.sendall(f"GET /v1/invoices.csv HTTP/1.1\r\n{head}\r\n\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
        yield


def test_an_account_has_one_export_at_a_time_over_all_processes_and_does_not_block_others(
    large: World, other_world: World
) -> None:
    from web.app import create

    key, other_headers = bearer(large), bearer(other_world)
    with unread_download(large, key):
        repeated = large.web.get("/v1/invoices.csv", headers=key)
        assert (repeated.status_code, is_busy(repeated)) == (429, True)
        assert repeated.headers["content-type"] == "application/problem+json"
        with serving(create()) as second, httpx.Client(base_url=second, timeout=30, trust_env=False) as elsewhere:
            assert is_busy(elsewhere.get("/v1/invoices.csv", headers=key)), "another process knows of it"
            assert elsewhere.get("/v1/invoices.csv", headers=other_headers).status_code == 200
        for _ in range(8):
            assert large.web.get("/v1/invoices.csv", headers=other_headers).status_code == 200


def test_a_stalled_reader_ends_the_export(large: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "STALLED_SECONDS", 0.5)
    key = bearer(large)
    with unread_download(large, key):
        path = "/v1/people/1/invoices.csv"
        wait_until(lambda: large.web.get(path, headers=key).status_code == 200, description="the next export")
        wait_until(lambda: _exporting() == 0, description="the end of both transactions")


def _exporting() -> int:
    with psycopg.connect(conninfo()) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (stored_exports.LOCK_SPACE,),
        ).fetchone()
    return int(row[0]) if row else 0


def test_a_disconnected_reader_ends_the_export(large: World) -> None:
    key = bearer(large)
    with unread_download(large, key):
        assert _exporting() == 1
    wait_until(lambda: _exporting() == 0, description="the end of the transaction")
    assert large.web.get("/v1/people/1/invoices.csv", headers=key).status_code == 200


def test_exports_of_the_same_type_within_an_hour_are_one_audit_row(world: World) -> None:
    key = bearer(world)
    for person in range(1, 6):
        assert world.web.get(f"/v1/people/{person}/invoices.csv", headers=key).status_code == 200
    assert world.web.get("/v1/invoices.csv", headers=key).status_code == 200
    assert world.web.get("/v1/people/1/invoices.csv", headers=bearer(world, "read")).status_code == 200
    with transaction() as session:
        lines = session.execute(
            text("SELECT actor, detail FROM audit_log WHERE action = 'rows.exported' ORDER BY id")
        ).all()
    details = [line.detail for line in lines]
    first = "invoices of single records as csv, first person 1"
    assert details == [first, "invoices as csv", first], "of each key, and everything is told apart from one record"
    with transaction() as session:
        session.execute(text("UPDATE audit_log SET created_at = created_at - interval '1 hour'"))
    assert world.web.get("/v1/invoices.csv", headers=key).status_code == 200
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM audit_log WHERE action = 'rows.exported'")).scalar_one() == 4


# Places


def limiter(**options: Any) -> FairLimiter:
    return FairLimiter(**{"total": 2, "per_key": 1, "max_wait": 20, "retry_after": 5, **options})


def test_slots_rotate_between_keys_and_none_is_lost(database: str) -> None:
    async def work() -> list[str]:
        places, order = limiter(total=1), list[str]()

        async def take(key: str) -> None:
            async with places.slot(key):
                order.append(key)
                await asyncio.sleep(0)

        async with places.slot("a"):
            tasks = [asyncio.create_task(take(key)) for key in ("a", "a", "a", "b", "c")]
            await asyncio.sleep(0)
            tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with places.slot("a"):
            return order

    order = asyncio.run(work())
    assert sorted(order) == ["a", "a", "b", "c"]
    assert order.index("a", order.index("a") + 1) == 3, "a's second turn comes after the others' first"


def test_a_key_beyond_its_share_is_refused_while_others_are_not(database: str) -> None:
    async def work() -> None:
        places = limiter(total=2, per_key=1, max_wait=0.05)
        async with places.slot("a"):
            with pytest.raises(BusyError) as refused:
                async with places.slot("a"):
                    raise AssertionError("a has one place")
            assert refused.value.status == 429
            async with places.slot("b"):
                with pytest.raises(BusyError) as full:
                    async with places.slot("c"):
                        raise AssertionError("there are two places")
                assert full.value.status == 503
        async with places.slot("a"), places.slot("c"):
            return

    asyncio.run(work())


def test_a_full_queue_refuses_at_once(database: str) -> None:
    async def work() -> None:
        places = limiter(max_queue=1)
        async with places.slot("a"):
            waiting = asyncio.create_task(_take(places, "a"))
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await _take(places, "a")
        await waiting

    asyncio.run(work())


def test_a_slot_granted_to_a_cancelled_waiter_is_not_lost(database: str) -> None:
    async def work() -> None:
        places = limiter(total=1)
        async with places.slot("a"):
            leaving = asyncio.create_task(_take(places, "b"))
            await asyncio.sleep(0)
        # Given just now, and cancelled before it could be taken.
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await _take(places, "c")

    asyncio.run(work())


async def _take(places: FairLimiter, key: str) -> None:
    async with places.slot(key):
        return
