"""Commands that compare the read model with a rebuild or with the vendors, and repair it."""

from __future__ import annotations

import json
import signal
import subprocess

from sqlalchemy import text

from store.db import database
from tests.support.commands import patina
from tests.support.processes import Processes
from tests.support.processes import patina as start_process
from tests.support.serving import wait_until
from tests.support.world import World


def test_verify_reports_missing_stale_and_extra_rows_and_rebuild_repairs_them(world: World) -> None:
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    for _ in range(3):
        world.invoice("ann@acme.test")
    world.settle()
    clean = patina("verify")
    assert (clean.returncode, clean.stdout) == (0, "verify ok: 0 missing, 0 stale, 0 extra\n")

    with database.transaction() as session:
        session.execute(text(f"DELETE FROM record_invoice WHERE record_type = 'company' AND record_id = {company}"))
        session.execute(text(f"UPDATE record_invoice SET balance = 1 WHERE record_id = {ann} AND number LIKE '%1'"))
        session.execute(
            text(
                "INSERT INTO record_invoice SELECT account_id, 'lead', 5, created_at, invoice_id, organisation_id,"
                " type, status, number, issuer, issue_date, due_date, total, balance, currency, created_source,"
                f" short_code FROM record_invoice WHERE record_id = {ann} AND number LIKE '%2'"
            )
        )
    broken = patina("verify")
    assert broken.returncode == 1
    assert broken.stdout.endswith("verify failed: 3 missing, 1 stale, 1 extra\n")
    assert f"missing: company {company}, invoice " in broken.stdout
    payload = json.loads(patina("verify", "--json").stdout)
    assert (payload["missing"], payload["stale"], payload["extra"]) == (3, 1, 1)

    assert patina("rebuild").stdout.startswith("rebuild ok: 4 rows written, 1 removed")
    assert patina("verify").returncode == 0


def test_verify_against_the_source_reports_the_drift_from_the_vendors(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    world.advance_clock()
    clean = patina("verify", "--against-source")
    assert (clean.returncode, clean.stdout) == (0, "verify ok: no differences\n")
    with database.transaction() as session:
        session.execute(text("UPDATE xero_invoice SET balance = 1"))
    broken = patina("verify", "--against-source", "--json")
    assert broken.returncode == 1
    payload = json.loads(broken.stdout)
    assert payload["drift"]["invoices"] == {"missing": 0, "stale": 1, "extra": 0}
    assert payload["drift_total"] == 2, "and the row that was made of it"
    assert payload["counts"]["invoices"] == 1


def test_reconcile_repairs_and_status_shows_its_drift(world: World, processes: Processes) -> None:
    processes += [start_process("worker")]
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    world.advance_clock()
    with database.transaction() as session:
        session.execute(text("DELETE FROM copper_record_email"))
    dry = patina("reconcile", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "dry run ok: people: 1 stale; read_model: 1 extra\n")
    assert patina("reconcile").stdout == "reconciliation ok: people: 1 stale; read_model: 1 extra, fixed\n"
    assert patina("reconcile").stdout == "reconciliation ok: no differences\n"
    assert patina("catch-up").stdout.startswith("catch-up ok: ")

    payload = json.loads(patina("status", "--json").stdout)
    (account,) = payload["accounts"]
    assert account["drift"]["people"] == {"missing": 0, "stale": 0, "extra": 0}
    assert {run["kind"] for run in account["runs"]} == {"backfill", "catch_up", "reconciliation", "dry_run"}
    assert account["xero_download_bytes"]["uncompressed"] > account["xero_download_bytes"]["compressed"] > 0
    assert payload["xero_download_allowance_left_gb"] < 10
    world.record_heartbeats()
    output = patina("status").stdout
    assert "Last reconciliation" in output
    assert " today" in output
    assert "Xero download allowance left this month, all accounts: " in output
    assert max(map(len, output.splitlines())) <= 80
    exceeded = patina("status", XERO_DOWNLOAD_ALLOWANCE_GB="0.000001").stdout
    assert "0.000 GB (exceeded by 0.0" in exceeded


def test_a_run_continues_when_it_is_no_longer_watched(world: World) -> None:
    world.person("ann@acme.test")
    world.settle()
    watching = start_process("backfill", stderr=subprocess.PIPE)
    wait_until(lambda: len(world.runs()) == 4, description="the second backfill")
    watching.send_signal(signal.SIGINT)
    _, error = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert b"The run continues" in error
    world.backfill()
    assert len(world.runs()) == 4, "it was taken up again, not begun anew"
