"""Apply inbox events: lease them, fetch the current state of what they name, write it to the mirror and project it."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from typing import TypeAlias
from uuid import UUID

import structlog

from runtime import metrics, tracing
from runtime.logs import scrub
from runtime.settings import settings
from store.accounts import xero_organisations
from store.accounts.xero_organisations import Organisation
from store.db.database import AccountClosedError, Session, transaction
from store.db.enums import RecordType
from store.ingest import event_latency, inbox
from store.ingest.inbox import Lease, LeasedEvent, LeaseLostError, SyncSource
from store.mirror import mirror
from worker.sync import requested_catch_ups
from worker.sync.projector import project
from worker.sync.requested_catch_ups import CatchUpOutcome
from worker.vendors.copper.client import PAGE_SIZE, RecordPage, client_for_account
from worker.vendors.copper.stages import write_records
from worker.vendors.errors import (
    AuthorizationLostError,
    EndpointRefusedError,
    TransientError,
    UnexpectedResponseError,
    VendorError,
)
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.xero.client import IDS_PER_CALL, Page, XeroClient
from worker.vendors.xero.schemas import XeroContact, XeroInvoice
from worker.vendors.xero.stages import list_invoices_of

log = structlog.get_logger()
# How long one job drains a source before it yields to the other sources.
DRAIN_SECONDS = 1.0
AUTHORIZATION_LOST_DELAY_SECONDS = 300.0
MAX_DELAY_SECONDS = 900.0
# Each opportunity costs one more call, for its relations.
OPPORTUNITIES_PER_BATCH = 20
MAX_LOGGED_CORRELATION_IDS = 10
# A burst of events is debounced, so that a record which changes several times is fetched once.
DEBOUNCE_EVENTS = IDS_PER_CALL
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


# The first class that matches decides.
FAILURE_ACTIONS: tuple[tuple[type[Exception], FailureAction], ...] = (
    (LeaseLostError, FailureAction.RAISE),
    (AccountClosedError, FailureAction.RAISE),
    (AuthorizationLostError, FailureAction.RAISE),
    (EndpointRefusedError, FailureAction.DEFER),
    (TransientError, FailureAction.RAISE_OR_BISECT),
    (Exception, FailureAction.BISECT),
)


# Events of one source and category that one call can fetch.
Batch: TypeAlias = Sequence[LeasedEvent]


@dataclass
class FetchResult:
    """What the vendor returned for the ids of some events, ready to be written.

    `unreadable` has an error message for each id whose data could not be parsed.
    """

    contacts: list[Page[XeroContact]] = field(default_factory=list)
    invoices: list[Page[XeroInvoice]] = field(default_factory=list)
    created: dict[UUID, datetime] = field(default_factory=dict)
    records: list[tuple[RecordType, RecordPage]] = field(default_factory=list)
    related: dict[int, list[mirror.RelationRow]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


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


def drain(source: SyncSource, seconds: float = math.inf) -> DrainResult:
    """Apply the pending events of one source for about `seconds`, then yield to other sources."""
    catch_up = requested_catch_ups.start_requested(source)
    result = _drain_fetchable(source, seconds)
    return replace(result, completed=result.completed + catch_up.event_count, catch_up=catch_up)


def _drain_fetchable(source: SyncSource, seconds: float) -> DrainResult:
    """Apply the events that name something which can be fetched.

    Each round leases some events. Their batches are fetched outside any transaction, and each batch is completed in
    the transaction that writes its rows. When the vendor or the budget asks to wait, completed batches stay completed
    and the rest is requeued.
    """
    completed, deadline = 0, time.monotonic() + seconds
    while True:
        budget = _budget(source)
        if budget is not None and (delay := budget.pacing_delay()) > 0:
            return DrainResult(completed, delay)
        _debounce(source, is_stream=completed > 0)
        with transaction() as session:
            lease = inbox.lease(session, source, settings().lease_seconds)
        if lease is None:
            return DrainResult(completed)
        newly_completed, retry_after = _process_lease(lease, deadline)
        completed += newly_completed
        if retry_after is not None or time.monotonic() > deadline:
            return DrainResult(completed, retry_after or 0.0)


def has_pending(source: SyncSource) -> bool:
    """Whether a source has events that could be applied now."""
    with transaction() as session:
        return inbox.has_pending(session, source)


def has_large_backlog(source: SyncSource) -> bool:
    """Whether a source has more pending events than one lease takes, so that a second worker may help."""
    with transaction() as session:
        count, _ = inbox.pending_burst(session, source, inbox.LEASE_LIMIT + 1)
    return count > inbox.LEASE_LIMIT


def _budget(source: SyncSource) -> Budget | None:
    """Return the budget of the source's calls; None if its organisation no longer exists."""
    if source.is_copper:
        return Budget.for_copper(source.account_id)
    organisation = _organisation(source)
    return Budget.for_xero(organisation) if organisation else None


def _organisation(source: SyncSource) -> Organisation | None:
    with transaction() as session:
        return xero_organisations.find(session, source.account_id, source.organisation_id)


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


def split_batches(events: Sequence[LeasedEvent], source: SyncSource) -> Iterator[list[LeasedEvent]]:
    """Split events into batches of one category, each as large as one call can fetch. Events of one id stay together.

    Contacts come before invoices, so that an invoice's contact is known when the invoice is written.
    """
    by_category: dict[str, dict[str, list[LeasedEvent]]] = {}
    for event in events:
        by_category.setdefault(event.category, {}).setdefault(event.resource_id.lower(), []).append(event)
    for category, by_id in sorted(by_category.items()):
        size = IDS_PER_CALL if not source.is_copper else PAGE_SIZE
        size = OPPORTUNITIES_PER_BATCH if category == RecordType.OPPORTUNITY.value else size
        ids = list(by_id)
        for start in range(0, len(ids), size):
            yield [event for resource_id in ids[start : start + size] for event in by_id[resource_id]]


def _process_lease(lease: Lease, deadline: float) -> tuple[int, float | None]:
    """Apply a lease batch by batch; return the number of completed events, and the seconds until the next attempt.

    At the deadline the rest is returned to the inbox unchanged.
    """
    completed = 0
    batches = list(split_batches(lease.events, lease.source))
    while batches:
        if completed and time.monotonic() > deadline:
            with transaction() as session:
                inbox.release_lease(session, lease)
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
                fetched.append(FetchedBatch(events, _fetch(source, events)))
        except Exception as error:
            return fetched, error
        if time.monotonic() > deadline:
            break
    return fetched, None


def _commit_or_bisect(lease: Lease, fetched: Sequence[FetchedBatch]) -> int:
    """Write batches together; if that fails, apply them one by one, so that a failing one does not block the others."""
    try:
        return _commit_batches(lease, fetched)
    except (LeaseLostError, AccountClosedError):
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
            result = _fetch(lease.source, events)
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
    """Ping the vendor with the cheapest request there is."""
    try:
        if source.is_copper:
            client_for_account(source.account_id, Priority.EVENTS).get_account()
            return True
        organisation = _organisation(source)
        return bool(organisation and XeroClient(organisation, Priority.EVENTS).get_organisation())
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
    with correlation_scope(events):
        with transaction() as session:
            for batch in batches:
                _write(session, lease.source, batch.result)
            inbox.complete(session, lease, completed_ids)
        for event in events:
            if event.id in errors:
                _quarantine(lease, event, errors[event.id])
        log.info(
            "events.applied",
            account=lease.source.account_id,
            organisation=lease.source.organisation_id,
            events=len(completed_ids),
        )
        project(lease.source.account_id)
        with transaction() as session:
            latencies = event_latency.record_latency(session, lease.source.account_id, completed_ids)
        histogram = metrics.EVENT_LATENCY.labels(lease.source.vendor)
        for seconds in latencies:
            histogram.observe(seconds)
    return len(completed_ids)


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


def _fetch(source: SyncSource, events: Sequence[LeasedEvent]) -> FetchResult:
    if source.is_copper:
        return _fetch_copper(source.account_id, events)
    organisation = _organisation(source)
    return _fetch_xero(organisation, events) if organisation else FetchResult()


def _resource_ids(events: Iterable[LeasedEvent], category: str, unreadable: dict[str, str]) -> set[UUID]:
    """Return the ids that events of a category name; adds those that are no UUIDs to `unreadable`."""
    ids = set()
    for event in events:
        if event.category == category:
            try:
                ids.add(UUID(event.resource_id))
            except ValueError:
                unreadable[event.resource_id.lower()] = "the event's resourceId is not a UUID"
    return ids


def _fetch_xero(organisation: Organisation, events: Sequence[LeasedEvent]) -> FetchResult:
    """Fetch the contacts and invoices of the events, the invoices' unknown contacts and the merge targets' invoices."""
    result = FetchResult()
    client = XeroClient(organisation, Priority.EVENTS)
    invoice_ids = _resource_ids(events, "INVOICE", result.unreadable)
    contact_ids = _resource_ids(events, "CONTACT", result.unreadable)
    if invoice_ids:
        result.invoices.append(client.invoices_by_id(sorted(invoice_ids)))
    if contact_ids:
        result.contacts.append(client.contacts_by_id(sorted(contact_ids)))
        merge_targets = {contact.merged_to for contact in result.contacts[0].items if contact.merged_to}
        if merge_targets:
            with suppress(EndpointRefusedError):
                result.invoices.extend(list_invoices_of(client, sorted(merge_targets)))
    invoiced_ids = {invoice.contact_id for page in result.invoices for invoice in page.items if invoice.contact_id}
    with transaction() as session:
        unknown_ids = mirror.list_unknown_contacts(
            session, organisation.account_id, organisation.id, invoiced_ids - contact_ids
        )
    if unknown_ids:
        with suppress(EndpointRefusedError):
            result.contacts.append(client.contacts_by_id(unknown_ids))
    _add_created_dates(result, events)
    for invoices in result.invoices:
        result.unreadable.update(invoices.unreadable)
    for contacts in result.contacts:
        result.unreadable.update(contacts.unreadable)
    return result


def _add_created_dates(result: FetchResult, events: Sequence[LeasedEvent]) -> None:
    """Take an invoice's created date from its CREATE event: Xero's invoice does not have it."""
    for event in events:
        if event.category == "INVOICE" and event.event_type == "CREATE" and event.occurred_at:
            resource_id = event.resource_id.lower()
            if resource_id not in result.unreadable:
                earliest = result.created.get(UUID(resource_id), event.occurred_at)
                result.created[UUID(resource_id)] = min(earliest, event.occurred_at)


def _fetch_copper(account_id: int, events: Sequence[LeasedEvent]) -> FetchResult:
    """Fetch the records of the events, and the relations of the opportunities among them."""
    result = FetchResult()
    client = client_for_account(account_id, Priority.EVENTS)
    for record_type in RecordType:
        ids = [int(event.resource_id) for event in events if event.category == record_type.value]
        if not ids:
            continue
        records = client.records_by_id(record_type, ids)
        if record_type is RecordType.OPPORTUNITY:
            for opportunity in list(records.items):
                try:
                    related = client.list_relations(opportunity.id)
                except EndpointRefusedError:
                    continue
                except UnexpectedResponseError as error:
                    result.unreadable[str(opportunity.id)] = str(error)
                    continue
                if related is not None:
                    result.related[opportunity.id] = related
        result.records.append((record_type, records))
        result.unreadable.update(records.unreadable)
    return result


def _write(session: Session, source: SyncSource, result: FetchResult) -> None:
    """Write all rows of a fetch: contacts before invoices, records before their relations."""
    scope = (source.account_id, source.organisation_id)
    for contacts in result.contacts:
        mirror.upsert_contacts(session, *scope, (contact.to_row() for contact in contacts.items), contacts.fetched_at)
    for invoices in result.invoices:
        mirror.upsert_invoices(session, *scope, (invoice.to_row() for invoice in invoices.items), invoices.fetched_at)
    mirror.set_created_dates(session, *scope, result.created)
    for record_type, records in result.records:
        write_records(session, source.account_id, record_type, records)
        if record_type is RecordType.OPPORTUNITY:
            mirror.replace_opportunity_relations(session, source.account_id, dict(result.related), records.fetched_at)
