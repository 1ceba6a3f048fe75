"""What an operator asks in the terminal: what is wrong, and what to do with events that always fail."""

from __future__ import annotations

import json

from sqlalchemy import text

from store.database import transaction
from tests.test_project import patina
from tests.world import World


def test_doctor_finds_nothing_wrong_and_then_what_is(world: World) -> None:
    done = patina("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("doctor ok: ")
    assert "Acme Sales: Acme Sales Ltd 1: reachable" in done.stdout

    subscription = next(iter(subscriptions(world)))
    world.sandbox.http.delete(
        f"/copper/developer_api/v1/webhooks/{subscription}",
        headers={
            "X-PW-AccessToken": key_of(world)[0],
            "X-PW-UserEmail": key_of(world)[1],
            "X-PW-Application": "developer_api",
        },
    )
    world.sandbox.act("disconnect", tenant=world.tenants[0])
    with transaction() as session:
        session.execute(text("UPDATE heartbeat SET at = now() - interval '1 hour' WHERE process = 'web'"))
    sick = patina("doctor")
    assert sick.returncode == 1
    assert "Acme Sales: Copper: 11 of 12 webhooks are registered" in sick.stdout
    assert "FAIL  Acme Sales: Acme Sales Ltd 1: Xero's authorisation doesn't cover it any more" in sick.stdout
    assert "Reconnect on the settings page" in sick.stdout
    told = json.loads(patina("doctor", "--json").stdout)
    assert {one["what"] for one in told if not one["well"]} >= {"Acme Sales: Copper"}


def key_of(world: World) -> tuple[str, str]:
    account = next(one for one in world.sandbox.state()["accounts"] if one["account"] == world.copper)
    return account["api_key"], account["email"]


def subscriptions(world: World) -> list[int]:
    key, email = key_of(world)
    headers = {"X-PW-AccessToken": key, "X-PW-UserEmail": email, "X-PW-Application": "developer_api"}
    return [one["id"] for one in world.sandbox.http.get("/copper/developer_api/v1/webhooks", headers=headers).json()]


def test_quarantined_events_are_listed_shown_replayed_and_dismissed(world: World) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'failed', error = 'always fails' WHERE kind = 'person'"))
        event = session.execute(text("SELECT id FROM inbox WHERE state = 'failed'")).scalar_one()
        session.execute(text("DELETE FROM crm_record_email"))
    listed = patina("inbox", "list").stdout
    assert f"copper person {person}" in listed
    assert listed.endswith("1 quarantined\n")
    shown = patina("inbox", "show", str(event)).stdout
    assert "always fails" in shown
    assert patina("inbox", "show", "0").returncode == 1
    assert patina("inbox", "replay").returncode == 1, "neither numbers nor --all"
    assert patina("inbox", "replay", str(event)).stdout == "replay ok: 1 events are tried again\n"
    world.settle()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM crm_record_email")).scalar_one() == 1
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE kind = 'person'"))
    assert patina("inbox", "dismiss", "--all").stdout == "dismiss ok: 1 events\n"
    assert patina("inbox", "list").stdout == "0 quarantined\n"
