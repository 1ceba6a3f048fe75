"""A run's stages at Copper: the four record types, relations, and a second look at what no page brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from store import accounts, drift, due, mirror, refusals
from store.database import Session, transaction
from store.drift import Found
from store.due import Unseen
from store.mirror import RelationRow
from store.models import RecordType
from store.runs import Run
from worker.copper.client import MODIFIED_FILTER, PAGE_SIZE, CopperClient, Records, connected
from worker.errors import EndpointRefusedError, FilterRefusedError, PassingError, UnreadableError
from worker.steps import Drift, Kind, Step, kind_of, moment_of, settled_before

RECORD_STAGES = {
    "people": RecordType.PERSON,
    "leads": RecordType.LEAD,
    "companies": RecordType.COMPANY,
    "opportunities": RecordType.OPPORTUNITY,
}
EVERYTHING = (*RECORD_STAGES, "relations", "lost")
CHANGES = (*RECORD_STAGES, "relations")
OVERLAP = timedelta(seconds=120)
# Copper's notifications come up to 15 minutes late (Copper docs: webhooks/overview).
EVENT_LAG = timedelta(minutes=15)
RELATIONS_PER_STEP = 20
LOST_PER_STEP = 50
RESTARTS = 5
CLOCK_SKEW = 300
# No search shows more than its first 100,000 results (Copper docs: list-people-search).
LAST_PAGE = 500
log = structlog.get_logger()


def stages(kind: Kind) -> tuple[str, ...]:
    """The stages of a run of this kind; the read model is looked at before any repair of the mirror changes it."""
    if kind is Kind.CATCH_UP:
        return CHANGES
    return ("rows", *EVERYTHING) if kind.counts_drift else EVERYTHING


def fetch(run: Run) -> Step:
    """Fetch the run's next page. A stage whose endpoint Copper refuses to the key is left out: status tells of it."""
    client = connected(run.account_id, kind_of(run).purpose)
    try:
        return _fetch(run, client)
    except EndpointRefusedError as error:
        log.info("stage.skipped", account=run.account_id, run=run.id, stage=run.stage, endpoint=error.endpoint)
        return _skipped(run)


def _skipped(run: Run) -> Step:
    """Leave a stage out, and hand on when the run began: the other stages have read what changed before then."""
    kept = {name: run.cursor.get(name) for name in ("since", "seen_to")}

    def write(session: Session) -> Drift:
        seen_to = moment_of(kept, "seen_to")
        if run.stage == "opportunities" and seen_to and kind_of(run).writes:
            accounts.saw_records(session, run.account_id, seen_to)
        return {}

    return Step(write, None, 0, carry=kept)


def _fetch(run: Run, client: CopperClient) -> Step:
    if run.stage == "relations":
        return _relations(run, client)
    if run.stage == "lost":
        return _lost(run, client)
    return _records(run, client, RECORD_STAGES[run.stage])


def write_records(
    session: Session, account_id: int, kind: RecordType, records: Records, *, force: bool = False
) -> None:
    """Rows of living records and tombstones of the others."""
    rows = (one.row() for one in records.items)
    mirror.upsert_records(session, account_id, kind, rows, records.fetched_at, force=force)
    mirror.bury_records(session, account_id, kind, records.gone, records.fetched_at)


def _since(run: Run, client: CopperClient, kind: RecordType) -> datetime | None:
    """Where a catch-up starts: what was seen when it began, less an overlap; kept in its cursor.

    A type that Copper refused until now is read in full: what changed meanwhile was never seen.
    """
    is_whole = run.cursor.get("whole") or (client.owner is not None and client.owner.was_refused(kind.plural))
    if kind_of(run) is not Kind.CATCH_UP or is_whole:
        return None
    started = moment_of(run.cursor, "since")
    if started:
        return started
    with transaction() as session:
        state = accounts.copper_state(session, run.account_id)
    return state.records_seen_to - OVERLAP if state and state.records_seen_to else None


def _records(run: Run, client: CopperClient, kind: RecordType) -> Step:
    """A page of one record type. Copper's clock at the run's very first page becomes the next catch-up's start."""
    since = _since(run, client, kind)
    if since is not None and ("by_change" in run.cursor or client.refuses_modified_filter(kind)):
        return _by_change(run, client, kind, since)
    created_from = run.cursor.get("created_from")
    try:
        records = client.page(kind, int(run.cursor.get("page", 1)), created_from=created_from, modified_from=since)
    except FilterRefusedError as error:
        if since is None:
            raise
        log.warning("filter.refused", account=run.account_id, type=kind.value, error=str(error))
        return _by_change(run, client, kind, since)
    seen_to = moment_of(run.cursor, "seen_to") or records.vendor_now
    known = set(run.cursor.get("known", ()))
    new = [one for one in records.items if one.id not in known]

    def write(session: Session) -> Drift:
        found: Drift = {}
        rows = [one.row() for one in records.items]
        if kind_of(run).counts_drift:
            settled = settled_before(records.vendor_now, EVENT_LAG)
            found[run.stage] = drift.of_records(
                session, run.account_id, kind, (one.row() for one in new), records.fetched_at, settled
            )
        if kind_of(run).writes:
            mirror.upsert_records(session, run.account_id, kind, rows, records.fetched_at)
        else:
            drift.see(session, run.account_id, run.id, kind.value, (row.record_id for row in rows))
        if following is None:
            _end_stage(session, run, kind, seen_to)
        return found

    kept = {"since": since.isoformat() if since else None, "seen_to": seen_to.isoformat() if seen_to else None}
    following = _following(run.cursor, records)
    total = run.counts.get(run.stage, {}).get("of") or records.total
    if following and run.cursor.get("whole"):
        following["whole"] = True
    return Step(write, {**following, **kept} if following else None, len(new), total, carry=kept)


def _end_stage(session: Session, run: Run, kind: RecordType, seen_to: datetime | None) -> None:
    """A record type was read to its end: nothing of it is missing any more, and after the last one nothing at all."""
    if not kind_of(run).writes:
        return
    refusals.clear(session, run.account_id, refusals.COPPER, kind.plural)
    if kind is RecordType.OPPORTUNITY and seen_to:
        accounts.saw_records(session, run.account_id, seen_to)


def _by_change(run: Run, client: CopperClient, kind: RecordType, since: datetime) -> Step:
    """A page of what was modified last, back to `since`: for a Copper that refuses or ignores the filter for it.

    A page that has shrunk may have let records slip past the reader, so the reading starts again, a few times. Where
    Copper does not sort either, or shows no more results, the stage is read in full.
    """
    page, restarts = int(run.cursor.get("by_change", 1)), int(run.cursor.get("restarts", 0))
    records, of = client.latest(kind, page), run.cursor.get("of")
    seen_to = moment_of(run.cursor, "seen_to") or records.vendor_now
    modified = [record.updated_at for record in records.items if record.updated_at]
    is_sorted = modified == sorted(modified, reverse=True)
    is_over = is_sorted and (records.received < PAGE_SIZE or bool(modified and modified[-1] < since))
    shrank = of is not None and records.total is not None and records.total < of and restarts < RESTARTS
    following: dict[str, Any] | None = {"by_change": page + 1, "of": records.total, "restarts": restarts}
    if not is_sorted or (page >= LAST_PAGE and not is_over):
        following = {"whole": True}
    elif shrank:
        following = {"by_change": 1, "of": records.total, "restarts": restarts + 1}
    elif is_over:
        following = None

    def write(session: Session) -> Drift:
        if not client.refuses_modified_filter(kind):
            refusals.record(session, run.account_id, refusals.COPPER, kind.plural, MODIFIED_FILTER)
        rows = [record.row() for record in records.items]
        mirror.upsert_records(session, run.account_id, kind, rows, records.fetched_at)
        if following is None:
            _end_stage(session, run, kind, seen_to)
        return {}

    kept = {"since": since.isoformat(), "seen_to": seen_to.isoformat() if seen_to else None}
    return Step(write, {**following, **kept} if following else None, len(records.items), carry=kept)


def _following(cursor: dict[str, Any], records: Records) -> dict[str, Any] | None:
    """Where the next page starts: at the last second of this one, whose records are then known already.

    A second with more records than a page holds is read page by page; should it shrink meanwhile, records
    may have shifted past the reader, and it is read again.
    """
    if records.received < PAGE_SIZE:
        return None
    began, page = cursor.get("created_from"), int(cursor.get("page", 1))
    created = {one.id: int(one.date_created.timestamp()) for one in records.items if one.date_created}
    # They come in this order: a second before the page's own, or beyond Copper's clock, is no place to go on from.
    first = began if began is not None else min(created.values(), default=0)
    latest = int((records.vendor_now or datetime.now(UTC)).timestamp()) + CLOCK_SKEW
    last = next((second for second in reversed(created.values()) if first <= second <= latest), first)
    if last > first:
        return {"created_from": last, "known": [key for key, second in created.items() if second == last]}
    of, restarts = cursor.get("of"), int(cursor.get("restarts", 0))
    known = [*cursor.get("known", ()), *(one.id for one in records.items)]
    shrank = page > 1 and of is not None and records.total is not None and records.total < of
    following: dict[str, Any] = {"created_from": began, "known": known, "of": records.total, "restarts": restarts}
    if shrank and restarts < RESTARTS:
        return {**following, "page": 1, "restarts": restarts + 1}
    return {**following, "page": page + 1}


@dataclass
class RelatedBatch:
    """What `/related` said of some opportunities; `delay` is how long to wait where Copper or the budget said stop."""

    related: dict[int, list[RelationRow]] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    delay: float = 0.0

    @property
    def count(self) -> int:
        """How many opportunities were asked for."""
        return len(self.related) + len(self.gone) + len(self.unreadable)


def _read_related(client: CopperClient, ids: Sequence[int]) -> RelatedBatch:
    """Ask for opportunities one by one; what was read before the budget or Copper said stop is kept."""
    batch = RelatedBatch()
    for opportunity in ids:
        try:
            ends = client.related(opportunity)
        except UnreadableError:
            batch.unreadable.append(opportunity)
        except PassingError as error:
            if batch.count == 0:
                raise
            batch.delay = error.retry_after or 5.0
            break
        else:
            if ends is None:
                batch.gone.append(opportunity)
            else:
                batch.related[opportunity] = ends
    return batch


def _relations(run: Run, client: CopperClient) -> Step:
    """`/related` of the next opportunities, one call each: Copper has no listing of relations."""
    after = int(run.cursor.get("after", 0))
    unread = kind_of(run) is Kind.CATCH_UP
    with transaction() as session:
        ids = due.opportunities_after(session, run.account_id, after, RELATIONS_PER_STEP, unread=unread)
    began = datetime.now(UTC)
    batch = _read_related(client, ids)
    over = batch.count == len(ids) < RELATIONS_PER_STEP

    def write(session: Session) -> Drift:
        found: Drift = {}
        if kind_of(run).counts_drift:
            found["relations"] = drift.of_relations(session, run.account_id, batch.related, began)
            found["opportunities"] = Found(extra=len(batch.gone))
        if kind_of(run).writes:
            mirror.replace_related(session, run.account_id, batch.related, began)
            mirror.read_relations(session, run.account_id, RecordType.OPPORTUNITY, batch.unreadable, began)
            mirror.bury_records(session, run.account_id, RecordType.OPPORTUNITY, batch.gone, began)
            if over:
                refusals.clear(session, run.account_id, refusals.COPPER, "opportunities/related")
        else:
            drift.see(session, run.account_id, run.id, RecordType.OPPORTUNITY.value, batch.gone)
        return found

    cursor = None if over else {"after": ids[batch.count - 1]}
    return Step(write, cursor, batch.count, _opportunities(run, unread), batch.delay)


def _opportunities(run: Run, unread: bool) -> int | None:
    count: int | None = None if unread else run.counts.get("opportunities", {}).get("done")
    return count


def _lost(run: Run, client: CopperClient) -> Step:
    """A second look by id at records that no page brought: gone ones get a tombstone, the others are put right."""
    kinds = list(RECORD_STAGES.items())
    place, after = int(run.cursor.get("kind", 0)), int(run.cursor.get("after", 0))
    name, kind = kinds[place]
    with transaction() as session:
        if not run.cursor and not kind_of(run).writes:
            drift.analyze_seen(session)
        what = Unseen(run.id, run.started_at, LOST_PER_STEP)
        ids = due.unseen_records(session, run.account_id, kind, what, after)
    records = _look_again(client, kind, ids)
    if records is None:
        following = {"kind": place + 1} if place + 1 < len(kinds) else None
        return Step(lambda session: _forget(session, run, over=following is None), following, 0)

    def write(session: Session) -> Drift:
        if kind_of(run).writes:
            write_records(session, run.account_id, kind, records, force=True)
        return {name: Found(extra=len(records.gone))} if kind_of(run).counts_drift else {}

    return Step(write, {"kind": place, "after": ids[-1]}, len(records.gone))


def _look_again(client: CopperClient, kind: RecordType, ids: list[int]) -> Records | None:
    """The records of some ids; None where there are none to look at, or Copper refuses their type."""
    try:
        return client.records(kind, ids) if ids else None
    except EndpointRefusedError:
        return None


def _forget(session: Session, run: Run, *, over: bool) -> Drift:
    if over:
        drift.forget_seen(session, run.account_id, run.id)
    return {}
