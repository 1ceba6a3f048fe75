"""Whatever happens in both vendors, with events doubled, lost and out of order: one reconciliation puts it right.

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

from tests.processes import Processes, patina
from tests.world import Sandbox, World

ADDRESSES = ("ann@x.test", "BOB@x.test", "eve@x.test", "zoe@x.test")
addresses = st.sampled_from(ADDRESSES)
some_addresses = st.lists(addresses, max_size=2, unique=True)
shares = st.sampled_from((0.0, 0.3, 0.6))
any_of = st.integers(0, 50)


@pytest.fixture
def running(sandbox: Sandbox, web: httpx.Client, processes: Processes) -> World:
    """Web, two worker processes and a scheduler on one database."""
    processes += [patina("worker", environment={"WORKER_PROCESSES": "2", "WORKER_THREADS": "3"}), patina("scheduler")]
    world = World(sandbox, web, workers=True)
    world.listen()
    return world


class Changes(RuleBasedStateMachine):
    """What users of both vendors may do, in any order."""

    running: World
    numbers = itertools.count()

    @initialize()
    def open(self) -> None:
        self.sandbox = self.running.sandbox
        self.sandbox.faults()
        self.world = World(self.sandbox, self.running.web, workers=True)
        self.world.open(name=f"Account {next(self.numbers)}")
        self.contacts = [self.world.contact("First", "ann@x.test")]
        self.invoices: list[str] = []
        self.records: dict[str, list[int]] = {"lead": [], "person": [], "company": [], "opportunity": []}

    def _try(self, action: str, /, **values: Any) -> dict[str, Any] | None:
        """Some actions make no sense on some things; the sandbox refuses those."""
        answer = self.sandbox.http.post(f"/control/act/{action}", json=values)
        assert answer.status_code in {200, 422}, answer.text
        return answer.json() if answer.status_code == 200 else None

    def _pick(self, kind: str, number: int) -> int | None:
        known = self.records[kind]
        return known[number % len(known)] if known else None

    @rule(lose=shares, double=shares, reorder=shares, seed=any_of)
    def disturb_webhooks(self, lose: float, double: float, reorder: float, seed: int) -> None:
        faults = [{"vendor": one, "lose": lose, "double": double, "reorder": reorder} for one in ("xero", "copper")]
        self.sandbox.faults(webhooks=faults, seed=seed)

    @rule(email=addresses, others=some_addresses)
    def add_contact(self, email: str, others: list[str]) -> None:
        self.contacts.append(self.world.contact("Another", email, others))

    @rule(number=any_of, email=addresses, others=some_addresses)
    def change_contact(self, number: int, email: str, others: list[str]) -> None:
        contact = self.contacts[number % len(self.contacts)]
        self._try("change_contact", contact=contact, email=email, people=others)

    @rule(loser=any_of, winner=any_of)
    def merge_contacts(self, loser: int, winner: int) -> None:
        one, other = self.contacts[loser % len(self.contacts)], self.contacts[winner % len(self.contacts)]
        self._try("merge_contacts", loser=one, winner=other)

    @rule(number=any_of, status=st.sampled_from(("DRAFT", "AUTHORISED")))
    def add_invoice(self, number: int, status: str) -> None:
        made = self._try("make_invoice", contact=self.contacts[number % len(self.contacts)], status=status)
        if made:
            self.invoices.append(made["invoice"])

    @rule(
        number=any_of,
        what=st.sampled_from(("pay_invoice", "void_invoice", "delete_invoice", "approve_invoice")),
    )
    def advance_invoice(self, number: int, what: str) -> None:
        if self.invoices:
            self._try(what, invoice=self.invoices[number % len(self.invoices)])

    @rule(number=any_of, contact=any_of)
    def give_invoice_to_another(self, number: int, contact: int) -> None:
        if self.invoices:
            target = self.contacts[contact % len(self.contacts)]
            self._try("change_invoice", invoice=self.invoices[number % len(self.invoices)], contact=target)

    @rule(kind=st.sampled_from(("lead", "person", "company", "opportunity")), email=addresses, company=any_of)
    def add_record(self, kind: str, email: str, company: int) -> None:
        values: dict[str, Any] = {"emails": [email]} if kind in {"lead", "person"} else {}
        if kind in {"person", "opportunity"}:
            values["company"] = self._pick("company", company)
        if kind == "opportunity":
            values["primary_contact"] = self._pick("person", company)
        made = self._try("make_record", type=kind, name="R", account=self.world.copper, **values)
        assert made
        self.records[kind].append(made["id"])

    @rule(kind=st.sampled_from(("lead", "person")), number=any_of, emails=some_addresses)
    def change_addresses(self, kind: str, number: int, emails: list[str]) -> None:
        record = self._pick(kind, number)
        if record:
            few = emails[:1] if kind == "lead" else emails
            self._try("change_record", type=kind, id=record, emails=few, account=self.world.copper)

    @rule(person=any_of, company=any_of)
    def move(self, person: int, company: int) -> None:
        one = self._pick("person", person)
        if one:
            self._try("move_person", person=one, company=self._pick("company", company), account=self.world.copper)

    @rule(
        deal=any_of,
        other=any_of,
        kind=st.sampled_from(("person", "company")),
        how=st.sampled_from(("relate", "unrelate")),
    )
    def relate(self, deal: int, other: int, kind: str, how: str) -> None:
        one, end = self._pick("opportunity", deal), self._pick(kind, other)
        if one and end:
            self._try(how, type="opportunity", id=one, to_type=kind, to_id=end, account=self.world.copper)

    @rule(kind=st.sampled_from(("lead", "person", "company", "opportunity")), number=any_of)
    def delete(self, kind: str, number: int) -> None:
        record = self._pick(kind, number)
        if record:
            self._try("delete_record", type=kind, id=record, account=self.world.copper)

    @rule(number=any_of)
    def convert(self, number: int) -> None:
        lead = self._pick("lead", number)
        made = lead and self._try("convert_lead", lead=lead, company="C", opportunity="O", account=self.world.copper)
        for kind in ("person", "company", "opportunity") if made else ():
            self.records[kind].append(made[kind])  # type: ignore[index]

    @invariant()
    def nothing_is_a_server_error(self) -> None:
        if hasattr(self, "world"):
            assert self.world.read("people", 1).status_code == 200

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.sandbox.faults()
        self.world.settle()
        self.world.reconcile()
        self.world.settle()
        self.world.check()


@pytest.mark.timeout(280)
def test_any_history_of_changes_converges_after_one_reconciliation(running: World) -> None:
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
