"""The health of an account (connections, import, latency, quarantine), as the command and the pages report it."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from sqlalchemy import text

from cli import progress
from runtime.settings import override_settings, settings
from services import account_status, connect
from services.health import FindingCode
from store.accounts import xero_organisations
from store.db.database import transaction
from tests.support import databases
from tests.support.admin import sign_in
from tests.support.commands import patina
from tests.support.databases import clear_budgets
from tests.support.processes import Processes
from tests.support.processes import patina as start
from tests.support.serving import wait_until
from tests.support.world import World
from worker.sync import run_processor
from worker.vendors import http as vendor_http
from worker.vendors.errors import VendorError
from worker.vendors.sync_types import RunKind


def findings(world: World) -> dict[FindingCode, int | None]:
    """The findings about the account, by source."""
    (account,) = [account for account in account_status.list_all() if account.id == world.account]
    return {finding.code: finding.organisation_id for finding in account.findings}


def page_text(world: World, path: str) -> str:
    """The text of an admin page."""
    clear_budgets("throttle")
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", sign_in(world).open(path).text)))


def execute(statement: str, **params: Any) -> None:
    with transaction() as session:
        session.execute(text(statement), params)


def organisation_ids(world: World) -> list[int]:
    with transaction() as session:
        return [organisation.id for organisation in xero_organisations.list_connected(session, world.account)]


def test_an_account_whose_set_up_stopped_before_the_import_is_unhealthy(unconnected: World) -> None:
    copper_account = unconnected.sandbox.simulate("add_account", name="Third Co")
    unconnected.account = connect.connect_copper(copper_account["api_key"], copper_account["email"])
    unconnected.record_heartbeats()
    assert findings(unconnected) == {FindingCode.XERO_NOT_CONNECTED: None, FindingCode.NOT_IMPORTED: 0}
    tenant = unconnected.sandbox.simulate("add_organisation", name="Third Ltd", currency="NZD")["tenant"]
    unconnected.authorise([tenant])
    assert findings(unconnected)[FindingCode.NOT_IMPORTED] == organisation_ids(unconnected)[0]
    completed = patina("status")
    assert completed.returncode == 1
    assert "nothing has been imported from Third Ltd yet: run `patina backfill`" in " ".join(completed.stdout.split())
    assert "nothing has been imported from Third Ltd yet" in patina("doctor").stdout

    run_processor.start_account_runs(unconnected.account, RunKind.BACKFILL)
    assert findings(unconnected) == {}, "an import that is under way is well"
    unconnected.backfill()
    assert findings(unconnected) == {}
    unconnected.record_heartbeats()
    assert patina("status").returncode == 0


def test_an_account_without_an_organisation_is_unhealthy(world: World) -> None:
    connect.remove_organisation(world.account, organisation_ids(world)[0], actor="a test")
    assert findings(world) == {FindingCode.XERO_NOT_CONNECTED: None}
    completed = patina("status")
    assert (completed.returncode, "Xero isn't connected: run `patina connect`" in completed.stdout) == (1, True)
    for page in ("/status", "/settings"):
        assert "Xero isn't connected" in page_text(world, page)
    assert "Connect Xero" in page_text(world, "/status")


def test_a_source_that_missed_its_catch_up_runs_is_out_of_date(world: World) -> None:
    override_settings({"CATCH_UP_INTERVAL_SECONDS": "900"})
    execute("UPDATE sync_run SET finished_at = now() - interval '61 minutes' WHERE organisation_id = 0")
    assert findings(world) == {FindingCode.OUT_OF_DATE: 0}
    execute(
        "INSERT INTO sync_run (account_id, organisation_id, kind, stage) VALUES (:a, 0, 'catch_up', 'people')",
        a=world.account,
    )
    assert findings(world) == {FindingCode.OUT_OF_DATE: 0}, "until it has ended well"
    execute("UPDATE sync_run SET state = 'done', finished_at = now() WHERE kind = 'catch_up'")
    assert findings(world) == {}
    execute(
        "INSERT INTO sync_run (account_id, organisation_id, kind, stage) VALUES (:a, 0, 'catch_up', 'people')",
        a=world.account,
    )
    assert findings(world) == {}, "the one that is under way hides none that ended before"


def test_events_pending_for_hours_make_an_account_out_of_date(world: World) -> None:
    execute("UPDATE account SET synced_at = now() - interval '2 hours'")
    assert findings(world) == {FindingCode.OUT_OF_DATE: None}


@pytest.mark.parametrize(("process", "seconds"), [("web", 13), ("worker", 31), ("scheduler", 61)])
def test_an_account_is_unhealthy_while_processes_are_down(world: World, process: str, seconds: int) -> None:
    world.web.get("/healthz")
    wait_until(lambda: findings(world) == {}, description="a heartbeat of each process")
    execute(
        "UPDATE heartbeat SET last_seen_at = now() - make_interval(secs => :s) WHERE process = :p", s=seconds, p=process
    )
    (account,) = account_status.list_all()
    assert [(finding.code, finding.subject) for finding in account.findings] == [(FindingCode.PROCESS_DOWN, process)]


def test_worker_and_scheduler_record_heartbeats(world: World, processes: Processes) -> None:
    execute("DELETE FROM heartbeat WHERE process <> 'web'")
    assert FindingCode.PROCESS_DOWN in findings(world)
    processes += [start("worker"), start("scheduler")]
    wait_until(lambda: findings(world) == {}, description="the heartbeats of worker and scheduler")


def test_a_failed_run_of_a_removed_organisation_is_ignored(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    execute(
        "UPDATE sync_run SET state = 'failed', error = 'broken' WHERE organisation_id = :o",
        o=organisation_ids(world)[1],
    )
    assert findings(world) == {FindingCode.RUN_FAILED: organisation_ids(world)[1]}
    connect.remove_organisation(world.account, organisation_ids(world)[1], actor="a test")
    assert findings(world) == {}


def test_runs_of_a_disconnected_organisation_pause_and_resume(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    person = world.person("ann@acme.test")
    world.settle()
    world.sandbox.simulate("disconnect", tenant=world.tenants[1])
    world.run_until_error(RunKind.CATCH_UP)
    disconnected = organisation_ids(world)[1]
    assert findings(world) == {FindingCode.XERO_DISCONNECTED: disconnected}
    assert {(run.organisation_id, run.state) for run in world.runs() if run.kind == RunKind.CATCH_UP} == {
        (0, "done"),
        (organisation_ids(world)[0], "done"),
        (disconnected, "paused"),
    }
    assert "is running" not in page_text(world, "/status")
    assert "Acme Sales Ltd 2 is disconnected. Reconnect it to resume syncing." in page_text(world, "/status")
    runs = run_processor.start_account_runs(world.account, RunKind.CATCH_UP)
    assert disconnected not in {run.organisation_id for run in runs}, "nothing is begun that cannot go on"

    world.authorise(world.tenants)
    assert {run.state for run in world.runs() if run.organisation_id == disconnected} == {"running", "done"}
    invoice = world.invoice("ann@acme.test", organisation=1)
    world.settle()
    world.catch_up()
    assert world.invoice_numbers("people", person) == [invoice.number]
    assert findings(world) == {}


def test_a_run_of_a_disconnected_organisation_is_not_shown_as_running(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    connected, disconnected = organisation_ids(world)
    for organisation in (connected, disconnected):
        execute(
            "INSERT INTO sync_run (account_id, organisation_id, kind, stage) VALUES (:a, :o, 'catch_up', 'contacts')",
            a=world.account,
            o=organisation,
        )
    execute("UPDATE xero_organisation SET status = 'needs_reauth' WHERE id = :o", o=disconnected)
    (account,) = account_status.list_all()
    assert [run.organisation_id for run in account.active_runs] == [connected]
    page = page_text(world, "/status")
    assert "of Acme Sales Ltd 1 is running" in page
    assert "of Acme Sales Ltd 2 is running" not in page


def test_a_run_ends_with_its_organisation(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    runs = run_processor.start_account_runs(world.account, RunKind.CATCH_UP)
    dropped = organisation_ids(world)[1]
    connect.remove_organisation(world.account, dropped, actor="a test")
    assert [run.state for run in world.runs() if run.id == runs[-1].id] == ["failed"]
    assert "is running" in page_text(world, "/status"), "Copper's"
    assert "Acme Sales Ltd 2" not in page_text(world, "/status")
    status = json.loads(patina("status", "--json").stdout)["accounts"][0]
    assert [finding["code"] for finding in status["problems"]] == []


@pytest.mark.parametrize(
    "arguments",
    [("catch-up",), ("backfill",), ("reconcile",), ("verify", "--against-source")],
    ids=lambda arguments: arguments[0],
)
def test_commands_report_a_disconnected_organisation_and_exit(unconnected: World, arguments: tuple[str, ...]) -> None:
    world = unconnected.open(organisations=2)
    world.sandbox.simulate("disconnect", tenant=world.tenants[1])
    world.run_until_error(RunKind.CATCH_UP)
    completed = patina(*arguments)
    message = "Acme Sales Ltd 2 is disconnected from Xero. Run `patina connect`, or remove it in Settings.\n"
    assert (completed.returncode, completed.stderr) == (1, message)


def test_a_command_that_loses_its_connection_on_the_way_reports_it(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    world.sandbox.simulate("disconnect", tenant=world.tenants[1])
    completed = patina("verify", "--against-source")
    assert completed.returncode == 1
    assert "Acme Sales Ltd 2 is disconnected from Xero." in completed.stderr
    connect.remove_organisation(world.account, organisation_ids(world)[1], actor="a test")
    second = patina("verify", "--against-source")
    assert (second.returncode, second.stdout) == (0, "verify ok: no differences\n")


def test_a_comparison_with_vendors_that_cannot_be_reached_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "STUCK_SECONDS", 0.5)
    monkeypatch.setattr(vendor_http, "MAX_ATTEMPTS", 1)
    override_settings({"XERO_API_URL": "http://127.0.0.1:1", "COPPER_API_URL": "http://127.0.0.1:1"})

    with pytest.raises(VendorError, match=r"^no progress for \d+ s\. .+: .+"):
        progress.run_and_watch(world.account, RunKind.DRY_RUN, is_quiet=False, in_process=True)


def test_a_comparison_with_the_vendors_says_where_it_reads(world: World) -> None:
    completed = patina("verify", "--against-source")
    assert completed.stderr.startswith(f"Reading {settings().xero_api_url} and {settings().copper_api_url}\n")


def test_commands_report_an_account_without_an_organisation(unconnected: World) -> None:
    copper_account = unconnected.sandbox.simulate("add_account", name="Third Co")
    unconnected.account = connect.connect_copper(copper_account["api_key"], copper_account["email"])
    for arguments in (("catch-up",), ("reconcile",), ("verify", "--against-source")):
        completed = patina(*arguments)
        assert (completed.returncode, completed.stdout) == (1, "")
        assert completed.stderr == "No Xero organisation is connected. Run `patina connect` first.\n"


def test_pages_say_that_the_database_is_down_instead_of_failing(world: World) -> None:
    clear_budgets("throttle")
    admin = sign_in(world)
    with databases.using_url("postgresql://somebody@127.0.0.1:1/nothing"):
        response = admin.open("/status")
    assert response.status_code == 503
    assert "Traceback" not in response.text
