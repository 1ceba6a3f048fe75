"""Operator commands: status, the doctor, and quarantined events."""

from __future__ import annotations

import json

from sqlalchemy import text

from cli.failed_events import escape_for_terminal
from runtime.settings import override_settings
from store.db.database import transaction
from tests.integration.test_webhook_endpoints import notification, post_xero
from tests.support.commands import patina
from tests.support.world import World


def test_status_shows_accounts_and_problems_that_need_manual_action(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    status = json.loads(patina("status", "--json").stdout)["accounts"][0]
    assert status["healthy"]
    assert (status["records"], status["invoices"], status["rows"]) == (1, 1, 1)
    assert "  OK\n" in patina("status").stdout

    world.sandbox.simulate("disconnect", tenant=world.tenants[0])
    world.invoice("ann@acme.test")
    world.settle_once()
    unwell = patina("status")
    assert unwell.returncode == 1
    assert "Acme Sales Ltd 1 is disconnected from Xero" in unwell.stdout


def test_doctor_finds_no_problem_and_then_finds_one(world: World) -> None:
    world.record_heartbeats()
    completed = patina("doctor")
    assert completed.returncode == 0, completed.stdout
    assert completed.stdout.splitlines()[-1].startswith("doctor ok: ")
    assert "Acme Sales: Acme Sales Ltd 1: reachable" in completed.stdout

    subscription = next(iter(subscriptions(world)))
    world.sandbox.http.delete(
        f"/copper/developer_api/v1/webhooks/{subscription}",
        headers={
            "X-PW-AccessToken": key_of(world)[0],
            "X-PW-UserEmail": key_of(world)[1],
            "X-PW-Application": "developer_api",
        },
    )
    world.sandbox.simulate("disconnect", tenant=world.tenants[0])
    with transaction() as session:
        session.execute(text("UPDATE heartbeat SET last_seen_at = now() - interval '1 hour' WHERE process = 'web'"))
    sick = patina("doctor")
    assert sick.returncode == 1
    assert "Acme Sales: Copper: 11 of 12 webhooks are registered" in sick.stdout
    assert "FAIL  Acme Sales: Acme Sales Ltd 1: Xero's authorisation doesn't cover it any more" in sick.stdout
    assert "Reconnect on the settings page" in sick.stdout
    payload = json.loads(patina("doctor", "--json").stdout)
    assert {check["name"] for check in payload if not check["ok"]} >= {"Acme Sales: Copper"}


def key_of(world: World) -> tuple[str, str]:
    account = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    return account["api_key"], account["email"]


def subscriptions(world: World) -> list[int]:
    key, email = key_of(world)
    headers = {"X-PW-AccessToken": key, "X-PW-UserEmail": email, "X-PW-Application": "developer_api"}
    return [
        subscription["id"]
        for subscription in world.sandbox.http.get("/copper/developer_api/v1/webhooks", headers=headers).json()
    ]


def test_quarantined_events_are_listed_shown_replayed_and_dismissed(world: World) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'failed', error = 'always fails' WHERE category = 'person'"))
        event = session.execute(text("SELECT id FROM inbox WHERE state = 'failed'")).scalar_one()
        session.execute(text("DELETE FROM copper_record_email"))
    listing = patina("inbox", "list").stdout
    assert f"copper person {person}" in listing
    assert listing.endswith("\n1 failed event\n")
    detail = patina("inbox", "show", str(event)).stdout
    assert "always fails" in detail
    assert patina("inbox", "show", "99").stderr.startswith("Account 1 has no event 99.")
    assert patina("inbox", "show", "9" * 30).returncode == 2
    assert patina("inbox", "replay").returncode == 1, "neither IDs nor --all"
    assert patina("inbox", "replay", str(event), "--all").returncode == 1, "both"
    assert patina("inbox", "replay", str(event), str(event)).stdout == "replay ok: 1 event queued for retry\n"
    world.settle()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM copper_record_email")).scalar_one() == 1
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE category = 'person'"))
    assert patina("inbox", "dismiss", "--all").stdout == "dismiss ok: 1 event dismissed\n"
    assert patina("inbox", "list").stdout == "0 failed events\n"
    for command, verb in (("replay", "retry"), ("dismiss", "dismiss")):
        completed = patina("inbox", command, "--all")
        assert (completed.returncode, completed.stdout) == (0, f"{command} ok: nothing to {verb}\n")


def test_events_that_cannot_be_retried_or_dismissed_are_reported_and_unchanged(world: World) -> None:
    world.person("ann@acme.test")
    world.person("bob@acme.test")
    world.settle()
    path, body = notification(world, ids=["odd"])
    world.web.post(path, json=body)
    with transaction() as session:
        done_id, failed_id = session.execute(
            text("SELECT id FROM inbox WHERE category = 'person' ORDER BY id")
        ).scalars()
        session.execute(text("UPDATE inbox SET state = 'failed', error = 'x' WHERE id = :id"), {"id": failed_id})
        unreadable = session.execute(text("SELECT id FROM inbox WHERE category = 'malformed'")).scalar_one()

    retried = patina("inbox", "replay", *map(str, (done_id, failed_id, unreadable, 4_242)))
    assert retried.returncode == 1
    assert retried.stdout.splitlines() == [
        f"{done_id}: is done, not failed",
        f"{unreadable}: is unreadable, so it cannot be retried; dismiss it once you have seen it",
        "4242: account 1 has no such event",
        "replay failed: 1 event queued for retry, 3 not",
    ]
    assert states(done_id, failed_id, unreadable) == ["done", "pending", "failed"]
    dismissed = patina("inbox", "dismiss", *map(str, (done_id, unreadable)))
    assert dismissed.returncode == 1
    assert dismissed.stdout.splitlines()[-1] == "dismiss failed: 1 event dismissed, 1 not"
    assert states(done_id, failed_id, unreadable) == ["done", "pending", "dismissed"]
    assert (
        patina("inbox", "replay", str(unreadable)).stdout.splitlines()[0] == f"{unreadable}: is dismissed, not failed"
    )


def states(*ids: int) -> list[str]:
    with transaction() as session:
        rows = session.execute(text("SELECT id, state FROM inbox WHERE id = ANY(:ids)"), {"ids": list(ids)})
        states_by_id = {row.id: row.state for row in rows}
    return [states_by_id[event_id] for event_id in ids]


def test_events_without_an_account_are_shown_to_the_operator(world: World) -> None:
    override_settings({"METRICS_TOKEN": "a-token-of-the-scraper"})
    metrics = {"Authorization": "Bearer a-token-of-the-scraper"}
    metric = 'patina_inbox_quarantined_events{account="0"}'
    world.record_heartbeats()
    well = patina("status")
    assert (well.returncode, "of no account" in well.stdout) == (0, False)
    assert f"{metric} 0.0" in world.web.get("/metrics", headers=metrics).text
    post_xero(world.web, b"{what came\x1b[2J")

    sick = patina("status")
    assert sick.returncode == 1
    assert "Needs attention: 1 failed event of no account" in sick.stdout
    payload = json.loads(patina("status", "--json").stdout)
    assert (payload["installation"]["healthy"], payload["installation"]["events_quarantined"]) == (False, 1)
    assert patina("status", "--json").returncode == 1
    examined = patina("doctor")
    assert examined.returncode == 1
    assert "FAIL  failed events: 1 failed event of no account" in examined.stdout
    page = world.web.get("/metrics", headers=metrics).text
    assert f"{metric} 1.0" in page
    assert 'patina_events_total{outcome="malformed",vendor="xero"}' in page

    assert patina("inbox", "list").stdout.splitlines() == [
        "1 failed event of no account: see `patina inbox list --installation`",
        "0 failed events",
    ]
    listing = patina("inbox", "list", "--installation").stdout
    assert listing == patina("inbox", "list", "--account", "0").stdout
    assert "xero unreadable, 14 bytes" in listing
    assert listing.endswith("not JSON\n1 failed event\n")
    (event,) = json.loads(patina("inbox", "list", "--installation", "--json").stdout)
    assert (event["category"], event["body_bytes"]) == ("malformed", 14)
    number = str(event["id"])
    detail = patina("inbox", "show", number, "--installation").stdout
    assert "not JSON" in detail
    assert "what came" not in detail
    assert patina("inbox", "show", number, "--installation", "--body").stdout == "{what came\x1b[2J"
    assert patina("inbox", "show", number, "--installation", "--account", "1").returncode == 1
    assert patina("inbox", "show", number).returncode == 1, "it is not the account's"
    assert patina("inbox", "dismiss", number).returncode == 1
    assert patina("inbox", "dismiss", number, "--installation").stdout == "dismiss ok: 1 event dismissed\n"
    assert patina("inbox", "show", number, "--installation", "--body").returncode == 1
    world.record_heartbeats()
    assert patina("status").returncode == 0


def test_a_failed_event_makes_an_account_unhealthy(world: World) -> None:
    path, body = notification(world, ids=["odd"])
    world.web.post(path, json=body)
    sick = patina("status")
    assert sick.returncode == 1
    assert "Needs attention: 1 event failed" in sick.stdout
    assert "FAIL  Acme Sales: data: 1 event failed" in patina("doctor").stdout


def test_control_characters_of_a_body_are_escaped_in_the_terminal() -> None:
    assert escape_for_terminal("{é\x1b[2J\u202e\n".encode() + b"\xff") == "{é\\x1b[2J\\u202e\n\\xff\n".encode()
