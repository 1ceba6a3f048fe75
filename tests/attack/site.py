"""An installation under attack: its processes, two tenants, and clients with separate addresses."""

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
from runtime.redis_client import shared_client as redis_client
from runtime.settings import settings
from services import access
from store.db.database import transaction
from tests.attack.settings import HOST
from tests.support.admin import AdminBrowser
from tests.support.serving import wait_until
from tests.support.world import Sandbox, World

# Every address of 127.0.0.0/8 is on this machine, so each client can have its own.
_numbers = itertools.count(1)
_guard = threading.Lock()


def new_address() -> str:
    """An unused loopback address."""
    with _guard:
        number = next(_numbers)
    return f"127.9.{number // 250}.{number % 250 + 1}"


class Visitor(AdminBrowser):
    """A browser with its own address."""

    def __init__(self, site: Site, address: str = "") -> None:
        self.http = site.client(address, timeout=30, headers={"accept": "text/html"})
        self.page: httpx.Response | None = None


@dataclass
class Tenant:
    """An account, its admin's key, a panel token, and a record with an invoice."""

    world: World
    copper_key: str
    email: str
    panel: str
    admin_key: str
    person: int
    invoice: str

    @property
    def account(self) -> int:
        """The account id."""
        return self.world.account

    @property
    def panel_headers(self) -> dict[str, str]:
        """The headers of its panel."""
        return {"authorization": f"Bearer {self.panel}"}

    @property
    def admin_headers(self) -> dict[str, str]:
        """The headers with an admin key."""
        return {"authorization": f"Bearer {self.admin_key}"}

    @property
    def key_headers(self) -> dict[str, str]:
        """The headers with a read key."""
        return {"authorization": f"Bearer {self.world.key}"}


@dataclass
class Site:
    """The environment of the attacks.

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
    def victim(self) -> Tenant:
        """The tenant that the attacks target."""
        return self._tenant("Victim")

    @property
    def attacker(self) -> Tenant:
        """The hostile tenant."""
        return self._tenant("Attacker")

    def open_both(self) -> None:
        """Connect both tenants in advance, so that no attack has to wait for that."""
        assert self.victim.account != self.attacker.account

    def _tenant(self, name: str) -> Tenant:
        if name not in self.tenants:
            self.tenants[name] = self.open_tenant(name)
        return self.tenants[name]

    def open_tenant(self, name: str) -> Tenant:
        """Connect another account as an operator, with a person who has an invoice."""
        web = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        world = World(self.sandbox, web, workers=self.workers).open(name=name)
        account = next(account for account in self.sandbox.state()["accounts"] if account["account"] == world.copper)
        address = f"ann@{name.lower().replace(' ', '-')}.test"
        person, invoice = world.person(address), world.invoice(address)
        world.settle()
        panel = access.create_key(world.account, "the panel", ["panel"])
        admin = access.create_key(world.account, "everything", ["admin"])
        return Tenant(world, account["api_key"], account["email"], panel, admin, person, invoice.id)

    def client(self, address: str = "", *, timeout: float = 10, url: str = "", **options: Any) -> httpx.Client:
        """An HTTP client with a new loopback address, or with a given one."""
        transport = httpx.HTTPTransport(local_address=address or new_address(), verify=False)
        return httpx.Client(base_url=url or self.url, timeout=timeout, transport=transport, trust_env=False, **options)

    def through_nginx(self) -> httpx.Client:
        """A client that connects through nginx, with the host name of its configuration."""
        return self.client(url=self.proxy or self.url, headers={"host": HOST})

    def admin(self, tenant: Tenant) -> Visitor:
        """A browser with the tenant's admin signed in."""
        visitor = Visitor(self)
        visitor.sign_in(tenant.copper_key, tenant.email)
        return visitor

    def log(self, process: str = "web") -> str:
        """The log of a process so far."""
        path = self.home / f"{process}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @contextmanager
    def faults(self, *api: Mapping[str, object]) -> Iterator[None]:
        """Inject vendor faults until the block ends."""
        self.sandbox.faults(api=list(api))
        try:
            yield
        finally:
            self.sandbox.faults()

    def is_ready(self) -> bool:
        """Whether the web process serves pages at once."""
        with self.client(timeout=5) as client, suppress(httpx.HTTPError):
            return client.get("/connect").status_code == 200
        return False

    def recover(self) -> None:
        """Reset faults and rate limits between attacks, and wait until the web process is ready."""
        self.sandbox.faults()
        keys = list(redis_client().scan_iter(f"*{settings().redis_namespace}:throttle*", count=1_000))
        if keys:
            redis_client().delete(*keys)
        with suppress(AssertionError):
            wait_until(self.is_ready, seconds=30, description="the web process")


def query(statement: str, **params: object) -> list[Any]:
    """Execute a statement as the database's owner."""
    with transaction() as session:
        result = cast("CursorResult[Any]", session.execute(text(statement), params))
        return list(result.all()) if result.returns_rows else []


def rows_of(account: int) -> dict[str, int]:
    """The number of an account's rows by table, without empty tables."""
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


def command(*arguments: str) -> str:
    """Run a `patina` command, confirming its questions; returns its output."""
    logging = structlog.get_config()
    try:
        result = CliRunner().invoke(cli.app, arguments, input="y\n")
    finally:
        # A command configures its own logging, which would mix with our output.
        structlog.configure(**logging)
    failure = "" if result.exception is None else f"\n{type(result.exception).__name__}: {result.exception}"
    return f"{result.output}{failure}"


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call a function several times in parallel; HTTP errors are returned as results."""

    def attempt(number: int) -> Any:
        try:
            return work(number)
        except httpx.HTTPError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(attempt, range(count)))


def slowest(work: Callable[[], httpx.Response], *, seconds: float = 4.0, pause: float = 0.1) -> tuple[float, list[str]]:
    """Repeat a request for some seconds; returns the maximum latency in seconds, and the failures."""
    max_seconds, errors = 0.0, []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            response = work()
            if not response.is_success:
                errors.append(str(response.status_code))
        except httpx.HTTPError as error:
            errors.append(type(error).__name__)
        max_seconds = max(max_seconds, time.monotonic() - started)
        time.sleep(pause)
    return max_seconds, errors


def events(log: str) -> list[dict[str, Any]]:
    """The JSON lines of a log."""
    parsed = []
    for line in log.splitlines():
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                parsed.append(value)
    return parsed


def is_root() -> bool:
    """Whether this process runs as root."""
    return os.geteuid() == 0


def program(name: str) -> str | None:
    """The path of a program, also in the folders for administrators."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
