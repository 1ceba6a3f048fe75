"""After any changes, with duplicated, lost and reordered events, one reconciliation makes the data consistent.

Real worker processes and a real scheduler work on the events; hypothesis chooses what happens.
"""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.support import fields_in_copper
from tests.support.processes import Processes, patina
from tests.support.world import Sandbox, World

ADDRESSES = ("ann@x.test", "BOB@x.test", "eve@x.test", "zoe@x.test")
addresses = st.sampled_from(ADDRESSES)
some_addresses = st.lists(addresses, max_size=2, unique=True)
shares = st.sampled_from((0.0, 0.3, 0.6))
any_of = st.integers(0, 50)


@pytest.fixture
def running(sandbox: Sandbox, web: httpx.Client, processes: Processes) -> World:
    """Web, two worker processes and a scheduler on one database."""
    environment = {"WORKER_PROCESSES": "2", "WORKER_THREADS": "3", "FIELD_WRITE_INTERVAL_SECONDS": "0"}
    processes += [patina("worker", environment=environment), patina("scheduler")]
    world = World(sandbox, web, workers=True)
    world.enable_xero_webhook()
    return world


class Changes(RuleBasedStateMachine):
    """Actions of users of both vendors, in any order."""

    running: World
    numbers = itertools.count()

    @initialize()
    def open(self) -> None:
        self.sandbox = self.running.sandbox
        self.sandbox.faults()
        self.world = World(self.sandbox, self.running.web, workers=True)
        self.world.open(name=f"Account {next(self.numbers)}")
        fields_in_copper.turn_on(self.world, *fields_in_copper.CHECKED)
        self.contacts = [self.world.contact("First", "ann@x.test")]
        self.invoices: list[str] = []
        self.credits: list[str] = []
        self.records: dict[str, list[int]] = {"lead": [], "person": [], "company": [], "opportunity": []}

    def _try(self, action: str, /, **values: Any) -> dict[str, Any] | None:
        """Try an action; the sandbox refuses those that are not possible."""
        response = self.sandbox.http.post(f"/control/actions/{action}", json=values)
        assert response.status_code in {200, 422}, response.text
        return response.json() if response.status_code == 200 else None

    def _pick(self, record_type: str, number: int) -> int | None:
        record_ids = self.records[record_type]
        return record_ids[number % len(record_ids)] if record_ids else None

    @rule(lose=shares, double=shares, reorder=shares, seed=any_of)
    def disturb_webhooks(self, lose: float, double: float, reorder: float, seed: int) -> None:
        faults = [
            {"vendor": vendor, "loss": lose, "duplicate": double, "reorder": reorder} for vendor in ("xero", "copper")
        ]
        self.sandbox.faults(webhooks=faults, seed=seed)

    @rule(email=addresses, person_emails=some_addresses)
    def add_contact(self, email: str, person_emails: list[str]) -> None:
        self.contacts.append(self.world.contact("Another", email, person_emails))

    @rule(number=any_of, email=addresses, person_emails=some_addresses)
    def change_contact(self, number: int, email: str, person_emails: list[str]) -> None:
        contact = self.contacts[number % len(self.contacts)]
        self._try("update_contact", contact=contact, email=email, person_emails=person_emails)

    @rule(loser=any_of, winner=any_of)
    def merge_contacts(self, loser: int, winner: int) -> None:
        source, target = self.contacts[loser % len(self.contacts)], self.contacts[winner % len(self.contacts)]
        self._try("merge_contacts", source=source, target=target)

    @rule(number=any_of, status=st.sampled_from(("DRAFT", "AUTHORISED")))
    def add_invoice(self, number: int, status: str) -> None:
        created = self._try("create_invoice", contact=self.contacts[number % len(self.contacts)], status=status)
        if created:
            self.invoices.append(created["invoice"])

    @rule(
        number=any_of,
        action=st.sampled_from(("pay_invoice", "void_invoice", "delete_invoice", "approve_invoice")),
    )
    def advance_invoice(self, number: int, action: str) -> None:
        if self.invoices:
            self._try(action, invoice=self.invoices[number % len(self.invoices)])

    @rule(number=any_of, contact=any_of)
    def give_invoice_to_another(self, number: int, contact: int) -> None:
        if self.invoices:
            target = self.contacts[contact % len(self.contacts)]
            self._try("update_invoice", invoice=self.invoices[number % len(self.invoices)], contact=target)

    @rule(number=any_of, status=st.sampled_from(("DRAFT", "AUTHORISED")), total=st.sampled_from(("15.00", "500.00")))
    def add_credit_note(self, number: int, status: str, total: str) -> None:
        contact = self.contacts[number % len(self.contacts)]
        created = self._try("create_credit_note", contact=contact, status=status, total=total)
        if created:
            self.credits.append(created["credit"])

    @rule(number=any_of, action=st.sampled_from(("approve_credit_note", "void_credit", "delete_credit_note")))
    def advance_credit_note(self, number: int, action: str) -> None:
        if self.credits:
            self._try(action, credit=self.credits[number % len(self.credits)])

    @rule(
        credit=any_of,
        invoice=any_of,
        action=st.sampled_from(("apply_credit", "apply_credit", "remove_allocation")),
        invoice_webhook=st.booleans(),
    )
    def apply_credit_note(self, credit: int, invoice: int, action: str, invoice_webhook: bool) -> None:
        if self.credits and self.invoices:
            self._try(
                action,
                credit=self.credits[credit % len(self.credits)],
                invoice=self.invoices[invoice % len(self.invoices)],
                invoice_webhook=invoice_webhook,
            )

    @rule(record_type=st.sampled_from(("lead", "person", "company", "opportunity")), email=addresses, company=any_of)
    def add_record(self, record_type: str, email: str, company: int) -> None:
        values: dict[str, Any] = {"emails": [email]} if record_type in {"lead", "person"} else {}
        if record_type in {"person", "opportunity"}:
            values["company"] = self._pick("company", company)
        if record_type == "opportunity":
            values["primary_contact"] = self._pick("person", company)
        created = self._try("create_record", type=record_type, name="R", account=self.world.copper, **values)
        assert created
        self.records[record_type].append(created["id"])

    @rule(record_type=st.sampled_from(("lead", "person")), number=any_of, emails=some_addresses)
    def change_addresses(self, record_type: str, number: int, emails: list[str]) -> None:
        record = self._pick(record_type, number)
        if record:
            few = emails[:1] if record_type == "lead" else emails
            self._try("update_record", type=record_type, id=record, emails=few, account=self.world.copper)

    @rule(person=any_of, company=any_of)
    def move(self, person: int, company: int) -> None:
        person_id = self._pick("person", person)
        if person_id:
            self._try(
                "move_person", person=person_id, company=self._pick("company", company), account=self.world.copper
            )

    @rule(
        deal=any_of,
        number=any_of,
        record_type=st.sampled_from(("person", "company")),
        how=st.sampled_from(("relate", "unrelate")),
    )
    def relate(self, deal: int, number: int, record_type: str, how: str) -> None:
        opportunity, record_id = self._pick("opportunity", deal), self._pick(record_type, number)
        if opportunity and record_id:
            self._try(
                how, type="opportunity", id=opportunity, to_type=record_type, to_id=record_id, account=self.world.copper
            )

    @rule(record_type=st.sampled_from(("lead", "person", "company", "opportunity")), number=any_of)
    def delete(self, record_type: str, number: int) -> None:
        record = self._pick(record_type, number)
        if record:
            self._try("delete_record", type=record_type, id=record, account=self.world.copper)

    @rule(number=any_of)
    def convert(self, number: int) -> None:
        lead = self._pick("lead", number)
        created = lead and self._try("convert_lead", lead=lead, company="C", opportunity="O", account=self.world.copper)
        for record_type in ("person", "company", "opportunity") if created else ():
            self.records[record_type].append(created[record_type])  # type: ignore[index]

    @rule(record_type=st.sampled_from(("lead", "person", "company", "opportunity")), number=any_of, value=any_of)
    def change_a_field_by_hand(self, record_type: str, number: int, value: int) -> None:
        record, definitions = self._pick(record_type, number), fields_in_copper.definitions(self.world)
        field = definitions.get("patina_xero_open_invoices")
        if record and field:
            account = self.world.copper
            self._try("set_custom_field", type=record_type, id=record, field=field["id"], value=value, account=account)

    @invariant()
    def nothing_is_a_server_error(self) -> None:
        if hasattr(self, "world"):
            assert self.world.read("people", 1).status_code == 200

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.sandbox.faults()
        self.world.settle()
        fields_in_copper.wait_until_written(self.world)
        self.world.advance_clock()
        self.world.reconcile()
        self.world.settle()
        fields_in_copper.wait_until_written(self.world)
        fields_in_copper.check_all(self.world)
        self.world.advance_clock()
        self.world.check()


@pytest.mark.long(seconds=120)
@pytest.mark.timeout(900)
def test_any_sequence_of_changes_converges_after_one_reconciliation(running: World) -> None:
    Changes.running = running
    run_state_machine_as_test(
        Changes,
        settings=settings(
            max_examples=50,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
