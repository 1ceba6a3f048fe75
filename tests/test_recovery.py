"""What a process does when a service it needs was restarted, or is away."""

from __future__ import annotations

import httpx

from runtime.settings import override
from tests import databases
from tests.serving import wait_until
from tests.world import World
from worker import broker, connect


def test_a_restarted_database_costs_no_read_and_no_notification(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    for _ in range(3):
        databases.cut_connections()
        for _ in range(3):
            assert world.read("people", person).status_code == 200
        databases.cut_connections()
        added = world.person(f"bob{person}@acme.test")
        world.settle()
        assert world.rows("people", added) == []
    assert world.sandbox.state()["delivered"]["last_answers"].count("copper: 503") == 0


def test_a_restarted_database_costs_no_panel_and_no_export(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    keys = {scope: connect.make_key(world.account, scope, [scope]) for scope in ("admin", "panel")}
    paths = {"/v1/invoices.csv": keys["admin"], f"/panel/records/person/{person}": keys["panel"]}
    for _ in range(3):
        for path, key in paths.items():
            assert world.web.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 200, path
        databases.cut_connections()


def test_readiness_tells_of_each_service_and_that_redis_can_be_missed(web: httpx.Client) -> None:
    told = web.get("/readyz")
    assert told.status_code == 200
    assert told.text == "database: reached\nmigrations: at head\nredis: reached\nready\n"
    override({"REDIS_URL": "redis://127.0.0.1:1/0"})
    broker.client.cache_clear()
    try:
        wait_until(lambda: "redis: away; events are kept" in web.get("/readyz").text, what="the next look at Redis")
        assert web.get("/readyz").status_code == 200
    finally:
        override({"REDIS_URL": databases.redis_address()})
        broker.client.cache_clear()
