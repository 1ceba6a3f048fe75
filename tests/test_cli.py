"""The `patina` command: what it says when something is wrong, its exit codes, and its output for machines."""

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

from store.database import transaction
from tests import databases
from tests.chaos import free_port
from tests.processes import Processes
from tests.processes import patina as start
from tests.serving import answers, wait_until
from tests.test_project import patina
from tests.world import World

ROOT = Path(__file__).resolve().parent.parent
NOWHERE = "postgresql://somebody:secret@127.0.0.1:1/nothing"
COMMANDS = [("status", "--json"), ("keys", "list"), ("explain", "person", "1"), ("backfill",), ("web",)]


def in_one_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line that a command ended with."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("words", [*COMMANDS, ("migrate",)], ids=" ".join)
def test_a_database_that_is_down_is_said_in_one_line(sandbox: object, words: tuple[str, ...]) -> None:
    said = in_one_line(patina(*words, DATABASE_URL=NOWHERE))
    assert said.startswith("Can't reach PostgreSQL (")
    assert said.endswith("Check DATABASE_URL.")
    assert "secret" not in said


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_database_without_migrations_is_said_in_one_line(sandbox: object, words: tuple[str, ...]) -> None:
    with databases.fresh(template="template0"):
        assert "run `patina migrate` first." in in_one_line(patina(*words))


def test_the_doctor_outlives_what_it_looks_at(sandbox: object) -> None:
    broken = {"DATABASE_URL": NOWHERE, "REDIS_URL": "redis://127.0.0.1:1/0", "XERO_CLIENT_ID": ""}
    done = patina("doctor", **broken)
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  settings: XERO_CLIENT_ID is not set: client id of the Xero app." in done.stdout
    assert "FAIL  PostgreSQL: Can't reach PostgreSQL (" in done.stdout
    assert "FAIL  Redis: not reachable" in done.stdout
    assert done.stdout.endswith("doctor failed: 4 checks, 3 failed\n")
    told = json.loads(patina("doctor", "--json", **broken).stdout)
    assert {check["what"]: "todo" in check for check in told} == {
        "settings": True,
        "PUBLIC_URL": False,
        "PostgreSQL": True,
        "Redis": True,
    }


def test_the_doctor_prints_json_alone_whatever_is_wrong(world: World) -> None:
    for broken in ({"XERO_CLIENT_ID": ""}, {"PORT": "no port"}, {"ENCRYPTION_KEYS": "short"}, {"LOG_LEVEL": "debug"}):
        done = patina("doctor", "--json", **broken)
        told = json.loads(done.stdout)
        assert done.returncode == (0 if all(check["well"] for check in told) else 1)
        assert all("todo" not in check for check in told if check["well"])
    with databases.fresh(template="template0"):
        told = json.loads(patina("doctor", "--json").stdout)
        assert [check["what"] for check in told if not check["well"]] == ["migrations"]


def test_the_doctor_goes_on_where_an_account_cannot_be_asked(world: World) -> None:
    done = patina("doctor", XERO_CLIENT_ID="")
    assert "FAIL  settings: XERO_CLIENT_ID is not set" in done.stdout
    assert "FAIL  Acme Sales: Acme Sales Ltd 1: XERO_CLIENT_ID is not set" in done.stdout
    assert "ok    Acme Sales: data: imported and up to date" in done.stdout


@pytest.mark.parametrize("name", ["Acme [nz] [/b] Ltd", "[/b]", "[bold]Acme[/bold]", "Zoë & \\[co]"])
def test_names_are_printed_as_they_are(world: World, name: str) -> None:
    with transaction() as session:
        session.execute(text("UPDATE account SET name = :name"), {"name": name})
        session.execute(text("UPDATE xero_organisation SET name = :name"), {"name": name})
    done = patina("status")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"{name} (account {world.account})"), done.stderr
    assert f"{name}: {name}: reachable" in patina("doctor").stdout
    watched = patina("verify", "--against-source")
    assert watched.returncode == 0, watched.stderr
    assert f"{name[:17]}: contacts" in watched.stderr


def test_status_shows_one_account_where_it_is_asked_for_one(world: World) -> None:
    world.sandbox.act("add_account", name="Another")
    with transaction() as session:
        session.execute(text("INSERT INTO account (copper_account_id, name) VALUES (5, 'Another')"))
    told = json.loads(patina("status", "--json", "--account", str(world.account)).stdout)
    assert [account["name"] for account in told["accounts"]] == ["Acme Sales"]
    world.beat()
    assert patina("status", "--account", str(world.account)).returncode == 0
    assert patina("status").returncode == 1, "the other one is not connected"
    assert in_one_line(patina("status", "--account", "77")).startswith("There is no account 77.")


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"patina \d+\.\d+\.\d+\n", patina("--version").stdout)
    assert "Usage: patina " in patina("--help").stdout


def test_a_revision_that_does_not_exist_is_said_in_one_line(database: str) -> None:
    assert in_one_line(patina("migrate", "nonsense")) == "migrate: Can't locate revision identified by 'nonsense'"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("explain", "banana", "3"), 2),
        (("explain", "person", "three"), 2),
        (("keys", "make", "a key", "--scope", "banana"), 2),
        (("keys", "make", "  "), 2),
        (("forget", "--email", "nobody"), 2),
        (("sandbox", "act", "pay-invoice", "banana"), 2),
        (("sandbox", "faults", "{bad"), 2),
        (("explain", "person", "999"), 1),
        (("explain", "person", "999", "--json"), 1),
        (("keys", "revoke", "999"), 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_wrong_usage_ends_with_2_and_what_is_missing_with_1(world: World, words: tuple[str, ...], code: int) -> None:
    done = patina(*words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_an_unknown_record_is_named(world: World) -> None:
    assert in_one_line(patina("explain", "company", "999")) == "Company 999 hasn't been synced from Copper."
    assert json.loads(patina("explain", "company", "999", "--json").stdout)["contacts"] == []


def test_times_in_json_are_iso_8601(world: World) -> None:
    assert world.read("people", 1).status_code == 200
    (key,) = [one for one in json.loads(patina("keys", "list", "--json").stdout) if one["name"] == "test"]
    assert "T" in key["created_at"]
    assert datetime.fromisoformat(key["created_at"]).tzinfo is not None
    (account,) = json.loads(patina("status", "--json").stdout)["accounts"]
    assert all("T" in source["seen_to"] for source in account["sources"])


def test_explanations_fit_a_terminal(world: World) -> None:
    person = world.person("ann@acme.test", company=world.company())
    contact = world.contact("Acme Trading and Manufacturing Limited", "ann@acme.test")
    for _ in range(9):
        world.invoice(contact)
    world.settle()
    done = patina("explain", "person", str(person))
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "9 invoices: " in done.stdout
    assert " and 1 more" in done.stdout


def test_counts_speak_of_one_person_and_two_people(world: World, processes: Processes) -> None:
    processes.append(start("worker"))
    world.person("ann@acme.test")
    world.company()
    world.company()
    world.settle()
    assert patina("backfill").stdout == "backfill ok: 1 person, 2 companies\n"


def test_commands_are_quiet_unless_they_are_asked(world: World) -> None:
    world.person("ann@acme.test")
    world.settle()
    for words in (("rebuild",), ("verify", "--against-source", "--json")):
        assert patina(*words).stderr == ""
        assert "{" in patina(*words, LOG_LEVEL="info").stderr


def ignoring_interrupts(*words: str) -> subprocess.Popen[str]:
    """A command as a shell starts it in the background: SIGINT is ignored, and standard input is empty."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
            "-m",
            "cli",
            *words,
        ],
        cwd=ROOT,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_stops_watching_also_where_a_shell_ignores_it(world: World) -> None:
    watching = ignoring_interrupts("backfill")
    wait_until(lambda: len(world.runs()) == 4, what="the second backfill")
    watching.send_signal(signal.SIGINT)
    _, error = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "Stopped watching. The run continues in the workers." in error


def test_a_sandbox_that_does_not_run_is_said_in_one_line() -> None:
    port = free_port()
    for words in (("act",), ("act", "pay-invoice", "invoice=INV-0001"), ("faults",)):
        said = in_one_line(patina("sandbox", "--port", str(port), *words))
        assert said == f"No sandbox on 127.0.0.1:{port}. Start one with `patina sandbox`, or give --port."


def test_an_invoice_is_named_by_its_number_in_the_sandbox(processes: Processes) -> None:
    port = str(free_port())
    processes.append(start("sandbox", "--port", port, "--size", "5"))
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/control/state"), what="the sandbox")

    def act(*words: str) -> subprocess.CompletedProcess[str]:
        return patina("sandbox", "--port", port, "act", *words)

    assert "pay-invoice invoice=…" in act().stdout
    tenant = json.loads(act("add-organisation", "name=Acme", "currency=NZD").stdout)["tenant"]
    contact = json.loads(act("make-contact", "name=Ann", f"tenant={tenant}").stdout)["contact"]
    made = json.loads(act("make-invoice", f"contact={contact}", "total=100", "number=A-1").stdout)
    paid = act("pay-invoice", "invoice=A-1", "amount=40")
    assert paid.returncode == 0, paid.stderr
    assert UUID(json.loads(paid.stdout)["invoice"]) == UUID(made["invoice"])
    assert in_one_line(act("pay-invoice", "invoice=B-9")) == "The sandbox has no invoice B-9."
    assert act("dance").returncode == 2


def test_a_connection_that_nobody_grants_is_not_waited_for(world: World) -> None:
    world.sandbox.control("PUT", "app", json={"auto_consent": False})
    state = world.sandbox.state()["accounts"][0]
    done = patina(
        "connect",
        "--auto",
        "--port",
        str(free_port()),
        "--copper-email",
        state["email"],
        COPPER_API_KEY=state["api_key"],
    )
    assert in_one_line(done) == "Xero didn't grant access by itself: run `patina connect` without --auto"


def test_the_copper_key_is_no_option_of_a_command(world: World) -> None:
    """Every user of a machine can read the command lines of its processes."""
    email = world.sandbox.state()["accounts"][0]["email"]
    done = patina("connect", "--copper-email", email, "--copper-key", "x")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    said = in_one_line(patina("connect", "--copper-email", email, COPPER_API_KEY=""))
    assert said == "No Copper API key: set COPPER_API_KEY, or give the key on standard input."


def test_an_error_of_the_driver_never_shows_the_password() -> None:
    for address in (
        "postgresql://u:secret@h:abc/db",
        "postgresql://u:secret@/db?bogus=1",
        "postgresql://u:secret@%zz/d",
    ):
        done = patina("status", DATABASE_URL=address)
        assert done.returncode == 1
        assert "secret" not in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(NOWHERE, connect_timeout=2)
