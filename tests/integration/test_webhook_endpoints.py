"""The webhook endpoints: signatures, secrets, limits, and storage before acknowledgement."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from runtime.settings import override_settings, settings
from store.accounts import copper_credentials, refused_endpoints, xero_organisations
from store.db.database import transaction
from store.ingest import delivery_gaps, inbox
from store.ingest.inbox import LeaseLostError, SyncSource
from store.sync import runs
from store.sync.runs import Run
from tests.support import databases
from tests.support.admin import sign_in
from tests.support.processes import Processes, patina
from tests.support.serving import serving, wait_until
from tests.support.world import World
from worker.sync import event_processor as events
from worker.sync import run_processor
from worker.sync.requested_catch_ups import NO_CATCH_UP
from worker.vendors.copper.subscriptions import SECRET_KEY
from worker.vendors.sync_types import RunKind

XERO_KEY = "sandbox-webhook-key"
CONTACT = "11111111-1111-4111-8111-111111111111"


def sign(body: bytes, key: str = XERO_KEY) -> str:
    return base64.b64encode(hmac.new(key.encode(), body, hashlib.sha256).digest()).decode()


def post_xero(web: httpx.Client, body: bytes, signature: str | None = None, **headers: str) -> httpx.Response:
    all_headers = {"content-type": "application/json", "x-xero-signature": signature or sign(body), **headers}
    return web.post("/webhooks/xero", content=body, headers=all_headers)


def event(tenant: str, **fields: Any) -> dict[str, Any]:
    return {
        "resourceUrl": "https://evil.test/should-never-be-called",
        "resourceId": CONTACT,
        "eventDateUtc": "2026-06-21T01:15:39.902",
        "eventType": "UPDATE",
        "eventCategory": "CONTACT",
        "tenantId": tenant,
        "tenantType": "ORGANISATION",
        **fields,
    }


def delivery(*events_: Any, first: int = 1) -> bytes:
    body = {"events": events_, "firstEventSequence": first, "lastEventSequence": first, "entropy": "X"}
    return json.dumps(body).encode()


def inbox_rows() -> list[Any]:
    with transaction() as session:
        return list(
            session.execute(
                text(
                    "SELECT account_id, vendor, category, event_type, resource_id, state, error, "
                    "body FROM inbox ORDER BY id"
                )
            )
        )


def is_bare(response: httpx.Response) -> bool:
    return response.content == b"" and "set-cookie" not in response.headers


def test_a_valid_signature_is_answered_200_and_the_event_is_stored(world: World) -> None:
    before = len(inbox_rows())
    response = post_xero(world.web, delivery(event(world.tenants[0])))

    assert response.status_code == 200
    assert is_bare(response)
    row = inbox_rows()[before]
    assert (row.account_id, row.category, row.resource_id, row.state) == (world.account, "CONTACT", CONTACT, "pending")


@pytest.mark.parametrize("signature", ["", "wrong", "é", sign(b"another body"), sign(b"{}", "another key")])
def test_an_invalid_signature_is_answered_401_and_nothing_is_stored(web: httpx.Client, signature: str) -> None:
    body = delivery(event("22222222-2222-4222-8222-222222222222"))
    headers = {"content-type": "application/json", "x-xero-signature": signature.encode()}
    response = web.post("/webhooks/xero", content=body, headers=headers)  # type: ignore[arg-type]

    assert response.status_code == 401
    assert is_bare(response)
    assert inbox_rows() == []


def test_a_missing_signature_is_answered_401(web: httpx.Client) -> None:
    response = web.post("/webhooks/xero", content=b"{}", headers={"content-type": "application/json"})

    assert response.status_code == 401
    assert is_bare(response)


def test_two_keys_are_active_while_one_is_rotated(database: str, web: httpx.Client) -> None:
    override_settings({"XERO_WEBHOOK_KEYS": "new-key, sandbox-webhook-key"})
    body = delivery()

    assert post_xero(web, body, sign(body, "new-key")).status_code == 200
    assert post_xero(web, body, sign(body, XERO_KEY)).status_code == 200
    assert post_xero(web, body, sign(body, "older-key")).status_code == 401


@pytest.mark.parametrize("events", [[], None])
def test_the_intent_to_receive_is_answered_correctly(web: httpx.Client, events: list[Any] | None) -> None:
    body = json.dumps({"events": events, "firstEventSequence": 0, "lastEventSequence": 0, "entropy": "S"}).encode()

    assert post_xero(web, body).status_code == 200
    assert post_xero(web, body, sign(body, "not the key")).status_code == 401
    assert inbox_rows() == []


def test_events_of_unconnected_organisations_are_accepted_and_only_counted(world: World) -> None:
    before = len(inbox_rows())
    body = delivery(
        event("22222222-2222-4222-8222-222222222222"),
        event("not even a uuid"),
        event("33333333-3333-4333-8333-333333333333", eventCategory="SUBSCRIPTION", tenantType="APPLICATION"),
        event("", eventCategory="SUBSCRIPTION", tenantId=None),
    )

    counted = dropped("xero", "no_organisation")
    assert post_xero(world.web, body).status_code == 200
    assert len(inbox_rows()) == before
    assert dropped("xero", "no_organisation") == counted + 4


def dropped(source: str, reason: str) -> float:
    """The events that the web process counted without storing them."""
    value = REGISTRY.get_sample_value("patina_events_dropped_total", {"vendor": source, "reason": reason})
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("category", "event_type"),
    [("Invoice", "Update"), (" invoice ", "update"), ("INVOICE", "DELETE"), ("INVOICE", None), ("INVOICE", "a\x00b")],
)
def test_an_invoice_event_of_any_case_and_type_means_that_it_changed(
    world: World, category: str, event_type: object
) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", total="100.00")
    world.settle()
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, webhook=False)
    tenant = world.tenants[0].upper()
    body = delivery(event(tenant, resourceId=invoice.id, eventCategory=category, eventType=event_type))

    assert post_xero(world.web, body).status_code == 200
    world.settle()
    assert [row["balance_due"] for row in world.rows("people", person)] == ["0.00"]


@pytest.mark.parametrize("event_type", ["CREATE", "Create", "create"])
def test_a_create_event_in_any_case_sets_the_created_date(world: World, event_type: str) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    invoice = world.invoice("ann@acme.test")
    world.settle()
    body = delivery(event(world.tenants[0], resourceId=invoice.id, eventCategory="Invoice", eventType=event_type))
    post_xero(world.web, body)
    world.settle()

    (row,) = world.rows("people", person)
    assert row["created_at"].startswith("2026-06-21T01:15:39.902")


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("first", ["2026-06-21T01:15:39.902", "2026-06-20T10:00:00.001"])
def test_the_earlier_of_two_create_times_wins(world: World, together: bool, first: str) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    invoice = world.invoice("ann@acme.test")
    world.settle()
    times = [first, *({"2026-06-21T01:15:39.902", "2026-06-20T10:00:00.001"} - {first})]
    created = [
        event(world.tenants[0], resourceId=invoice.id, eventCategory="INVOICE", eventType="CREATE", eventDateUtc=at)
        for at in times
    ]
    for body in [delivery(*created)] if together else [delivery(created_event) for created_event in created]:
        post_xero(world.web, body)
        world.settle()

    (row,) = world.rows("people", person)
    assert row["created_at"].startswith("2026-06-20T10:00:00.001")


# Events that request a catch-up


def catch_ups(world: World) -> list[Run]:
    catch_up_runs = [run for run in world.runs() if run.kind == "catch_up" and run.organisation_id]
    return sorted(catch_up_runs, key=lambda run: run.id)


def let_30_seconds_pass() -> None:
    with transaction() as session:
        session.execute(
            text("UPDATE scheduled_task SET last_started_at = now() - interval '31 s' WHERE name LIKE 'requested%'")
        )
        session.execute(text("UPDATE inbox SET not_before = now()"))


def payment(world: World, number: int = 1, category: str = "PAYMENT") -> dict[str, Any]:
    resource = f"44444444-4444-4444-8444-{number:012}"
    return event(world.tenants[0], resourceId=resource, eventCategory=category, eventType="CREATE")


@pytest.mark.parametrize("category", ["PAYMENT", "CreditNote", "PREPAYMENT", "whatever comes next"])
def test_an_event_of_another_category_updates_the_affected_invoices(world: World, category: str) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", total="100.00")
    world.settle()
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="40.00", webhook=False)

    assert post_xero(world.web, delivery(payment(world, category=category))).status_code == 200
    world.settle()
    assert [row["balance_due"] for row in world.rows("people", person)] == ["60.00"]


def test_a_payment_moves_the_balance_within_seconds(world: World, processes: Processes) -> None:
    processes.append(patina("worker"))
    world.workers = True
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", total="100.00")
    wait_until(lambda: len(world.rows("people", person)) == 1)
    world.settle()
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, webhook=False)

    assert post_xero(world.web, delivery(payment(world))).status_code == 200
    wait_until(lambda: world.rows("people", person)[0]["balance_due"] == "0.00", seconds=10, description="the balance")


def test_a_thousand_events_of_another_category_cost_one_catch_up_in_30_seconds(world: World) -> None:
    source = SyncSource(world.account, organisation_of(world))
    for start in range(0, 1_000, 100):
        post_xero(world.web, delivery(*(payment(world, start + number) for number in range(100))))
    assert events.drain(source).completed == 1_000
    assert len(catch_ups(world)) == 1

    post_xero(world.web, delivery(payment(world, 1_001)))
    world.run(RunKind.CATCH_UP)
    later = events.drain(source).catch_up
    assert later.run is None
    assert 25 < (later.retry_after or 0) <= 30, "the last one waits for a catch-up of its own"
    assert events.drain(source).catch_up == NO_CATCH_UP, "and is not looked at all the time"

    let_30_seconds_pass()
    assert events.drain(source).completed == 1
    assert len(catch_ups(world)) == 2


def test_an_event_during_a_catch_up_is_covered_by_the_next_one(world: World) -> None:
    source = SyncSource(world.account, organisation_of(world))
    (running,) = [
        run for run in run_processor.start_account_runs(world.account, RunKind.CATCH_UP) if run.organisation_id
    ]
    post_xero(world.web, delivery(payment(world)))

    assert events.drain(source).catch_up.run is None, "the one at work may have fetched before"
    assert [row.state for row in inbox_rows() if row.category == "PAYMENT"] == ["pending"]
    while run_processor.step(world.account, running.id).has_more:
        pass
    let_30_seconds_pass()
    run = events.drain(source).catch_up.run
    assert run is not None
    assert run.id != running.id


def test_an_event_that_requests_a_catch_up_survives_crashes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SyncSource(world.account, organisation_of(world))
    post_xero(world.web, delivery(payment(world)))
    with transaction() as session:
        assert inbox.pending_sources(session) == {source}, "the sweep finds it, whatever Redis has lost"

    def die(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(inbox, "complete_catch_up_requests", die)
        with pytest.raises(KeyboardInterrupt):
            events.drain(source)
    assert catch_ups(world) == [], "the catch-up and the end of its events are one transaction"
    assert events.drain(source).completed == 1
    with transaction() as session:
        assert runs.list_pending(session) == [(world.account, catch_ups(world)[0].id)], "the sweep finds the run, too"


def test_an_event_that_requests_a_catch_up_is_never_leased(world: World) -> None:
    """Otherwise an event that arrived after the catch-up started would be completed without a fetch."""
    source = SyncSource(world.account, organisation_of(world))
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    post_xero(world.web, delivery(payment(world), event(world.tenants[0], resourceId=contact)))
    with transaction() as session:
        lease = inbox.lease(session, source, 60)
    assert lease is not None
    assert [leased.category for leased in lease.events] == ["CONTACT"]


def test_a_requested_catch_up_runs_after_a_running_backfill(unconnected: World) -> None:
    world = unconnected.open()
    source = SyncSource(world.account, organisation_of(world))
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET invoices_synced_through = NULL"))
    (backfill,) = [
        run for run in run_processor.start_account_runs(world.account, RunKind.BACKFILL) if run.organisation_id
    ]
    post_xero(world.web, delivery(payment(world)))
    assert events.drain(source).completed == 0
    while run_processor.step(world.account, backfill.id).has_more:
        pass
    let_30_seconds_pass()
    assert events.drain(source).catch_up.run is not None


def test_an_event_starts_no_catch_up_where_invoices_were_always_refused(world: World) -> None:
    source = SyncSource(world.account, organisation_of(world))
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET invoices_synced_through = NULL"))
        refused_endpoints.record(session, source.account_id, source.organisation_id, "Invoices")
    post_xero(world.web, delivery(payment(world)))

    assert events.drain(source).completed == 1
    assert catch_ups(world) == [], "it could not read the invoices that the event is about"
    assert run_processor.start_source_run(source, RunKind.CATCH_UP), "a scheduled one reads the contacts"


def organisation_of(world: World) -> int:
    with transaction() as session:
        return xero_organisations.list_connected(session, world.account)[0].id


# Malformed input


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"events": 7}', b'{"events": NaN}', b"[" * 200_000],
    ids=range(9),
)
def test_a_malformed_body_with_a_valid_signature_is_quarantined(web: httpx.Client, body: bytes) -> None:
    response = post_xero(web, body)

    assert response.status_code == 200
    assert is_bare(response)
    (row,) = inbox_rows()
    assert (row.category, row.state, bytes(row.body)) == ("malformed", "failed", body[: 16 * 1024])


BAD_EVENTS: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "a list": [],
    "empty": {},
    "no resource": event("mine", resourceId=None),
    "an empty resource": event("mine", resourceId=""),
    "no tenant": event("mine", tenantId=None),
    "a tenant that is a number": event("mine", tenantId=5),
    "no category": event("mine", eventCategory=None),
    "a resource with a NUL": event("mine", resourceId="a\x00b"),
    "a contact whose id is no UUID": event("mine", resourceId="no-uuid"),
    "an invoice whose id is no UUID": event("mine", resourceId="4711", eventCategory="Invoice"),
    "nested deeply": json.loads("[" * 500 + "]" * 500),
}


@pytest.mark.parametrize("malformed_json", BAD_EVENTS)
def test_a_malformed_event_is_quarantined_and_the_others_are_applied(world: World, malformed_json: str) -> None:
    raw = BAD_EVENTS[malformed_json]
    if isinstance(raw, dict) and raw.get("tenantId") == "mine":
        raw = {**raw, "tenantId": world.tenants[0]}
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    before = len(inbox_rows())
    response = post_xero(world.web, delivery(event(world.tenants[0], resourceId=contact), raw, payment(world)))

    assert response.status_code == 200
    assert is_bare(response)
    rows = inbox_rows()[before:]
    is_ours = isinstance(raw, dict) and raw.get("tenantId") == world.tenants[0]
    (aside,) = [row for row in rows if row.category == "malformed"]
    assert (aside.state, aside.account_id) == ("failed", world.account if is_ours else 0)
    assert aside.error.startswith("events[1]")
    assert malformed_json == "nested deeply" or json.loads(aside.body) == raw
    world.settle()
    applied = {row.category: row.state for row in inbox_rows()[before:] if row.category != "malformed"}
    assert applied == {"CONTACT": "done", "PAYMENT": "done", **({"UNREADABLE": "done"} if is_ours else {})}
    post_xero(world.web, delivery(event(world.tenants[0], resourceId=contact), raw, payment(world)))
    assert len(inbox_rows()) == before + len(rows), "the same delivery sent again"


def test_an_event_without_a_resource_requests_a_catch_up(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", total="100.00")
    world.settle()
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, webhook=False)
    post_xero(world.web, delivery(event(world.tenants[0], eventCategory="INVOICE", resourceId=None)))
    world.settle()

    assert [row["balance_due"] for row in world.rows("people", person)] == ["0.00"]


def test_an_unreadable_date_only_loses_the_date(world: World) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    invoice = world.invoice("ann@acme.test", issued="2026-05-04")
    world.settle()
    before = len(inbox_rows())
    dates: list[Any] = [None, "", "soon", 7, [], "2026-02-30T00:00:00", "0001-01-01T00:00:00", "9" * 40]
    for date in dates:
        created = {"resourceId": invoice.id, "eventCategory": "INVOICE", "eventType": "CREATE", "eventDateUtc": date}
        post_xero(world.web, delivery(event(world.tenants[0], **created)))
    world.settle()

    (row,) = world.rows("people", person)
    assert row["created_at"].startswith("2026-05-04")
    assert [row.state for row in inbox_rows()[before:]] == ["done"] * len(dates)


@pytest.mark.parametrize("date", [None, "2026-06-21T01:15:39"])
def test_two_events_without_milliseconds_are_not_duplicates(world: World, date: str | None) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    before = len(inbox_rows())
    for first in (1, 2, 2):
        post_xero(world.web, delivery(event(world.tenants[0], resourceId=contact, eventDateUtc=date), first=first))
    assert [row.state for row in inbox_rows()[before:]] == ["pending", "pending"]


def numbered(*events_: Any, first: Any, last: Any) -> bytes:
    return json.dumps({"events": events_, "firstEventSequence": first, "lastEventSequence": last}).encode()


def numbers_kept() -> list[tuple[int, int]]:
    with transaction() as session:
        rows = session.execute(text("SELECT first_sequence, last_sequence FROM xero_delivery ORDER BY 1"))
        return [(row[0], row[1]) for row in rows]


BAD_NUMBERS: list[tuple[Any, Any]] = [
    *((-1, -1), (1.5, 2), (2**63, 2**63), (2**70, 2**70), ("one", "two"), (9, 4), (None, None), ([], {}), (True, True)),
]


def test_invalid_sequence_numbers_only_skip_gap_detection(world: World) -> None:
    before, stored_before = len(inbox_rows()), numbers_kept()
    for number, (first, last) in enumerate(BAD_NUMBERS):
        at = f"2026-06-21T01:15:39.{number + 1:03}"
        body = numbered(event(world.tenants[0], eventDateUtc=at), first=first, last=last)
        assert post_xero(world.web, body).status_code == 200
    assert [(row.category, row.state) for row in inbox_rows()[before:]] == [("CONTACT", "pending")] * len(BAD_NUMBERS)
    assert numbers_kept() == stored_before


def test_a_delivery_with_quarantined_events_neither_causes_nor_hides_a_gap(world: World) -> None:
    own_event = event(world.tenants[0])
    with transaction() as session:
        session.execute(text("TRUNCATE xero_delivery, xero_sequence"))
    post_xero(world.web, numbered(own_event, first=41, last=41))
    post_xero(world.web, numbered(None, own_event, first=42, last=43))
    post_xero(world.web, numbered(None, first=44, last="44"))
    post_xero(world.web, numbered(own_event, first=45, last=45))
    with transaction() as session:
        assert not delivery_gaps.detect_gaps(session, 0.0)
    post_xero(world.web, numbered(None, first=47, last=47))
    with transaction() as session:
        assert delivery_gaps.detect_gaps(session, 0.0), "46 did not come"


def test_many_malformed_events_are_quarantined_as_one_body(world: World) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    before = len(inbox_rows())
    body = delivery(*[None] * 5_000, event(world.tenants[0], resourceId=contact))
    assert post_xero(world.web, body).status_code == 200

    (quarantined, valid) = sorted(inbox_rows()[before:], key=lambda row: row.account_id)
    assert (quarantined.account_id, quarantined.state, bytes(quarantined.body)) == (0, "failed", body[: 16 * 1024])
    assert quarantined.error == "5000 of 5001 could not be read; the first: events[0] must be an object"
    assert (valid.resource_id, valid.state) == (contact, "pending")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_signed_json_body_is_applied_whatever_its_content_type(world: World, mark: bytes) -> None:
    before = len(inbox_rows())
    declared = [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": 'application/json; charset="utf-16"'},
        {"content-encoding": "gzip"},
    ]
    for number, headers in enumerate(declared):
        body = mark + delivery(event(world.tenants[0], eventDateUtc=f"2026-06-21T01:15:39.{number + 1:03}"))
        assert post_xero(world.web, body, **headers).status_code == 200
    assert [(row.category, row.state) for row in inbox_rows()[before:]] == [("CONTACT", "pending")] * len(declared)


def test_a_compressed_body_is_quarantined(web: httpx.Client) -> None:
    body = gzip.compress(delivery(event("22222222-2222-4222-8222-222222222222")))
    assert post_xero(web, body, **{"content-encoding": "gzip"}).status_code == 200
    (row,) = inbox_rows()
    assert (row.category, bytes(row.body), row.error) == ("malformed", body, "the body is not JSON")


# Requests


def test_white_space_around_the_signature_is_ignored(world: World) -> None:
    body = delivery(event(world.tenants[0]))
    for spaced in (" {}", "{} ", "\t{}\t", " \t {} \t "):
        assert raw_post(world, body, [spaced.format(sign(body))]) == 200


def test_a_doubled_signature_is_refused(world: World) -> None:
    before = len(inbox_rows())
    body = delivery(event(world.tenants[0]))
    right, wrong = sign(body), sign(b"another")
    for doubled in ([right, wrong], [wrong, right], [right, right]):
        assert raw_post(world, body, doubled) == 401
    assert len(inbox_rows()) == before


def raw_post(world: World, body: bytes, signatures: list[str]) -> int:
    """Post over a raw connection, because HTTP clients normalise headers."""
    headers = "".join(f"x-xero-signature:{signature}\r\n" for signature in signatures)
    head = f"POST /webhooks/xero HTTP/1.1\r\nhost: patina\r\nconnection: close\r\n{headers}"
    url = httpx.URL(str(world.web.base_url))
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return int(connection.recv(100).split()[1])


def test_another_method_gets_an_empty_response(web: httpx.Client) -> None:
    for path in ("/webhooks/xero", "/webhooks/xero/", "/webhooks/copper/token"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
            response = web.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, "POST")
            assert is_bare(response)


def test_a_trailing_slash_of_the_path_is_accepted(world: World) -> None:
    body = delivery(event(world.tenants[0]))
    headers = {"content-type": "application/json", "x-xero-signature": sign(body)}
    path, payload = notification(world)
    before = len(inbox_rows())

    assert world.web.post("/webhooks/xero/", content=body, headers=headers).status_code == 200
    assert world.web.post("/webhooks/xero//", content=body, headers=headers).status_code == 200
    assert world.web.post("/webhooks/xero/", content=body, headers={"x-xero-signature": "no"}).status_code == 401
    assert world.web.post(f"{path}/", json=payload).status_code == 200
    assert [row.vendor for row in inbox_rows()[before:]] == ["xero", "copper"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_a_mebibyte_is_refused_before_it_is_read(web: httpx.Client, announced: bool) -> None:
    body = b"x" * (1024 * 1024 + 1)
    content: Any = body if announced else iter([body[:700_000], body[700_000:]])
    headers = {"x-xero-signature": sign(body), "content-type": "application/json"}
    response = web.post("/webhooks/xero", content=content, headers=headers)

    assert response.status_code == 413
    assert inbox_rows() == []


def test_a_replayed_payload_is_stored_once(world: World) -> None:
    before = len(inbox_rows())
    body = delivery(event(world.tenants[0]), event(world.tenants[0]))

    for _ in range(3):
        assert post_xero(world.web, body).status_code == 200
    world.settle()
    assert post_xero(world.web, body).status_code == 200

    assert [row.state for row in inbox_rows()[before:]] == ["done"]


def test_a_hundred_events_are_stored_by_one_request(world: World) -> None:
    before = len(inbox_rows())
    many = [event(world.tenants[0], resourceId=f"11111111-1111-4111-8111-{number:012}") for number in range(100)]

    assert post_xero(world.web, delivery(*many)).status_code == 200
    assert len(inbox_rows()) == before + 100


def test_an_event_with_an_invalid_uuid_is_quarantined_and_cannot_be_retried(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    post_xero(world.web, delivery(event(world.tenants[0], resourceId="no-uuid", eventCategory="INVOICE")))
    world.settle()

    assert world.invoice_numbers("people", person) == [invoice.number]
    (failed,) = [row for row in inbox_rows() if row.state == "failed"]
    assert (failed.resource_id, failed.error) == ("no-uuid", "events[0].resourceId must be a UUID")
    page = sign_in(world).open("/status").text
    assert failed.error in page
    assert 'action="/events/replay"' not in page


@pytest.mark.parametrize("form", ["{%s}", "urn:uuid:%s", " %s "])
def test_a_uuid_is_known_in_any_of_its_forms(world: World, form: str) -> None:
    invoice = world.invoice("ann@acme.test")
    world.settle()
    before = len(inbox_rows())
    ids = [form % invoice.id.upper(), invoice.id]
    post_xero(world.web, delivery(*(event(world.tenants[0], resourceId=id_, eventCategory="INVOICE") for id_ in ids)))

    assert [row.resource_id for row in inbox_rows()[before:]] == [invoice.id], "both are the same event"


# Copper


def notification(world: World, **fields: Any) -> tuple[str, dict[str, Any]]:
    with transaction() as session:
        access = copper_credentials.get(session, world.account)
    body = {
        "ids": [7],
        "type": "person",
        "event": "update",
        "subscription_id": 1,
        "timestamp": "2026-06-21T01:15:39Z",
        SECRET_KEY: access.webhook_secret,
        **fields,
    }
    return f"/webhooks/copper/{access.webhook_token}", body


def test_a_copper_notification_is_stored_under_its_account(world: World) -> None:
    path, body = notification(world, ids=[7, 8])
    before = len(inbox_rows())
    response = world.web.post(path, json=body)

    assert response.status_code == 200
    assert is_bare(response)
    rows = inbox_rows()[before:]
    assert sorted((row.account_id, row.category, row.resource_id, row.state) for row in rows) == [
        (world.account, "person", "7", "pending"),
        (world.account, "person", "8", "pending"),
    ]


def test_a_wrong_path_and_a_wrong_secret_get_the_same_response(world: World) -> None:
    path, body = notification(world)
    before = len(inbox_rows())
    wrong = [
        world.web.post("/webhooks/copper/unknown-token", json=body),
        world.web.post(path, json={**body, SECRET_KEY: "wrong"}),
        world.web.post(path, json={**body, SECRET_KEY: None}),
        world.web.post(path, json={key: value for key, value in body.items() if key != SECRET_KEY}),
        world.web.post(path, content=b"{", headers={"content-type": "application/json"}),
        world.web.post(path, content=b"[]", headers={"content-type": "application/json"}),
    ]

    assert [response.status_code for response in wrong] == [401] * 6
    assert all(is_bare(response) for response in wrong)
    assert len(inbox_rows()) == before


def test_unsupported_record_types_are_only_counted(world: World) -> None:
    before = len(inbox_rows())
    kinds = {"task": "task", "project": "project", "activity_log": "activity_log", "Task": "task", "new": "other_type"}
    counted = {reason: dropped("copper", reason) for reason in kinds.values()}
    for record_type in kinds:
        path, body = notification(world, type=record_type, ids=[7, "x"])
        assert world.web.post(path, json=body).status_code == 200
    assert len(inbox_rows()) == before
    assert {reason: dropped("copper", reason) - counted[reason] for reason in counted} == {
        "task": 4,
        "project": 2,
        "activity_log": 2,
        "other_type": 2,
    }


ODD_FIELDS: list[dict[str, Any]] = [
    {"type": "Person", "event": "Update"},
    {"type": " PERSON ", "event": "MERGED"},
    {"event": None},
    {"event": 7},
    {"event": "up\x00date"},
    {"ids": ["7"]},
    {"ids": [7, "7"]},
    {"updated_attributes": None},
    {"updated_attributes": ["odd"]},
    {"timestamp": None},
    {"timestamp": {"at": "noon"}},
    {"subscription_id": None},
    {"subscription_id": [1]},
    {"deep": json.loads("[" * 500 + "]" * 500)},
]


def test_a_malformed_field_does_not_lose_a_notification(world: World) -> None:
    before = len(inbox_rows())
    for more in ODD_FIELDS:
        path, body = notification(world, **more)
        assert world.web.post(path, json=body).status_code == 200
    stored = [(row.category, row.resource_id, row.state) for row in inbox_rows()[before:]]
    assert stored == [("person", "7", "pending")] * len(ODD_FIELDS)


def test_a_notification_is_accepted_whatever_its_content_type(world: World) -> None:
    before = len(inbox_rows())
    for number, declared in enumerate(("text/plain", "", "application/json; charset=utf-8")):
        path, body = notification(world, ids=[number + 1])
        for content in (json.dumps(body).encode(), b"\xef\xbb\xbf" + json.dumps(body).encode()):
            response = world.web.post(path, content=content, headers={"content-type": declared})
            assert response.status_code == 200
    assert [row.state for row in inbox_rows()[before:]] == ["pending"] * 6


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"ids": "7"}, "ids must be a list"),
        ({"ids": None}, "ids must be a list"),
        ({"ids": [7] * 1_001}, "ids must have at most 1,000 entries"),
        ({"type": 5}, "type must be text"),
        ({"type": ""}, "type is empty"),
        ({"type": "p\u00e9rson", "ids": 7}, "ids must be a list; type contains a character that is not allowed"),
    ],
)
def test_a_malformed_authentic_copper_body_is_quarantined(world: World, more: dict[str, Any], reason: str) -> None:
    before = len(inbox_rows())
    path, body = notification(world, **more)

    assert world.web.post(path, json=body).status_code == 200
    (row,) = inbox_rows()[before:]
    assert (row.category, row.state, row.account_id) == ("malformed", "failed", world.account)
    assert row.error == reason
    del body[SECRET_KEY]
    assert json.loads(row.body) == body, "and without the secret that proves it authentic"


def test_an_invalid_id_is_quarantined_and_the_others_are_applied(world: World) -> None:
    before = len(inbox_rows())
    odd: list[Any] = [-1, 0, True, None, 7.5, 2**63, "", "x", "\u0663", [], {"id": 7}]
    path, body = notification(world, ids=[7, *odd, 2**63 - 1])

    assert world.web.post(path, json=body).status_code == 200
    rows = inbox_rows()[before:]
    applied = [(row.category, row.resource_id, row.state) for row in rows if row.category != "malformed"]
    assert sorted(applied) == [("person", "7", "pending"), ("person", str(2**63 - 1), "pending")]
    aside = {row.error: row for row in rows if row.category == "malformed"}
    assert set(aside) == {f"ids[{index}] is not the id of a record" for index in range(1, len(odd) + 1)}
    assert {(row.state, row.account_id) for row in aside.values()} == {("failed", world.account)}
    assert json.loads(aside["ids[8] is not the id of a record"].body) == {
        "ids": ["x"],
        "type": "person",
        "event": "update",
    }


def test_a_duplicate_of_a_leased_notification_reopens_it(world: World) -> None:
    source = SyncSource(world.account, 0)
    ann = world.person("ann@acme.test")
    world.settle()
    path, body = notification(world, ids=[ann])
    world.web.post(path, json=body)
    with transaction() as session:
        lease = inbox.lease(session, source, 60)
    assert lease is not None
    world.sandbox.faults(webhooks=[{"vendor": "copper", "loss": 1.0}])
    world.simulate_copper("update_record", type="person", id=ann, emails=["new@acme.test"])
    world.web.post(path, json=body)

    with transaction() as session, pytest.raises(LeaseLostError):
        inbox.complete(session, lease, [event_.id for event_ in lease.events])
    invoice = world.invoice("new@acme.test")
    world.settle()
    assert world.invoice_numbers("people", ann) == [invoice.number]


@pytest.mark.parametrize("state", ["failed", "dismissed"])
def test_a_duplicate_of_a_quarantined_notification_reopens_it(world: World, state: str) -> None:
    ann = world.person("ann@acme.test")
    world.settle()
    path, body = notification(world, ids=[ann])
    world.web.post(path, json=body)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = :state WHERE state = 'pending'"), {"state": state})
    world.web.post(path, json=body)
    assert [row.state for row in inbox_rows()][-1] == "pending"


def test_a_duplicate_of_an_applied_notification_is_processed_again(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.settle()
    path, body = notification(world, ids=[ann])
    world.web.post(path, json=body)
    world.settle()
    world.sandbox.faults(webhooks=[{"vendor": "copper", "loss": 1.0}])
    world.simulate_copper("update_record", type="person", id=ann, emails=["new@acme.test"])
    invoice = world.invoice("new@acme.test")
    world.settle()
    assert world.invoice_numbers("people", ann) == []

    world.web.post(path, json=body)
    world.settle()
    assert world.invoice_numbers("people", ann) == [invoice.number]


# Unavailable services


def test_without_redis_only_the_latency_changes(world: World) -> None:
    from runtime import redis_client

    right = settings().redis_url or ""
    override_settings({"REDIS_URL": "unix:///nonexistent/redis.sock"})
    redis_client.shared_client.clear()
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle_once()
    assert world.sandbox.state()["deliveries"]["xero_failed"] == 0
    assert {row.state for row in inbox_rows()} == {"pending"}, "without its budgets nobody calls a vendor"

    override_settings({"REDIS_URL": right})
    redis_client.shared_client.clear()
    with transaction() as session:
        session.execute(text("UPDATE inbox SET not_before = now()"))
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]


def test_without_postgresql_the_response_is_503_and_xeros_retry_delivers_the_event(world: World) -> None:
    from web.app import create

    name = databases.database_url("no_such_database")
    postgres_url = databases.database_url("postgres")
    assert name != postgres_url
    with transaction() as session:
        own = session.execute(text("SELECT current_database()")).scalar_one()
    override_settings({"DATABASE_URL": name})
    with serving(create()) as url, httpx.Client(base_url=url, timeout=30) as broken:
        response = post_xero(broken, delivery(event(world.tenants[0])))
        assert response.status_code == 503
        assert is_bare(response)
        assert broken.get("/readyz").status_code == 503

        override_settings({"DATABASE_URL": databases.database_url(own)})
        world.sandbox.control("PUT", "clock", json={"speed": 100})
        world.sandbox.control("PUT", "app", json={"webhook_url": f"{url}/webhooks/xero"})
        contact = world.contact("Acme", "ann@acme.test")
        wait_until(lambda: world.sandbox.state()["deliveries"]["xero_failed"] > 0, description="a failed delivery")
        world.move_xero_webhook()
        world.settle()
    assert contact in {row.resource_id for row in inbox_rows() if row.state == "done"}


def test_text_that_postgresql_cannot_store_is_quarantined(world: World) -> None:
    """Found by fuzzing: a NUL in an event's texts caused a 500."""
    with transaction() as session:
        credentials = copper_credentials.get(session, world.account)
    body = {"ids": [1], "type": "per\x00son", "event": "update", "patina_secret": credentials.webhook_secret}
    response = world.web.post(f"/webhooks/copper/{credentials.webhook_token}", json=body)
    assert response.status_code == 200
    with transaction() as session:
        assert inbox.quarantined_count(session, world.account) == 1


def post_at_once(web: httpx.Client, bodies: list[bytes]) -> list[int]:
    """Post all bodies at the same time; returns the statuses in their order."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        return [response.status_code for response in threads.map(lambda body: post_xero(web, body), bodies)]


def test_concurrent_deliveries_share_a_commit_and_none_is_lost(world: World) -> None:
    ids = [f"11111111-1111-4111-8111-{number:012}" for number in range(20)]
    bodies = [delivery(event(world.tenants[0], resourceId=event_id), first=n + 1) for n, event_id in enumerate(ids)]
    with transaction() as session:
        # The lock makes them queue up; when it is released, a few statements commit them.
        session.execute(text("LOCK TABLE inbox IN SHARE MODE"))
        with ThreadPoolExecutor(1) as thread:
            future_statuses = thread.submit(post_at_once, world.web, bodies)
            time.sleep(0.5)
            assert not future_statuses.done(), "nothing is acknowledged before it is committed"
            session.commit()
            assert future_statuses.result() == [200] * len(ids)
    with transaction() as session:
        stored = session.execute(
            text("SELECT resource_id, xmin::text AS by FROM inbox WHERE resource_id LIKE '11111111-%'")
        ).all()
    assert sorted(row.resource_id for row in stored) == ids
    assert len({row.by for row in stored}) <= 4


def test_a_delivery_that_cannot_be_stored_does_not_affect_others(world: World) -> None:
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
    bodies = [delivery(event(world.tenants[0], resourceId=event_id), first=n + 1) for n, event_id in enumerate(ids)]
    statuses = post_at_once(world.web, bodies)
    assert [status for status in statuses if status != 200] == [statuses[3]] == [500]
    stored = sorted(row.resource_id for row in inbox_rows() if row.resource_id.startswith("11111111-"))
    assert stored == [event_id for event_id in ids if event_id != ids[3]]
