"""Arbitrary JSON in webhook fields: valid parts are applied, the rest is quarantined, and nothing raises."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from store.db.database import transaction
from tests.integration.test_webhook_endpoints import CONTACT, event, notification, post_xero
from tests.support.world import World
from webhooks.payloads import MAX_MALFORMED, UNREADABLE, Notification, Origin, Secret, read_delivery, read_notification

TENANT = "22222222-2222-4222-8222-222222222222"
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=200)
    | st.sampled_from(
        ["INVOICE", "Update", "2026-06-21T01:15:39", "/Date(99999999999999)/", "9999-12-31T23:59:59-23:59"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=8,
)
EVENT_FIELDS = list(event(TENANT))
MALFORMED_EVENTS = ANY_JSON | st.dictionaries(st.sampled_from(EVENT_FIELDS), ANY_JSON).map(
    lambda odd: event(TENANT, **odd)
)
SEQUENCES = ANY_JSON | st.integers(1, 100)


def body_of(events: Any, first: Any, last: Any, **fields: Any) -> bytes:
    return json.dumps({**fields, "events": events, "firstEventSequence": first, "lastEventSequence": last}).encode()


@given(odd=st.lists(MALFORMED_EVENTS, max_size=6), position=st.integers(0, 6), first=SEQUENCES, last=SEQUENCES)
def test_a_malformed_event_does_not_affect_the_others(odd: list[Any], position: int, first: Any, last: Any) -> None:
    raw = [*odd[:position], event(TENANT), *odd[position:]]
    delivery = read_delivery(Origin(body_of(raw, first, last)))

    valid = [
        each
        for each in delivery.events
        if (each.tenant, each.category, each.resource_id) == (TENANT, "CONTACT", CONTACT)
    ]
    assert len(valid) >= 1
    named = [event_ for event_ in delivery.events if event_.category != UNREADABLE]
    assert len(named) + len(delivery.malformed) == len(raw)
    assert 0 <= delivery.first < 2**63
    assert 0 <= delivery.last < 2**63
    assert all(malformed.error.startswith("events[") for malformed in delivery.malformed)


@given(events=ANY_JSON, first=SEQUENCES, last=SEQUENCES, entropy=ANY_JSON)
def test_any_envelope_is_parsed_or_quarantined(events: Any, first: Any, last: Any, entropy: Any) -> None:
    delivery = read_delivery(Origin(body_of(events, first, last, entropy=entropy)))
    if events is None or events == []:
        assert (delivery.events, delivery.malformed) == ([], [])
    else:
        assert delivery.size >= 1


@given(body=st.binary(max_size=200) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_parsed_or_quarantined(body: bytes) -> None:
    delivery = read_delivery(Origin(body))
    assert all(malformed.body == body for malformed in delivery.malformed)


def parse(payload: dict[str, Any]) -> Notification:
    return read_notification(payload, 1, Origin(json.dumps(payload).encode()), Secret("patina_secret", "s" * 43))


@given(
    ids=st.lists(ANY_JSON | st.integers(1, 2**63 - 1), max_size=MAX_MALFORMED),
    more=st.dictionaries(st.sampled_from(["event", "timestamp", "subscription_id", "updated_attributes"]), ANY_JSON),
)
def test_every_valid_id_of_a_notification_is_applied(ids: list[Any], more: dict[str, Any]) -> None:
    notification = parse({"ids": ids, "type": "person", **more})
    valid_ids = [record_id for record_id in ids if type(record_id) is int and 0 < record_id < 2**63]
    assert {str(valid_id) for valid_id in valid_ids} <= {event_.resource_id for event_ in notification.events}
    assert notification.size == len(ids)


@given(payload=st.dictionaries(st.sampled_from(["ids", "type", "event"]), ANY_JSON))
def test_any_notification_is_parsed_or_quarantined(payload: dict[str, Any]) -> None:
    notification = parse(payload)
    assert notification.size or payload.get("ids") == [] or notification.ignored_type


@given(
    payload=st.recursive(
        st.just("s" * 43) | st.just(f"x{'S' * 43}y") | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["ids", "Patina_Secret", "type", "s" * 43]), inner, max_size=3)
        ),
    )
)
def test_the_secret_of_a_notification_is_never_stored(payload: Any) -> None:
    nested = {"ids": payload, "type": "person", "deep": payload}
    for malformed in parse(nested).malformed:
        assert b"s" * 43 not in malformed.body.lower()
        assert b"patina_secret" not in malformed.body.lower()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.lists(MALFORMED_EVENTS, min_size=1, max_size=3), first=SEQUENCES, ids=st.lists(ANY_JSON, max_size=3))
def test_any_json_is_accepted_without_error_or_loss(world: World, odd: list[Any], first: Any, ids: list[Any]) -> None:
    """Over HTTP into PostgreSQL, which cannot store every text and number."""
    with transaction() as session:
        session.execute(text("TRUNCATE inbox"))
    own_events = [{**item, "tenantId": world.tenants[0]} if isinstance(item, dict) else item for item in odd]
    body = body_of([*own_events, event(world.tenants[0])], first, first)
    expected = read_delivery(Origin(body))
    path, payload = notification(world, ids=[7, *ids])

    assert post_xero(world.web, body).status_code == 200
    assert world.web.post(path, json=payload).status_code == 200
    with transaction() as session:
        rows = session.execute(text("SELECT vendor, category, resource_id, state FROM inbox")).all()
    stored = [tuple(row) for row in rows]
    assert ("xero", "CONTACT", CONTACT, "pending") in stored
    assert ("copper", "person", "7", "pending") in stored
    malformed = [row for row in rows if (row.vendor, row.category, row.state) == ("xero", "malformed", "failed")]
    assert len(malformed) == len(expected.malformed)
