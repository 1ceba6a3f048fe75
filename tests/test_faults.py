"""Faults of ours and a database that is away: dressed, told apart, logged without secrets."""

from __future__ import annotations

import json
import time

import httpx
import psycopg
import pytest
from sqlalchemy import exc

from runtime.settings import override
from store import accounts
from store.database import conninfo, transaction
from tests import databases
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.serving import serving, wait_until
from tests.test_pages import sign_in
from tests.test_receivers import delivery, event, post_xero
from tests.world import World
from worker import connect
from worker.errors import ReconnectNeededError

GUARDS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    forget_budgets("throttle")
    return sign_in(world)


def test_a_fault_of_ours_is_dressed_and_logged_without_secrets(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    from web.app import create

    override({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    app = create()

    @app.get("/broken")
    def broken() -> None:
        raise ValueError("Invalid header value: 'SECRETKEY\nabc' of ann@acme.test, Bearer pat_abcdefghijklmnopqrst")

    with serving(app) as url, httpx.Client(base_url=url, trust_env=False) as http:
        capfd.readouterr()
        answer = http.get("/broken", headers={"accept": "text/html"})
        plain = http.get("/broken")
    assert (answer.status_code, plain.status_code) == (500, 500)
    assert plain.headers["content-type"] == "application/problem+json"
    for one in (answer, plain):
        assert GUARDS.items() <= dict(one.headers).items()
        assert "default-src 'none'" in one.headers["content-security-policy"]
        assert "SECRETKEY" not in one.text
    said = capfd.readouterr().err
    told = [line for line in map(json.loads, filter(None, said.splitlines())) if "exception" in line]
    assert len(told) == 2
    assert "in broken" in str(told[0]["exception"])
    for secret in ("SECRETKEY", "ann@acme", "pat_abcdefghijklmnopqrst"):
        assert secret not in said


PATHS = ("/v1/people/1/match", "/v1/companies", "/v1/invoices.csv", "/panel/records/person/1", "/status", "/settings")


def test_a_database_that_is_away_is_a_503_on_every_path(world: World, admin: AdminBrowser) -> None:
    key, panel = connect.make_key(world.account, "all", ["admin"]), connect.make_key(world.account, "p", ["panel"])
    override({"METRICS_TOKEN": "a-token-of-the-scraper"})
    tokens = {"/metrics": "a-token-of-the-scraper", "/panel/records/person/1": panel}
    with psycopg.connect(conninfo(), autocommit=True) as other:
        name = other.info.dbname
        with psycopg.connect(conninfo(), autocommit=True, dbname="postgres") as outside:
            outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            try:
                for path in (*PATHS, "/v1/people/1/invoices", "/export/invoices.csv", "/metrics", "/readyz"):
                    headers = {"Authorization": f"Bearer {tokens.get(path, key)}"}
                    answer = admin.http.get(path, headers=headers)
                    assert answer.status_code == 503, (path, answer.status_code, answer.text)
                    assert int(answer.headers["retry-after"]) > 0, path
                    assert answer.headers["x-content-type-options"] == "nosniff", path
                hook = world.web.post("/webhooks/copper/x", json={})
                assert (hook.status_code, hook.headers["retry-after"]) == (503, "5")
            finally:
                outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    wait_until(lambda: world.web.get("/readyz").status_code == 200, what="the database")
    for path in ("/v1/invoices.csv", "/v1/people/1/invoices", "/v1/people/1/match"):
        answer = world.web.get(path, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code in {200, 404}, (path, answer.text)


def test_a_standby_is_a_503_until_changes_are_taken_again(world: World, admin: AdminBrowser) -> None:
    body = delivery(event(world.tenants[0]))
    name = databases.current()
    with psycopg.connect(databases.address("postgres"), autocommit=True) as outside:
        outside.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        databases.cut_connections()
        for _ in range(3):
            assert post_xero(world.web, body).status_code == 503
            answer = admin.http.get("/settings")
            assert answer.status_code != 500, answer.text
            with pytest.raises(exc.OperationalError, match="read-only"), transaction() as session:
                accounts.choose(session, world.account, accounts.Choices("x", (), 1, False, None))
        assert world.read("people", 1).status_code == 200, "a read changes nothing"
        outside.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    # Connections that were made meanwhile are read-only for as long as they last: they are left, not used again.
    wait_until(lambda: post_xero(world.web, body).status_code == 200, seconds=10, what="the delivery")
    with transaction() as session:
        accounts.choose(session, world.account, accounts.Choices("x", (), 1, False, None))


def test_a_key_with_a_line_break_is_refused_wherever_it_is_typed_and_never_logged(
    world: World, admin: AdminBrowser, capfd: pytest.CaptureFixture[str]
) -> None:
    email = world.sandbox.state()["accounts"][0]["email"]
    capfd.readouterr()
    for key in ("SECRETKEY\nabc", "SECRETKEY\r\nX: y", "SECRETKEY\x7f", "SECRETKEYé"):
        admin.open("/settings")
        assert admin.send("/copper/key", key=key, email=email).status_code == 422
        assert AdminBrowser(world.web).sign_in(key, email).status_code == 422
        with pytest.raises(ReconnectNeededError):
            connect.connect_copper(key, email)
    assert "SECRETKEY" not in capfd.readouterr().err


def test_readiness_looks_at_the_schema_once_in_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look() -> bool:
        looks.append(time.monotonic())
        return True

    monkeypatch.setattr("web.health.at_head", look)
    began = time.monotonic()
    for _ in range(50):
        assert world.web.get("/readyz").status_code == 200
    assert len(looks) <= 1 + (time.monotonic() - began) // 5
