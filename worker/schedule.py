"""What runs when. What is due stands in PostgreSQL, claimed by one statement: any number of schedulers may run."""

from __future__ import annotations

import signal
import time
from types import FrameType

import structlog
from apscheduler.schedulers.blocking import BlockingScheduler
from prometheus_client import start_http_server

from runtime.settings import settings
from store import (
    access,
    accounts,
    audit,
    browser_sessions,
    chores,
    closing,
    freshness,
    inbox,
    invitations,
    meters,
    projection,
    runs,
    sequences,
    unreadable_fields,
    webhook_quotas,
)
from store.database import AccountClosedError, transaction
from worker import heartbeat, instruments, jobs, orphans, renormalisation, sync
from worker.broker import wake
from worker.steps import Kind

log = structlog.get_logger()
HOLE_SECONDS = 60.0
RETENTION_SECONDS = 3_600.0
ORPHANS_SECONDS = 3_600.0
ADDRESSES_SECONDS = 86_400.0
RETENTION_ROWS, RETENTION_ROUNDS = 5_000, 20
GRANTS_SECONDS = 3_600.0
AUDIT_DAYS = 366
WEB_BEAT_SECONDS = 5.0
WEB_AWAY_SECONDS = 12.0


def sweep() -> int:
    """Wake whoever has something waiting in PostgreSQL; returns how many were found.

    What Redis lost, what was put off for later, and what a killed worker held too long are all found here.
    """
    with transaction() as session:
        sources = inbox.waiting(session)
        dirty = projection.waiting(session)
        steps = runs.waiting(session)
    for source in sources:
        jobs.wake_source(source)
    for account_id in dirty:
        wake(jobs.project, account_id)
    for account_id, run_id in steps:
        wake(jobs.advance_run, account_id, run_id)
    found = len(sources) + len(dirty) + len(steps)
    for what, number in (("sources", len(sources)), ("marks", len(dirty)), ("runs", len(steps))):
        instruments.FOUND.labels(what).inc(number)
    if found:
        log.info("sweep.found", sources=len(sources), dirty=len(dirty), runs=len(steps))
    return found


def start(account_ids: list[int], kind: Kind, why: str) -> None:
    """Begin a run of every source of some accounts."""
    for account_id in account_ids:
        try:
            begun = sync.begin(account_id, kind)
        except AccountClosedError:
            continue
        for run in begun:
            jobs.wake_run(run)
        instruments.RUNS.labels(kind.value).inc(len(begun))
        log.info("runs.begun", account=account_id, kind=kind.value, runs=len(begun), why=why)


def catch_up_everyone(why: str) -> None:
    """Catch up every account at once: events were missed, and nobody can tell whose."""
    with transaction() as session:
        everyone = [one.id for one in accounts.accounts(session)]
    start(everyone, Kind.CATCH_UP, why)


def catch_up() -> None:
    """Begin the catch-ups that are due."""
    with transaction() as session:
        due = chores.claim(session, "catch_up", settings().catch_up_seconds)
    start(due, Kind.CATCH_UP, "due")


def reconcile() -> None:
    """Begin the nightly reconciliations whose time has come."""
    chosen = settings()
    with transaction() as session:
        due = chores.claim_nightly(session, "reconciliation", chosen.reconcile_hour, chosen.reconcile_spread_hours)
    start(due, Kind.RECONCILIATION, "nightly")


def find_missed_deliveries() -> None:
    """Catch up when a hole in Xero's sequence numbers stays open."""
    with transaction() as session:
        missed = sequences.settle(session, HOLE_SECONDS)
    if missed:
        catch_up_everyone("a hole in Xero's sequence numbers")


def rotate_relations() -> None:
    """Have the relations read that were read longest ago."""
    with transaction() as session:
        due = chores.claim(session, "relations", settings().rotation_seconds)
    for account_id in due:
        wake(jobs.rotate_relations, account_id)


def look_up_history() -> None:
    """Have the newest invoices' true created dates looked up."""
    if not settings().history_calls:
        return
    with transaction() as session:
        due = chores.claim(session, "history", settings().history_seconds)
        places = [(one, place.id) for one in due for place in accounts.organisations(session, one)]
    for place in places:
        wake(jobs.look_up_history, *place)


def keep_grants_alive() -> None:
    """Have idle grants refreshed."""
    with transaction() as session:
        due = chores.claim_installation(session, "grants", GRANTS_SECONDS)
    if due:
        wake(jobs.keep_grants_alive)


def clean_up() -> None:
    """Have what was closed, and is not cleaned up yet, taken up again."""
    with transaction() as session:
        waiting = closing.waiting(session)
    if waiting:
        jobs.wake_leftovers()


def renormalise_addresses() -> None:
    """Normalise anew what an earlier version kept by other rules: at the first start after an upgrade, then daily."""
    with transaction() as session:
        due = chores.claim_installation(session, "addresses", ADDRESSES_SECONDS)
    if due:
        renormalisation.renormalise_all()


def forget() -> None:
    """Delete what is kept for a time only: finished events, meters, ended runs and sessions, the audit trail."""
    chosen = settings()
    with transaction() as session:
        if not chores.claim_installation(session, "retention", RETENTION_SECONDS):
            return
        forgotten = meters.forget(session, chosen.meter_days) + runs.forget(session, chosen.inbox_days)
        forgotten += browser_sessions.purge(session) + audit.forget(session, AUDIT_DAYS)
        forgotten += freshness.forget(session, chosen.inbox_days)
        forgotten += unreadable_fields.purge(session, chosen.inbox_days)
        forgotten += invitations.purge(session, chosen.inbox_days)
        forgotten += webhook_quotas.purge(session, chosen.inbox_days)
    for _ in range(RETENTION_ROUNDS):
        with transaction() as session:
            gone = inbox.forget(session, chosen.inbox_days, chosen.quarantine_days, RETENTION_ROWS)
        forgotten += gone
        if gone < RETENTION_ROWS:
            break
    if forgotten:
        log.info("rows.forgotten", rows=forgotten)


def purge_states() -> None:
    """Delete what waited for browsers that did not come back in time."""
    with transaction() as session:
        access.purge_states(session)


def sweep_orphans() -> None:
    """Delete what belongs to accounts and organisations that are gone."""
    with transaction() as session:
        due = chores.claim_installation(session, "orphans", ORPHANS_SECONDS)
    if due:
        orphans.sweep()


def note_web() -> bool:
    """Note that the web process is up; when none was for a while, catch up: Copper sends nothing twice.

    Returns whether it was away.
    """
    with transaction() as session:
        ago = chores.beat(session, "web")
    away = ago is not None and ago > WEB_AWAY_SECONDS
    if away:
        catch_up_everyone("the web process was down")
    return away


def note_scheduler() -> None:
    """Record that the scheduler is up: last of all tasks, so that one which hangs shows."""
    heartbeat.beat("scheduler")


TASKS = (
    sweep,
    catch_up,
    reconcile,
    find_missed_deliveries,
    rotate_relations,
    look_up_history,
    keep_grants_alive,
    clean_up,
    renormalise_addresses,
    forget,
    purge_states,
    sweep_orphans,
    note_scheduler,
)


def tick() -> None:
    """Look at everything once; what fails is tried again at the next tick and holds up nothing else."""
    for task in TASKS:
        began, outcome = time.monotonic(), "done"
        try:
            task()
        except Exception as error:
            outcome = "failed"
            log.warning("tick.failed", task=task.__name__, error=type(error).__name__)
        instruments.TICKS.labels(task.__name__, outcome).observe(time.monotonic() - began)


def serve() -> None:
    """Run the schedule until told to stop."""
    scheduler = BlockingScheduler(timezone="UTC")
    scheduler.add_job(tick, "interval", seconds=settings().sweep_seconds, coalesce=True, max_instances=1)

    def stop(_: int, __: FrameType | None) -> None:
        scheduler.shutdown(wait=False)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if port := settings().scheduler_metrics_port:
        start_http_server(port, settings().metrics_host)
    log.info("scheduler.started", sweep_seconds=settings().sweep_seconds)
    tick()
    scheduler.start()
