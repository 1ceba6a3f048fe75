"""Third-party clients with the sandbox: Xero's own SDK, pyxero, tap-copper."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandbox import server
from sandbox.generate import Generator
from sandbox.limits import Limits
from sandbox.world import World as SandboxWorld
from tests.clients import environment
from tests.integration.test_sandbox_xero import authorise, request_scopes
from tests.support.serving import serving
from tests.support.world import Sandbox

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def call(sandbox: Sandbox) -> dict[str, Any]:
    """A partly paid invoice, a draft, a recently changed invoice, and credits, in an organisation in London."""
    act = sandbox.simulate
    tenant = act("add_organisation", name="First", country="GB", currency="GBP")["tenant"]
    act("create_contact", name="Acme Ltd", email="ann@acme.test", tenant=tenant)
    act("create_contact", name="Bo", tenant=tenant)
    act("create_invoice", contact="Acme Ltd", number="INV-1", total="100", issued="2026-01-15")
    act("create_invoice", contact="Acme Ltd", number="INV-2", total="9.50", status="DRAFT", issued="2026-03-01")
    act("create_invoice", contact="Bo", number="INV-3", total="700", currency="JPY", issued="2026-02-01")
    act("create_credit_note", contact="Acme Ltd", number="CN-1", total="30")
    act("create_prepayment", contact="Acme Ltd", total="25.50")
    act("create_overpayment", contact="Acme Ltd", total="7")
    act("pay_invoice", invoice="INV-1", amount="40")
    act("apply_credit", credit="CN-1", invoice="INV-1", amount="10")
    sandbox.control("PUT", "clock", json={"offset_seconds": 120})
    act("pay_invoice", invoice="INV-3")
    request_scopes("accounting.payments.read")
    token = authorise(sandbox)
    since = (datetime.now(UTC) + timedelta(seconds=60)).isoformat(timespec="seconds")
    return {"base": sandbox.url, "token": token, "since": since}


def test_xeros_own_sdk_reads_the_sandbox(call: dict[str, Any]) -> None:
    assert environment.drive("xero_python", **call) == {
        "connections": [["First", True]],
        "of_this_consent": 1,
        "organisation": ["First", "GMTSTANDARDTIME", "UK"],
        "page": [["INV-1", "INV-2"], 3],
        "drafts": ["INV-2"],
        "by_contact": ["INV-2", "INV-1"],
        "by_status": ["INV-3"],
        "changed": ["INV-3"],
        "made_by_app": [],
        "payments": ["40"],
        "due": "50",
        "summary": None,
        "single": "ann@acme.test",
        "history": ["Credited", "Paid", "Created"],
        "credits": [["CN-1", "20", "INV-1"]],
        "prepayments": [["RECEIVE-PREPAYMENT", "25.50"]],
        "overpayments": ["ann@acme.test"],
        "contacts": ["Acme Ltd"],
        "refused": [
            "404 NotFoundException",
            "400 AccountingBadRequestException",
            "400 AccountingBadRequestException",
            "404 NotFoundException",
            "403 HTTPStatusException",
        ],
        "refreshed": "First",
    }


def test_pyxero_reads_the_sandbox(call: dict[str, Any]) -> None:
    assert environment.drive("pyxero", **call) == {
        "tenants": ["First"],
        "of_this_consent": 1,
        "organisation": "GMTSTANDARDTIME",
        "drafts": ["INV-2"],
        "by_raw": ["INV-1"],
        "by_contact": ["INV-1", "INV-2"],
        "by_date": ["INV-2", "INV-3"],
        "page": 2,
        "changed": ["INV-3"],
        "single": "ann@acme.test",
        "history": ["Credited", "Paid", "Created"],
        "credits": ["CN-1"],
        "prepayments": ["25.5"],
        "overpayments": ["RECEIVE-OVERPAYMENT"],
        "contacts": ["Acme Ltd"],
        "refused": ["XeroNotFound", "XeroBadRequest", "XeroNotFound"],
        "refreshed": True,
    }


@pytest.mark.parametrize("page_size", [3, 100])
def test_tap_copper_reads_the_sandbox_through_its_own_schemas(page_size: int) -> None:
    world = Generator(SandboxWorld(), 5, 12).fill()
    (account,) = world.accounts.values()
    with serving(server.create(world, limits=Limits(enabled=False))) as url:
        user = account.users[0]
        streams = environment.drive("tap_copper", base=url, key=user.api_key, email=user.email, page_size=page_size)
    for stream, record_type in (("people", "person"), ("opportunities", "opportunity")):
        assert {record["id"] for record in streams[stream]} == set(account.records[record_type])
    # The tap requests one page of these, with the page size in the query.
    for stream, record_type in (("companies", "company"), ("leads", "lead")):
        assert len(streams[stream]) == min(page_size, len(account.records[record_type]))
    person = streams["people"][0]
    record = account.records["person"][person["id"]]
    assert (person["name"], person["emails"][0]["email"]) == (record.name, record.emails[0])
    # The tap's GET requests have a body, which Copper's front end refuses.
    assert streams["account"].startswith("CopperBadRequestError")
