"""Apply inbox events: lease them, fetch the current state of what they name, write it to the mirror and project it."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import TypeAlias

import structlog

from runtime import metrics, tracing
from runtime.logs import scrub
from runtime.settings import settings
from store.db.database import AccountClosedError, ConnectionLostError, transaction
from store.ingest import event_latency, inbox
from store.ingest.inbox import Lease, LeasedEvent, LeaseLostError, SyncSource
from store.read_model.projection import AccountBusyError
from worker.sync import lease_keeper, requested_catch_ups
from worker.sync.projector import project
from worker.sync.requested_catch_ups import CatchUpOutcome
from worker.vendors.connector import FetchResult
from worker.vendors.connectors import connector_for
from worker.vendors.errors import (
    AuthorizationLostError,
    EndpointRefusedError,
    TransientError,
    UnexpectedResponseError,
    VendorError,
)
from worker.vendors.rate_limit.budget import Budget
from worker.vendors.rate_limit.usage import collected_usage

log = structlog.get_logger()
# How long one job drains a source before it yields to the other sources.
DRAIN_SECONDS = 1.0
AUTHORIZATION_LOST_DELAY_SECONDS = 300.0
MAX_DELAY_SECONDS = 900.0
MAX_LOGGED_CORRELATION_IDS = 10
# A burst of more events than a small call fetches is debounced, so that a record which changes several times is fetched
# once.
DEBOUNCE_EVENTS = 40
DEBOUNCE_QUIET_SECONDS, DEBOUNCE_MAX_SECONDS, DEBOUNCE_POLL_SECONDS = 0.15, 1.0, 0.05
# In a steady stream a short pause lets more events share the next call. The first events of a stream never wait.
GATHER_SECONDS = 0.02
# Batches that a fast vendor answers within this time are committed and projected together.
MAX_BATCHES_PER_COMMIT, MAX_FETCH_SECONDS_PER_COMMIT = 10, 0.2


class FailureAction(Enum):
    """What to do with a batch of events that could not be fetched or written."""

    # The failure concerns the whole lease: stop, and let the caller requeue what is left.
    RAISE = auto()
    # Requeue the batch for `MAX_DELAY_SECONDS` without counting an attempt: it needs an admin, and blocks no others.
    DEFER = auto()
    # Raise, unless the request itself may be the cause and the vendor responds to another one: then bisect.
    RAISE_OR_BISECT = auto()
    # Apply the halves. An event that fails alone is requeued with a backoff, and the attempt counts.
    BISECT = auto()


# Errors that no smaller batch avoids.
WHOLE_LEASE_ERRORS = (LeaseLostError, AccountClosedError, ConnectionLostError, AccountBusyError)
# The first class that matches decides.
FAILURE_ACTIONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], FailureAction], ...] = (
    (WHOLE_LEASE_ERRORS, FailureAction.RAISE),
    (AuthorizationLostError, FailureAction.RAISE),
    (EndpointRefusedError, FailureAction.DEFER),
    (TransientError, FailureAction.RAISE_OR_BISECT),
    (Exception, FailureAction.BISECT),
)


# Events of one source and category that one call can fetch.
Batch: TypeAlias = Sequence[LeasedEvent]


@dataclass(frozen=True)
class FetchedBatch:
    """A batch of events and what was fetched for them."""

    events: Batch
    result: FetchResult


@dataclass(frozen=True)
class BatchOutcome:
    """What became of a batch: how many events were completed, and the smaller batches still to be applied, in order.

    Without either, all events of the batch were requeued.
    """

    completed: int = 0
    remaining: tuple[Batch, ...] = ()


@dataclass(frozen=True)
class DrainResult:
    """Events completed, and seconds until the next attempt at the rest (None: nothing is left).

    `catch_up` is the outcome of the events that only request a catch-up.
    """

    completed: int
    retry_after: float | None = None
    catch_up: CatchUpOutcome = requested_catch_ups.NO_CATCH_UP


def drain(
    source: SyncSource, seconds: float = math.inf, on_large_backlog: Callable[[], object] | None = None
) -> DrainResult:
    """Apply the pending events of one source for about `seconds`, then yield to other sources.

    `on_large_backlog` is called first if more events are pending than one lease takes: a second worker may help.
    Raises `AccountBusyError` if events are applied but their rows wait for another job; the events that were leased
    with them are returned to the inbox.
    """
    with transaction() as session:
        count, _ = inbox.pending_burst(session, source, inbox.LEASE_LIMIT + 1)
        requests_catch_up = inbox.has_catch_up_requests(session, source)
        budget = connector_for(source).budget(session)
    if on_large_backlog is not None and count > inbox.LEASE_LIMIT:
        on_large_backlog()
    catch_up = requested_catch_ups.start_requested(source) if requests_catch_up else requested_catch_ups.NO_CATCH_UP
    result = _drain_fetchable(source, seconds, budget, is_burst=count > DEBOUNCE_EVENTS)
    return replace(result, completed=result.completed + catch_up.event_count, catch_up=catch_up)


def _drain_fetchable(source: SyncSource, seconds: float, budget: Budget | None, *, is_burst: bool) -> DrainResult:
    """Apply the events that name something which can be fetched; if they are a burst, wait for its end.

    Each round leases some events. Their batches are fetched outside any transaction, and each batch is completed in
    the transaction that writes its rows. When the vendor or the budget asks to wait, completed batches stay completed
    and the rest is requeued.
    """
    completed, deadline = 0, time.monotonic() + seconds
    while True:
        if budget is not None and (delay := budget.pacing_delay()) > 0:
            return DrainResult(completed, delay)
        if is_burst or completed:
            _debounce(source, is_stream=completed > 0)
        with transaction() as session:
            lease = inbox.lease(session, source, settings().lease_seconds)
        if lease is None:
            return DrainResult(completed)
        with lease_keeper.renewing(partial(_renew, lease), partial(_release, lease)), collected_usage():
            newly_completed, retry_after = _process_lease(lease, deadline)
        completed += newly_completed
        if retry_after is not None or time.monotonic() > deadline:
            return DrainResult(completed, retry_after or 0.0)


def _renew(lease: Lease) -> bool:
    with transaction() as session:
        return inbox.renew_lease(session, lease, settings().lease_seconds)


def _release(lease: Lease) -> None:
    with transaction() as session:
        inbox.release_lease(session, lease)


def has_pending(source: SyncSource) -> bool:
    """Whether a source has events that could be applied now."""
    with transaction() as session:
        return inbox.has_pending(session, source)


def _debounce(source: SyncSource, *, is_stream: bool) -> None:
    """Wait for a burst of events to end, at most `DEBOUNCE_MAX_SECONDS`.

    In a stream (`is_stream`: this job has completed events already) fewer events wait `GATHER_SECONDS`.
    """
    deadline = time.monotonic() + DEBOUNCE_MAX_SECONDS
    while time.monotonic() < deadline:
        with transaction() as session:
            count, seconds_since_newest = inbox.pending_burst(session, source, DEBOUNCE_EVENTS + 1)
        if count <= DEBOUNCE_EVENTS or seconds_since_newest > DEBOUNCE_QUIET_SECONDS:
            if is_stream and 0 < count <= DEBOUNCE_EVENTS:
                time.sleep(GATHER_SECONDS)
            return
        time.sleep(DEBOUNCE_POLL_SECONDS)


def split_batches(events: Sequence[LeasedEvent], batch_size: Callable[[str], int]) -> Iterator[list[LeasedEvent]]:
    """Split events into batches of one category, with `batch_size(category)` ids each. Events of one id stay together.

    Contacts come before invoices, so that an invoice's contact is known when the invoice is written.
    """
    by_category: dict[str, dict[str, list[LeasedEvent]]] = {}
    for event in events:
        by_category.setdefault(event.category, {}).setdefault(event.resource_id.lower(), []).append(event)
    for category, by_id in sorted(by_category.items()):
        size, ids = batch_size(category), list(by_id)
        for start in range(0, len(ids), size):
            yield [event for resource_id in ids[start : start + size] for event in by_id[resource_id]]


def _process_lease(lease: Lease, deadline: float) -> tuple[int, float | None]:
    """Apply a lease batch by batch; return the number of completed events, and the seconds until the next attempt.

    At the deadline the rest is returned to the inbox unchanged.
    """
    completed = 0
    batches = list(split_batches(lease.events, connector_for(lease.source).batch_size))
    while batches:
        if completed and time.monotonic() > deadline:
            _release(lease)
            return completed, 0.0
        try:
            fetched, error = _fetch_batches(lease.source, batches)
            completed += _commit_or_bisect(lease, fetched) if fetched else 0
            del batches[: len(fetched)]
            if error is not None:
                completed += _bisect_or_raise(lease, batches[0], error, vendor_responding=bool(fetched))
                batches.pop(0)
        except LeaseLostError:
            log.warning("lease.lost", account=lease.source.account_id, events=len(batches[0]))
            return completed, None
        except (AuthorizationLostError, TransientError) as error:
            delay = _retry_delay(error)
            remaining = [event for batch in batches for event in batch]
            log.warning("events.requeued", account=lease.source.account_id, error=str(error), events=len(remaining))
            _requeue(lease, remaining, str(error), delay=delay, count_attempt=False)
            return completed, delay
    return completed, None


def _fetch_batches(
    source: SyncSource, batches: Sequence[list[LeasedEvent]]
) -> tuple[list[FetchedBatch], Exception | None]:
    """Fetch the first batches, as many as may be committed together.

    Stops at the first batch that fails, and returns its error with those before it.
    """
    fetched: list[FetchedBatch] = []
    deadline = time.monotonic() + MAX_FETCH_SECONDS_PER_COMMIT
    for events in batches[:MAX_BATCHES_PER_COMMIT]:
        try:
            with correlation_scope(events):
                fetched.append(FetchedBatch(events, connector_for(source).fetch_events(events)))
        except Exception as error:
            return fetched, error
        if time.monotonic() > deadline:
            break
    return fetched, None


def _commit_or_bisect(lease: Lease, fetched: Sequence[FetchedBatch]) -> int:
    """Write batches together; if that fails, apply them one by one, so that a failing one does not block the others."""
    try:
        return _commit_batches(lease, fetched)
    except WHOLE_LEASE_ERRORS:
        raise
    except Exception as error:
        if len(fetched) == 1:
            return _bisect_or_raise(lease, fetched[0].events, error, vendor_responding=True)
        return _apply_batches(lease, [batch.events for batch in fetched])


def _retry_delay(error: VendorError) -> float:
    if isinstance(error, AuthorizationLostError):
        return AUTHORIZATION_LOST_DELAY_SECONDS
    return error.retry_after if error.retry_after is not None else random.uniform(10, 30)


def _bisect_or_raise(lease: Lease, events: Batch, error: Exception, *, vendor_responding: bool) -> int:
    """Bisect a failed batch down to the poison events; return how many of its events were completed.

    Raises `error`, or that of a smaller batch, if it concerns the whole lease.
    """
    outcome = _handle_failure(lease, events, error, vendor_responding=vendor_responding)
    return outcome.completed + _apply_batches(lease, outcome.remaining)


def _apply_batches(lease: Lease, batches: Sequence[Batch]) -> int:
    return apply_in_order(batches, lambda events: _apply_batch(lease, events))


def apply_in_order(batches: Sequence[Batch], apply: Callable[[Batch], BatchOutcome]) -> int:
    """Apply batches one at a time, the remaining ones of an outcome first; return the number of completed events."""
    completed, pending = 0, deque(batches)
    while pending:
        outcome = apply(pending.popleft())
        completed += outcome.completed
        pending.extendleft(reversed(outcome.remaining))
    return completed


def _apply_batch(lease: Lease, events: Batch) -> BatchOutcome:
    """Fetch and write one batch of a source whose vendor has responded before."""
    try:
        with correlation_scope(events):
            result = connector_for(lease.source).fetch_events(events)
        return BatchOutcome(_commit_batches(lease, [FetchedBatch(events, result)]))
    except Exception as error:
        return _handle_failure(lease, events, error, vendor_responding=True)


def failure_action(error: Exception, vendor_responds: Callable[[], bool]) -> FailureAction:
    """Return what to do with a batch that failed with `error`: RAISE, DEFER or BISECT (see `FAILURE_ACTIONS`).

    An error that the request itself may have caused (a 500) is no outage if the vendor responds to another request.
    """
    action = next(action for error_type, action in FAILURE_ACTIONS if isinstance(error, error_type))
    if action is not FailureAction.RAISE_OR_BISECT:
        return action
    is_poison = isinstance(error, TransientError) and error.ambiguous and vendor_responds()
    return FailureAction.BISECT if is_poison else FailureAction.RAISE


def _handle_failure(lease: Lease, events: Batch, error: Exception, *, vendor_responding: bool) -> BatchOutcome:
    """Raise `error`, requeue the batch, or return its halves to be applied next."""
    action = failure_action(error, lambda: vendor_responding or _vendor_responds(lease.source))
    if action is FailureAction.RAISE:
        raise error
    if action is FailureAction.DEFER:
        log.warning("events.requeued", account=lease.source.account_id, error=str(error), events=len(events))
        _requeue(lease, events, str(error), delay=MAX_DELAY_SECONDS, count_attempt=False)
        return BatchOutcome()
    if len(events) > 1:
        middle = len(events) // 2
        return BatchOutcome(remaining=(events[:middle], events[middle:]))
    if not isinstance(error, VendorError):
        log.error("event.failed", account=lease.source.account_id, event_id=events[0].id, exc_info=error)
    message = scrub(f"{type(error).__name__}: {error}")
    _requeue(lease, events, message, delay=backoff_seconds(events[0]), count_attempt=True)
    return BatchOutcome()


@contextmanager
def correlation_scope(events: Sequence[LeasedEvent]) -> Iterator[None]:
    """Bind the correlation ids of the events' deliveries to all log lines and the span of this scope.

    Log lines carry at most `MAX_LOGGED_CORRELATION_IDS`.
    """
    ids = list(dict.fromkeys(event.correlation_id for event in events))
    omitted = len(ids) - MAX_LOGGED_CORRELATION_IDS
    correlation = " ".join(ids[:MAX_LOGGED_CORRELATION_IDS]) + (f" and {omitted} more" if omitted > 0 else "")
    with (
        structlog.contextvars.bound_contextvars(correlation=correlation),
        tracing.span("events.apply", caused_by=ids),
    ):
        yield


def _vendor_responds(source: SyncSource) -> bool:
    """Whether the vendor responds to another request. A refusal is a response, and so is data that cannot be read."""
    try:
        return connector_for(source).ping()
    except (EndpointRefusedError, UnexpectedResponseError):
        return True
    except VendorError:
        return False


def backoff_seconds(event: LeasedEvent) -> float:
    """Return the seconds until a failed event is retried: exponential with jitter, at most `MAX_DELAY_SECONDS`."""
    return min(random.uniform(2, 6) * 2.0 ** min(event.attempts - 1, 10), MAX_DELAY_SECONDS)


def _commit_batches(lease: Lease, batches: Sequence[FetchedBatch]) -> int:
    """Write what was fetched and complete its events in one transaction, then project and record the latency.

    Events whose data could not be parsed are quarantined. Returns the number of completed events.
    """
    events = [event for batch in batches for event in batch.events]
    errors: dict[int, str] = {}
    for batch in batches:
        for event in batch.events:
            error = batch.result.unreadable.get(event.resource_id.lower())
            if error is not None:
                errors[event.id] = error
    completed_ids = [event.id for event in events if event.id not in errors]
    with correlation_scope(events), collected_usage() as usage:
        with transaction() as session:
            for batch in batches:
                batch.result.write(session)
            inbox.complete(session, lease, completed_ids)
            usage.store(session)
        usage.clear()
        for event in events:
            if event.id in errors:
                _quarantine(lease, event, errors[event.id])
        log.info(
            "events.applied",
            account=lease.source.account_id,
            organisation=lease.source.organisation_id,
            events=len(completed_ids),
        )
        try:
            project(lease.source.account_id)
        except AccountBusyError:
            # Their rows will be visible later than that, but these are the slowest events, which must not be missing.
            _record_latency(lease.source, completed_ids)
            raise
        _record_latency(lease.source, completed_ids)
    return len(completed_ids)


def _record_latency(source: SyncSource, event_ids: Sequence[int]) -> None:
    with transaction() as session:
        latencies = event_latency.record_latency(session, source.account_id, event_ids)
    histogram = metrics.EVENT_LATENCY.labels(source.vendor)
    for seconds in latencies:
        histogram.observe(seconds)


def _quarantine(lease: Lease, event: LeasedEvent, error: str) -> None:
    """Quarantine an event at its first attempt, because fetching unreadable data again does not help."""
    _requeue(lease, [event], error, delay=0.0, count_attempt=True, max_attempts=event.attempts)


def _requeue(
    lease: Lease,
    events: Sequence[LeasedEvent],
    error: str,
    *,
    delay: float,
    count_attempt: bool,
    max_attempts: int | None = None,
) -> None:
    """Return events to the inbox, to be leased again after `delay` seconds; quarantine those without attempts left."""
    with transaction() as session:
        quarantined = inbox.requeue(
            session,
            lease,
            [event.id for event in events],
            error=error,
            delay=delay,
            max_attempts=settings().event_max_attempts if max_attempts is None else max_attempts,
            count_attempt=count_attempt,
        )
    if quarantined:
        metrics.EVENTS_QUARANTINED.labels(lease.source.vendor).inc(quarantined)
        log.error("events.quarantined", account=lease.source.account_id, events=quarantined, error=error)
