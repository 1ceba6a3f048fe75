"""The scenario of the demo: connect and backfill as an admin would, then change things as users would.

It measures how long the records take to show each change.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from decimal import ROUND_UP, Decimal
from typing import Any

import httpx
from rich.markup import escape
from rich.table import Table

from cli.demo_environment import DemoEnvironment
from cli.demo_fields import DemoFields
from cli.errors import DemoError
from cli.progress import run_and_watch
from services import access, connect
from store.db.database import transaction
from store.mirror import mirror
from store.read_model import field_values
from web.presentation import links
from web.presentation.labels import row_status
from worker.vendors.errors import NotConnectedError, VendorError
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import cli_oauth

BACKFILL_TIMEOUT_SECONDS = 90.0
CHANGE_TIMEOUT_SECONDS = 30.0
WALK_IN_EMAIL = "walkin1@mail.test"
Rows = list[dict[str, Any]]
Snapshot = tuple[str, str]


class DemoScenario:
    """Connects, backfills, shows a record, and makes four changes while watching the records."""

    def __init__(self, environment: DemoEnvironment) -> None:
        self.environment = environment
        self.console = environment.console
        # Idle connections are closed before the servers close them: a request could be under way just then.
        self.http = httpx.Client(timeout=10, trust_env=False, limits=httpx.Limits(keepalive_expiry=2))
        self.account_id = 0
        self.copper_account_id = 0
        self.key = ""
        self.latencies_ms: list[float] = []
        self.world: dict[str, Any] = {}
        self.fields: DemoFields | None = None

    def run(self) -> str:
        """The whole scenario; returns the demo's last line."""
        self._connect()
        self._backfill()
        self._show_company()
        self._apply_credit_note()
        self._write_fields()
        self._pay_invoice()
        self._change_email()
        self._move_person()
        with transaction() as session:
            comparison = field_values.compare(session, self.account_id)
            records, invoices = mirror.count_rows(session, self.account_id)
        if not comparison.is_clean:
            raise DemoError(
                f"{comparison.missing} missing, {comparison.stale} stale, {comparison.extra} extra rows after the demo"
            )
        return f"demo ok: {records} records, {invoices} invoices, fresh in {max(self.latencies_ms):.0f} ms"

    def _control(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self.http.request(method, f"{self.environment.sandbox_url}/control/{path}", **request)
        if response.status_code >= 400:
            raise DemoError(f"the sandbox answered {response.status_code} to {path}: {response.text[:200]}")
        payload: dict[str, Any] = response.json()
        return payload

    def _simulate(self, action: str, **arguments: Any) -> dict[str, Any]:
        return self._control("POST", f"actions/{action}", json=arguments)

    def _connect(self) -> None:
        with self.environment.step("connecting Copper (12 webhooks) and Xero (OAuth, two organisations)"):
            copper_account = self._control("GET", "state")["accounts"][0]
            self.copper_account_id = copper_account["account"]
            self.account_id = connect.connect_copper(
                copper_account["api_key"], copper_account["email"], by_operator=True
            )
            token = cli_oauth.authorise(0, auto=True, echo=self.console.print)
            connect.connect_xero(self.account_id, token)
            self.key = access.create_key(self.account_id, "demo")
            self._control("PUT", "app", json={"webhook_url": f"{self.environment.web_url}/webhooks/xero"})
            self._control("POST", "webhooks/enable")
            panel_url = links.panel(access.create_key(self.account_id, "demo's panel", ["panel"]))
            page = self._simulate("install_app", url=panel_url, account=self.copper_account_id)["page"]
            self.environment.panel_url = self.environment.sandbox_url + page

    def _backfill(self) -> None:
        self.console.print("  backfilling")
        timeout = BACKFILL_TIMEOUT_SECONDS + self.environment.size
        try:
            run_and_watch(self.account_id, RunKind.BACKFILL, is_quiet=False, timeout=timeout)
        except (VendorError, NotConnectedError, TimeoutError) as error:
            self.environment.check()
            raise DemoError(str(error)) from None
        self.world = self._read_world()

    def _read_world(self) -> dict[str, Any]:
        """The sandbox's data of the account's Copper."""
        return self._control("GET", "world", params={"account": self.copper_account_id})

    def read(self, plural: str, record_id: int, limit: int = 200) -> Rows:
        """A record's invoices, as a client of the read API sees them."""
        response = self.http.get(
            f"{self.environment.web_url}/v1/{plural}/{record_id}/invoices",
            params={"limit": limit},
            headers={"Authorization": f"Bearer {self.key}"},
        )
        if response.status_code != 200:
            raise DemoError(f"the read API answered {response.status_code}: {response.text[:200]}")
        rows: Rows = response.json()["invoices"]
        return rows

    def _measure(self, change: Callable[[], object], take_snapshot: Callable[[], Snapshot]) -> Snapshot:
        """Make a change and wait until the snapshot differs; returns the new snapshot."""
        before = take_snapshot()
        started = time.monotonic()
        change()
        while time.monotonic() - started < CHANGE_TIMEOUT_SECONDS:
            current = take_snapshot()
            if current != before:
                self.latencies_ms.append((time.monotonic() - started) * 1000)
                # The change may have become visible between the two reads of a snapshot.
                return take_snapshot()
            # The precision of the measurement.
            time.sleep(0.004)
        self.environment.check()
        raise DemoError(
            f"a change did not appear within {CHANGE_TIMEOUT_SECONDS:.0f} s. Logs: {self.environment.home}/logs"
        )

    def _print_change(self, title: str, lines: list[tuple[str, str, str]]) -> None:
        self.console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
        self.console.print(f"  shown after {self.latencies_ms[-1]:.0f} ms")
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("", "before", "after"):
            table.add_column(name)
        for line in lines:
            table.add_row(*map(escape, line))
        self.console.print(table)

    def _show_company(self) -> None:
        """Print one company's invoices as a table."""
        company = self._find_company_with_unpaid_invoice()
        rows = self.read("companies", company["id"], 8)
        self.environment.panel_url = f"{self.environment.panel_url}#/organization/{company['id']}"
        self.console.print(f"\n[bold]{escape(company['name'])}[/bold], company {company['id']} in Copper:")
        table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
        for name in ("number", "status", "issuer", "due"):
            table.add_column(name)
        table.add_column("total due", justify="right")
        table.add_column("balance due", justify="right")
        for row in rows:
            table.add_row(
                escape(row["number"] or "(no number)"),
                row_status(row["type"], row["status"]),
                escape(row["issuer"]),
                row["due_date"] or "",
                f"{row['currency']} {row['total_due']}",
                row["balance_due"],
            )
        self.console.print(table)

    def _list_records(self, record_type: str) -> list[dict[str, Any]]:
        return list(self.world["records"][record_type])

    def _find_company_with_unpaid_invoice(self) -> dict[str, Any]:
        for company in self._list_records("company"):
            if self._find_unpaid_invoice(company["id"]):
                return company
        raise DemoError("no company of the sandbox has an unpaid invoice: remove .patina and start again")

    def _find_unpaid_invoice(self, company_id: int) -> dict[str, Any] | None:
        rows = self.read("companies", company_id)
        return next((row for row in rows if (row["type"], row["status"]) == ("ACCREC", "AUTHORISED")), None)

    def _find_company_and_unpaid_invoice(self) -> tuple[dict[str, Any], dict[str, Any]]:
        company = self._find_company_with_unpaid_invoice()
        unpaid = self._find_unpaid_invoice(company["id"])
        assert unpaid is not None
        return company, unpaid

    def _apply_credit_note(self) -> None:
        """Apply a credit note of about half of what is due to an invoice. It stays, like the payment that follows."""
        company, unpaid = self._find_company_and_unpaid_invoice()
        due = Decimal(unpaid["balance_due"])
        # Whole units, because not every currency has smaller ones.
        amount = min(due, (due / 2).quantize(Decimal(1), ROUND_UP))

        def take_snapshot() -> Snapshot:
            rows = self.read("companies", company["id"])
            invoice = next(row for row in rows if row["id"] == unpaid["id"])
            credits = sum(row["type"] == "ACCRECCREDIT" for row in rows)
            return (str(credits), f"{invoice['currency']} {invoice['balance_due']}")

        before = take_snapshot()
        after = self._measure(
            lambda: self._simulate("credit_invoice", invoice=unpaid["id"], amount=str(amount)),
            lambda: self._only_when_both_changed(take_snapshot(), before),
        )
        self._print_change(
            f"Xero: a credit note is applied to {unpaid['number']} of {company['name']}",
            [("credit notes", before[0], after[0]), ("balance due", before[1], after[1])],
        )

    @staticmethod
    def _only_when_both_changed(current: Snapshot, before: Snapshot) -> Snapshot:
        """The current snapshot once both of its values have changed: an applied credit note causes two events."""
        return current if all(new != old for new, old in zip(current, before, strict=True)) else before

    def _write_fields(self) -> None:
        """Turn on custom fields in Copper, as an admin can."""
        _, unpaid = self._find_company_and_unpaid_invoice()
        self.fields = DemoFields(self.environment, self.account_id, self._read_world)
        self.console.print()
        with self.environment.step('writing "Xero overdue" and "Xero outstanding" to people in Copper'):
            records = self.fields.turn_on(unpaid["currency"])
        self.console.print(f"  {records} can now be filtered by these fields")

    def _pay_invoice(self) -> None:
        company, unpaid = self._find_company_and_unpaid_invoice()
        fields, currency = self.fields, unpaid["currency"]
        assert fields is not None
        person = self._find_person_with(unpaid, company)
        outstanding_before = fields.outstanding(person["id"], currency)

        def take_snapshot() -> Snapshot:
            invoice = next(row for row in self.read("companies", company["id"]) if row["id"] == unpaid["id"])
            return (row_status(invoice["type"], invoice["status"]), f"{invoice['currency']} {invoice['balance_due']}")

        before = take_snapshot()
        after = self._measure(lambda: self._simulate("pay_invoice", invoice=unpaid["id"]), take_snapshot)
        outstanding, seconds = fields.wait_for_change(person["id"], currency, outstanding_before)
        self._print_change(
            f"Xero: {unpaid['number']} of {company['name']} is paid",
            [
                ("status", before[0], after[0]),
                ("balance due", before[1], after[1]),
                (f"Xero outstanding of {person['name']}", outstanding_before, outstanding),
            ],
        )
        self.console.print(f"  the field in Copper followed after {seconds:.1f} s")

    def _find_person_with(self, invoice: dict[str, Any], company: dict[str, Any]) -> dict[str, Any]:
        """A person of a company who shows an invoice that the company shows."""
        for person in self._list_records("person"):
            if person["company_id"] == company["id"] and any(
                row["id"] == invoice["id"] for row in self.read("people", person["id"])
            ):
                return person
        raise DemoError(f"nobody at {company['name']} shows {invoice['number']}")

    def _find_person_with_invoices(self) -> dict[str, Any]:
        """A person with invoices, if possible the only one of their company, whose rows then change with theirs."""
        people = [
            person
            for person in self._list_records("person")
            if person["company_id"] and self.read("people", person["id"], 1)
        ]
        if not people:
            raise DemoError("no person of the sandbox shows an invoice: remove .patina and start again")
        colleagues = Counter(person["company_id"] for person in people)
        return min(people, key=lambda person: colleagues[person["company_id"]])

    def _change_email(self) -> None:
        person = self._find_person_with_invoices()
        company_id, original_emails = person["company_id"], person["emails"]

        def take_snapshot() -> Snapshot:
            return (self._list_numbers("people", person["id"]), self._list_numbers("companies", company_id))

        def set_emails(emails: list[str]) -> Callable[[], object]:
            return lambda: self._simulate("update_record", type="person", id=person["id"], emails=emails)

        before = take_snapshot()
        after = self._measure(set_emails([WALK_IN_EMAIL]), take_snapshot)
        self._print_change(
            f"Copper: {person['name']} gets the email address of a walk-in customer",
            [(person["name"], before[0], after[0]), ("their company", before[1], after[1])],
        )
        self._undo(set_emails(original_emails), take_snapshot, before)

    def _move_person(self) -> None:
        person = self._find_person_with_invoices()
        origin_id = person["company_id"]
        company_names = {company["id"]: company["name"] for company in self._list_records("company")}
        target_id = next(
            company_id
            for company_id in company_names
            if company_id != origin_id and not self.read("companies", company_id, 1)
        )

        def take_snapshot() -> Snapshot:
            return (self._list_numbers("companies", origin_id), self._list_numbers("companies", target_id))

        def move_to(company_id: int) -> Callable[[], object]:
            return lambda: self._simulate("move_person", person=person["id"], company=company_id)

        before = take_snapshot()
        after = self._measure(move_to(target_id), take_snapshot)
        origin, target = company_names[origin_id], company_names[target_id]
        self._print_change(
            f"Copper: {person['name']} moves from {origin} to {target}",
            [(origin, before[0], after[0]), (target, before[1], after[1])],
        )
        self._undo(move_to(origin_id), take_snapshot, before)

    def _list_numbers(self, plural: str, record_id: int) -> str:
        rows = self.read(plural, record_id)
        if not rows:
            return "none"
        return (rows[0]["number"] or "(no number)") + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")

    def _undo(self, change: Callable[[], object], take_snapshot: Callable[[], Snapshot], expected: Snapshot) -> None:
        """Undo a change, so that the next run of the demo starts from the same state."""
        change()
        deadline = time.monotonic() + CHANGE_TIMEOUT_SECONDS
        while take_snapshot() != expected:
            if time.monotonic() > deadline:
                raise DemoError("an undone change did not appear")
            # The read API does not notify: what it returns is polled.
            time.sleep(0.01)
