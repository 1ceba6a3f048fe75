"""A whole Patina with both vendors, for tests that read as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx

from store import accounts, inbox, projection, runs
from store import links as by_hand
from store.database import transaction
from store.drift import added
from store.models import RecordType
from store.projection import Comparison
from store.runs import Run
from tests.model import expected
from tests.serving import http_client, wait_until
from worker import connect, events, heartbeat, jobs, projecting, sync
from worker.steps import Kind
from worker.xero import loopback

NEW_ZEALAND = "NEWZEALANDSTANDARDTIME"
ZONES = {
    NEW_ZEALAND: "Pacific/Auckland",
    "GMTSTANDARDTIME": "Europe/London",
    "PACIFICSTANDARDTIME": "America/Los_Angeles",
    "LINEISLANDSSTANDARDTIME": "Pacific/Kiritimati",
    "UTC11": "Pacific/Niue",
}
PLURAL = {"lead": "leads", "person": "people", "company": "companies", "opportunity": "opportunities"}


def _day(zone: ZoneInfo, seconds_ahead: float = 0) -> date:
    return (datetime.now(zone) + timedelta(seconds=seconds_ahead)).date()


class Sandbox:
    """The sandbox, acted upon as users of Xero and Copper would."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = http_client(url)

    def control(self, method: str, path: str, **more: Any) -> Any:
        answer = self.http.request(method, f"/control/{path}", **more)
        assert answer.status_code < 400, answer.text
        return answer.json()

    def act(self, action: str, /, **values: Any) -> dict[str, Any]:
        told: dict[str, Any] = self.control("POST", f"act/{action}", json=_jsonable(values))
        return told

    def state(self) -> dict[str, Any]:
        told: dict[str, Any] = self.control("GET", "state")
        return told

    def faults(self, *, api: Any = (), filters: Any = (), webhooks: Any = (), seed: int | None = None) -> None:
        wanted = {"api": list(api), "filters": list(filters), "webhooks": list(webhooks), "seed": seed}
        self.control("PUT", "faults", json=wanted)

    def calls(self, containing: str) -> int:
        return sum(count for path, count in self.state()["calls"].items() if containing in path)


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, UUID) else value for key, value in values.items()}


@dataclass
class Invoice:
    id: str
    number: str
    contact: str


@dataclass
class World:
    """One account with its Copper and one Xero organisation; more organisations on request."""

    sandbox: Sandbox
    web: httpx.Client
    workers: bool = False
    account: int = 0
    copper: int = 0
    key: str = ""
    tenants: list[str] = field(default_factory=list)
    time_zones: list[str] = field(default_factory=list)
    xero_user: str = ""
    contacts: dict[str, str] = field(default_factory=dict)
    companies: dict[str, int] = field(default_factory=dict)
    links: set[tuple[str, int, str]] = field(default_factory=set)

    def open(self, *, organisations: int = 1, name: str = "Acme Sales", time_zones: Sequence[str] = ()) -> World:
        """Open the vendors' accounts and connect them; with `time_zones` (Xero's names), an organisation in each."""
        self.time_zones = list(time_zones) or [NEW_ZEALAND] * organisations
        made = self.sandbox.act("add_account", name=name)
        self.copper = made["account"]
        self.account = connect.connect_copper(made["api_key"], made["email"], by_operator=True)
        self.key = connect.make_key(self.account, "test")
        self.tenants = [
            self.sandbox.act("add_organisation", name=f"{name} Ltd {number}", currency="NZD", timezone=time_zone)[
                "tenant"
            ]
            for number, time_zone in enumerate(self.time_zones, 1)
        ]
        self.authorise(self.tenants)
        self.backfill()
        self.beat()
        return self

    def beat(self) -> None:
        """Count worker and scheduler as up: the test does their work itself."""
        for process in ("worker", "scheduler"):
            heartbeat.beat(process)

    def authorise(self, tenants: list[str]) -> None:
        """Connect Xero organisations by the real OAuth path."""
        user = self.xero_user or f"user{self.account}@xero.test"
        self.sandbox.control("PUT", "app", json={"consent_to": tenants, "auto_consent": True, "consent_as": user})
        token = loopback.authorise(0, auto=True, say=print)
        connect.connect_xero(self.account, token)

    def listen(self) -> None:
        """Have Xero post to this web process; its intent to receive must pass."""
        self.sandbox.control("PUT", "app", json={"webhook_url": f"{self.web.base_url}/webhooks/xero"})
        assert self.sandbox.control("POST", "webhooks/enable")["webhook_status"] == "ok"

    def listen_again(self) -> None:
        """Have Xero post to this web process from its next try on."""
        self.sandbox.control("PUT", "app", json={"webhook_url": f"{self.web.base_url}/webhooks/xero"})

    def today(self, organisation: int = 0) -> date:
        """The date where an organisation is, which stays the same for the next minute."""
        zone = ZoneInfo(ZONES[self.time_zones[organisation]])
        wait_until(lambda: _day(zone, 60) == _day(zone), seconds=70, what="midnight")
        return _day(zone)

    # what users do

    def contact(self, name: str, email: str = "", people: list[str] | None = None, organisation: int = 0) -> str:
        made = self.sandbox.act(
            "make_contact", name=name, email=email, people=people or [], tenant=self.tenants[organisation]
        )
        self.contacts.setdefault(email.strip().casefold(), made["contact"])
        return str(made["contact"])

    def invoice(self, contact: str, total: str = "115.00", organisation: int = 0, **more: Any) -> Invoice:
        """An invoice for a contact, given by its id, or by an address: then the contact is made if need be."""
        if "@" in contact:
            known = self.contacts.get(contact.casefold())
            contact = known or self.contact(contact, contact, organisation=organisation)
        made = self.sandbox.act("make_invoice", contact=contact, total=total, **more)
        return Invoice(made["invoice"], made["number"], contact)

    def person(self, *emails: str, company: int | None = None) -> int:
        return self._record("person", emails=list(emails), company=company)

    def lead(self, *emails: str) -> int:
        return self._record("lead", emails=list(emails))

    def company(self) -> int:
        return self._record("company")

    def opportunity(self, *, company: int | None = None, person: int | None = None) -> int:
        return self._record("opportunity", company=company, primary_contact=person)

    def _record(self, kind: str, **values: Any) -> int:
        made = self.sandbox.act("make_record", type=kind, name=f"A {kind}", account=self.copper, **values)
        return int(made["id"])

    def relate(self, opportunity: int, kind: str, other: int) -> None:
        """Relate, and touch the opportunity, as Copper does not tell of relations alone."""
        self.copper_act("relate", type="opportunity", id=opportunity, to_type=kind, to_id=other)
        self.copper_act("change_record", type="opportunity", id=opportunity, name="touched")

    def link(self, kind: str, record_id: int, contact: str, organisation: int = 0) -> None:
        """Link a contact to a record by hand."""
        with transaction() as session:
            by_hand.link(session, self.account, self._link(kind, record_id, contact, organisation), "Ada Admin")
        self.links.add((kind, record_id, contact))

    def unlink(self, kind: str, record_id: int, contact: str, organisation: int = 0) -> None:
        with transaction() as session:
            assert by_hand.unlink(session, self.account, self._link(kind, record_id, contact, organisation))
        self.links.remove((kind, record_id, contact))

    def _link(self, kind: str, record_id: int, contact: str, organisation: int) -> by_hand.Link:
        with transaction() as session:
            place = accounts.organisations(session, self.account)[organisation].id
        return by_hand.Link(place, UUID(contact), RecordType(kind), record_id)

    def copper_act(self, action: str, /, **values: Any) -> dict[str, Any]:
        return self.sandbox.act(action, account=self.copper, **values)

    # what Patina does

    def settle(self) -> None:
        """Let every webhook arrive and every event be applied and projected."""
        wait_until(lambda: self.sandbox.state()["waiting"] == 0, what="delivery of all webhooks")
        if self.workers:
            wait_until(self.quiet, seconds=60, what="the workers' quiet")
            return
        while not self.quiet():
            with transaction() as session:
                sources, dirty = inbox.waiting(session), projection.waiting(session)
            for source in sources:
                self._finish(events.drain(source).catch_up.run)
            for account in dirty:
                projecting.project(account)

    def _finish(self, run: Run | None) -> None:
        """See the catch-up end that events asked for."""
        while run is not None and sync.step(run.account_id, run.id).more:
            pass

    def settle_without_end(self) -> None:
        """Let every webhook arrive and have the workers look once: some events may have to wait."""
        wait_until(lambda: self.sandbox.state()["waiting"] == 0, what="delivery of all webhooks")
        with transaction() as session:
            sources = inbox.waiting(session)
        for source in sources:
            events.drain(source)

    def quiet(self) -> bool:
        with transaction() as session:
            return not inbox.open_count(session, self.account) and self.account not in projection.waiting(session)

    def backfill(self) -> None:
        """Fetch everything again."""
        self.run(Kind.BACKFILL)

    def catch_up(self) -> None:
        """Fetch what changed since the last time."""
        self.run(Kind.CATCH_UP)

    def reconcile(self, *, dry: bool = False) -> dict[str, dict[str, int]]:
        """Hold everything against the vendors; returns the drift, by kind, where there was any."""
        found = added(*[run.drift for run in self.run(Kind.DRY_RUN if dry else Kind.RECONCILIATION)])
        return {kind: rows for kind, rows in found.items() if any(rows.values())}

    def run(self, kind: Kind, *, seconds: float = 60) -> list[Run]:
        """Begin runs of all sources and see them end, in this process or by the workers within `seconds`."""
        began = sync.begin(self.account, kind)
        ids = [run.id for run in began]
        if self.workers:
            for run in began:
                jobs.wake_run(run)
            wait_until(lambda: all(one.state == "done" for one in self.runs(ids)), seconds=seconds, what=f"the {kind}")
            return self.runs(ids)
        for run in began:
            while sync.step(run.account_id, run.id).more:
                pass
        ended = self.runs(ids)
        assert all(one.state == "done" for one in ended), ended
        return ended

    def run_once(self, kind: Kind) -> None:
        """Begin runs of all sources and take their steps as far as they go."""
        for run in sync.begin(self.account, kind):
            while sync.step(run.account_id, run.id).more and self.runs([run.id])[0].error is None:
                pass

    def runs(self, ids: list[int] | None = None) -> list[Run]:
        with transaction() as session:
            return runs.recent(session, self.account, ids)

    def read(self, plural: str, record_id: int, **query: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return self.web.get(f"/v1/{plural}/{record_id}/invoices", params=query, headers=headers)

    def rows(self, plural: str, record_id: int, **query: Any) -> list[dict[str, Any]]:
        """Every row of a record, page by page."""
        rows: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            answer = self.read(plural, record_id, **{"limit": 200, **query, **after})
            assert answer.status_code == 200, answer.text
            rows += answer.json()["invoices"]
            if not (following := answer.json()["next"]) or "limit" in query:
                return rows
            after = {"after": following}

    def shown(self, plural: str, record_id: int) -> list[str]:
        """The numbers that a record shows, newest first."""
        return [row["number"] for row in self.rows(plural, record_id)]

    def rows_of(self, kind: str) -> list[int]:
        """The account's records of a type in the sandbox."""
        world = self.sandbox.control("GET", "world", params={"account": self.copper})
        return [one["id"] for one in world["records"][kind]]

    def compare(self) -> Comparison:
        with transaction() as session:
            return projection.compare(session, self.account)

    def pass_time(self, hours: float = 1.0) -> None:
        """Let the vendors' clock run ahead, so that no event can still be on its way."""
        ahead = self.sandbox.state()["clock_ahead"] + hours * 3_600
        self.sandbox.control("PUT", "clock", json={"ahead": ahead})

    def check(self) -> None:
        """The read model equals a rebuild, the mirror equals the vendors, the records what plain Python says."""
        self.check_rows()
        self.pass_time()
        assert self.reconcile(dry=True) == {}

    def check_rows(self) -> None:
        """The read model equals a rebuild, and every record shows what the rules in plain Python say."""
        found = self.compare()
        assert found.clean, found
        account = self.sandbox.control("GET", "world", params={"account": self.copper})
        books = [self.sandbox.control("GET", "world", params={"tenant": tenant}) for tenant in self.tenants]
        for (kind, record_id), wanted in expected(account, books, self.links).items():
            rows = self.rows(PLURAL[kind], record_id)
            got = {row["id"]: (row["status"], row["balance_due"]) for row in rows}
            assert got == wanted, f"{kind} {record_id} shows {got.items() ^ wanted.items()} wrongly"
            assert len(rows) == len(got)
            assert rows == sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)
