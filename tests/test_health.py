"""Whether an account is well: connected, imported, fresh, and nothing put aside; told alike by command and pages."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from sqlalchemy import text

from runtime.settings import override, settings
from store import accounts, database
from store.database import transaction
from tests.databases import forget_budgets
from tests.processes import Processes
from tests.processes import patina as start
from tests.serving import wait_until
from tests.test_pages import sign_in
from tests.test_project import patina
from tests.world import World
from worker import connect, overview, sync
from worker.health import Code
from worker.steps import Kind


def findings(world: World) -> dict[Code, int | None]:
    """What is wrong with the account, and with which of its connections."""
    (account,) = [one for one in overview.everything() if one.id == world.account]
    return {finding.code: finding.source_id for finding in account.findings}


def said(world: World, path: str) -> str:
    """The words of an admin's page."""
    forget_budgets("throttle")
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", sign_in(world).open(path).text)))


def execute(statement: str, **params: Any) -> None:
    with transaction() as session:
        session.execute(text(statement), params)


def organisation_ids(world: World) -> list[int]:
    with transaction() as session:
        return [one.id for one in accounts.organisations(session, world.account)]


def test_an_account_whose_set_up_stopped_before_the_import_is_not_well(unconnected: World) -> None:
    made = unconnected.sandbox.act("add_account", name="Third Co")
    unconnected.account = connect.connect_copper(made["api_key"], made["email"])
    unconnected.beat()
    assert findings(unconnected) == {Code.XERO_NOT_CONNECTED: None, Code.NOT_IMPORTED: 0}
    tenant = unconnected.sandbox.act("add_organisation", name="Third Ltd", currency="NZD")["tenant"]
    unconnected.authorise([tenant])
    assert findings(unconnected)[Code.NOT_IMPORTED] == organisation_ids(unconnected)[0]
    told = patina("status")
    assert told.returncode == 1
    assert "nothing has been imported from Third Ltd yet: run `patina backfill`" in " ".join(told.stdout.split())
    assert "nothing has been imported from Third Ltd yet" in patina("doctor").stdout

    sync.begin(unconnected.account, Kind.BACKFILL)
    assert findings(unconnected) == {}, "an import that is under way is well"
    unconnected.backfill()
    assert findings(unconnected) == {}
    unconnected.beat()
    assert patina("status").returncode == 0


def test_an_account_without_an_organisation_is_not_well(world: World) -> None:
    connect.drop_organisation(world.account, organisation_ids(world)[0], who="a test")
    assert findings(world) == {Code.XERO_NOT_CONNECTED: None}
    told = patina("status")
    assert (told.returncode, "Xero isn't connected: run `patina connect`" in told.stdout) == (1, True)
    for page in ("/status", "/settings"):
        assert "Xero isn't connected" in said(world, page)
    assert "Connect Xero" in said(world, "/status")


def test_a_source_that_missed_its_catch_ups_is_out_of_date(world: World) -> None:
    override({"CATCH_UP_SECONDS": "900"})
    execute("UPDATE sync_run SET finished_at = now() - interval '61 minutes' WHERE organisation_id = 0")
    assert findings(world) == {Code.OUT_OF_DATE: 0}
    execute(
        "INSERT INTO sync_run (account_id, organisation_id, kind, stage) VALUES (:a, 0, 'catch_up', 'people')",
        a=world.account,
    )
    assert findings(world) == {Code.OUT_OF_DATE: 0}, "until it has ended well"
    execute("UPDATE sync_run SET state = 'done', finished_at = now() WHERE kind = 'catch_up'")
    assert findings(world) == {}
    execute(
        "INSERT INTO sync_run (account_id, organisation_id, kind, stage) VALUES (:a, 0, 'catch_up', 'people')",
        a=world.account,
    )
    assert findings(world) == {}, "the one that is under way hides none that ended before"


def test_events_that_wait_for_hours_make_an_account_out_of_date(world: World) -> None:
    execute("UPDATE account SET synced_at = now() - interval '2 hours'")
    assert findings(world) == {Code.OUT_OF_DATE: None}


@pytest.mark.parametrize(("process", "seconds"), [("web", 13), ("worker", 31), ("scheduler", 61)])
def test_an_account_whose_processes_are_down_is_not_well(world: World, process: str, seconds: int) -> None:
    world.web.get("/healthz")
    wait_until(lambda: findings(world) == {}, what="a heartbeat of each process")
    execute("UPDATE heartbeat SET at = now() - make_interval(secs => :s) WHERE process = :p", s=seconds, p=process)
    (account,) = overview.everything()
    assert [(one.code, one.subject) for one in account.findings] == [(Code.PROCESS_DOWN, process)]


def test_worker_and_scheduler_say_that_they_are_up(world: World, processes: Processes) -> None:
    execute("DELETE FROM heartbeat WHERE process <> 'web'")
    assert Code.PROCESS_DOWN in findings(world)
    processes += [start("worker"), start("scheduler")]
    wait_until(lambda: findings(world) == {}, what="the heartbeats of worker and scheduler")


def test_a_failed_run_of_a_removed_organisation_is_nobodys_trouble(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    execute(
        "UPDATE sync_run SET state = 'failed', error = 'broken' WHERE organisation_id = :o",
        o=organisation_ids(world)[1],
    )
    assert findings(world) == {Code.RUN_FAILED: organisation_ids(world)[1]}
    connect.drop_organisation(world.account, organisation_ids(world)[1], who="a test")
    assert findings(world) == {}


def test_runs_of_a_disconnected_organisation_pause_and_go_on_where_they_were(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    person = world.person("ann@acme.test")
    world.settle()
    world.sandbox.act("disconnect", tenant=world.tenants[1])
    world.run_once(Kind.CATCH_UP)
    lost = organisation_ids(world)[1]
    assert findings(world) == {Code.XERO_DISCONNECTED: lost}
    assert {(run.organisation_id, run.state) for run in world.runs() if run.kind == Kind.CATCH_UP} == {
        (0, "done"),
        (organisation_ids(world)[0], "done"),
        (lost, "paused"),
    }
    assert "is running" not in said(world, "/status")
    assert "Acme Sales Ltd 2 is disconnected. Reconnect it to resume syncing." in said(world, "/status")
    begun = sync.begin(world.account, Kind.CATCH_UP)
    assert lost not in {run.organisation_id for run in begun}, "nothing is begun that cannot go on"

    world.authorise(world.tenants)
    assert {run.state for run in world.runs() if run.organisation_id == lost} == {"running", "done"}
    invoice = world.invoice("ann@acme.test", organisation=1)
    world.settle()
    world.catch_up()
    assert world.shown("people", person) == [invoice.number]
    assert findings(world) == {}


def test_a_run_of_a_disconnected_organisation_is_not_shown_as_running(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    here, lost = organisation_ids(world)
    for organisation in (here, lost):
        execute(
            "INSERT INTO sync_run (account_id, organisation_id, kind, stage) VALUES (:a, :o, 'catch_up', 'contacts')",
            a=world.account,
            o=organisation,
        )
    execute("UPDATE xero_organisation SET status = 'reconnect' WHERE id = :o", o=lost)
    (account,) = overview.everything()
    assert [run.organisation_id for run in account.running] == [here]
    page = said(world, "/status")
    assert "of Acme Sales Ltd 1 is running" in page
    assert "of Acme Sales Ltd 2 is running" not in page


def test_a_run_ends_with_the_organisation_that_it_was_for(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    begun = sync.begin(world.account, Kind.CATCH_UP)
    dropped = organisation_ids(world)[1]
    connect.drop_organisation(world.account, dropped, who="a test")
    assert [run.state for run in world.runs() if run.id == begun[-1].id] == ["failed"]
    assert "is running" in said(world, "/status"), "Copper's"
    assert "Acme Sales Ltd 2" not in said(world, "/status")
    told = json.loads(patina("status", "--json").stdout)["accounts"][0]
    assert [finding["code"] for finding in told["findings"]] == []


@pytest.mark.parametrize(
    "words", [("catch-up",), ("backfill",), ("reconcile",), ("verify", "--against-source")], ids=lambda words: words[0]
)
def test_commands_say_which_organisation_is_disconnected_and_end(unconnected: World, words: tuple[str, ...]) -> None:
    world = unconnected.open(organisations=2)
    world.sandbox.act("disconnect", tenant=world.tenants[1])
    world.run_once(Kind.CATCH_UP)
    done = patina(*words)
    said = "Acme Sales Ltd 2 is disconnected from Xero. Run `patina connect`, or remove it in Settings.\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_command_that_finds_out_on_the_way_says_so_too(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    world.sandbox.act("disconnect", tenant=world.tenants[1])
    done = patina("verify", "--against-source")
    assert done.returncode == 1
    assert "Acme Sales Ltd 2 is disconnected from Xero." in done.stderr
    connect.drop_organisation(world.account, organisation_ids(world)[1], who="a test")
    again = patina("verify", "--against-source")
    assert (again.returncode, again.stdout) == (0, "verify ok: no differences\n")


def test_commands_of_an_account_without_an_organisation_say_what_is_missing(unconnected: World) -> None:
    made = unconnected.sandbox.act("add_account", name="Third Co")
    unconnected.account = connect.connect_copper(made["api_key"], made["email"])
    for words in (("catch-up",), ("reconcile",), ("verify", "--against-source")):
        done = patina(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "No Xero organisation is connected. Run `patina connect` first.\n"


def test_pages_say_that_the_database_is_down_instead_of_failing(world: World) -> None:
    forget_budgets("throttle")
    admin = sign_in(world)
    before = settings().database_url or ""
    database.let_go()
    override({"DATABASE_URL": "postgresql://somebody@127.0.0.1:1/nothing"})
    try:
        answer = admin.open("/status")
    finally:
        database.let_go()
        override({"DATABASE_URL": before})
    assert answer.status_code == 503
    assert "Traceback" not in answer.text
