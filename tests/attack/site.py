"""An installation under attack: its processes, two tenants, and clients with addresses of their own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import structlog
from sqlalchemy import CursorResult, text
from typer.testing import CliRunner

import cli
from runtime.settings import settings
from store.database import transaction
from tests.admin import AdminBrowser
from tests.attack.settings import HOST
from tests.serving import wait_until
from tests.world import Sandbox, World
from worker import connect
from worker.broker import client as redis_client

# Every address of 127.0.0.0/8 leads to this machine: each client can have one of its own.
_numbers = itertools.count(1)
_guard = threading.Lock()


def new_address() -> str:
    """A loopback address that nobody has used yet."""
    with _guard:
        number = next(_numbers)
    return f"127.9.{number // 250}.{number % 250 + 1}"


class Visitor(AdminBrowser):
    """A browser at an address of its own."""

    def __init__(self, site: Site, address: str = "") -> None:
        self.http = site.client(address, timeout=30, headers={"accept": "text/html"})
        self.page: httpx.Response | None = None


@dataclass
class Tenant:
    """An account with what its users and its Copper know: an admin's key, a panel token, a record with an invoice."""

    world: World
    copper_key: str
    email: str
    panel: str
    admin_key: str
    person: int
    invoice: str

    @property
    def account(self) -> int:
        """Its id."""
        return self.world.account

    @property
    def panel_headers(self) -> dict[str, str]:
        """How its panel says whose it is."""
        return {"authorization": f"Bearer {self.panel}"}

    @property
    def admin_headers(self) -> dict[str, str]:
        """How its programs say whose they are where they may do everything."""
        return {"authorization": f"Bearer {self.admin_key}"}

    @property
    def key_headers(self) -> dict[str, str]:
        """How its programs say whose they are where they only read."""
        return {"authorization": f"Bearer {self.world.key}"}


@dataclass
class Site:
    """Everything that attacks need.

    `proxy` and `plain_proxy` are nginx before the web process, with TLS and without; None where there is none. `usual`
    says how many seconds another tenant waits when nobody attacks.
    """

    home: Path
    sandbox: Sandbox
    url: str
    workers: bool
    proxy: str | None = None
    plain_proxy: str | None = None
    web_process: psutil.Process | None = None
    tenants: dict[str, Tenant] = field(default_factory=dict)
    filled: set[int] = field(default_factory=set)
    usual: dict[str, float] = field(default_factory=dict)

    @property
    def ours(self) -> Tenant:
        """The tenant whom the attacker wants to harm."""
        return self._tenant("Ours")

    @property
    def theirs(self) -> Tenant:
        """The tenant whom the attacker is."""
        return self._tenant("Theirs")

    def open_both(self) -> None:
        """Connect both tenants, so that no attack has to wait for that."""
        assert self.ours.account != self.theirs.account

    def _tenant(self, name: str) -> Tenant:
        if name not in self.tenants:
            self.tenants[name] = self.open_tenant(name)
        return self.tenants[name]

    def open_tenant(self, name: str) -> Tenant:
        """Connect another account, as an operator would, with a person who has an invoice."""
        web = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        world = World(self.sandbox, web, workers=self.workers).open(name=name)
        held = next(one for one in self.sandbox.state()["accounts"] if one["account"] == world.copper)
        address = f"ann@{name.lower().replace(' ', '-')}.test"
        person, invoice = world.person(address), world.invoice(address)
        world.settle()
        panel = connect.make_key(world.account, "the panel", ["panel"])
        admin = connect.make_key(world.account, "everything", ["admin"])
        return Tenant(world, held["api_key"], held["email"], panel, admin, person, invoice.id)

    def client(self, address: str = "", *, timeout: float = 10, url: str = "", **more: Any) -> httpx.Client:
        """An HTTP client at a loopback address of its own, or at a given one."""
        transport = httpx.HTTPTransport(local_address=address or new_address(), verify=False)
        return httpx.Client(base_url=url or self.url, timeout=timeout, transport=transport, trust_env=False, **more)

    def through_nginx(self) -> httpx.Client:
        """A client that comes by nginx, under the name that its configuration has."""
        return self.client(url=self.proxy or self.url, headers={"host": HOST})

    def admin(self, tenant: Tenant) -> Visitor:
        """A browser in which the tenant's admin is signed in."""
        visitor = Visitor(self)
        visitor.sign_in(tenant.copper_key, tenant.email)
        return visitor

    def log(self, process: str = "web") -> str:
        """What a process has logged so far."""
        path = self.home / f"{process}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @contextmanager
    def faults(self, *api: Mapping[str, object]) -> Iterator[None]:
        """Vendors that misbehave until the block ends."""
        self.sandbox.faults(api=list(api))
        try:
            yield
        finally:
            self.sandbox.faults()

    def is_ready(self) -> bool:
        """Whether the web process answers pages at once."""
        with self.client(timeout=5) as client, suppress(httpx.HTTPError):
            return client.get("/connect").status_code == 200
        return False

    def recover(self) -> None:
        """Between attacks: vendors behave, nobody's tries count any more, and pages are answered again."""
        self.sandbox.faults()
        keys = list(redis_client().scan_iter(f"*{settings().redis_namespace}:throttle*", count=1_000))
        if keys:
            redis_client().delete(*keys)
        with suppress(AssertionError):
            wait_until(self.is_ready, seconds=30, what="the web process")


def query(statement: str, **params: object) -> list[Any]:
    """Rows, as the database's owner sees them."""
    with transaction() as session:
        result = cast("CursorResult[Any]", session.execute(text(statement), params))
        return list(result.all()) if result.returns_rows else []


def rows_of(account: int) -> dict[str, int]:
    """How many rows each table has of an account, where it has any."""
    tables = query(
        "SELECT c.table_name FROM information_schema.columns c JOIN information_schema.tables t"
        " ON t.table_name = c.table_name AND t.table_schema = c.table_schema AND t.table_type = 'BASE TABLE'"
        " WHERE c.column_name = 'account_id' AND c.table_schema = 'public' ORDER BY 1"
    )
    counts = {
        name: int(query(f"SELECT count(*) FROM {name} WHERE account_id = :account", account=account)[0][0])
        for (name,) in tables
    }
    return {name: count for name, count in counts.items() if count}


def command(*words: str) -> str:
    """Run a `patina` command, agreeing to what it asks; returns all that it said."""
    logging = structlog.get_config()
    try:
        result = CliRunner().invoke(cli.app, words, input="y\n")
    finally:
        # A command sets up its own log, which would write between our lines.
        structlog.configure(**logging)
    failure = "" if result.exception is None else f"\n{type(result.exception).__name__}: {result.exception}"
    return f"{result.output}{failure}"


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Do something several times at once; an HTTP error is a result."""

    def tried(number: int) -> Any:
        try:
            return work(number)
        except httpx.HTTPError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(tried, range(count)))


def slowest(work: Callable[[], httpx.Response], *, seconds: float = 4.0, pause: float = 0.1) -> tuple[float, list[str]]:
    """Ask again and again for some seconds: the longest wait in seconds, and each answer that was no success."""
    longest, troubles = 0.0, []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            answer = work()
            if not answer.is_success:
                troubles.append(str(answer.status_code))
        except httpx.HTTPError as error:
            troubles.append(type(error).__name__)
        longest = max(longest, time.monotonic() - began)
        time.sleep(pause)
    return longest, troubles


def events(log: str) -> list[dict[str, Any]]:
    """The lines of a log that are JSON objects."""
    found = []
    for line in log.splitlines():
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found


def is_root() -> bool:
    """Whether this process may do everything on this machine."""
    return os.geteuid() == 0


def program(name: str) -> str | None:
    """The path of a program, also where administrators have theirs."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
