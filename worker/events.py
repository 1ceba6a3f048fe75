"""Drain the inbox: waiting events become ids, ids become the current state, the state becomes rows."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import structlog

from runtime import tracing
from runtime.logs import scrub
from runtime.settings import settings
from store import accounts, freshness, inbox, mirror
from store.accounts import Organisation
from store.database import AccountClosedError, Session, transaction
from store.inbox import Lease, LeasedEvent, LeaseLostError, Source
from store.models import RecordType
from worker import instruments, requested_catch_ups
from worker.budget import Budget, Purpose
from worker.copper.client import PAGE_SIZE, Records, connected
from worker.copper.stages import write_records
from worker.errors import EndpointRefusedError, PassingError, ReconnectNeededError, UnreadableError, VendorError
from worker.projecting import project
from worker.requested_catch_ups import Requested
from worker.xero.client import IDS_PER_CALL, Answer, XeroClient
from worker.xero.stages import all_invoices
from worker.xero.wire import WireContact, WireInvoice

log = structlog.get_logger()
TURN_SECONDS = 1.0
RECONNECT_SECONDS = 300.0
LONGEST_DELAY = 900.0
OPPORTUNITIES_AT_ONCE = 20
CORRELATIONS = 10
# A burst is let come to its end, so that what changes several times is fetched once.
BURST_EVENTS = IDS_PER_CALL
BURST_QUIET, BURST_LONGEST, BURST_LOOK = 0.15, 1.0, 0.05
# In a steady stream a moment brings one more to share the next call; the first events of it never wait.
GATHER_SECONDS = 0.02
# Portions that a fast vendor answers within a moment share one transaction and one projection.
TOGETHER, TOGETHER_SECONDS = 10, 0.2


@dataclass
class Fetched:
    """What the vendor said of some events' ids, ready to be written; `unreadable` by id."""

    contacts: list[Answer[WireContact]] = field(default_factory=list)
    invoices: list[Answer[WireInvoice]] = field(default_factory=list)
    created: dict[UUID, datetime] = field(default_factory=dict)
    records: list[tuple[RecordType, Records]] = field(default_factory=list)
    related: dict[int, list[mirror.RelationRow]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


Portion: TypeAlias = tuple[Sequence[LeasedEvent], Fetched]


@dataclass(frozen=True)
class Drained:
    """How many events were finished, and in how many seconds the rest should be looked at (None: no rest).

    `catch_up` is what became of events that are no more than a reason for one.
    """

    finished: int
    again_in: float | None = None
    catch_up: Requested = requested_catch_ups.NOTHING


def drain(source: Source, seconds: float = math.inf) -> Drained:
    """Apply the waiting events of one source, for about `seconds`: a flood takes turns with everybody else's events."""
    requested = requested_catch_ups.begin(source)
    drained = _drain_fetchable(source, seconds)
    return replace(drained, finished=drained.finished + requested.events, catch_up=requested)


def _drain_fetchable(source: Source, seconds: float) -> Drained:
    """The events that name what can be fetched.

    Each round leases a batch; its events are fetched in portions outside any transaction, and each portion is
    finished in the transaction that writes its rows. When the vendor or the budget says "later", what is done
    stays done and the rest is put back.
    """
    finished, until = 0, time.monotonic() + seconds
    while True:
        budget = _budget(source)
        if budget is not None and (wait := budget.pace()) > 0:
            return Drained(finished, wait)
        _let_burst_end(source, going_on=finished > 0)
        with transaction() as session:
            held = inbox.lease(session, source, settings().lease_seconds)
        if held is None:
            return Drained(finished)
        done, again_in = _apply_all(held, until)
        finished += done
        if again_in is not None or time.monotonic() > until:
            return Drained(finished, again_in or 0.0)


def wait(source: Source) -> bool:
    """Whether events of a source could be applied now."""
    with transaction() as session:
        return inbox.waits(session, source)


def is_flood(source: Source) -> bool:
    """Whether more waits than one worker takes at once: a second one may help."""
    with transaction() as session:
        count, _ = inbox.burst(session, source, inbox.LEASE_LIMIT + 1)
    return count > inbox.LEASE_LIMIT


def _budget(source: Source) -> Budget | None:
    """What the source's calls are taken from; None for an organisation that is gone."""
    if source.is_copper:
        return Budget.of_copper(source.account_id)
    organisation = _organisation(source)
    return Budget.of_xero(organisation) if organisation else None


def _organisation(source: Source) -> Organisation | None:
    with transaction() as session:
        return accounts.organisation(session, source.account_id, source.organisation_id)


def _let_burst_end(source: Source, *, going_on: bool) -> None:
    until = time.monotonic() + BURST_LONGEST
    while time.monotonic() < until:
        with transaction() as session:
            count, newest = inbox.burst(session, source, BURST_EVENTS + 1)
        if count <= BURST_EVENTS or newest > BURST_QUIET:
            if going_on and 0 < count <= BURST_EVENTS:
                time.sleep(GATHER_SECONDS)
            return
        time.sleep(BURST_LOOK)


def portions(events: Sequence[LeasedEvent], source: Source) -> Iterator[list[LeasedEvent]]:
    """Events of one kind, as many as one call answers for, all events of an id together.

    Contacts come before invoices, whose contacts are then known.
    """
    by_kind: dict[str, dict[str, list[LeasedEvent]]] = {}
    for event in events:
        by_kind.setdefault(event.kind, {}).setdefault(event.resource_id.lower(), []).append(event)
    for kind, by_id in sorted(by_kind.items()):
        size = IDS_PER_CALL if not source.is_copper else PAGE_SIZE
        size = OPPORTUNITIES_AT_ONCE if kind == RecordType.OPPORTUNITY.value else size
        ids = list(by_id)
        for start in range(0, len(ids), size):
            yield [event for one in ids[start : start + size] for event in by_id[one]]


def _apply_all(held: Lease, until: float) -> tuple[int, float | None]:
    """Apply a lease portion by portion; returns how many events were finished, and when to look again.

    What is left when the turn is over goes back as it came.
    """
    finished = 0
    waiting = list(portions(held.events, held.source))
    while waiting:
        if finished and time.monotonic() > until:
            with transaction() as session:
                inbox.let_go(session, held)
            return finished, 0.0
        try:
            some, error = _fetch_some(held.source, waiting)
            finished += _finish_some(held, some) if some else 0
            del waiting[: len(some)]
            if error is not None:
                finished += _cope(held, waiting[0], error, alive=bool(some))
                waiting.pop(0)
        except LeaseLostError:
            log.warning("lease.lost", account=held.source.account_id, events=len(waiting[0]))
            return finished, None
        except (ReconnectNeededError, PassingError) as error:
            delay = _delay_of(error)
            rest = [event for portion in waiting for event in portion]
            log.warning("events.put_back", account=held.source.account_id, error=str(error), events=len(rest))
            _put_back(held, rest, str(error), delay=delay, free=True)
            return finished, delay
    return finished, None


def _fetch_some(source: Source, waiting: Sequence[list[LeasedEvent]]) -> tuple[list[Portion], Exception | None]:
    """Fetch the first portions, as many as are answered in a moment: they are written together.

    Returns with the error of the portion after them, if it met one.
    """
    some: list[Portion] = []
    until = time.monotonic() + TOGETHER_SECONDS
    for events in waiting[:TOGETHER]:
        try:
            with correlated(events):
                some.append((events, _fetch(source, events)))
        except Exception as error:
            return some, error
        if time.monotonic() > until:
            break
    return some, None


def _finish_some(held: Lease, some: Sequence[Portion]) -> int:
    """Write portions together; when that fails, one by one, so that the guilty one stops no other."""
    try:
        return _finish(held, some)
    except (LeaseLostError, AccountClosedError):
        raise
    except Exception as error:
        if len(some) == 1:
            return _cope(held, some[0][0], error, alive=True)
        return sum(_apply(held, events, alive=True) for events, _ in some)


def _delay_of(error: VendorError) -> float:
    if isinstance(error, ReconnectNeededError):
        return RECONNECT_SECONDS
    return error.retry_after if error.retry_after is not None else random.uniform(10, 30)


def _apply(held: Lease, events: Sequence[LeasedEvent], *, alive: bool) -> int:
    """Fetch and write some events; returns how many were finished. Raises what `_cope` raises."""
    try:
        with correlated(events):
            fetched = _fetch(held.source, events)
        return _finish(held, [(events, fetched)])
    except Exception as error:
        return _cope(held, events, error, alive=alive)


def _cope(held: Lease, events: Sequence[LeasedEvent], error: Exception, *, alive: bool) -> int:
    """What some events failed with is halved down to the guilty one; returns how many of them were finished.

    Raises what concerns all of them: `PassingError`, `ReconnectNeededError`, `LeaseLostError`, `AccountClosedError`.
    An error that may lie in what was asked for (a 500) is no outage while the vendor answers something else (`alive`).
    """
    if isinstance(error, (LeaseLostError, AccountClosedError, ReconnectNeededError)):
        raise error
    if isinstance(error, EndpointRefusedError):
        # They wait, however long it takes until an admin has allowed it, and hold up no others.
        log.warning("events.put_back", account=held.source.account_id, error=str(error), events=len(events))
        _put_back(held, events, str(error), delay=LONGEST_DELAY, free=True)
        return 0
    if isinstance(error, PassingError) and not (error.suspect and (alive or _answers(held.source))):
        raise error
    if len(events) > 1:
        middle = len(events) // 2
        return _apply(held, events[:middle], alive=True) + _apply(held, events[middle:], alive=True)
    if not isinstance(error, VendorError):
        log.error("event.failed", account=held.source.account_id, event_id=events[0].id, exc_info=error)
    _put_back(held, events, scrub(f"{type(error).__name__}: {error}"), delay=_backoff(events[0]), free=False)
    return 0


@contextmanager
def correlated(events: Sequence[LeasedEvent]) -> Iterator[None]:
    """Put the ids that the receivers gave the events' deliveries on every line logged meanwhile; ten at most."""
    ids = list(dict.fromkeys(event.correlation_id for event in events))
    named = " ".join(ids[:CORRELATIONS]) + (f" and {len(ids) - CORRELATIONS} more" if len(ids) > CORRELATIONS else "")
    with structlog.contextvars.bound_contextvars(correlation=named), tracing.span("events.apply", follows=ids):
        yield


def _answers(source: Source) -> bool:
    """Whether the vendor answers the smallest question there is."""
    try:
        if source.is_copper:
            connected(source.account_id, Purpose.EVENTS).account()
            return True
        organisation = _organisation(source)
        return bool(organisation and XeroClient(organisation, Purpose.EVENTS).organisation_details())
    except (EndpointRefusedError, UnreadableError):
        return True
    except VendorError:
        return False


def _backoff(event: LeasedEvent) -> float:
    """Seconds until an event that failed is tried again: longer every time, a quarter of an hour at most."""
    return min(random.uniform(2, 6) * 2.0 ** min(event.attempts - 1, 10), LONGEST_DELAY)


def _finish(held: Lease, some: Sequence[Portion]) -> int:
    """Write what was fetched and finish its events, in one transaction; project; note how long they took."""
    bad: dict[int, str] = {}
    for events, fetched in some:
        found = ((event.id, fetched.unreadable.get(event.resource_id.lower())) for event in events)
        bad.update({key: said for key, said in found if said is not None})
    good = [event.id for events, _ in some for event in events if event.id not in bad]
    with correlated([event for events, _ in some for event in events]):
        with transaction() as session:
            for _, fetched in some:
                _write(session, held.source, fetched)
            inbox.finish(session, held, good)
        for event in (event for events, _ in some for event in events if event.id in bad):
            _put_aside(held, event, bad[event.id])
        log.info(
            "events.applied",
            account=held.source.account_id,
            organisation=held.source.organisation_id,
            events=len(good),
        )
        project(held.source.account_id)
        with transaction() as session:
            took = freshness.record(session, held.source.account_id, good)
        seen = instruments.FRESHNESS.labels(held.source.vendor)
        for seconds in took:
            seen.observe(seconds)
    return len(good)


def _put_aside(held: Lease, event: LeasedEvent, error: str) -> None:
    """Quarantine an event at its first try: what cannot be read does not get better by being fetched again."""
    _put_back(held, [event], error, delay=0.0, free=False, most=event.attempts)


def _put_back(
    held: Lease, events: Sequence[LeasedEvent], error: str, *, delay: float, free: bool, most: int | None = None
) -> None:
    """Return events to the inbox, to be taken again after a while, or to quarantine after too many tries."""
    with transaction() as session:
        failed = inbox.release(
            session,
            held,
            [event.id for event in events],
            error=error,
            delay=delay,
            most=settings().event_attempts if most is None else most,
            free=free,
        )
    if failed:
        instruments.QUARANTINED.labels(held.source.vendor).inc(failed)
        log.error("events.quarantined", account=held.source.account_id, events=failed, error=error)


def _fetch(source: Source, events: Sequence[LeasedEvent]) -> Fetched:
    if source.is_copper:
        return _fetch_copper(source.account_id, events)
    organisation = _organisation(source)
    return _fetch_xero(organisation, events) if organisation else Fetched()


def _uuids(events: Iterable[LeasedEvent], kind: str, bad: dict[str, str]) -> set[UUID]:
    found = set()
    for event in events:
        if event.kind == kind:
            try:
                found.add(UUID(event.resource_id))
            except ValueError:
                bad[event.resource_id.lower()] = "the event's resourceId is not a UUID"
    return found


def _fetch_xero(organisation: Organisation, events: Sequence[LeasedEvent]) -> Fetched:
    """Contacts and invoices of the events; contacts never seen before and the heirs of merged ones too."""
    fetched = Fetched()
    client = XeroClient(organisation, Purpose.EVENTS)
    place = (organisation.account_id, organisation.id)
    wanted = _uuids(events, "INVOICE", fetched.unreadable)
    contacts = _uuids(events, "CONTACT", fetched.unreadable)
    if wanted:
        fetched.invoices.append(client.invoices_by_id(sorted(wanted)))
    if contacts:
        fetched.contacts.append(client.contacts_by_id(sorted(contacts)))
        heirs = {one.merged_to for one in fetched.contacts[0].items if one.merged_to}
        if heirs:
            with suppress(EndpointRefusedError):
                fetched.invoices.extend(all_invoices(client, sorted(heirs)))
    named = {one.contact_id for answer in fetched.invoices for one in answer.items}
    with transaction() as session:
        new = mirror.unknown_contacts(session, *place, {one for one in named if one} - contacts)
    if new:
        with suppress(EndpointRefusedError):
            fetched.contacts.append(client.contacts_by_id(new))
    for event in events:
        if event.kind == "INVOICE" and event.event == "CREATE" and event.occurred_at:
            key = event.resource_id.lower()
            if key not in fetched.unreadable:
                known = fetched.created.get(UUID(key), event.occurred_at)
                fetched.created[UUID(key)] = min(known, event.occurred_at)
    for invoices in fetched.invoices:
        fetched.unreadable.update(invoices.unreadable)
    for answer in fetched.contacts:
        fetched.unreadable.update(answer.unreadable)
    return fetched


def _fetch_copper(account_id: int, events: Sequence[LeasedEvent]) -> Fetched:
    """The records of the events, and the relations of the opportunities among them."""
    fetched = Fetched()
    client = connected(account_id, Purpose.EVENTS)
    for kind in RecordType:
        ids = [int(event.resource_id) for event in events if event.kind == kind.value]
        if not ids:
            continue
        records = client.records(kind, ids)
        if kind is RecordType.OPPORTUNITY:
            for item in list(records.items):
                try:
                    related = client.related(item.id)
                except EndpointRefusedError:
                    continue
                except UnreadableError as error:
                    fetched.unreadable[str(item.id)] = str(error)
                    continue
                if related is not None:
                    fetched.related[item.id] = related
        fetched.records.append((kind, records))
        fetched.unreadable.update(records.unreadable)
    return fetched


def _write(session: Session, source: Source, fetched: Fetched) -> None:
    """All rows of one fetch: contacts before invoices, records before their relations."""
    place = (source.account_id, source.organisation_id)
    for contacts in fetched.contacts:
        mirror.upsert_contacts(session, *place, (one.row() for one in contacts.items), contacts.fetched_at)
    for invoices in fetched.invoices:
        mirror.upsert_invoices(session, *place, (one.row() for one in invoices.items), invoices.fetched_at)
    mirror.set_created(session, *place, fetched.created)
    for kind, records in fetched.records:
        write_records(session, source.account_id, kind, records)
        if kind is RecordType.OPPORTUNITY:
            mirror.replace_related(session, source.account_id, dict(fetched.related), records.fetched_at)
