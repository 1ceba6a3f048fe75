"""The scheduler and its tasks. Due tasks are claimed atomically in PostgreSQL, so any number of schedulers may run."""

from __future__ import annotations

import signal
import time
from types import FrameType

import structlog
from apscheduler.schedulers.blocking import BlockingScheduler
from prometheus_client import start_http_server

from runtime import metrics
from runtime.settings import settings
from store.accounts import (
    audit,
    browser_sessions,
    connection_status,
    deprovisioning,
    invitations,
    oauth_state,
)
from store.db.database import Session, transaction
from store.ingest import delivery_gaps, event_latency, inbox, webhook_quotas
from store.mirror import unreadable_fields
from store.read_model import field_values, projection
from store.sync import api_usage, heartbeats, runs, scheduled_tasks
from store.sync.runs import ScheduledRun
from store.sync.scheduled_tasks import Claim
from worker.jobs import actors, heartbeat
from worker.jobs.enqueue import enqueue_later, enqueue_once, enqueue_overdue
from worker.sync import field_writer, orphans, renormalisation, run_processor
from worker.vendors.rate_limit.spread import seconds_between_runs
from worker.vendors.sync_types import RunKind

log = structlog.get_logger()
DELIVERY_GAP_GRACE_SECONDS = 60.0
# What a run of a small organisation costs at Xero: its listings; those, its details, and rows that were on no page.
XERO_CALLS_PER_CATCH_UP, XERO_CALLS_PER_RECONCILIATION = 5, 10
RETENTION_INTERVAL_SECONDS = 3_600.0
ORPHANS_INTERVAL_SECONDS = 3_600.0
ADDRESSES_INTERVAL_SECONDS = 86_400.0
RETENTION_BATCH_ROWS, RETENTION_MAX_BATCHES = 5_000, 20
# Accounts whose background work is enqueued at one tick; those that have waited longest come first.
MAX_BACKGROUND_STARTS = 500
# One transaction starts the catch-ups of this many accounts.
MAX_ACCOUNTS_PER_CLAIM = 2_000
GRANTS_INTERVAL_SECONDS = 3_600.0
AUDIT_RETENTION_DAYS = 366
WEB_HEARTBEAT_SECONDS = 5.0
WEB_DOWN_AFTER_SECONDS = 12.0


def sweep() -> int:
    """Enqueue jobs for all pending work in PostgreSQL; return how much was found.

    This recovers jobs that Redis lost, deferred work that is due again, and expired leases of killed workers.
    """
    with transaction() as session:
        sources = inbox.pending_sources(session)
        account_ids = projection.accounts_pending(session)
        pending_runs = runs.list_pending(session)
    enqueue_overdue(actors.drain, [(source.account_id, source.organisation_id) for source in sources])
    enqueue_overdue(actors.project, [(account_id,) for account_id in account_ids])
    enqueue_overdue(actors.advance_run, pending_runs)
    counts = {"sources": len(sources), "marks": len(account_ids), "runs": len(pending_runs)}
    for work_type, count in counts.items():
        metrics.SWEEP_RECOVERED.labels(work_type).inc(count)
    total = sum(counts.values())
    if total:
        log.info("sweep.recovered", **counts)
    return total


def start_runs(session: Session, claims: list[Claim], kind: RunKind) -> list[ScheduledRun]:
    """Start a run of every source of the accounts, in the transaction that claimed them."""
    return run_processor.start_scheduled_runs(session, {claim.account_id: claim.delay for claim in claims}, kind)


def enqueue_runs(scheduled_runs: list[ScheduledRun], kind: RunKind, reason: str) -> None:
    """Enqueue runs that are due before the next sweep, which enqueues the others."""
    for run in scheduled_runs:
        if run.delay <= 0:
            enqueue_once(actors.advance_run, run.account_id, run.id)
        elif run.delay <= settings().sweep_interval_seconds:
            enqueue_later(actors.advance_run, run.delay, run.account_id, run.id)
    if scheduled_runs:
        metrics.SYNC_RUNS_STARTED.labels(kind.value).inc(len(scheduled_runs))
        accounts = len({run.account_id for run in scheduled_runs})
        last_after = round(max(run.delay for run in scheduled_runs))
        log.info(
            "runs.started",
            kind=kind.value,
            accounts=accounts,
            runs=len(scheduled_runs),
            last_after_seconds=last_after,
            reason=reason,
        )


def catch_up_all_accounts(reason: str) -> None:
    """Start a catch-up of every account, because events of unknown accounts were missed."""
    _start_catch_ups(0.0, reason)


def catch_up() -> None:
    """Start the catch-ups that are due."""
    _start_catch_ups(settings().catch_up_interval_seconds, "due")


def _start_catch_ups(interval_seconds: float, reason: str) -> None:
    """Start a catch-up of the accounts whose last one was started at least some seconds ago.

    Many are started by a few statements. Their first pages are spread, so that they leave half of the app's calls.
    """
    gap, is_complete = seconds_between_runs(XERO_CALLS_PER_CATCH_UP), False
    while not is_complete:
        with transaction() as session:
            claims = scheduled_tasks.claim(
                session, scheduled_tasks.CATCH_UP, interval_seconds, gap=gap, limit=MAX_ACCOUNTS_PER_CLAIM
            )
            scheduled_runs = start_runs(session, claims, RunKind.CATCH_UP)
        enqueue_runs(scheduled_runs, RunKind.CATCH_UP, reason)
        is_complete = len(claims) < MAX_ACCOUNTS_PER_CLAIM


def reconcile() -> None:
    """Start the nightly reconciliations that are due."""
    config, gap = settings(), seconds_between_runs(XERO_CALLS_PER_RECONCILIATION)
    with transaction() as session:
        claims = scheduled_tasks.claim_nightly(
            session, scheduled_tasks.RECONCILIATION, config.reconcile_hour, config.reconcile_spread_hours, gap=gap
        )
        scheduled_runs = start_runs(session, claims, RunKind.RECONCILIATION)
    enqueue_runs(scheduled_runs, RunKind.RECONCILIATION, "nightly")


def detect_delivery_gaps() -> None:
    """Catch up all accounts if a gap in the sequence numbers of Xero's deliveries stays open."""
    with transaction() as session:
        has_gap = delivery_gaps.detect_gaps(session, DELIVERY_GAP_GRACE_SECONDS)
    if has_gap:
        catch_up_all_accounts("a gap in Xero's sequence numbers")


def refresh_stale_relations() -> None:
    """Enqueue refreshes of the relations that were fetched longest ago."""
    with transaction() as session:
        claims = scheduled_tasks.claim(
            session,
            scheduled_tasks.RELATIONS,
            settings().relations_refresh_interval_seconds,
            limit=MAX_BACKGROUND_STARTS,
        )
    for claim in claims:
        enqueue_once(actors.refresh_stale_relations, claim.account_id)


def backfill_created_dates() -> None:
    """Enqueue look-ups of the newest invoices' created dates."""
    if not settings().created_date_lookup_max_calls:
        return
    with transaction() as session:
        claims = scheduled_tasks.claim(
            session,
            scheduled_tasks.CREATED_DATES,
            settings().created_date_lookup_interval_seconds,
            limit=MAX_BACKGROUND_STARTS,
        )
        connections = connection_status.list_connected(session, [claim.account_id for claim in claims])
    for connection in connections:
        if connection.organisation_id != connection_status.COPPER:
            enqueue_once(actors.backfill_created_dates, connection.account_id, connection.organisation_id)


def write_fields() -> None:
    """Enqueue the writing of custom fields that are due."""
    with transaction() as session:
        due = field_values.due_accounts(session, field_writer.CHECK_INTERVAL_SECONDS)
    for account_id in due:
        enqueue_once(actors.write_fields, account_id)


def refresh_idle_grants() -> None:
    """Enqueue a refresh of the grants that were not used for days."""
    with transaction() as session:
        due = scheduled_tasks.claim_installation(session, "grants", GRANTS_INTERVAL_SECONDS)
    if due:
        enqueue_once(actors.refresh_idle_grants)


def run_cleanup() -> None:
    """Enqueue the cleanup of removed accounts and organisations, if any is due."""
    with transaction() as session:
        pending_tasks = deprovisioning.count_due_tasks(session)
    if pending_tasks:
        actors.enqueue_cleanup()


def renormalise_addresses() -> None:
    """Normalise the addresses that an earlier version stored by other rules: after an upgrade, then daily."""
    with transaction() as session:
        due = scheduled_tasks.claim_installation(session, "addresses", ADDRESSES_INTERVAL_SECONDS)
    if due:
        renormalisation.renormalise_all()


def purge_expired() -> None:
    """Delete rows past their retention: events, API usage, runs, sessions, audit entries and others."""
    config = settings()
    inbox_days, quarantine_days = config.inbox_retention_days, config.quarantine_retention_days
    with transaction() as session:
        if not scheduled_tasks.claim_installation(session, "retention", RETENTION_INTERVAL_SECONDS):
            return
        scheduled_tasks.add_missing(session)
        deleted = api_usage.delete_expired(session, config.api_usage_retention_days) + runs.delete_expired(
            session, inbox_days
        )
        deleted += browser_sessions.purge(session) + audit.delete_expired(session, AUDIT_RETENTION_DAYS)
        deleted += event_latency.delete_expired(session, inbox_days)
        deleted += unreadable_fields.purge(session, inbox_days)
        deleted += invitations.purge(session, inbox_days)
        deleted += webhook_quotas.delete_expired(session, inbox_days)
    for _ in range(RETENTION_MAX_BATCHES):
        with transaction() as session:
            batch_rows = inbox.delete_expired(session, inbox_days, quarantine_days, RETENTION_BATCH_ROWS)
        deleted += batch_rows
        if batch_rows < RETENTION_BATCH_ROWS:
            break
    if deleted:
        log.info("retention.deleted", rows=deleted)


def purge_oauth_states() -> None:
    """Delete OAuth states of browsers that did not return in time."""
    with transaction() as session:
        oauth_state.purge(session)


def delete_orphans() -> None:
    """Delete rows whose account or organisation no longer exists."""
    with transaction() as session:
        due = scheduled_tasks.claim_installation(session, "orphans", ORPHANS_INTERVAL_SECONDS)
    if due:
        orphans.delete_orphans()


def record_web_heartbeat() -> bool:
    """Record that the web process is up. Return whether it was down before.

    After a downtime all accounts are caught up, because Copper never redelivers.
    """
    with transaction() as session:
        seconds_since = heartbeats.record_heartbeat(session, "web")
    was_down = seconds_since is not None and seconds_since > WEB_DOWN_AFTER_SECONDS
    if was_down:
        catch_up_all_accounts("the web process was down")
    return was_down


def record_scheduler_heartbeat() -> None:
    """Record that the scheduler is up. It is the last task, so that a hanging one stops the heartbeat."""
    heartbeat.record("scheduler")


TASKS = (
    sweep,
    catch_up,
    reconcile,
    detect_delivery_gaps,
    refresh_stale_relations,
    backfill_created_dates,
    write_fields,
    refresh_idle_grants,
    run_cleanup,
    renormalise_addresses,
    purge_expired,
    purge_oauth_states,
    delete_orphans,
    record_scheduler_heartbeat,
)


def tick() -> None:
    """Run all tasks once. A task that fails is retried at the next tick and does not block the others."""
    for task in TASKS:
        started, outcome = time.monotonic(), "ok"
        try:
            task()
        except Exception as error:
            outcome = "error"
            log.warning("task.failed", task=task.__name__, error=type(error).__name__)
        metrics.TASK_DURATION.labels(task.__name__, outcome).observe(time.monotonic() - started)


def serve() -> None:
    """Run the scheduler until SIGTERM or SIGINT."""
    scheduler = BlockingScheduler(timezone="UTC")
    scheduler.add_job(tick, "interval", seconds=settings().sweep_interval_seconds, coalesce=True, max_instances=1)

    def stop(_: int, __: FrameType | None) -> None:
        scheduler.shutdown(wait=False)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if port := settings().scheduler_metrics_port:
        start_http_server(port, settings().metrics_host)
    log.info("scheduler.started", sweep_interval_seconds=settings().sweep_interval_seconds)
    tick()
    scheduler.start()
