"""What Xero and Copper post to: signatures, secrets, bounds, and nothing acknowledged that is not kept."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override, settings
from store import inbox
from store.accounts import copper_access
from store.database import transaction
from tests import databases
from tests.serving import serving, wait_until
from tests.world import World
from worker.copper.subscriptions import SECRET_KEY

XERO_KEY = "sandbox-webhook-key"
CONTACT = "11111111-1111-4111-8111-111111111111"


def signed(body: bytes, key: str = XERO_KEY) -> str:
    return base64.b64encode(hmac.new(key.encode(), body, hashlib.sha256).digest()).decode()


def post_xero(web: httpx.Client, body: bytes, signature: str | None = None, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", "x-xero-signature": signature or signed(body), **headers}
    return web.post("/webhooks/xero", content=body, headers=sent)


def event(tenant: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceUrl": "https://evil.test/should-never-be-called",
        "resourceId": CONTACT,
        "eventDateUtc": "2026-06-21T01:15:39.902",
        "eventType": "UPDATE",
        "eventCategory": "CONTACT",
        "tenantId": tenant,
        "tenantType": "ORGANISATION",
        **more,
    }


def delivery(*events: dict[str, Any], first: int = 1) -> bytes:
    body = {"events": list(events), "firstEventSequence": first, "lastEventSequence": first, "entropy": "X"}
    return json.dumps(body).encode()


def inbox_rows() -> list[Any]:
    with transaction() as session:
        return list(
            session.execute(
                text("SELECT account_id, source, kind, event, resource_id, state, error, body FROM inbox ORDER BY id")
            )
        )


def is_bare(answer: httpx.Response) -> bool:
    return answer.content == b"" and "set-cookie" not in answer.headers


def test_a_right_signature_is_answered_200_and_the_event_is_kept(world: World) -> None:
    before = len(inbox_rows())
    answer = post_xero(world.web, delivery(event(world.tenants[0])))

    assert answer.status_code == 200
    assert is_bare(answer)
    row = inbox_rows()[before]
    assert (row.account_id, row.kind, row.resource_id, row.state) == (world.account, "CONTACT", CONTACT, "pending")


@pytest.mark.parametrize("signature", ["", "wrong", "é", signed(b"another body"), signed(b"{}", "another key")])
def test_a_wrong_signature_is_answered_401_and_nothing_is_kept(web: httpx.Client, signature: str) -> None:
    body = delivery(event("22222222-2222-4222-8222-222222222222"))
    headers = {"content-type": "application/json", "x-xero-signature": signature.encode()}
    answer = web.post("/webhooks/xero", content=body, headers=headers)  # type: ignore[arg-type]

    assert answer.status_code == 401
    assert is_bare(answer)
    assert inbox_rows() == []


def test_a_missing_signature_is_answered_401(web: httpx.Client) -> None:
    answer = web.post("/webhooks/xero", content=b"{}", headers={"content-type": "application/json"})

    assert answer.status_code == 401
    assert is_bare(answer)


def test_two_keys_are_active_while_one_is_rotated(database: str, web: httpx.Client) -> None:
    override({"XERO_WEBHOOK_KEYS": "new-key, sandbox-webhook-key"})
    body = delivery()

    assert post_xero(web, body, signed(body, "new-key")).status_code == 200
    assert post_xero(web, body, signed(body, XERO_KEY)).status_code == 200
    assert post_xero(web, body, signed(body, "older-key")).status_code == 401


@pytest.mark.parametrize("events", [[], None])
def test_the_intent_to_receive_is_understood(web: httpx.Client, events: list[Any] | None) -> None:
    body = json.dumps({"events": events, "firstEventSequence": 0, "lastEventSequence": 0, "entropy": "S"}).encode()

    assert post_xero(web, body).status_code == 200
    assert post_xero(web, body, signed(body, "not the key")).status_code == 401
    assert inbox_rows() == []


def test_unknown_tenants_types_and_categories_are_accepted_and_marked_ignored(world: World) -> None:
    before = len(inbox_rows())
    mine = world.tenants[0]
    body = delivery(
        event("22222222-2222-4222-8222-222222222222"),
        event("not even a uuid"),
        event(mine, eventCategory="CREDITNOTE", data={"Type": "ACCRECCREDIT", "Status": "PAID"}),
        event(mine, eventType="SOMETHING"),
    )

    assert post_xero(world.web, body).status_code == 200
    rows = inbox_rows()[before:]
    assert [row.state for row in rows] == ["ignored"] * 4
    assert sorted(row.account_id for row in rows) == [0, 0, world.account, world.account]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"events": 7}',
        b'{"events": [{"tenantId": 5}]}',
        b'{"events": [{}]}',
        b'{"events": NaN}',
        b"[" * 200_000,
    ],
    ids=range(11),
)
def test_a_malformed_body_of_a_rightly_signed_request_is_kept_for_a_person(web: httpx.Client, body: bytes) -> None:
    answer = post_xero(web, body)

    assert answer.status_code == 200
    assert is_bare(answer)
    (row,) = inbox_rows()
    assert (row.kind, row.state, bytes(row.body)) == ("malformed", "failed", body)


def test_a_body_that_is_not_declared_as_json_is_kept_and_not_applied(world: World) -> None:
    before = len(inbox_rows())
    body = delivery(event(world.tenants[0]))

    assert post_xero(world.web, body, **{"content-type": "text/plain"}).status_code == 200
    assert [row.kind for row in inbox_rows()[before:]] == ["malformed"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_a_mebibyte_is_refused_unread(web: httpx.Client, announced: bool) -> None:
    body = b"x" * (1024 * 1024 + 1)
    content: Any = body if announced else iter([body[:700_000], body[700_000:]])
    headers = {"x-xero-signature": signed(body), "content-type": "application/json"}
    answer = web.post("/webhooks/xero", content=content, headers=headers)

    assert answer.status_code == 413
    assert inbox_rows() == []


def test_a_replayed_old_payload_is_kept_once(world: World) -> None:
    before = len(inbox_rows())
    body = delivery(event(world.tenants[0]), event(world.tenants[0]))

    for _ in range(3):
        assert post_xero(world.web, body).status_code == 200
    world.settle()
    assert post_xero(world.web, body).status_code == 200

    assert [row.state for row in inbox_rows()[before:]] == ["done"]


def test_a_hundred_events_are_kept_by_one_request(world: World) -> None:
    before = len(inbox_rows())
    many = [event(world.tenants[0], resourceId=f"11111111-1111-4111-8111-{number:012}") for number in range(100)]

    assert post_xero(world.web, delivery(*many)).status_code == 200
    assert len(inbox_rows()) == before + 100


def test_an_event_whose_id_is_no_uuid_is_quarantined_and_holds_up_no_other(world: World) -> None:
    override({"EVENT_ATTEMPTS": "1"})
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    post_xero(world.web, delivery(event(world.tenants[0], resourceId="no-uuid", eventCategory="INVOICE")))
    world.settle()

    assert world.shown("people", person) == [invoice.number]
    failed = [row for row in inbox_rows() if row.state == "failed"]
    assert [row.resource_id for row in failed] == ["no-uuid"]


# Copper


def notice(world: World, **more: Any) -> tuple[str, dict[str, Any]]:
    with transaction() as session:
        access = copper_access(session, world.account)
    body = {
        "ids": [7],
        "type": "person",
        "event": "update",
        "subscription_id": 1,
        "timestamp": "2026-06-21T01:15:39Z",
        SECRET_KEY: access.webhook_secret,
        **more,
    }
    return f"/webhooks/copper/{access.webhook_token}", body


def test_coppers_notification_is_kept_under_its_account(world: World) -> None:
    path, body = notice(world, ids=[7, 8])
    before = len(inbox_rows())
    answer = world.web.post(path, json=body)

    assert answer.status_code == 200
    assert is_bare(answer)
    rows = inbox_rows()[before:]
    assert sorted((row.account_id, row.kind, row.resource_id, row.state) for row in rows) == [
        (world.account, "person", "7", "pending"),
        (world.account, "person", "8", "pending"),
    ]


def test_a_wrong_path_and_a_wrong_secret_look_the_same(world: World) -> None:
    path, body = notice(world)
    before = len(inbox_rows())
    wrong = [
        world.web.post("/webhooks/copper/unknown-token", json=body),
        world.web.post(path, json={**body, SECRET_KEY: "wrong"}),
        world.web.post(path, json={**body, SECRET_KEY: None}),
        world.web.post(path, json={key: value for key, value in body.items() if key != SECRET_KEY}),
        world.web.post(path, content=b"{", headers={"content-type": "application/json"}),
        world.web.post(path, content=json.dumps(body), headers={"content-type": "text/plain"}),
    ]

    assert [answer.status_code for answer in wrong] == [401] * 6
    assert all(is_bare(answer) for answer in wrong)
    assert len(inbox_rows()) == before


def test_types_and_events_that_copper_may_invent_are_marked_ignored(world: World) -> None:
    before = len(inbox_rows())
    for more in ({"type": "task"}, {"event": "merged"}):
        path, body = notice(world, **more)
        assert world.web.post(path, json=body).status_code == 200

    assert [row.state for row in inbox_rows()[before:]] == ["ignored", "ignored"]


@pytest.mark.parametrize("more", [{"ids": "7"}, {"ids": [-1]}, {"ids": [True]}, {"ids": None}, {"type": 5}])
def test_coppers_malformed_but_authentic_body_is_kept_for_a_person(world: World, more: dict[str, Any]) -> None:
    before = len(inbox_rows())
    path, body = notice(world, **more)

    assert world.web.post(path, json=body).status_code == 200
    assert [(row.kind, row.state, row.account_id) for row in inbox_rows()[before:]] == [
        ("malformed", "failed", world.account)
    ]


def test_an_equal_notification_after_the_first_was_applied_is_looked_at_again(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.settle()
    path, body = notice(world, ids=[ann])
    world.web.post(path, json=body)
    world.settle()
    world.sandbox.faults(webhooks=[{"vendor": "copper", "lose": 1.0}])
    world.copper_act("change_record", type="person", id=ann, emails=["new@acme.test"])
    invoice = world.invoice("new@acme.test")
    world.settle()
    assert world.shown("people", ann) == []

    world.web.post(path, json=body)
    world.settle()
    assert world.shown("people", ann) == [invoice.number]


# what is down


def test_redis_being_down_changes_nothing_but_the_delay(world: World) -> None:
    from worker import broker

    right = settings().redis_url or ""
    override({"REDIS_URL": "unix:///nonexistent/redis.sock"})
    broker.client.cache_clear()
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle_without_end()
    assert world.sandbox.state()["delivered"]["xero_failed"] == 0
    assert {row.state for row in inbox_rows()} == {"pending"}, "without its budgets nobody calls a vendor"

    override({"REDIS_URL": right})
    broker.client.cache_clear()
    with transaction() as session:
        session.execute(text("UPDATE inbox SET not_before = now()"))
    world.settle()
    assert world.shown("people", person) == [invoice.number]


def test_postgresql_being_down_is_answered_503_and_xeros_retry_brings_the_event(world: World) -> None:
    from web.app import create

    name = databases.address("no_such_database")
    here = databases.address("postgres")
    assert name != here
    with transaction() as session:
        own = session.execute(text("SELECT current_database()")).scalar_one()
    override({"DATABASE_URL": name})
    with serving(create()) as url, httpx.Client(base_url=url, timeout=30) as broken:
        answer = post_xero(broken, delivery(event(world.tenants[0])))
        assert answer.status_code == 503
        assert is_bare(answer)
        assert broken.get("/readyz").status_code == 503

        override({"DATABASE_URL": databases.address(own)})
        world.sandbox.control("PUT", "clock", json={"speed": 100})
        world.sandbox.control("PUT", "app", json={"webhook_url": f"{url}/webhooks/xero"})
        contact = world.contact("Acme", "ann@acme.test")
        wait_until(lambda: world.sandbox.state()["delivered"]["xero_failed"] > 0, what="a failed delivery")
        world.listen_again()
        world.settle()
    assert contact in {row.resource_id for row in inbox_rows() if row.state == "done"}


def test_what_no_text_of_postgresql_can_hold_is_put_aside(world: World) -> None:
    """Found by fuzzing: a NUL in an event's words was answered with a 500."""
    with transaction() as session:
        held = copper_access(session, world.account)
    body = {"ids": [1], "type": "per\x00son", "event": "update", "patina_secret": held.webhook_secret}
    answer = world.web.post(f"/webhooks/copper/{held.webhook_token}", json=body)
    assert answer.status_code == 200
    with transaction() as session:
        assert inbox.quarantined_count(session, world.account) == 1


def post_at_once(web: httpx.Client, bodies: list[bytes]) -> list[int]:
    """Post all at the same time; the statuses, in the bodies' order."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        return [one.status_code for one in threads.map(lambda body: post_xero(web, body), bodies)]


def test_deliveries_that_come_together_share_a_commit_and_none_is_lost(world: World) -> None:
    ids = [f"11111111-1111-4111-8111-{number:012}" for number in range(20)]
    bodies = [delivery(event(world.tenants[0], resourceId=one), first=n + 1) for n, one in enumerate(ids)]
    with transaction() as session:
        # Held up here, they gather; when the table is free again, they are committed by a few statements.
        session.execute(text("LOCK TABLE inbox IN SHARE MODE"))
        with ThreadPoolExecutor(1) as thread:
            answers = thread.submit(post_at_once, world.web, bodies)
            time.sleep(0.5)
            assert not answers.done(), "nothing is acknowledged before it is committed"
            session.commit()
            assert answers.result() == [200] * len(ids)
    with transaction() as session:
        kept = session.execute(
            text("SELECT resource_id, xmin::text AS by FROM inbox WHERE resource_id LIKE '11111111-%'")
        ).all()
    assert sorted(row.resource_id for row in kept) == ids
    assert len({row.by for row in kept}) <= 4


def test_a_delivery_that_cannot_be_kept_takes_no_other_with_it(world: World) -> None:
    ids = [f"11111111-1111-4111-8111-{number:012}" for number in range(20)]
    with transaction() as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_sleep(0.1); RAISE EXCEPTION 'not this one'; END $$"
            )
        )
        session.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON inbox FOR EACH ROW"
                f" WHEN (NEW.resource_id = '{ids[3]}') EXECUTE FUNCTION refuse()"
            )
        )
    bodies = [delivery(event(world.tenants[0], resourceId=one), first=n + 1) for n, one in enumerate(ids)]
    answers = post_at_once(world.web, bodies)
    assert [status for status in answers if status != 200] == [answers[3]] == [500]
    kept = sorted(row.resource_id for row in inbox_rows() if row.resource_id.startswith("11111111-"))
    assert kept == [one for one in ids if one != ids[3]]
