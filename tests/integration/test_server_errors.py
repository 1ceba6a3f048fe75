"""Server errors and an unavailable database: error pages, statuses, and logs without secrets."""

from __future__ import annotations

import json
import time

import httpx
import psycopg
import pytest
from sqlalchemy import exc

from runtime.settings import override_settings
from services import access, connect
from store.accounts import account_settings
from store.db.database import transaction
from tests.integration.test_webhook_endpoints import delivery, event, post_xero
from tests.support import databases
from tests.support.admin import AdminBrowser
from tests.support.databases import unavailable
from tests.support.serving import serving, wait_until
from tests.support.world import World
from worker.vendors.errors import AuthorizationLostError

SECURITY_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


def test_a_server_error_has_an_error_page_and_is_logged_without_secrets(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    from web.app import create

    override_settings({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    app = create()

    @app.get("/broken")
    def broken() -> None:
        raise ValueError("Invalid header value: 'SECRETKEY\nabc' of ann@acme.test, Bearer pat_abcdefghijklmnopqrst")

    with serving(app) as url, httpx.Client(base_url=url, trust_env=False) as http:
        capfd.readouterr()
        response = http.get("/broken", headers={"accept": "text/html"})
        plain = http.get("/broken")
    assert (response.status_code, plain.status_code) == (500, 500)
    assert plain.headers["content-type"] == "application/problem+json"
    for answer_ in (response, plain):
        assert SECURITY_HEADERS.items() <= dict(answer_.headers).items()
        assert "default-src 'none'" in answer_.headers["content-security-policy"]
        assert "SECRETKEY" not in answer_.text
    output = capfd.readouterr().err
    entries = [line for line in map(json.loads, filter(None, output.splitlines())) if "exception" in line]
    assert len(entries) == 2
    assert "in broken" in str(entries[0]["exception"])
    for secret in ("SECRETKEY", "ann@acme", "pat_abcdefghijklmnopqrst"):
        assert secret not in output


PATHS = ("/v1/people/1/match", "/v1/companies", "/v1/invoices.csv", "/panel/records/person/1", "/status", "/settings")


def test_an_unavailable_database_is_a_503_on_every_path(world: World, admin: AdminBrowser) -> None:
    key, panel = access.create_key(world.account, "all", ["admin"]), access.create_key(world.account, "p", ["panel"])
    override_settings({"METRICS_TOKEN": "a-token-of-the-scraper"})
    tokens = {"/metrics": "a-token-of-the-scraper", "/panel/records/person/1": panel}
    with unavailable():
        for path in (*PATHS, "/v1/people/1/invoices", "/export/invoices.csv", "/metrics", "/readyz"):
            headers = {"Authorization": f"Bearer {tokens.get(path, key)}"}
            response = admin.http.get(path, headers=headers)
            assert response.status_code == 503, (path, response.status_code, response.text)
            assert int(response.headers["retry-after"]) > 0, path
            assert response.headers["x-content-type-options"] == "nosniff", path
        hook = world.web.post("/webhooks/copper/x", json={})
        assert (hook.status_code, hook.headers["retry-after"]) == (503, "5")
    wait_until(lambda: world.web.get("/readyz").status_code == 200, description="the database")
    for path in ("/v1/invoices.csv", "/v1/people/1/invoices", "/v1/people/1/match"):
        response = world.web.get(path, headers={"Authorization": f"Bearer {key}"})
        assert response.status_code in {200, 404}, (path, response.text)


def test_a_standby_is_a_503_until_writes_are_accepted_again(world: World, admin: AdminBrowser) -> None:
    body = delivery(event(world.tenants[0]))
    name = databases.current_name()
    with psycopg.connect(databases.database_url("postgres"), autocommit=True) as outside:
        outside.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        databases.terminate_connections()
        for _ in range(3):
            assert post_xero(world.web, body).status_code == 503
            response = admin.http.get("/settings")
            assert response.status_code != 500, response.text
            with pytest.raises(exc.OperationalError, match="read-only"), transaction() as session:
                account_settings.update(session, world.account, account_settings.AccountSettings("x", (), 1, None))
        assert world.read("people", 1).status_code == 200, "a read changes nothing"
        outside.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    # Connections opened meanwhile stay read-only, so the pool must discard them.
    wait_until(lambda: post_xero(world.web, body).status_code == 200, seconds=10, description="the delivery")
    with transaction() as session:
        account_settings.update(session, world.account, account_settings.AccountSettings("x", (), 1, None))


def test_a_key_with_a_line_break_is_refused_everywhere_and_never_logged(
    world: World, admin: AdminBrowser, capfd: pytest.CaptureFixture[str]
) -> None:
    email = world.sandbox.state()["accounts"][0]["email"]
    capfd.readouterr()
    for key in ("SECRETKEY\nabc", "SECRETKEY\r\nX: y", "SECRETKEY\x7f", "SECRETKEYé"):
        admin.open("/settings")
        assert admin.send("/copper/key", key=key, email=email).status_code == 422
        assert AdminBrowser(world.web).sign_in(key, email).status_code == 422
        with pytest.raises(AuthorizationLostError):
            connect.connect_copper(key, email)
    assert "SECRETKEY" not in capfd.readouterr().err


def test_readiness_checks_the_schema_at_intervals(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = []

    def look() -> bool:
        checks.append(time.monotonic())
        return True

    monkeypatch.setattr("web.api.health.is_at_head", look)
    started = time.monotonic()
    for _ in range(50):
        assert world.web.get("/readyz").status_code == 200
    assert len(checks) <= 1 + (time.monotonic() - started) // 5
