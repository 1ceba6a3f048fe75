"""The `patina` command: error messages, exit codes, and JSON output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from cli.lazy_group import LazyCommand
from cli.root import COMMANDS
from store.db.database import transaction
from tests.chaos import free_port
from tests.support import databases
from tests.support.commands import patina
from tests.support.processes import Processes
from tests.support.processes import patina as start
from tests.support.serving import responds, wait_until
from tests.support.world import World

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "postgresql://somebody:secret@127.0.0.1:1/nothing"
DATABASE_COMMANDS = [("status", "--json"), ("keys", "list"), ("explain", "person", "1"), ("backfill",), ("web",)]


def in_one_line(completed: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The single line that a failed command printed."""
    assert completed.returncode == code, (completed.stdout, completed.stderr)
    assert completed.stdout == ""
    assert completed.stderr.count("\n") == 1, completed.stderr
    return completed.stderr.strip()


@pytest.mark.parametrize("arguments", [*DATABASE_COMMANDS, ("migrate",)], ids=" ".join)
def test_an_unavailable_database_is_reported_in_one_line(sandbox: object, arguments: tuple[str, ...]) -> None:
    message = in_one_line(patina(*arguments, DATABASE_URL=NOWHERE))
    assert message.startswith("Can't reach PostgreSQL (")
    assert message.endswith("Check DATABASE_URL.")
    assert "secret" not in message


@pytest.mark.parametrize("arguments", DATABASE_COMMANDS, ids=" ".join)
def test_a_database_without_migrations_is_reported_in_one_line(sandbox: object, arguments: tuple[str, ...]) -> None:
    with databases.temporary(template="template0"):
        assert "run `patina migrate` first." in in_one_line(patina(*arguments))


def test_the_doctor_survives_failing_checks(sandbox: object) -> None:
    broken = {"DATABASE_URL": NOWHERE, "REDIS_URL": "redis://127.0.0.1:1/0", "XERO_CLIENT_ID": ""}
    completed = patina("doctor", **broken)
    assert (completed.returncode, completed.stderr) == (1, "")
    assert "FAIL  settings: XERO_CLIENT_ID is not set: client ID of the Xero app." in completed.stdout
    assert "FAIL  PostgreSQL: Can't reach PostgreSQL (" in completed.stdout
    assert "FAIL  Redis: not reachable" in completed.stdout
    assert completed.stdout.endswith("doctor failed: 4 checks, 3 failed\n")
    payload = json.loads(patina("doctor", "--json", **broken).stdout)
    assert {check["name"]: "hint" in check for check in payload} == {
        "settings": True,
        "PUBLIC_URL": False,
        "PostgreSQL": True,
        "Redis": True,
    }


def test_the_doctor_prints_only_json_whatever_is_wrong(world: World) -> None:
    for broken in ({"XERO_CLIENT_ID": ""}, {"PORT": "no port"}, {"ENCRYPTION_KEYS": "short"}, {"LOG_LEVEL": "debug"}):
        completed = patina("doctor", "--json", **broken)
        payload = json.loads(completed.stdout)
        assert completed.returncode == (0 if all(check["ok"] for check in payload) else 1)
        assert all("hint" not in check for check in payload if check["ok"])
    with databases.temporary(template="template0"):
        payload = json.loads(patina("doctor", "--json").stdout)
        assert [check["name"] for check in payload if not check["ok"]] == ["migrations"]


def test_the_doctor_continues_when_an_account_cannot_be_checked(world: World) -> None:
    completed = patina("doctor", XERO_CLIENT_ID="")
    assert "FAIL  settings: XERO_CLIENT_ID is not set" in completed.stdout
    assert "FAIL  Acme Sales: Acme Sales Ltd 1: XERO_CLIENT_ID is not set" in completed.stdout
    assert "OK    Acme Sales: data: imported and up to date" in completed.stdout


@pytest.mark.parametrize("name", ["Acme [nz] [/b] Ltd", "[/b]", "[bold]Acme[/bold]", "Zoë & \\[co]"])
def test_names_are_printed_without_markup(world: World, name: str) -> None:
    with transaction() as session:
        session.execute(text("UPDATE account SET name = :name"), {"name": name})
        session.execute(text("UPDATE xero_organisation SET name = :name"), {"name": name})
    completed = patina("status")
    assert (completed.returncode, completed.stdout.splitlines()[0]) == (0, f"{name} (account {world.account})"), (
        completed.stderr
    )
    assert f"{name}: {name}: reachable" in patina("doctor").stdout
    watched = patina("verify", "--against-source")
    assert watched.returncode == 0, watched.stderr
    assert f"{name[:17]}: contacts" in watched.stderr


def test_status_can_show_a_single_account(world: World) -> None:
    world.sandbox.simulate("add_account", name="Another")
    with transaction() as session:
        session.execute(text("INSERT INTO account (copper_account_id, name) VALUES (5, 'Another')"))
    payload = json.loads(patina("status", "--json", "--account", str(world.account)).stdout)
    assert [account["name"] for account in payload["accounts"]] == ["Acme Sales"]
    world.record_heartbeats()
    completed = patina("status", "--account", str(world.account))
    assert completed.returncode == 0
    assert re.search(
        r"^  Acme Sales Ltd 1\n    API calls +\d.*\n    Time zone +Pacific/Auckland", completed.stdout, re.M
    )
    assert patina("status").returncode == 1, "the other one is not connected"
    assert in_one_line(patina("status", "--account", "77")).startswith("There is no account 77.")


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"patina \d+\.\d+\.\d+\n", patina("--version").stdout)
    assert "Usage: patina " in patina("--help").stdout


def test_an_unknown_revision_is_reported_in_one_line(database: str) -> None:
    assert in_one_line(patina("migrate", "nonsense")) == "migrate: Can't locate revision identified by 'nonsense'"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("explain", "banana", "3"), 2),
        (("explain", "person", "three"), 2),
        (("keys", "create", "a key", "--scope", "banana"), 2),
        (("keys", "create", "  "), 2),
        (("erase-person", "--email", "nobody"), 2),
        (("sandbox", "simulate", "pay-invoice", "banana"), 2),
        (("sandbox", "faults", "{bad"), 2),
        (("explain", "person", "999"), 1),
        (("explain", "person", "999", "--json"), 1),
        (("keys", "revoke", "999"), 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_wrong_usage_exits_with_2_and_missing_data_with_1(world: World, arguments: tuple[str, ...], code: int) -> None:
    completed = patina(*arguments)
    assert completed.returncode == code, (completed.stdout, completed.stderr)
    assert "Traceback" not in completed.stderr
    assert completed.stderr


def test_an_unknown_record_is_reported_by_name(world: World) -> None:
    assert in_one_line(patina("explain", "company", "999")) == "Company 999 hasn't been synced from Copper."
    assert json.loads(patina("explain", "company", "999", "--json").stdout)["contacts"] == []


def test_times_in_json_are_iso_8601(world: World) -> None:
    assert world.read("people", 1).status_code == 200
    (key,) = [key for key in json.loads(patina("keys", "list", "--json").stdout) if key["name"] == "test"]
    assert "T" in key["created_at"]
    assert datetime.fromisoformat(key["created_at"]).tzinfo is not None
    (account,) = json.loads(patina("status", "--json").stdout)["accounts"]
    assert all("T" in source["synced_through"] for source in account["sources"])


def test_explanations_fit_a_terminal(world: World) -> None:
    person = world.person("ann@acme.test", company=world.company())
    contact = world.contact("Acme Trading and Manufacturing Limited", "ann@acme.test")
    for _ in range(9):
        world.invoice(contact)
    world.settle()
    completed = patina("explain", "person", str(person))
    assert max(map(len, completed.stdout.splitlines())) <= 80
    assert "9 invoices: " in completed.stdout
    assert " and 1 more" in completed.stdout


def test_counts_use_singular_and_plural_correctly(world: World, processes: Processes) -> None:
    processes.append(start("worker"))
    world.person("ann@acme.test")
    world.company()
    world.company()
    world.settle()
    assert patina("backfill").stdout == "backfill ok: 1 person, 2 companies\n"


def test_commands_print_no_logs_by_default(world: World) -> None:
    world.person("ann@acme.test")
    world.settle()
    for arguments in (("rebuild",), ("verify", "--against-source", "--json")):
        assert patina(*arguments).stderr == ""
        assert "{" in patina(*arguments, LOG_LEVEL="info").stderr


def ignoring_interrupts(*arguments: str) -> subprocess.Popen[str]:
    """Start a command like a background job of a shell: SIGINT is ignored, and standard input is empty."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
            "-m",
            "cli",
            *arguments,
        ],
        cwd=ROOT,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_stops_watching_even_if_the_shell_ignores_it(world: World) -> None:
    watching = ignoring_interrupts("backfill")
    wait_until(lambda: len(world.runs()) == 4, description="the second backfill")
    watching.send_signal(signal.SIGINT)
    _, error = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "Stopped watching. The run continues in the workers." in error


def test_a_sandbox_that_does_not_run_is_reported_in_one_line() -> None:
    port = free_port()
    for arguments in (("simulate",), ("simulate", "pay-invoice", "invoice=INV-0001"), ("faults",)):
        message = in_one_line(patina("sandbox", "--port", str(port), *arguments))
        assert message == f"No sandbox on 127.0.0.1:{port}. Start one with `patina sandbox`, or give --port."


def test_the_sandbox_accepts_an_invoice_by_its_number(processes: Processes) -> None:
    port = str(free_port())
    processes.append(start("sandbox", "--port", port, "--size", "5"))
    wait_until(lambda: responds(f"http://127.0.0.1:{port}/control/state"), description="the sandbox")

    def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
        return patina("sandbox", "--port", port, "simulate", *arguments)

    assert "pay-invoice invoice=…" in simulate().stdout
    tenant = json.loads(simulate("add-organisation", "name=Acme", "currency=NZD").stdout)["tenant"]
    contact = json.loads(simulate("create-contact", "name=Ann", f"tenant={tenant}").stdout)["contact"]
    payload = json.loads(simulate("create-invoice", f"contact={contact}", "total=100", "number=A-1").stdout)
    paid = simulate("pay-invoice", "invoice=A-1", "amount=40")
    assert paid.returncode == 0, paid.stderr
    assert UUID(json.loads(paid.stdout)["invoice"]) == UUID(payload["invoice"])
    assert in_one_line(simulate("pay-invoice", "invoice=B-9")) == "The sandbox has no invoice B-9."
    for total in ("NaN", "-Infinity"):
        assert "is not valid" in in_one_line(simulate("create-invoice", f"contact={contact}", f"total={total}"))
    assert simulate("dance").returncode == 2


def connect_without_browser(world: World, **environment: str) -> subprocess.CompletedProcess[str]:
    state = world.sandbox.state()["accounts"][0]
    options = ("--auto", "--port", str(free_port()), "--copper-email", state["email"])
    return patina("connect", *options, COPPER_API_KEY=state["api_key"], **environment)


def test_a_connection_that_is_not_granted_times_out(world: World) -> None:
    world.sandbox.control("PUT", "app", json={"auto_consent": False})
    completed = connect_without_browser(world)
    assert in_one_line(completed) == "Xero didn't grant access by itself: run `patina connect` without --auto"


def test_a_connection_to_an_unreachable_xero_fails_with_one_line(world: World) -> None:
    completed = connect_without_browser(world, XERO_LOGIN_URL="http://127.0.0.1:9")
    assert in_one_line(completed) == "Xero can't be reached (ConnectionError)"


def test_the_copper_key_is_not_a_command_line_option(world: World) -> None:
    """Every user of a machine can read the command lines of all processes."""
    email = world.sandbox.state()["accounts"][0]["email"]
    completed = patina("connect", "--copper-email", email, "--copper-key", "x")
    assert completed.returncode == 2
    assert "No such option" in completed.stderr
    message = in_one_line(patina("connect", "--copper-email", email, COPPER_API_KEY=""))
    assert message == "No Copper API key: set COPPER_API_KEY, or give the key on standard input."


def test_an_error_of_the_driver_never_shows_the_password() -> None:
    for address in (
        "postgresql://u:secret@h:abc/db",
        "postgresql://u:secret@/db?bogus=1",
        "postgresql://u:secret@%zz/d",
    ):
        completed = patina("status", DATABASE_URL=address)
        assert completed.returncode == 1
        assert "secret" not in completed.stderr
        assert "Traceback" not in completed.stderr
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(NOWHERE, connect_timeout=2)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_their_own_help(name: str) -> None:
    command = LazyCommand(name, COMMANDS[name]).load()
    assert " ".join(command.help.split("\n\n")[0].split()) == COMMANDS[name].help


@pytest.mark.parametrize("name", ["connect", "keys", "inbox", "erase-person"])
def test_help_needs_no_settings(name: str) -> None:
    completed = patina(name, "--help", DATABASE_URL="", REDIS_URL="", EMBEDDED_SERVICES="")
    assert "<bool>" not in completed.stdout
    assert completed.returncode == 0, completed.stderr
    assert f"Usage: patina {name}" in completed.stdout
