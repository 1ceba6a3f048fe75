"""A complete Patina installation with both vendors, with helpers that let tests read as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx

from services import access, connect
from store.accounts import account_settings, xero_organisations
from store.db.database import account_transaction, transaction
from store.db.enums import RecordType, RunState
from store.ingest import inbox
from store.ingest.inbox import SyncSource
from store.mirror.drift import merge_reports
from store.read_model import contact_links, email_domains, field_values, invoice_pins, projection
from store.read_model.projection import Comparison
from store.sync import runs
from store.sync.runs import Run
from tests.support.reference_model import expected_invoices
from tests.support.serving import http_client, wait_until
from worker.jobs import actors, heartbeat
from worker.sync import event_processor, projector, run_processor
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import cli_oauth

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
    """A client of the sandbox's control API, which simulates users of Xero and Copper."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = http_client(url)

    def control(self, method: str, path: str, **options: Any) -> Any:
        response = self.http.request(method, f"/control/{path}", **options)
        assert response.status_code < 400, response.text
        return response.json()

    def simulate(self, action: str, /, **values: Any) -> dict[str, Any]:
        payload: dict[str, Any] = self.control("POST", f"actions/{action}", json=_jsonable(values))
        return payload

    def state(self) -> dict[str, Any]:
        payload: dict[str, Any] = self.control("GET", "state")
        return payload

    def faults(self, *, api: Any = (), filters: Any = (), webhooks: Any = (), seed: int | None = None) -> None:
        settings = {"api": list(api), "filters": list(filters), "webhooks": list(webhooks), "seed": seed}
        self.control("PUT", "faults", json=settings)

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
    """An account with its Copper account and one or more Xero organisations."""

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
    pins: set[tuple[int, str]] = field(default_factory=set)
    shows_pinned_only: bool = False
    matches_email_domain: bool = False

    def open(self, *, organisations: int = 1, name: str = "Acme Sales", time_zones: Sequence[str] = ()) -> World:
        """Create the vendors' accounts and connect them; with `time_zones` (Xero's names), an organisation in each."""
        self.time_zones = list(time_zones) or [NEW_ZEALAND] * organisations
        copper_account = self.sandbox.simulate("add_account", name=name)
        self.copper = copper_account["account"]
        self.account = connect.connect_copper(copper_account["api_key"], copper_account["email"], by_operator=True)
        self.key = access.create_key(self.account, "test")
        self.tenants = [
            self.sandbox.simulate("add_organisation", name=f"{name} Ltd {number}", currency="NZD", timezone=time_zone)[
                "tenant"
            ]
            for number, time_zone in enumerate(self.time_zones, 1)
        ]
        self.authorise(self.tenants)
        self.backfill()
        self.record_heartbeats()
        return self

    def record_heartbeats(self) -> None:
        """Record heartbeats of worker and scheduler, whose work the test itself does."""
        for process in ("worker", "scheduler"):
            heartbeat.record(process)

    def authorise(self, tenants: list[str]) -> None:
        """Connect Xero organisations through the real OAuth flow."""
        user = self.xero_user or f"user{self.account}@xero.test"
        self.sandbox.control(
            "PUT", "app", json={"consent_tenant_ids": tenants, "auto_consent": True, "consent_user": user}
        )
        token = cli_oauth.authorise(0, auto=True, echo=print)
        connect.connect_xero(self.account, token)

    def enable_xero_webhook(self) -> None:
        """Make Xero send its webhooks to this web process, which must pass the intent to receive."""
        self.sandbox.control("PUT", "app", json={"webhook_url": f"{self.web.base_url}/webhooks/xero"})
        assert self.sandbox.control("POST", "webhooks/enable")["webhook_status"] == "ok"

    def move_xero_webhook(self) -> None:
        """Make Xero send its next attempts to this web process."""
        self.sandbox.control("PUT", "app", json={"webhook_url": f"{self.web.base_url}/webhooks/xero"})

    def today(self, organisation: int = 0) -> date:
        """The date in an organisation's time zone; waits for midnight if it would change within a minute."""
        zone = ZoneInfo(ZONES[self.time_zones[organisation]])
        wait_until(lambda: _day(zone, 60) == _day(zone), seconds=70, description="midnight")
        return _day(zone)

    # Actions of users

    def contact(self, name: str, email: str = "", people: list[str] | None = None, organisation: int = 0) -> str:
        contact = self.sandbox.simulate(
            "create_contact", name=name, email=email, person_emails=people or [], tenant=self.tenants[organisation]
        )
        self.contacts.setdefault(email.strip().casefold(), contact["contact"])
        return str(contact["contact"])

    def invoice(self, contact: str, total: str = "115.00", organisation: int = 0, **values: Any) -> Invoice:
        """Create an invoice for a contact, given by its id or email address; creates the contact if it is new."""
        if "@" in contact:
            contact_id = self.contacts.get(contact.casefold())
            contact = contact_id or self.contact(contact, contact, organisation=organisation)
        created = self.sandbox.simulate("create_invoice", contact=contact, total=total, **values)
        return Invoice(created["invoice"], created["number"], contact)

    def person(self, *emails: str, company: int | None = None) -> int:
        return self._record("person", emails=list(emails), company=company)

    def lead(self, *emails: str) -> int:
        return self._record("lead", emails=list(emails))

    def company(self, domain: str | None = None) -> int:
        company = self._record("company")
        if domain is not None:
            self.simulate_copper("set_field", type="company", id=company, field="email_domain", value=domain)
        return company

    def opportunity(self, *, company: int | None = None, person: int | None = None) -> int:
        return self._record("opportunity", company=company, primary_contact=person)

    def _record(self, record_type: str, **values: Any) -> int:
        created = self.sandbox.simulate(
            "create_record", type=record_type, name=f"A {record_type}", account=self.copper, **values
        )
        return int(created["id"])

    def relate(self, opportunity: int, record_type: str, record_id: int) -> None:
        """Relate a record and touch the opportunity, because Copper sends no webhook for relations."""
        self.simulate_copper("relate", type="opportunity", id=opportunity, to_type=record_type, to_id=record_id)
        self.simulate_copper("update_record", type="opportunity", id=opportunity, name="touched")

    def link(self, record_type: str, record_id: int, contact: str, organisation: int = 0) -> None:
        """Link a contact to a record manually."""
        with transaction() as session:
            contact_links.add(
                session, self.account, self._link(record_type, record_id, contact, organisation), "Ada Admin"
            )
        self.links.add((record_type, record_id, contact))

    def unlink(self, record_type: str, record_id: int, contact: str, organisation: int = 0) -> None:
        with transaction() as session:
            assert contact_links.remove(
                session, self.account, self._link(record_type, record_id, contact, organisation)
            )
        self.links.remove((record_type, record_id, contact))

    def pin(self, opportunity: int, invoice: Invoice) -> None:
        """Pin an invoice to an opportunity."""
        with transaction() as session:
            invoice_pins.add(session, self.account, UUID(invoice.id), opportunity, "Ada Admin")
        self.pins.add((opportunity, invoice.id))

    def unpin(self, opportunity: int, invoice: Invoice) -> None:
        with transaction() as session:
            assert invoice_pins.remove(session, self.account, UUID(invoice.id), opportunity)
        self.pins.remove((opportunity, invoice.id))

    def show_pinned_only(self, *, is_on: bool = True) -> None:
        """Let opportunities show pinned invoices only, as the settings page does."""
        with account_transaction(self.account) as session:
            before = account_settings.get_for_update(session, self.account)
            account_settings.update(session, self.account, replace(before, opportunities_show_pinned_only=is_on))
            invoice_pins.mark_opportunities(session, self.account)
        self.shows_pinned_only = is_on

    def _link(self, record_type: str, record_id: int, contact: str, organisation: int) -> contact_links.Link:
        with transaction() as session:
            organisation_id = xero_organisations.list_connected(session, self.account)[organisation].id
        return contact_links.Link(organisation_id, UUID(contact), RecordType(record_type), record_id)

    def match_email_domains(self, *, is_enabled: bool = True) -> None:
        """Turn matching by a company's email domain on or off."""
        with transaction() as session:
            email_domains.set_matching(session, self.account, is_enabled=is_enabled)
        self.matches_email_domain = is_enabled

    def simulate_copper(self, action: str, /, **values: Any) -> dict[str, Any]:
        return self.sandbox.simulate(action, account=self.copper, **values)

    # Actions of Patina

    def settle(self) -> None:
        """Wait until every webhook is delivered, and apply and project every event."""
        wait_until(lambda: self.sandbox.state()["pending_deliveries"] == 0, description="delivery of all webhooks")
        if self.workers:
            wait_until(self.is_idle, seconds=60, description="idle workers")
            return
        while not self.is_idle():
            with transaction() as session:
                sources, pending_accounts = inbox.pending_sources(session), projection.accounts_pending(session)
            for source in sources:
                self._finish(event_processor.drain(source).catch_up.run)
            for account_id in pending_accounts:
                projector.project(account_id)

    def _finish(self, run: Run | None) -> None:
        """Finish the catch-up run that events requested."""
        while run is not None and run_processor.step(run.account_id, run.id).has_more:
            pass

    def settle_once(self) -> None:
        """Wait until every webhook is delivered, and drain each inbox once; some events may remain pending."""
        wait_until(lambda: self.sandbox.state()["pending_deliveries"] == 0, description="delivery of all webhooks")
        with transaction() as session:
            sources = inbox.pending_sources(session)
        for source in sources:
            event_processor.drain(source)

    def is_idle(self) -> bool:
        with transaction() as session:
            return not inbox.count_unfinished(
                session, self.account
            ) and self.account not in projection.accounts_pending(session)

    def backfill(self) -> None:
        """Fetch everything again."""
        self.run(RunKind.BACKFILL)

    def backfill_xero(self) -> None:
        """Fetch everything of the only organisation again, and nothing of Copper."""
        with transaction() as session:
            (organisation,) = xero_organisations.list_connected(session, self.account)
        self._backfill_source(SyncSource(self.account, organisation.id))

    def backfill_copper(self) -> None:
        """Fetch everything of Copper again, and nothing of Xero."""
        self._backfill_source(SyncSource(self.account, 0))

    def _backfill_source(self, source: SyncSource) -> None:
        started = run_processor.start_source_run(source, RunKind.BACKFILL)
        assert started, "the source is connected"
        self._complete(started)

    def catch_up(self) -> None:
        """Fetch what changed since the last run."""
        self.run(RunKind.CATCH_UP)

    def reconcile(self, *, dry: bool = False) -> dict[str, dict[str, int]]:
        """Compare everything with the vendors; returns the drift by record type, without the types that have none."""
        drift = merge_reports(*[run.drift for run in self.run(RunKind.DRY_RUN if dry else RunKind.RECONCILIATION)])
        return {record_type: rows for record_type, rows in drift.items() if any(rows.values())}

    def run(self, run_kind: RunKind, *, seconds: float = 60) -> list[Run]:
        """Start runs of all sources and wait until they finish, in this process or by the workers within `seconds`."""
        return self._complete(run_processor.start_account_runs(self.account, run_kind), seconds)

    def _complete(self, started: list[Run], seconds: float = 60) -> list[Run]:
        ids = [run.id for run in started]
        if self.workers:
            for run in started:
                actors.enqueue_run(run)
            wait_until(
                lambda: all(run.state == RunState.DONE for run in self.runs(ids)),
                seconds=seconds,
                description=f"the {started[0].kind}",
            )
            return self.runs(ids)
        for run in started:
            while run_processor.step(run.account_id, run.id).has_more:
                pass
        finished = self.runs(ids)
        assert all(run.state == RunState.DONE for run in finished), finished
        return finished

    def run_until_error(self, run_kind: RunKind) -> None:
        """Start runs of all sources and execute their steps until they finish or fail."""
        for run in run_processor.start_account_runs(self.account, run_kind):
            while run_processor.step(run.account_id, run.id).has_more and self.runs([run.id])[0].error is None:
                pass

    def runs(self, ids: list[int] | None = None) -> list[Run]:
        with transaction() as session:
            return runs.recent(session, self.account, ids)

    def read(self, plural: str, record_id: int, **query: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return self.web.get(f"/v1/{plural}/{record_id}/invoices", params=query, headers=headers)

    def rows(self, plural: str, record_id: int, **query: Any) -> list[dict[str, Any]]:
        """All rows of a record, fetched page by page."""
        rows: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            response = self.read(plural, record_id, **{"limit": 200, **query, **after})
            assert response.status_code == 200, response.text
            rows += response.json()["invoices"]
            if not (next_cursor := response.json()["next"]) or "limit" in query:
                return rows
            after = {"after": next_cursor}

    def invoice_numbers(self, plural: str, record_id: int) -> list[str]:
        """The numbers of a record's invoices, newest first."""
        return [row["number"] for row in self.rows(plural, record_id)]

    def record_ids(self, record_type: str) -> list[int]:
        """The ids of the account's records of a type, in the sandbox."""
        data = self.sandbox.control("GET", "world", params={"account": self.copper})
        return [record["id"] for record in data["records"][record_type]]

    def compare(self) -> Comparison:
        with transaction() as session:
            return field_values.compare(session, self.account)

    def advance_clock(self, hours: float = 1.0) -> None:
        """Advance the vendors' clock, so that no event can still be in transit."""
        ahead = self.sandbox.state()["clock_offset_seconds"] + hours * 3_600
        self.sandbox.control("PUT", "clock", json={"offset_seconds": ahead})

    def check(self) -> None:
        """Check that read model and mirror equal a rebuild, the reference model and the vendors' data."""
        self.check_rows()
        self.advance_clock()
        assert self.reconcile(dry=True) == {}

    def check_rows(self) -> None:
        """Check that the read model equals a rebuild, and that every record has the invoices of the reference model."""
        comparison = self.compare()
        assert comparison.is_clean, comparison
        account = self.sandbox.control("GET", "world", params={"account": self.copper})
        organisations = [self.sandbox.control("GET", "world", params={"tenant": tenant}) for tenant in self.tenants]
        for (record_type, record_id), expected_rows in expected_invoices(
            account,
            organisations,
            self.links,
            self.pins,
            shows_pinned_only=self.shows_pinned_only,
            matches_email_domain=self.matches_email_domain,
        ).items():
            rows = self.rows(PLURAL[record_type], record_id)
            actual_rows = {row["id"]: (row["status"], row["balance_due"]) for row in rows}
            assert actual_rows == expected_rows, (
                f"{record_type} {record_id} differs: {actual_rows.items() ^ expected_rows.items()}"
            )
            assert len(rows) == len(actual_rows)
            assert rows == sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)
