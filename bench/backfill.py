"""The initial backfill of 100,000 invoices by real worker processes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
import requests

from bench import environment, vendors
from bench.figures import Figure, at_most, timed
from bench.vendors import SHAPES, Shape
from runtime.settings import settings
from store.accounts import xero_organisations
from store.db.database import transaction
from store.db.enums import RecordType
from tests.support.world import World
from worker.vendors import http as vendor_http
from worker.vendors.copper import client as copper
from worker.vendors.copper.schemas import CopperRecord
from worker.vendors.parsing import parse_rows
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import client as xero
from worker.vendors.xero import oauth
from worker.vendors.xero.schemas import XeroContact, XeroInvoice

SHAPE = SHAPES["backfill"]
PROCESSES = 2
GOAL_TIME, GOAL_MEMORY = 2.0, 250.0


def expected_calls(shape: Shape) -> int:
    """The number of pages. Each of Copper's repeats the last second of the previous one."""
    xero_calls = 1 + math.ceil(shape.contacts / xero.PAGE_SIZE) + math.ceil(shape.invoices / xero.PAGE_SIZE)
    record_counts = (shape.people, shape.leads, shape.companies, shape.opportunities)
    return xero_calls + sum(1 + (count - 1) // (copper.PAGE_SIZE - 1) for count in record_counts) + shape.opportunities


def peak_memory(process_id: int) -> float:
    """Peak memory in MiB of the largest child process."""
    children = psutil.Process(process_id).children(recursive=True)
    peaks = [
        int(line.split()[1]) / 1024
        for child in children
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return max(peaks)


def _fetch_pages(world: World) -> tuple[list[requests.Response], list[requests.Response], list[requests.Response]]:
    """The same pages, fetched completely: invoices, contacts and records."""
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0]
    http = oauth.create_session(oauth.get_valid_grant(world.account, organisation.grant_id).token)
    http.headers["Xero-Tenant-Id"] = str(organisation.tenant_id)
    pages_by_resource: dict[str, list[requests.Response]] = {}
    for resource, count in (("Invoices", SHAPE.invoices), ("Contacts", SHAPE.contacts)):
        url = f"{settings().xero_api_url}/api.xro/2.0/{resource}"
        pages_by_resource[resource] = [
            http.get(url, params={"page": str(page), "pageSize": str(xero.PAGE_SIZE), "summaryOnly": "true"})
            for page in range(1, math.ceil(count / xero.PAGE_SIZE) + 1)
        ]
    headers = {
        "X-PW-AccessToken": "bench-copper-key",
        "X-PW-Application": "developer_api",
        "X-PW-UserEmail": "sam@bench.test",
    }
    record_pages = []
    counts = {"people": SHAPE.people, "leads": SHAPE.leads, "companies": SHAPE.companies}
    for record_type in RecordType:
        for page in range(1, math.ceil(counts.get(record_type.plural, SHAPE.opportunities) / copper.PAGE_SIZE) + 1):
            body = {"page_number": page, "page_size": copper.PAGE_SIZE}
            url = f"{settings().copper_api_url}/{record_type.plural}/search"
            record_pages.append(requests.post(url, json=body, headers=headers, timeout=vendor_http.timeouts()))
    return pages_by_resource["Invoices"], pages_by_resource["Contacts"], record_pages


def _parsing_seconds(world: World) -> float:
    """Seconds that this process takes to parse the same pages into rows."""
    invoice_pages, contact_pages, record_pages = _fetch_pages(world)
    with timed() as timer:
        parsed: Counter[str] = Counter()
        for response in invoice_pages:
            invoices = parse_rows(XeroInvoice, vendor_http.parse_json(response)["Invoices"], "InvoiceID").items
            parsed["invoices"] += len([invoice.to_row() for invoice in invoices])
        for response in contact_pages:
            contacts = parse_rows(XeroContact, vendor_http.parse_json(response)["Contacts"], "ContactID").items
            parsed["contacts"] += len([contact.to_row() for contact in contacts])
        for response in record_pages:
            records = parse_rows(CopperRecord, vendor_http.parse_json(response), "id").items
            parsed["records"] += len([record.to_row() for record in records])
    assert parsed == {"invoices": SHAPE.invoices, "contacts": SHAPE.contacts, "records": SHAPE.records}, parsed
    return timer.seconds


class Round(NamedTuple):
    """One backfill: its seconds, those of parsing alone, API calls, and the peak memory of a worker in MiB."""

    seconds: float
    parsing_seconds: float
    calls: float
    memory: float


def _run_round() -> Round:
    with environment.empty_database(), vendors.run_sandbox("backfill") as sandbox:
        world = vendors.connect_account(sandbox)
        calls_before = sum(sandbox.state()["calls"].values())
        variables = {"WORKER_PROCESSES": str(PROCESSES), "WORKER_THREADS": "2"}
        with environment.start_process("cli", "worker", variables=variables) as worker:
            with timed() as timer:
                world.run(RunKind.BACKFILL, seconds=600)
            calls = sum(sandbox.state()["calls"].values()) - calls_before
            return Round(timer.seconds, _parsing_seconds(world), calls, peak_memory(worker.pid))


def measure(rounds: int) -> list[Figure]:
    """Time relative to parsing, calls relative to the number of pages, and memory."""
    measured = [_run_round() for _ in range(rounds)]
    expected = expected_calls(SHAPE)
    name = f"backfill of {SHAPE.invoices:,} invoices, {SHAPE.contacts:,} contacts and {SHAPE.records:,} records"
    return [
        at_most(
            f"calls above or below the number of pages of a {name}",
            [abs(backfill.calls - expected) for backfill in measured],
            0,
            "calls",
            note=f"{expected:,} pages and look-ups",
        ),
        at_most(
            f"time of a {name}",
            (backfill.seconds / backfill.parsing_seconds for backfill in measured),
            GOAL_TIME,
            "times",
            baseline="one process parsing the same JSON",
            miss_reason="the sandbox, the mirror and two read model rows per invoice share the two cores; at the"
            f" vendors' real limits the same {expected:,} calls take minutes",
            ours=f"{measured[0].seconds:.1f} s",
        ),
        at_most("peak memory of a worker process during it", (b.memory for b in measured), GOAL_MEMORY, "MiB"),
    ]
