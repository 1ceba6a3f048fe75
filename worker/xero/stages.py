"""A run's stages at Xero: the organisation, contacts, invoices, and a second look at what no page brought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from store import accounts, drift, due, mirror, refusals
from store.accounts import Organisation
from store.database import Session, transaction
from store.drift import Found
from store.due import Unseen
from store.runs import Run
from worker.errors import EndpointRefusedError, UnreadableError
from worker.steps import Drift, Kind, Step, kind_of, moment_of, nothing, settled_before
from worker.xero import time_zones
from worker.xero.client import IDS_PER_CALL, Answer, XeroClient
from worker.xero.wire import WireContact, WireInvoice

log = structlog.get_logger()
EVERYTHING = ("organisation", "contacts", "invoices", "lost_contacts", "lost_invoices")
CHANGES = ("organisation", "contacts", "invoices")
# An index at the vendor may lag behind the change that it tells of.
OVERLAP = timedelta(seconds=120)
EVENT_LAG = timedelta(minutes=5)


@dataclass(frozen=True)
class Table:
    """What a page of one of Xero's listings is held against, written to and buried in; `key` names its id."""

    compare: Callable[..., Found]
    upsert: Callable[..., object]
    bury: Callable[..., None]
    key: str


TABLES = {
    "contacts": Table(drift.of_contacts, mirror.upsert_contacts, mirror.bury_contacts, "contact_id"),
    "invoices": Table(drift.of_invoices, mirror.upsert_invoices, mirror.bury_invoices, "invoice_id"),
}


def stages(kind: Kind) -> tuple[str, ...]:
    """The stages of a run of this kind."""
    return CHANGES if kind is Kind.CATCH_UP else EVERYTHING


def fetch(run: Run, organisation: Organisation) -> Step:
    """Fetch the run's next page. A stage whose endpoint Xero does not open is left out: status tells of it."""
    try:
        return _fetch(run, XeroClient(organisation, kind_of(run).purpose))
    except EndpointRefusedError as error:
        log.info("stage.skipped", account=run.account_id, run=run.id, stage=run.stage, endpoint=error.endpoint)
        return Step(lambda session: _forget(session, run), None, 0)


def _fetch(run: Run, client: XeroClient) -> Step:
    if run.stage == "organisation":
        return _organisation(run, client)
    if run.stage == "contacts":
        return _contacts(run, client)
    if run.stage == "invoices":
        return _invoices(run, client)
    return _lost(run, client, run.stage.removeprefix("lost_"))


def all_invoices(client: XeroClient, contacts: Sequence[UUID]) -> list[Answer[WireInvoice]]:
    """Every invoice of some contacts: a merge moves invoices without touching them one by one."""
    answers = []
    for start in range(0, len(contacts), IDS_PER_CALL):
        page = 1
        while True:
            answer = client.invoices(page, contacts=contacts[start : start + IDS_PER_CALL])
            answers.append(answer)
            if not answer.has_more(page):
                break
            page += 1
    return answers


def _organisation(run: Run, client: XeroClient) -> Step:
    """The organisation itself. A catch-up asks only where its time zone was never asked for.

    What cannot be read of it stays as it was, and holds up nothing else.
    """
    if kind_of(run) is Kind.CATCH_UP and client.organisation.xero_time_zone is not None:
        return Step(nothing, None, 0)
    try:
        details = client.organisation_details()
    except UnreadableError:
        return Step(nothing, None, 1, 1)
    candidates = time_zones.iana_names(details.time_zone)
    if details.time_zone and not candidates:
        log.warning("organisation.time_zone_unknown", account=run.account_id, organisation=run.organisation_id)

    def write(session: Session) -> Drift:
        if kind_of(run).writes:
            refusals.clear(session, run.account_id, run.organisation_id, "Organisation")
            mirror.save_organisation(
                session,
                run.account_id,
                run.organisation_id,
                name=details.name,
                short_code=details.short_code,
                base_currency=details.base_currency,
                xero_time_zone=details.time_zone or None,
                time_zones=candidates,
            )
        return {}

    return Step(write, None, 1, 1)


def _since(run: Run, seen_to: datetime | None, *, was_refused: bool) -> datetime | None:
    """Where a catch-up starts: what was seen when it began, less an overlap; kept in its cursor.

    A listing that was refused is read in full: a merge moves invoices without touching them.
    """
    if kind_of(run) is not Kind.CATCH_UP or was_refused:
        return None
    started = moment_of(run.cursor, "since")
    return started or (seen_to - OVERLAP if seen_to else None)


def _contacts(run: Run, client: XeroClient) -> Step:
    since = _since(run, client.organisation.contacts_seen_to, was_refused="Contacts" in client.organisation.refused)
    answer = client.contacts(_page(run), since=since)
    moved = _moved(run, client, answer)

    def write(session: Session) -> Drift:
        found = _write(session, run, answer, "contacts")
        for invoices in moved:
            rows = (one.row() for one in invoices.items)
            mirror.upsert_invoices(session, run.account_id, run.organisation_id, rows, invoices.fetched_at)
        return found

    return _paged(run, write, answer, since)


def _moved(run: Run, client: XeroClient, answer: Answer[WireContact]) -> list[Answer[WireInvoice]]:
    """The invoices of newly merged contacts' heirs, where no later stage reads all invoices anyway."""
    if kind_of(run) is not Kind.CATCH_UP:
        return []
    merged = {one.contact_id: one.merged_to for one in answer.items if one.merged_to}
    with transaction() as session:
        heirs = mirror.new_heirs(session, run.account_id, run.organisation_id, merged)
    try:
        return all_invoices(client, sorted(heirs)) if heirs else []
    except EndpointRefusedError:
        return []


def _invoices(run: Run, client: XeroClient) -> Step:
    since = _since(run, client.organisation.invoices_seen_to, was_refused="Invoices" in client.organisation.refused)
    answer = client.invoices(_page(run), since=since)
    return _paged(run, lambda session: _write(session, run, answer, "invoices"), answer, since)


def _write(session: Session, run: Run, answer: Answer[Any], what: str) -> Drift:
    """Hold a page against the mirror if the run counts drift, and write it, or remember what it showed."""
    place, table = (run.account_id, run.organisation_id), TABLES[what]
    rows = [one.row() for one in answer.items]
    found: Drift = {}
    if kind_of(run).counts_drift:
        settled = settled_before(answer.vendor_now, EVENT_LAG)
        found[what] = table.compare(session, place, rows, answer.fetched_at, settled)
    if kind_of(run).writes:
        table.upsert(session, *place, rows, answer.fetched_at)
        _remember(session, run, answer, what)
    else:
        drift.see(session, run.account_id, run.id, what, (getattr(row, table.key) for row in rows))
    return found


def _page(run: Run) -> int:
    return int(run.cursor.get("page", 1))


def _seen_to(run: Run, answer: Answer[Any]) -> datetime | None:
    """Xero's clock at the run's first page: whatever changed before it is on one of the pages."""
    return moment_of(run.cursor, "seen_to") or answer.vendor_now


def _is_last(run: Run, answer: Answer[Any]) -> bool:
    return not answer.has_more(_page(run))


def _remember(session: Session, run: Run, answer: Answer[Any], what: str) -> None:
    seen_to = _seen_to(run, answer)
    if _is_last(run, answer) and seen_to:
        accounts.saw(session, run.account_id, run.organisation_id, what, seen_to)
    if _is_last(run, answer):
        refusals.clear(session, run.account_id, run.organisation_id, what.capitalize())


def _paged(run: Run, write: Any, answer: Answer[Any], since: datetime | None) -> Step:
    if _is_last(run, answer):
        return Step(write, None, len(answer.items), answer.total)
    seen_to = _seen_to(run, answer)
    cursor = {
        "page": _page(run) + 1,
        "seen_to": seen_to.isoformat() if seen_to else None,
        "since": since.isoformat() if since else None,
    }
    return Step(write, cursor, len(answer.items), answer.total)


def _lost(run: Run, client: XeroClient, what: str) -> Step:
    """A second look by id at rows that no page brought: gone ones get a tombstone, the others are put right."""
    place = (run.account_id, run.organisation_id)
    after = UUID(run.cursor.get("after", str(UUID(int=0))))
    with transaction() as session:
        if not run.cursor and not kind_of(run).writes:
            drift.analyze_seen(session)
        ids = due.unseen_xero(session, *place, what, Unseen(run.id, run.started_at, IDS_PER_CALL), after)
    if not ids:
        return Step(lambda session: _forget(session, run), None, 0)
    answer: Answer[Any] = client.contacts_by_id(ids) if what == "contacts" else client.invoices_by_id(ids)
    there = {getattr(one, TABLES[what].key) for one in answer.items}
    gone = [one for one in ids if one not in there and str(one) not in answer.unreadable]

    def write(session: Session) -> Drift:
        if kind_of(run).writes:
            rows = [one.row() for one in answer.items]
            TABLES[what].upsert(session, *place, rows, answer.fetched_at, force=True)
            TABLES[what].bury(session, *place, gone, answer.fetched_at)
        return {what: Found(extra=len(gone))} if kind_of(run).counts_drift else {}

    return Step(write, {"after": str(ids[-1])}, len(gone))


def _forget(session: Session, run: Run) -> Drift:
    if run.stage == EVERYTHING[-1]:
        drift.forget_seen(session, run.account_id, run.id)
    return {}
