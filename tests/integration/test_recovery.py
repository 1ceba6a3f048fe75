"""Recovery from restarted and unavailable services."""

from __future__ import annotations

import httpx

from runtime import redis_client
from runtime.settings import override_settings
from services import access
from tests.support import databases
from tests.support.serving import wait_until
from tests.support.world import World


def test_a_database_restart_loses_no_read_and_no_notification(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    for _ in range(3):
        databases.terminate_connections()
        for _ in range(3):
            assert world.read("people", person).status_code == 200
        databases.terminate_connections()
        added = world.person(f"bob{person}@acme.test")
        world.settle()
        assert world.rows("people", added) == []
    assert world.sandbox.state()["deliveries"]["recent_responses"].count("copper: 503") == 0


def test_a_database_restart_breaks_no_panel_and_no_export(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    keys = {scope: access.create_key(world.account, scope, [scope]) for scope in ("admin", "panel")}
    paths = {"/v1/invoices.csv": keys["admin"], f"/panel/records/person/{person}": keys["panel"]}
    for _ in range(3):
        for path, key in paths.items():
            assert world.web.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 200, path
        databases.terminate_connections()


def test_readiness_reports_each_service_and_tolerates_missing_redis(web: httpx.Client) -> None:
    response = web.get("/readyz")
    assert response.status_code == 200
    assert response.text == "database: reached\nmigrations: at head\nredis: reached\nready\n"
    override_settings({"REDIS_URL": "redis://127.0.0.1:1/0"})
    redis_client.shared_client.clear()
    try:
        wait_until(
            lambda: "redis: unavailable; events are stored" in web.get("/readyz").text,
            description="the next look at Redis",
        )
        assert web.get("/readyz").status_code == 200
    finally:
        override_settings({"REDIS_URL": databases.redis_url()})
        redis_client.shared_client.clear()
