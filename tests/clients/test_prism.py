"""The worker's client against Xero's published contract: Prism refuses what the contract does not allow."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from runtime.settings import override_settings
from store.accounts import xero_organisations
from store.db.database import transaction
from tests.chaos import free_port
from tests.clients import environment
from tests.integration.test_sandbox_xero import OPENAPI
from tests.support.processes import Processes
from tests.support.serving import wait_until
from tests.support.world import World
from worker.vendors.rate_limit.budget import Priority
from worker.vendors.xero.client import XeroClient

pytestmark = pytest.mark.timeout(900)
CONTRACT = OPENAPI / "xero-accounting-read.json"
SOME_ID = UUID("aa682059-c8ec-44b9-bc7f-344c94e1ffac")
MOCK_SECONDS = 60


@pytest.fixture
def client(world: World, processes: Processes, tmp_path: Path) -> XeroClient:
    """The worker's client of an organisation, which calls Prism instead of Xero."""
    if not CONTRACT.exists():
        pytest.skip("Xero's published contract is not here")
    program = environment.node_modules("npm") / "@stoplight" / "prism-cli" / "dist" / "index.js"
    contract = json.loads(CONTRACT.read_text())
    contract["paths"] = {f"/api.xro/2.0{path}": operations for path, operations in contract["paths"].items()}
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    port = free_port()
    command = ["node", str(program), "mock", "-p", str(port), str(tmp_path / "contract.json")]
    with (tmp_path / "prism.log").open("w") as log:
        processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    base = f"http://127.0.0.1:{port}"
    with transaction() as session:
        (organisation,) = xero_organisations.list_connected(session, world.account)
    wait_until(lambda: _answers(base), seconds=MOCK_SECONDS, description="Prism")
    override_settings({"XERO_API_URL": base, "READ_TIMEOUT": "60"})
    return XeroClient(organisation, Priority.EVENTS)


def _answers(base: str) -> bool:
    try:
        return httpx.get(base, trust_env=False).status_code > 0
    except httpx.TransportError:
        return False


def test_the_contracts_examples_are_parsed_in_full(client: XeroClient) -> None:
    assert client.get_organisation().name
    for response in (
        client.list_invoices(1),
        client.list_invoices(1, contact_ids=[SOME_ID]),
        client.invoices_by_id([SOME_ID]),
    ):
        assert response.items, "an empty answer proves nothing"
        assert response.unreadable == {}
    for contacts in (client.list_contacts(1), client.contacts_by_id([SOME_ID])):
        assert contacts.items
        assert contacts.unreadable == {}
    assert client.oldest_history_time(SOME_ID)


def test_requests_for_changes_conform_to_the_contract(client: XeroClient) -> None:
    since = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert client.list_invoices(1, since=since).items
    assert client.list_contacts(1, since=since).items


def test_prism_refuses_what_the_contract_does_not_allow(client: XeroClient) -> None:
    from runtime.settings import settings

    headers = {"Authorization": "Bearer x", "Xero-Tenant-Id": str(SOME_ID), "Accept": "application/json"}
    response = httpx.get(
        f"{settings().xero_api_url}/api.xro/2.0/Invoices?page=one", headers=headers, trust_env=False, timeout=30
    )
    assert response.status_code == 422, "otherwise the tests above prove nothing"
