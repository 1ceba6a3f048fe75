"""`patina demo`: the whole path on this machine, and a tour of three changes.

Starts the sandbox, web, worker and scheduler as processes of their own, connects and backfills as an
admin would, then changes things as users of Xero and Copper would, and times how long the records lag.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime import logs
from runtime.settings import override, settings
from web.words import status

WEB_PORT, SANDBOX_PORT = 8700, 8701
ADMIN = ("sam@demo.copper.test", "sandbox-copper-key")
START_SECONDS = 60.0
BACKFILL_SECONDS = 90.0
SHOWN_SECONDS = 30.0
STOP_SECONDS = 12.0
# The sandbox enforces the vendors' own limits, so the demo goes by them whatever this machine is set to.
LIMITS = (
    "XERO_MINUTE_LIMIT",
    "XERO_CONCURRENT_LIMIT",
    "XERO_DAY_LIMIT",
    "XERO_APP_MINUTE_LIMIT",
    "COPPER_MINUTE_LIMIT",
)
Rows = list[dict[str, Any]]
Shown = tuple[str, str]


class DemoError(Exception):
    """The demo could not go on; the text says what was wrong."""


def run(*, once: bool, size: int) -> None:
    """The demo; raises `DemoError` when anything is wrong. Ctrl-C stops every process."""
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with Stage(console, size) as stage:
            said = Tour(stage).walk()
            if not once:
                stage.stay()
        console.print(said, markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("demo stopped: every process has ended")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@dataclass
class Stage:
    """The processes of the demo, their addresses and logs."""

    console: Console
    size: int
    home: Path = field(default_factory=lambda: settings().patina_home.resolve())
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    web: str = ""
    sandbox: str = ""
    copper: str = ""

    def __enter__(self) -> Stage:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        from sandbox import server

        web_port, sandbox_port = _free_port(WEB_PORT), _free_port(SANDBOX_PORT)
        self.web, self.sandbox = f"http://127.0.0.1:{web_port}", f"http://127.0.0.1:{sandbox_port}"
        override(
            {
                "PATINA_HOME": str(self.home),
                "EMBEDDED_SERVICES": "true",
                "DATABASE_URL": "",
                "REDIS_URL": "",
                "ENCRYPTION_KEYS": "",
                "WEB_HOST": "127.0.0.1",
                "PORT": str(web_port),
                "PUBLIC_URL": self.web,
                "COPPER_WEBHOOK_URL": "",
                "WORKER_PROCESSES": "2",
                **dict.fromkeys(LIMITS, ""),
                "LOG_FORMAT": "json",
                "LOG_LEVEL": "warning",
                **server.environment(self.sandbox),
            }
        )
        logs.configure("demo")
        (self.home / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.step("starting PostgreSQL and Redis"):
            from runtime import embedded

            embedded.database_url()
            embedded.redis_url()
        with self.step("bringing the schema up to date"):
            from store.database import migrate

            migrate()
        with self.step("starting the sandbox (Xero and Copper), web, worker and scheduler"):
            self._start("sandbox", "--port", str(sandbox_port), "--size", str(self.size), "--state", self._state())
            for name in ("web", "worker", "scheduler"):
                self._start(name)
            self._await(f"{self.sandbox}/control/state", "sandbox")
            self._await(f"{self.web}/readyz", "web")

    def _state(self) -> str:
        return str(self.home / f"sandbox-{self.size}.json")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Say what is done, and how long it took."""
        began = time.monotonic()
        yield
        self.console.print(f"  {text} [dim]({time.monotonic() - began:.1f} s)[/dim]")

    def _start(self, name: str, *words: str) -> None:
        log = (self.home / "logs" / f"{name}.log").open("wb")
        self.children[name] = subprocess.Popen(
            [sys.executable, "-m", "cli", name, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ},
        )
        log.close()

    def check(self) -> None:
        """Raise `DemoError` when a process has ended by itself."""
        for name, child in self.children.items():
            if child.poll() is not None:
                log = self.home / "logs" / f"{name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise DemoError(f"{name} ended with {child.returncode}: {' / '.join(last)}. Its log: {log}")

    def _await(self, url: str, name: str) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            self.check()
            try:
                if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            # Until the process listens, trying is the one way to know.
            time.sleep(0.05)
        raise DemoError(f"{name} did not answer within {START_SECONDS:.0f} s. Its log: {self.home}/logs/{name}.log")

    def stay(self) -> None:
        """Keep everything up until Ctrl-C."""
        port = urlsplit(self.sandbox).port
        option = "" if port == SANDBOX_PORT else f" --port {port}"
        # A line is a line: an address that is broken in two cannot be clicked.
        self.console.print(
            f"\nStill running. The panel in the sandbox's Copper:\n  {self.copper}\n"
            f"Settings, as an admin (email {ADMIN[0]}, API key {ADMIN[1]}):\n  {self.web}\n"
            f"API documentation:\n  {self.web}/docs\n"
            f"The sandbox's data and counts:\n  {self.sandbox}/control/state\n"
            f"Act as a user of Xero or Copper from another terminal:\n  .venv/bin/patina sandbox{option} act\n"
            "Ctrl-C stops every process.",
            markup=False,
            soft_wrap=True,
        )
        while True:
            # A process that dies meanwhile is told within this time.
            time.sleep(0.5)
            self.check()

    def close(self) -> None:
        """Stop every process, by force if it does not listen."""
        for child in self.children.values():
            _signal(child, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, until - time.monotonic()))
            _signal(child, signal.SIGKILL)
        self.children.clear()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Reach the child (SIGTERM), or it and whatever it left behind (SIGKILL, to its whole group)."""
    try:
        if number == signal.SIGKILL:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
    except ProcessLookupError:
        return


def _free_port(wanted: int) -> int:
    """`wanted`, or any free port where something else has it."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no free port on 127.0.0.1")


class Tour:
    """Connect, backfill, show, and change three things while watching the records."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.http = httpx.Client(timeout=10, trust_env=False)
        self.account = 0
        self.copper_account = 0
        self.key = ""
        self.lags: list[float] = []
        self.world: dict[str, Any] = {}

    def walk(self) -> str:
        """The whole tour; returns its last line."""
        from store import mirror, projection
        from store.database import transaction

        self._connect()
        self._backfill()
        self._look()
        self._pay()
        self._change_address()
        self._move()
        with transaction() as session:
            found = projection.compare(session, self.account)
            records, invoices = mirror.count(session, self.account)
        if not found.clean:
            raise DemoError(f"{found.missing} missing, {found.stale} stale, {found.extra} extra rows after the tour")
        return f"demo ok: {records} records, {invoices} invoices, fresh in {max(self.lags):.0f} ms"

    def _control(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = self.http.request(method, f"{self.stage.sandbox}/control/{path}", **more)
        if answer.status_code >= 400:
            raise DemoError(f"the sandbox answered {answer.status_code} to {path}: {answer.text[:200]}")
        told: dict[str, Any] = answer.json()
        return told

    def _act(self, name: str, **values: Any) -> dict[str, Any]:
        return self._control("POST", f"act/{name}", json=values)

    def _connect(self) -> None:
        from web import links
        from worker import connect
        from worker.xero import loopback

        with self.stage.step("connecting Copper (12 webhooks) and Xero (OAuth, two organisations)"):
            state = self._control("GET", "state")
            mine = state["accounts"][0]
            self.copper_account = mine["account"]
            self.account = connect.connect_copper(mine["api_key"], mine["email"], by_operator=True)
            token = loopback.authorise(0, auto=True, say=self.stage.console.print)
            connect.connect_xero(self.account, token)
            self.key = connect.make_key(self.account, "demo")
            self._control("PUT", "app", json={"webhook_url": f"{self.stage.web}/webhooks/xero"})
            self._control("POST", "webhooks/enable")
            panel = links.panel(connect.make_key(self.account, "demo's panel", ["panel"]))
            installed = {"url": panel, "account": self.copper_account}
            self.stage.copper = self.stage.sandbox + self._control("POST", "act/install_app", json=installed)["page"]
        self.tenants = [one["tenant"] for one in state["organisations"]]

    def _backfill(self) -> None:
        from terminal import progress
        from worker.errors import NotConnectedError, VendorError
        from worker.steps import Kind

        self.stage.console.print("  backfilling")
        try:
            progress.work_off(self.account, Kind.BACKFILL, quiet=False, seconds=BACKFILL_SECONDS + self.stage.size)
        except (VendorError, NotConnectedError, TimeoutError) as error:
            self.stage.check()
            raise DemoError(str(error)) from None
        self.world = self._control("GET", "world", params={"account": self.copper_account})

    def read(self, plural: str, record_id: int, limit: int = 200) -> Rows:
        """What a client of the read API sees on a record."""
        answer = self.http.get(
            f"{self.stage.web}/v1/{plural}/{record_id}/invoices",
            params={"limit": limit},
            headers={"Authorization": f"Bearer {self.key}"},
        )
        if answer.status_code != 200:
            raise DemoError(f"the read API answered {answer.status_code}: {answer.text[:200]}")
        rows: Rows = answer.json()["invoices"]
        return rows

    def _measure(self, act: Callable[[], object], shown: Callable[[], Shown]) -> Shown:
        """Act, and watch until what is shown differs; returns what it then shows."""
        before = shown()
        began = time.monotonic()
        act()
        while time.monotonic() - began < SHOWN_SECONDS:
            now = shown()
            if now != before:
                self.lags.append((time.monotonic() - began) * 1000)
                return now
            # How finely the time to the change is measured.
            time.sleep(0.004)
        self.stage.check()
        raise DemoError(f"a change did not show within {SHOWN_SECONDS:.0f} s. Logs: {self.stage.home}/logs")

    def _tell(self, title: str, lines: list[tuple[str, str, str]]) -> None:
        self.stage.console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
        self.stage.console.print(f"  shown after {self.lags[-1]:.0f} ms")
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("", "before", "after"):
            table.add_column(name)
        for line in lines:
            table.add_row(*map(escape, line))
        self.stage.console.print(table)

    def _look(self) -> None:
        """One company's invoices, as a table."""
        company = self._company_with_open_invoice()
        rows = self.read("companies", company["id"], 8)
        self.stage.copper = f"{self.stage.copper}#/organization/{company['id']}"
        self.stage.console.print(f"\n[bold]{escape(company['name'])}[/bold], company {company['id']} in Copper:")
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for name in ("number", "status", "issuer", "due"):
            table.add_column(name)
        table.add_column("total due", justify="right")
        table.add_column("balance due", justify="right")
        for row in rows:
            table.add_row(
                escape(row["number"] or "(no number)"),
                status(row["status"]),
                escape(row["issuer"]),
                row["due_date"] or "",
                f"{row['currency']} {row['total_due']}",
                row["balance_due"],
            )
        self.stage.console.print(table)

    def _records(self, kind: str) -> list[dict[str, Any]]:
        return list(self.world["records"][kind])

    def _company_with_open_invoice(self) -> dict[str, Any]:
        for company in self._records("company"):
            if self._open_invoice(company["id"]):
                return company
        raise DemoError("no company of the sandbox has an open invoice: remove .patina and start again")

    def _open_invoice(self, company_id: int) -> dict[str, Any] | None:
        rows = self.read("companies", company_id)
        return next((row for row in rows if row["status"] == "AUTHORISED"), None)

    def _pay(self) -> None:
        company = self._company_with_open_invoice()
        open_one = self._open_invoice(company["id"])
        assert open_one is not None

        def row() -> Shown:
            found = [one for one in self.read("companies", company["id"]) if one["id"] == open_one["id"]]
            return (status(found[0]["status"]), f"{found[0]['currency']} {found[0]['balance_due']}")

        before = row()
        after = self._measure(lambda: self._act("pay_invoice", invoice=open_one["id"]), row)
        self._tell(
            f"Xero: {open_one['number']} of {company['name']} is paid",
            [("status", before[0], after[0]), ("balance due", before[1], after[1])],
        )

    def _person_with_invoices(self, *, other_than: int | None = None) -> dict[str, Any]:
        for person in self._records("person"):
            if person["company_id"] and person["id"] != other_than and self.read("people", person["id"], 1):
                return person
        raise DemoError("no person of the sandbox shows an invoice: remove .patina and start again")

    def _change_address(self) -> None:
        person = self._person_with_invoices()
        company_id, old = person["company_id"], person["emails"]
        stranger = "walkin1@mail.test"

        def shown() -> Shown:
            return (self._numbers("people", person["id"]), self._numbers("companies", company_id))

        def change(emails: list[str]) -> Callable[[], object]:
            return lambda: self._act("change_record", type="person", id=person["id"], emails=emails)

        before = shown()
        after = self._measure(change([stranger]), shown)
        self._tell(
            f"Copper: {person['name']} gets the email address of a walk-in customer",
            [(person["name"], before[0], after[0]), ("their company", before[1], after[1])],
        )
        self._undo(change(old), shown, before)

    def _move(self) -> None:
        person = self._person_with_invoices()
        home = person["company_id"]
        company = {one["id"]: one["name"] for one in self._records("company")}
        target = next(one for one in company if one != home and not self.read("companies", one, 1))

        def shown() -> Shown:
            return (self._numbers("companies", home), self._numbers("companies", target))

        def move(to: int) -> Callable[[], object]:
            return lambda: self._act("move_person", person=person["id"], company=to)

        before = shown()
        after = self._measure(move(target), shown)
        self._tell(
            f"Copper: {person['name']} moves from {company[home]} to {company[target]}",
            [(company[home], before[0], after[0]), (company[target], before[1], after[1])],
        )
        self._undo(move(home), shown, before)

    def _numbers(self, plural: str, record_id: int) -> str:
        rows = self.read(plural, record_id)
        numbers = [row["number"] or "(no number)" for row in rows[:2]]
        return ", ".join(numbers) + (f" and {len(rows) - 2} more" if len(rows) > 2 else "") or "none"

    def _undo(self, act: Callable[[], object], shown: Callable[[], Shown], wanted: Shown) -> None:
        """Put things back, so that the next run starts from the same state."""
        act()
        until = time.monotonic() + SHOWN_SECONDS
        while shown() != wanted:
            if time.monotonic() > until:
                raise DemoError("a change that was taken back did not show")
            time.sleep(0.01)
