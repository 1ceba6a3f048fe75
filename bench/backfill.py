"""The initial backfill of 100,000 invoices by real worker processes, against dlt and against a plain script.

All three fetch the same pages of the same sandbox into the same database server. The time of ours is from the start of
the runs, with the workers waiting for them, until every row is in the read model; that of dlt is without its imports.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import environment, vendors
from bench.backfill_script import PlainScript, VendorHeaders
from bench.figures import Figure, at_least, at_most, ratio, ratio_at_most, rounds_in_time, timed
from bench.peak_memory import PeakMemory
from bench.peers import dlt_peer
from bench.peers.peer import is_installed
from bench.vendors import SHAPES, Shape
from runtime.redis_client import shared_client
from runtime.settings import settings
from store.accounts import xero_organisations
from store.db.database import transaction
from store.db.enums import RecordType
from store.mirror import mirror
from store.read_model import projection
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs.broker import broker
from worker.vendors.copper import client as copper
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import client as xero
from worker.vendors.xero import oauth

SHAPE = SHAPES["backfill"]
PROCESSES, THREADS = 2, 2
CONNECTIONS = PROCESSES * THREADS
WORKER_VARIABLES = {"WORKER_PROCESSES": str(PROCESSES), "WORKER_THREADS": str(THREADS)}
# So that the part takes minutes.
MAX_PEER_ROUNDS = 2
MAX_SECONDS = 180.0
MIN_PEER_RATIO, MAX_SCRIPT_RATIO, MAX_MEMORY_RATIO = 3.0, 2.5, 1.0
OBJECTS = SHAPE.invoices + SHAPE.contacts + SHAPE.records


@dataclass
class Measurements:
    """Seconds, calls and memory in MiB of each round. Those of dlt are empty if it could not be installed.

    `merge_seconds` are of dlt with rows that replace those with their ids, as ours do.
    """

    seconds: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    script_seconds: list[float] = field(default_factory=list)
    peer_seconds: list[float] = field(default_factory=list)
    peer_memory: list[float] = field(default_factory=list)
    merge_seconds: list[float] = field(default_factory=list)


def copper_calls(shape: Shape) -> int:
    """The users, the pages of the records, and a look-up per opportunity.

    Each page repeats the last second of the one before it.
    """
    record_counts = (shape.people, shape.leads, shape.companies, shape.opportunities)
    pages = sum(1 + (count - 1) // (copper.PAGE_SIZE - 1) for count in record_counts)
    return 1 + pages + shape.opportunities


def xero_calls(shape: Shape) -> int:
    """The organisation, an empty page of credit notes, and the pages of its contacts and invoices."""
    return 2 + math.ceil(shape.contacts / xero.PAGE_SIZE) + math.ceil(shape.invoices / xero.PAGE_SIZE)


def wait_for_workers(started_at: float) -> None:
    """Wait until every worker process that was started since then fetches jobs: Dramatiq counts them in Redis."""
    key = f"{settings().redis_namespace}:dramatiq:__heartbeats__"
    own_id = broker().broker_id.encode()

    def are_ready() -> bool:
        members = shared_client().zrangebyscore(key, int(started_at * 1000), "+inf")
        return len(set(members) - {own_id}) >= PROCESSES

    wait_until(are_ready, seconds=60, description="the start of the workers")


def vendor_headers(world: World) -> VendorHeaders:
    """The headers that authorise calls to both vendors."""
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0]
    token = oauth.get_valid_grant(world.account, organisation.grant_id).token["access_token"]
    return VendorHeaders(
        xero={"Authorization": f"Bearer {token}", "Xero-Tenant-Id": str(organisation.tenant_id)},
        copper={
            "X-PW-AccessToken": vendors.COPPER_KEY,
            "X-PW-Application": "developer_api",
            "X-PW-UserEmail": vendors.COPPER_EMAIL,
        },
    )


@contextmanager
def start_workers(variables: dict[str, str] | None = None) -> Iterator[int]:
    """Run the worker processes, which fetch jobs from the start of the block; yields the id of their parent."""
    started_at = time.time()
    with environment.start_process("cli", "worker", variables=WORKER_VARIABLES | (variables or {})) as worker:
        wait_for_workers(started_at)
        yield worker.pid


def _measure_backfill(world: World, measurements: Measurements) -> None:
    calls_before = sum(world.sandbox.state()["calls"].values())
    with start_workers() as process_id, PeakMemory(process_id) as peak, timed() as timer:
        world.run(RunKind.BACKFILL, seconds=600)
    with transaction() as session:
        written = mirror.count_rows(session, world.account)
        assert written == (SHAPE.records, SHAPE.invoices), written
        assert not projection.has_pending(session, world.account, 1), "every mark is projected"
    measurements.seconds.append(timer.seconds)
    measurements.calls.append(sum(world.sandbox.state()["calls"].values()) - calls_before)
    measurements.memory.append(peak.mebibytes)


def _measure_script(world: World, measurements: Measurements) -> None:
    with PlainScript(SHAPE, vendor_headers(world), CONNECTIONS) as script:
        with timed() as timer:
            script.run()
        written = tuple(script.counts[f"script_{name}"] for name in ("invoice", "contact", "record"))
    assert written == (SHAPE.invoices, SHAPE.contacts, SHAPE.records), written
    measurements.script_seconds.append(timer.seconds)


def _load_by_peer(world: World, disposition: str) -> dlt_peer.Load:
    headers = vendor_headers(world)
    load = dlt_peer.load(headers.xero, headers.copper, disposition)
    records = sum(load.rows[record_type.plural] for record_type in RecordType)
    written = (load.rows["invoices"], load.rows["contacts"], records)
    assert written == (SHAPE.invoices, SHAPE.contacts, SHAPE.records), written
    return load


def _measure_peer(world: World, measurements: Measurements) -> None:
    load = _load_by_peer(world, "append")
    measurements.peer_seconds.append(load.seconds)
    measurements.peer_memory.append(load.memory)


def _measure_merging_peer(world: World, measurements: Measurements) -> None:
    measurements.merge_seconds.append(_load_by_peer(world, "merge").seconds)


def _measure_rounds(rounds: int) -> Measurements:
    """Each in a database and with a sandbox of its own, in alternation; dlt in the first rounds only."""
    measurements, has_peer = Measurements(), is_installed("dlt", dlt_peer.install)
    for number in rounds_in_time(rounds, MAX_SECONDS):
        peer_steps = [_measure_peer] if has_peer and number < MAX_PEER_ROUNDS else []
        peer_steps += [_measure_merging_peer] if has_peer and number == 0 else []
        for measure_step in (_measure_script, *peer_steps, _measure_backfill):
            with environment.empty_database(), vendors.run_sandbox("backfill") as sandbox:
                measure_step(vendors.connect_account(sandbox), measurements)
    return measurements


def measure(rounds: int) -> list[Figure]:
    """Objects a second and memory against dlt, time against a plain script, and calls against the number of pages."""
    measured = _measure_rounds(rounds)
    expected = xero_calls(SHAPE) + copper_calls(SHAPE)
    name = f"backfill of {SHAPE}"
    time_against_script = ratio_at_most(
        f"time of a {name}",
        measured.seconds,
        measured.script_seconds,
        "s",
        MAX_SCRIPT_RATIO,
        f"the same pages by httpx on {CONNECTIONS} connections, and COPY of the same parsed rows into logged tables"
        " without indexes",
        miss_reason="the script needs neither indexes, foreign keys and versions, nor two rows of the read model per"
        " invoice",
    )
    calls = at_most(
        f"calls above or below the number of pages of a {name}",
        [abs(calls - expected) for calls in measured.calls],
        0,
        "calls",
        note=f"{expected:,} pages and look-ups",
    )
    return [
        *(_peer_figures(name, measured) if measured.peer_seconds else []),
        time_against_script,
        calls,
    ]


def _peer_figures(name: str, measured: Measurements) -> list[Figure]:
    peer = f"dlt {dlt_peer.version()}: REST API source, {dlt_peer.FILE_FORMAT} files into PostgreSQL"
    rates = [OBJECTS / seconds for seconds in measured.seconds]
    peer_rates = [OBJECTS / seconds for seconds in measured.peer_seconds]
    merge_rates = [OBJECTS / seconds for seconds in measured.merge_seconds]
    return [
        at_least(
            f"objects per second of a {name}",
            rates[: len(peer_rates)],
            peer_rates,
            MIN_PEER_RATIO,
            f"{peer}, which appends rows without an index",
            miss_reason="a plain script that only fetches and copies the rows is hardly faster than dlt; ours also"
            " compares versions, queues what changed, and writes two rows of the read model and their balances per"
            " invoice",
        ),
        ratio(
            "objects per second of it, against rows that replace others",
            rates[: len(merge_rates)],
            merge_rates,
            "dlt with rows that replace those with their ids, as ours do",
        ),
        ratio_at_most(
            "peak memory of a worker process during it",
            measured.memory[: len(peer_rates)],
            measured.peer_memory,
            "MiB",
            MAX_MEMORY_RATIO,
            "the largest process of dlt",
        ),
    ]
