"""Backfill: everything that both vendors hold, page by page, the cursor committed with the page.

A run belongs to one source: an organisation (organisation, contacts, invoices) or the account's Copper
(people, leads, companies, opportunities, relations, and a second look by id at what was not seen). It
is a chain of short steps; kill any process anywhere and the next one goes on from the last page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from runtime.logs import scrub
from runtime.settings import settings
from store import accounts, mirror, runs
from store.database import Session, transaction
from store.models import RecordType
from store.runs import Run, StepLostError
from worker import events
from worker.copper.client import PAGE_SIZE, CopperClient
from worker.projecting import project
from worker.vendor import ReconnectNeededError, VendorError
from worker.xero.client import Answer, XeroClient
from worker.xero.wire import WireContact, WireInvoice

log = structlog.get_logger()
BACKFILL = "backfill"
XERO_STAGES = ("organisation", "contacts", "invoices")
RECORD_STAGES = {
    "people": RecordType.PERSON,
    "leads": RecordType.LEAD,
    "companies": RecordType.COMPANY,
    "opportunities": RecordType.OPPORTUNITY,
}
COPPER_STAGES = (*RECORD_STAGES, "relations", "gone")
RELATIONS_PER_STEP = 20
GONE_PER_STEP = 50
LOST_SECONDS = 300.0


@dataclass(frozen=True)
class Step:
    """What one page brought: how to write it, where the next one starts (None: the stage is over)."""

    write: Callable[[Session], object]
    cursor: dict[str, Any] | None
    done: int
    total: int | None = None


def begin(account_id: int) -> list[Run]:
    """Begin a backfill of every source of the account, or find the ones at work."""
    with transaction() as session:
        sources = accounts.organisations(session, account_id)
        found = [runs.start(session, account_id, 0, BACKFILL, COPPER_STAGES[0])]
        found += [runs.start(session, account_id, one.id, BACKFILL, XERO_STAGES[0]) for one in sources]
    return found


def step(account_id: int, run_id: int) -> bool:
    """Fetch and commit a run's next page; True when another should follow now."""
    with transaction() as session:
        taken = runs.take(session, account_id, run_id, settings().lease_seconds)
    if taken is None:
        return False
    run, lease = taken
    try:
        result = _fetch(run)
        with transaction() as session:
            result.write(session)
            state = _advance(session, run, lease, result)
    except StepLostError:
        return False
    except ReconnectNeededError as error:
        _put_back(run, lease, error, delay=LOST_SECONDS, free=True)
        return False
    except VendorError as error:
        _put_back(run, lease, error, delay=error.retry_after or 5.0, free=error.retry_after is not None)
        return False
    except Exception as error:
        log.exception("run.failed_step", account=account_id, run=run_id, stage=run.stage)
        _put_back(run, lease, error, delay=5.0, free=False)
        return False
    project(account_id)
    return state == "running"


def _advance(session: Session, run: Run, lease: UUID, result: Step) -> str:
    known = run.counts.get(run.stage, {"done": 0, "of": None})
    counts = {
        **run.counts,
        run.stage: {"done": known["done"] + result.done, "of": result.total or known["of"]},
    }
    stage, cursor, state = run.stage, result.cursor, "running"
    if cursor is None:
        stages = COPPER_STAGES if run.organisation_id == 0 else XERO_STAGES
        place = stages.index(run.stage) + 1
        cursor = {}
        if place == len(stages):
            state = "done"
        else:
            stage = stages[place]
    runs.advance(session, run, lease, stage=stage, cursor=cursor, counts=counts, state=state)
    log.info(
        "run.advanced",
        account=run.account_id,
        run=run.id,
        organisation=run.organisation_id,
        stage=run.stage,
        rows=result.done,
        state=state,
    )
    return state


def _put_back(run: Run, lease: UUID, error: Exception, *, delay: float, free: bool) -> None:
    said = scrub(str(error)) or type(error).__name__
    with transaction() as session:
        most = settings().event_attempts
        state = runs.put_back(session, run, lease, error=said, delay=delay, most=most, free=free)
    log.warning("run.put_back", account=run.account_id, run=run.id, state=state, error=said, delay=delay)


def _fetch(run: Run) -> Step:
    if run.organisation_id == 0:
        with transaction() as session:
            client = CopperClient(accounts.copper_access(session, run.account_id))
        return _copper(run, client)
    with transaction() as session:
        organisation = accounts.organisation(session, run.account_id, run.organisation_id)
    if organisation is None:
        return Step(lambda _: None, None, 0)
    return _xero(run, XeroClient(organisation))


def _xero(run: Run, client: XeroClient) -> Step:
    place = (run.account_id, run.organisation_id)
    if run.stage == "organisation":
        details = client.organisation_details()
        return Step(lambda session: mirror.save_organisation(session, *place, **details.model_dump()), None, 1, 1)
    page = int(run.cursor.get("page", 1))
    write: Callable[[Session], object]
    if run.stage == "contacts":
        contacts = client.contacts(page)
        write = partial(_write_contacts, place=place, answer=contacts)
        return _paged(write, page, contacts)
    invoices = client.invoices(page)
    write = partial(_write_invoices, place=place, answer=invoices)
    return _paged(write, page, invoices)


def _paged(write: Callable[[Session], object], page: int, answer: Answer[Any]) -> Step:
    more = answer.pages is not None and page < answer.pages
    return Step(write, {"page": page + 1} if more else None, len(answer.items), answer.total)


def _write_contacts(session: Session, *, place: tuple[int, int], answer: Answer[WireContact]) -> None:
    mirror.upsert_contacts(session, *place, (one.row() for one in answer.items), answer.fetched_at)


def _write_invoices(session: Session, *, place: tuple[int, int], answer: Answer[WireInvoice]) -> None:
    mirror.upsert_invoices(session, *place, (one.row() for one in answer.items), answer.fetched_at)


def _copper(run: Run, client: CopperClient) -> Step:
    if run.stage == "relations":
        return _relations(run, client)
    if run.stage == "gone":
        return _gone(run, client)
    kind = RECORD_STAGES[run.stage]
    page = int(run.cursor.get("page", 1))
    records = client.page(kind, page)
    following = {"page": page + 1} if records.received == PAGE_SIZE else None
    return Step(
        lambda session: events.write_records(session, run.account_id, kind, records),
        following,
        len(records.items),
        records.total,
    )


def _relations(run: Run, client: CopperClient) -> Step:
    """`/related` of the next opportunities, one call each: Copper has no listing of relations."""
    after = int(run.cursor.get("after", 0))
    with transaction() as session:
        ids = mirror.opportunities_after(session, run.account_id, after, RELATIONS_PER_STEP)
    began = datetime.now(UTC)
    found = {one: client.related(one) for one in ids}
    related = {one: ends for one, ends in found.items() if ends is not None}
    following = {"after": ids[-1]} if len(ids) == RELATIONS_PER_STEP else None
    return Step(
        lambda session: mirror.replace_related(session, run.account_id, related, began),
        following,
        len(ids),
        run.counts.get("opportunities", {}).get("done"),
    )


def _gone(run: Run, client: CopperClient) -> Step:
    """A second look by id at the records that the pages did not bring: what is gone gets a tombstone."""
    kinds = list(RECORD_STAGES.values())
    place, after = int(run.cursor.get("kind", 0)), int(run.cursor.get("after", 0))
    kind = kinds[place]
    with transaction() as session:
        ids = mirror.unseen_records(session, run.account_id, kind, run.started_at, after, GONE_PER_STEP)
    records = client.records(kind, ids) if ids else None
    following: dict[str, Any] | None = {"kind": place, "after": ids[-1]} if ids else {"kind": place + 1}
    if not ids and place + 1 == len(kinds):
        following = None

    def write(session: Session) -> None:
        if records is not None:
            events.write_records(session, run.account_id, kind, records)

    return Step(write, following, len(records.gone) if records else 0)
