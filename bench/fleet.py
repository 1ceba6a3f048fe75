"""A vendor's whole customer base in one installation: many accounts in which little happens.

The accounts are loaded by SQL, and the vendors answer at once that nothing has changed. So what is measured is what an
account costs by being there: its catch-ups, the scheduler's claims, metrics and status, and memory.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import httpx
import psutil
from sqlalchemy import text

from bench import environment, installation
from bench.figures import Figure, at_most, timed
from bench.installation import Memory, describe, total_mib
from runtime import logs
from runtime.redis_client import shared_client
from runtime.settings import override_settings, settings
from sandbox import server as sandbox_server
from store.db.database import dispose_engine, transaction
from tests.chaos import free_port
from tests.support import fleet
from tests.support.fleet import FleetSize
from tests.support.serving import wait_until
from worker.jobs import actors, scheduler
from worker.jobs.enqueue import enqueue_once
from worker.sync import run_processor
from worker.vendors.sync_types import RunKind

ACCOUNTS, RECORDS = 10_000, 200
CATCH_UPS_PER_ROUND = 500
PENDING_ACCOUNTS = 500
TOKEN = "fleet-metrics-token"
GOAL_CATCH_UP_MS, GOAL_TICK_S, GOAL_BEGIN_S, GOAL_METRICS_S, GOAL_STATUS_S = 20.0, 1.0, 2.0, 0.5, 2.0
GOAL_CLAIM_S, GOAL_SWEEP_S, GOAL_MEMORY_MIB, GOAL_APP_SHARE = 2.0, 1.0, 400.0, 0.5
XERO_APP_CALLS = 10_000
# What the installation costs with nothing to do is measured after its processes have been idle for a while.
IDLE_SECONDS, LOAD_SECONDS = 8.0, 30.0
MAKE_DUE = text("UPDATE scheduled_task SET last_started_at = now() - interval '2 days' WHERE name = :name")
MAKE_SOME_DUE = text("""
    UPDATE scheduled_task SET last_started_at = now() - interval '1 hour'
    WHERE name = 'catch_up' AND account_id % 60 = 0
""")
ADD_PENDING = (
    """INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, resource_id, dedupe_key,
           correlation_id)
       SELECT n, 'xero', n, '', 'INVOICE', 'UPDATE', md5('pending' || n), sha256(('pending' || n)::bytea), 'c'
       FROM generate_series(1, :accounts) AS n""",
    """INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
       SELECT n, 'invoice', n, md5('pending' || n)::uuid FROM generate_series(1, :accounts) AS n""",
)
REMOVE_PENDING = (
    "DELETE FROM inbox WHERE state = 'pending'",
    "DELETE FROM projection_queue",
    "DELETE FROM sync_run WHERE state = 'running'",
)
# The most starts in any minute, times the calls of a catch-up.
BUSIEST_MINUTE = text("""
    SELECT max(starts) FROM (
        SELECT count(*) OVER (ORDER BY not_before
                              RANGE BETWEEN CURRENT ROW AND interval '59.9 seconds' FOLLOWING) AS starts
        FROM sync_run WHERE state = 'running' AND organisation_id <> 0) minutes
""")


@dataclass(frozen=True)
class CatchUps:
    """Idle catch-ups: accounts a second, and milliseconds of a worker's CPU for each."""

    rate: float
    cpu_ms: float


@contextmanager
def _vendors() -> Iterator[None]:
    """Run the vendors, and point this process and those that it starts to them."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    override_settings(
        {
            **sandbox_server.environment(base),
            "XERO_APP_CALLS_PER_MINUTE": str(XERO_APP_CALLS),
            "RATE_LIMIT_WINDOW_SECONDS": "60",
            "METRICS_TOKEN": TOKEN,
        }
    )
    dispose_engine()
    with environment.start_process("tests.support.empty_vendors", str(port), ready_url=f"{base}/api.xro/2.0/Contacts"):
        yield


def _clear_queues() -> None:
    """Drop the jobs that a measurement has enqueued, and the traces of them in Redis."""
    for key in list(shared_client().scan_iter(f"{settings().redis_namespace}:*", count=5_000)):
        shared_client().delete(key)


def _reset() -> None:
    for statement in REMOVE_PENDING:
        environment.execute(statement)
    _clear_queues()


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process and its children."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(used.user + used.system for used in times)


def _measure_catch_ups(rounds: int, accounts: int) -> list[CatchUps]:
    """Catch-ups of some accounts by one worker process, which has handled others before."""
    count = min(CATCH_UPS_PER_ROUND, accounts // 2)
    measured: list[CatchUps] = []
    # Nothing else shall be due: the heartbeat is all that the worker does besides.
    variables = {"WORKER_PROCESSES": "1", "XERO_APP_CALLS_PER_MINUTE": "100000"}
    with environment.start_process("cli", "worker", variables=variables) as started:
        worker = psutil.Process(started.pid)
        _run_catch_ups(range(1, count // 5 + 1))
        for _ in range(rounds):
            before = _cpu_seconds(worker)
            seconds = _run_catch_ups(range(1, count + 1))
            cpu_ms = 1_000 * (_cpu_seconds(worker) - before) / count
            measured.append(CatchUps(count / seconds, cpu_ms))
    _reset()
    return measured


def _run_catch_ups(account_ids: Sequence[int]) -> float:
    """Seconds until these accounts' catch-ups are done."""
    with transaction() as session:
        started = run_processor.start_scheduled_runs(session, dict.fromkeys(account_ids, 0.0), RunKind.CATCH_UP)
    with timed() as timer:
        for run in started:
            enqueue_once(actors.advance_run, run.account_id, run.id)
        wait_until(_is_done, seconds=90, description="the catch-ups")
    return timer.seconds


def _is_done() -> bool:
    with transaction() as session:
        return not session.execute(text("SELECT EXISTS (SELECT FROM sync_run WHERE state = 'running')")).scalar_one()


def _measure_begin(rounds: int) -> tuple[list[float], float]:
    """Seconds to begin the catch-ups of all accounts, and the largest share of the app's minute that they may use."""
    seconds, starts = [], 0
    for _ in range(rounds):
        with transaction() as session:
            session.execute(MAKE_DUE, {"name": "catch_up"})
        with timed() as timer:
            scheduler.catch_up()
        seconds.append(timer.seconds)
        with transaction() as session:
            starts = max(starts, session.execute(BUSIEST_MINUTE).scalar_one())
        _reset()
    return seconds, starts * scheduler.XERO_CALLS_PER_CATCH_UP / XERO_APP_CALLS


def _measure_claim(rounds: int) -> list[float]:
    """Seconds to claim the nightly reconciliations of all accounts, and to begin them."""
    seconds = []
    for _ in range(rounds):
        with transaction() as session:
            session.execute(MAKE_DUE, {"name": "reconciliation"})
        with timed() as timer:
            scheduler.reconcile()
        seconds.append(timer.seconds)
        _reset()
    return seconds


def _measure_ticks(rounds: int, *, with_work: bool) -> list[float]:
    """Seconds of a tick: with nothing to do, or with a sixtieth of the accounts due, as in every 15 of 900 seconds."""
    with transaction() as session:
        session.execute(text("UPDATE scheduled_task SET last_started_at = now() WHERE account_id <> 0"))
    scheduler.tick()
    seconds = []
    for _ in range(rounds):
        if with_work:
            with transaction() as session:
                session.execute(MAKE_SOME_DUE)
        with timed() as timer:
            scheduler.tick()
        seconds.append(timer.seconds)
        _reset()
    return seconds


def _measure_sweep(rounds: int, accounts: int) -> list[float]:
    """Seconds of a sweep that finds events and marks of some accounts."""
    seconds = []
    for _ in range(rounds):
        for statement in ADD_PENDING:
            environment.execute(statement, accounts=min(PENDING_ACCOUNTS, accounts))
        with timed() as timer:
            scheduler.sweep()
        seconds.append(timer.seconds)
        _reset()
    return seconds


def _measure_metrics(url: str, rounds: int) -> tuple[list[float], list[float], int]:
    """Seconds of the first scrape, which reads the whole month, and of later ones; and the samples of a page."""
    seconds = []
    for _ in range(rounds + 1):
        with timed() as timer:
            page = httpx.get(
                f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=60
            )
        assert page.status_code == 200, page.text
        seconds.append(timer.seconds)
    samples = sum(1 for line in page.text.splitlines() if line and not line.startswith("#"))
    return seconds[:1], seconds[1:], samples


def _measure_status(rounds: int) -> list[float]:
    """Seconds of `patina status`, its start included."""
    seconds = []
    for _ in range(rounds):
        with timed() as timer:
            subprocess.run(
                [sys.executable, "-m", "cli", "status"],
                cwd=environment.ROOT,
                check=False,
                stdout=subprocess.DEVNULL,
                timeout=120,
            )
        seconds.append(timer.seconds)
    return seconds


def _measure_memory(accounts: int) -> tuple[dict[str, Memory], dict[str, Memory]]:
    """The installation's memory idle, and the most while catch-ups of many accounts run and pages are read."""
    override_settings(installation.address())
    rarely = {"CATCH_UP_INTERVAL_SECONDS": "86400", "RELATIONS_REFRESH_INTERVAL_SECONDS": "86400"}
    rarely["CREATED_DATE_LOOKUP_INTERVAL_SECONDS"] = "86400"
    with installation.run(scheduler_variables=rarely) as running:
        # Idle means that nothing has happened for a while.
        time.sleep(IDLE_SECONDS)
        idle = running.read_memory()
        with transaction() as session:
            count = min(CATCH_UPS_PER_ROUND, accounts)
            delays = dict.fromkeys(range(1, count + 1), 0.0)
            started = run_processor.start_scheduled_runs(session, delays, RunKind.CATCH_UP)
        for run in started:
            enqueue_once(actors.advance_run, run.account_id, run.id)
        peak = idle
        deadline = time.monotonic() + LOAD_SECONDS
        while not _is_done() and time.monotonic() < deadline:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            httpx.get(f"{running.url}/metrics", headers=headers, trust_env=False, timeout=60)
            peak = max(peak, running.read_memory(), key=total_mib)
            # Between two samples.
            time.sleep(0.5)
    _reset()
    return idle, peak


def measure(rounds: int, accounts: int = ACCOUNTS) -> list[Figure]:
    """All measurements with this number of accounts."""
    logs.configure("bench")
    size = FleetSize(accounts, RECORDS, events=50, runs=10, days=27)
    with environment.empty_database(), _vendors():
        with timed() as load_timer:
            fleet.load(size)
        begin_seconds, app_share = _measure_begin(rounds)
        claim_seconds = _measure_claim(rounds)
        idle_ticks, busy_ticks = _measure_ticks(rounds, with_work=False), _measure_ticks(rounds, with_work=True)
        sweeps = _measure_sweep(rounds, accounts)
        catch_ups = _measure_catch_ups(rounds, accounts)
        with environment.start_web("cli", "web") as url:
            first_scrape, scrapes, samples = _measure_metrics(url, rounds)
        statuses = _measure_status(min(rounds, 3))
        idle, peak = _measure_memory(accounts)
    rates = [catch_up.rate for catch_up in catch_ups]
    named = f"{accounts:,} accounts of {RECORDS} records"
    return [
        at_most(
            f"worker CPU of an idle catch-up of an account, {named}",
            (catch_up.cpu_ms for catch_up in catch_ups),
            GOAL_CATCH_UP_MS,
            "ms",
            note="Copper and one organisation: 7 calls",
            miss_reason="the calls by requests, 34 statements in 15 transactions and the commands to Redis are mostly"
            " Python code of the libraries",
            rate=f"{median(rates):.0f} per second and process",
            loading=f"{load_timer.seconds:.0f} s",
        ),
        at_most(
            "beginning the catch-ups of all accounts",
            begin_seconds,
            GOAL_BEGIN_S,
            "s",
            miss_reason="two runs of each account are inserted with their indexes, and its task is updated",
        ),
        at_most(
            "share of the Xero app's calls that they use in a minute, at most",
            [app_share],
            GOAL_APP_SHARE,
            "of the limit",
        ),
        at_most("claiming and beginning all nightly reconciliations", claim_seconds, GOAL_CLAIM_S, "s"),
        at_most("a scheduler tick with nothing to do", idle_ticks, GOAL_TICK_S, "s"),
        at_most("a scheduler tick with a sixtieth of the accounts due", busy_ticks, GOAL_TICK_S, "s"),
        at_most(f"a sweep that finds events and marks of {PENDING_ACCOUNTS} accounts", sweeps, GOAL_SWEEP_S, "s"),
        at_most("`/metrics`", scrapes, GOAL_METRICS_S, "s", samples=str(samples), first=f"{first_scrape[0]:.2f} s"),
        at_most(
            "`patina status`",
            statuses,
            GOAL_STATUS_S,
            "s",
            miss_reason="its imports are a third of it, and the month's usage of all accounts is summed anew",
        ),
        at_most(
            "memory of the whole installation, idle",
            [total_mib(idle)],
            GOAL_MEMORY_MIB,
            "MiB",
            miss_reason="each process has its own libraries, and PostgreSQL keeps in its cache what it has read",
            **describe(idle),
        ),
        Figure("its memory during catch-ups and scrapes", (total_mib(peak),), "MiB", details=describe(peak)),
    ]
