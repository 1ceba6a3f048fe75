"""Drain the inbox: waiting events become ids, ids become the current state, the state becomes rows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog

from runtime.logs import scrub
from runtime.settings import settings
from store import accounts, inbox, mirror
from store.accounts import Organisation
from store.database import Session, transaction
from store.inbox import Lease, LeasedEvent, LeaseLostError, Source
from store.models import RecordType
from worker.copper.client import CopperClient, Records
from worker.projecting import project
from worker.vendor import ReconnectNeededError, VendorError
from worker.xero.client import Answer, XeroClient
from worker.xero.wire import WireContact, WireInvoice

log = structlog.get_logger()
ROUNDS = 50
RECONNECT_SECONDS = 300.0
LONGEST_DELAY = 900.0


@dataclass
class Fetched:
    """What the vendor said of a lease's ids, ready to be written; `unreadable` by id."""

    contacts: list[Answer[WireContact]] = field(default_factory=list)
    invoices: list[Answer[WireInvoice]] = field(default_factory=list)
    created: dict[UUID, datetime] = field(default_factory=dict)
    records: list[tuple[RecordType, Records]] = field(default_factory=list)
    related: dict[int, list[mirror.RelationRow]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def drain(source: Source) -> int:
    """Apply all waiting events of one source; returns how many were finished.

    Each round leases a batch, fetches outside any transaction, and finishes the events in the
    transaction that writes their rows. A vendor that says "later" puts its events back.
    """
    finished = 0
    for _ in range(ROUNDS):
        with transaction() as session:
            held = inbox.lease(session, source, settings().lease_seconds)
        if held is None:
            break
        finished += _apply(held, held.events)
    return finished


def _apply(held: Lease, events: Sequence[LeasedEvent]) -> int:
    """Fetch and write one set of events; a set that fails is halved until only the guilty event is left."""
    try:
        fetched = _fetch(held.source, events)
        bad = [event for event in events if event.resource_id.lower() in fetched.unreadable]
        good = [event for event in events if event not in bad]
        with transaction() as session:
            _write(session, held.source, fetched)
            inbox.finish(session, held, [event.id for event in good])
        for event in bad:
            _put_back(held, [event], fetched.unreadable[event.resource_id.lower()])
        log.info(
            "events.applied",
            account=held.source.account_id,
            organisation=held.source.organisation_id,
            events=len(good),
            correlation=events[0].correlation_id,
        )
        project(held.source.account_id)
        return len(good)
    except LeaseLostError:
        log.warning("lease.lost", account=held.source.account_id, events=len(events))
        return 0
    except ReconnectNeededError as error:
        _put_back(held, events, str(error), delay=RECONNECT_SECONDS, free=True)
        return 0
    except VendorError as error:
        log.warning("events.put_back", account=held.source.account_id, error=str(error), events=len(events))
        _put_back(held, events, str(error), delay=error.retry_after, free=error.retry_after is not None)
        return 0
    except Exception as error:
        if len(events) > 1:
            middle = len(events) // 2
            return _apply(held, events[:middle]) + _apply(held, events[middle:])
        log.exception("event.failed", account=held.source.account_id, event_id=events[0].id)
        _put_back(held, events, scrub(f"{type(error).__name__}: {error}"))
        return 0


def _put_back(
    held: Lease,
    events: Sequence[LeasedEvent],
    error: str,
    *,
    delay: float | None = None,
    free: bool = False,
) -> None:
    """Return events to the inbox, to be taken again after a while, or to quarantine after too many tries."""
    wait = delay if delay is not None else random.uniform(2, 10)
    with transaction() as session:
        failed = inbox.release(
            session,
            held,
            [event.id for event in events],
            error=error,
            delay=min(wait, LONGEST_DELAY) if not free else wait,
            most=settings().event_attempts,
            free=free,
        )
    if failed:
        log.error("events.quarantined", account=held.source.account_id, events=failed, error=error)


def _fetch(source: Source, events: Sequence[LeasedEvent]) -> Fetched:
    if source.is_copper:
        return _fetch_copper(source.account_id, events)
    with transaction() as session:
        organisation = accounts.organisation(session, source.account_id, source.organisation_id)
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
    client = XeroClient(organisation)
    place = (organisation.account_id, organisation.id)
    wanted = _uuids(events, "INVOICE", fetched.unreadable)
    contacts = _uuids(events, "CONTACT", fetched.unreadable)
    if wanted:
        fetched.invoices.append(client.invoices_by_id(sorted(wanted)))
    if contacts:
        fetched.contacts.append(client.contacts_by_id(sorted(contacts)))
        heirs = {one.merged_to for one in fetched.contacts[0].items if one.merged_to}
        if heirs:
            fetched.invoices.extend(_all_invoices(client, sorted(heirs)))
    named = {one.contact.contact_id for answer in fetched.invoices for one in answer.items}
    with transaction() as session:
        new = mirror.unknown_contacts(session, *place, {one for one in named if one} - contacts)
    if new:
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


def _all_invoices(client: XeroClient, contacts: Sequence[UUID]) -> list[Answer[WireInvoice]]:
    """Every invoice of some contacts: a merge moves invoices without touching them one by one."""
    answers = []
    for start in range(0, len(contacts), 40):
        page, pages = 1, 1
        while page <= pages:
            answer = client.invoices(page, contacts=contacts[start : start + 40])
            answers.append(answer)
            pages = answer.pages or 1
            page += 1
    return answers


def _fetch_copper(account_id: int, events: Sequence[LeasedEvent]) -> Fetched:
    """The records of the events, and the relations of the opportunities among them."""
    fetched = Fetched()
    with transaction() as session:
        client = CopperClient(accounts.copper_access(session, account_id))
    for kind in RecordType:
        ids = [int(event.resource_id) for event in events if event.kind == kind.value]
        if not ids:
            continue
        records = client.records(kind, ids)
        if kind is RecordType.OPPORTUNITY:
            for item in list(records.items):
                related = client.related(item.id)
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


def write_records(session: Session, account_id: int, kind: RecordType, records: Records) -> None:
    """Rows of living records and tombstones of the others."""
    mirror.upsert_records(session, account_id, kind, (one.row() for one in records.items), records.fetched_at)
    mirror.bury_records(session, account_id, kind, records.gone, records.fetched_at)
