"""The stages of a Copper run: users, the four record types, relations, and records that were on none of the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from store.accounts import copper_fields, refused_endpoints
from store.db.database import Session, current_time, transaction
from store.db.enums import FieldWriting, RecordType
from store.mirror import copper_users, drift, mirror
from store.mirror.drift import DriftCounts
from store.mirror.rows import RelationRow
from store.read_model import field_values
from store.sync import refresh_candidates, watermarks
from store.sync.refresh_candidates import UnseenQuery
from store.sync.runs import Run
from worker.vendors.copper.client import MODIFIED_FILTER, PAGE_SIZE, CopperClient, RecordPage
from worker.vendors.copper.fields import observe
from worker.vendors.copper.schemas import CopperRecord
from worker.vendors.errors import (
    AuthorizationLostError,
    EndpointRefusedError,
    TransientError,
    UnexpectedResponseError,
    UnsupportedFilterError,
    VendorError,
)
from worker.vendors.sync_types import (
    VERIFY_STAGE,
    DriftByType,
    PageResult,
    RunKind,
    cursor_time,
    drift_cutoff,
    run_kind_of,
)

RECORD_STAGES = {
    "people": RecordType.PERSON,
    "leads": RecordType.LEAD,
    "companies": RecordType.COMPANY,
    "opportunities": RecordType.OPPORTUNITY,
}
USERS_STAGE = "users"
# What the drift of custom fields is counted as; they are on the pages of the records.
FIELDS = "fields"
CATCH_UP_STAGES = (USERS_STAGE, *RECORD_STAGES, "relations")
FULL_STAGES = (*CATCH_UP_STAGES, "missing")
OVERLAP = timedelta(seconds=120)
# Copper's notifications arrive up to 15 minutes late (Copper docs: webhooks/overview).
EVENT_LAG = timedelta(minutes=15)
RELATIONS_PER_PAGE = 20
MISSING_PER_PAGE = 50
MAX_RESTARTS = 5
MAX_CLOCK_SKEW_SECONDS = 300
# A search returns at most its first 100,000 results (Copper docs: list-people-search).
MAX_PAGES = 500
DEFAULT_DELAY_SECONDS = 5.0
log = structlog.get_logger()


def stages(run_kind: RunKind) -> tuple[str, ...]:
    """The stages of a run of this kind. The read model is verified before repairs of the mirror can change it."""
    if run_kind is RunKind.CATCH_UP:
        return CATCH_UP_STAGES
    return (VERIFY_STAGE, *FULL_STAGES) if run_kind.counts_drift else FULL_STAGES


def fetch(run: Run, client: CopperClient) -> PageResult:
    """Fetch the run's next page. A stage whose endpoint Copper refuses is skipped; status reports the refusal."""
    try:
        return _fetch_stage(run, client)
    except EndpointRefusedError as error:
        log.info("stage.skipped", account=run.account_id, run=run.id, stage=run.stage, endpoint=error.endpoint)
        return _skip_stage(run)


def _skip_stage(run: Run) -> PageResult:
    """Skip a stage, and pass on the run's start: the other stages have read all changes before it."""
    carried = {name: run.cursor.get(name) for name in ("since", "synced_through")}

    def write(session: Session) -> DriftByType:
        synced_through = cursor_time(carried, "synced_through")
        if run.stage == "opportunities" and synced_through and run_kind_of(run).writes:
            watermarks.advance_records(session, run.account_id, synced_through)
        return {}

    return PageResult(write, None, 0, next_stage_cursor=carried)


def _fetch_stage(run: Run, client: CopperClient) -> PageResult:
    if run.stage == USERS_STAGE:
        return _fetch_users(run, client)
    if run.stage == "relations":
        return _fetch_relations(run, client)
    if run.stage == "missing":
        return _verify_missing(run, client)
    return _fetch_records(run, client, RECORD_STAGES[run.stage])


def _fetch_users(run: Run, client: CopperClient) -> PageResult:
    """The names of all users, unless they were fetched within an hour. A failure delays no records: names can wait."""
    with transaction() as session:
        is_due = run_kind_of(run).writes and copper_users.are_due(session, run.account_id)
    began = current_time()
    try:
        names = {user.id: user.name for user in client.list_users()} if is_due else {}
    except (AuthorizationLostError, EndpointRefusedError):
        raise
    except VendorError as error:
        log.warning("users.not_fetched", account=run.account_id, run=run.id, error=str(error))
        names = {}

    def write(session: Session) -> DriftByType:
        copper_users.replace_users(session, run.account_id, names, began)
        return {}

    return PageResult(write, None, 0)


def write_records(
    session: Session, account_id: int, record_type: RecordType, page: RecordPage, *, force: bool = False
) -> None:
    """Upsert the records of a page, and write tombstones for its deleted ids."""
    rows = (record.to_row() for record in page.items)
    mirror.upsert_records(session, account_id, record_type, rows, page.fetched_at, force=force)
    mirror.tombstone_records(session, account_id, record_type, page.deleted_ids, page.fetched_at)


def _since(run: Run, client: CopperClient, record_type: RecordType) -> datetime | None:
    """Where a catch-up starts: the watermark at its start, less an overlap. It is kept in the cursor.

    A record type that Copper refused before is read completely, because its changes since then were never read.
    """
    was_refused = _was_refused(client, record_type.plural)
    if run_kind_of(run) is not RunKind.CATCH_UP or run.cursor.get("full") or was_refused:
        return None
    since = cursor_time(run.cursor, "since")
    if since:
        return since
    synced_through = client.owner.records_synced_through if client.owner is not None else None
    return synced_through - OVERLAP if synced_through is not None else None


def _fetch_records(run: Run, client: CopperClient, record_type: RecordType) -> PageResult:
    """A page of one record type. Copper's clock at the run's very first page becomes the next catch-up's start."""
    since = _since(run, client, record_type)
    if since is not None and ("modified_page" in run.cursor or client.refuses_modified_filter(record_type)):
        return _fetch_by_modification(run, client, record_type, since)
    created_from, page_number = run.cursor.get("created_from"), int(run.cursor.get("page", 1))
    try:
        page = client.list_records(record_type, page_number, created_from=created_from, modified_from=since)
    except UnsupportedFilterError as error:
        if since is None:
            raise
        log.warning("filter.refused", account=run.account_id, type=record_type.value, error=str(error))
        return _fetch_by_modification(run, client, record_type, since)
    synced_through = cursor_time(run.cursor, "synced_through") or page.vendor_time
    known_ids = set(run.cursor.get("known_ids", ()))
    new_records = [record for record in page.items if record.id not in known_ids]
    next_cursor = _next_cursor(run.cursor, page)
    if next_cursor and run.cursor.get("full"):
        next_cursor["full"] = True

    def write(session: Session) -> DriftByType:
        drift_by_type: DriftByType = {}
        rows = [record.to_row() for record in page.items]
        if run_kind_of(run).counts_drift:
            new_rows = (record.to_row() for record in new_records)
            cutoff = drift_cutoff(page.vendor_time, EVENT_LAG)
            drift_by_type[run.stage] = drift.compare_records(
                session, run.account_id, record_type, new_rows, page.fetched_at, cutoff
            )
            drift_by_type[FIELDS] = _compare_fields(session, run, record_type, new_records, cutoff)
        if run_kind_of(run).writes:
            mirror.upsert_records(session, run.account_id, record_type, rows, page.fetched_at)
        else:
            drift.record_seen_ids(session, run.account_id, run.id, record_type.value, (row.record_id for row in rows))
        if next_cursor is None:
            _complete_record_type(session, run, client, record_type, synced_through)
        return drift_by_type

    total = run.counts.get(run.stage, {}).get("total") or page.total
    carried = _carried_cursor(since, synced_through)
    return PageResult(
        write, {**next_cursor, **carried} if next_cursor else None, len(new_records), total, next_stage_cursor=carried
    )


def _compare_fields(
    session: Session, run: Run, record_type: RecordType, records: Sequence[CopperRecord], cutoff: datetime
) -> DriftCounts:
    """Compare the account's own fields with what was written, and have those written again that somebody changed."""
    current = copper_fields.get_settings(session, run.account_id)
    if current.state is not FieldWriting.ON or record_type not in current.record_types:
        return DriftCounts()
    observation = observe(record_type, records, copper_fields.list_fields(session, run.account_id))
    count = field_values.count_observed(session, run.account_id, observation, cutoff)
    if count and run_kind_of(run).writes:
        field_values.record_observed(session, run.account_id, observation, cutoff)
    return DriftCounts(stale=count)


def _carried_cursor(since: datetime | None, synced_through: datetime | None) -> dict[str, Any]:
    """The part of the cursor that is the same for all pages of a run."""
    return {
        "since": since.isoformat() if since else None,
        "synced_through": synced_through.isoformat() if synced_through else None,
    }


def _was_refused(client: CopperClient, endpoint: str) -> bool:
    return client.owner is not None and client.owner.was_refused(endpoint)


def _complete_record_type(
    session: Session, run: Run, client: CopperClient, record_type: RecordType, synced_through: datetime | None
) -> None:
    """Clear the refusal of a record type that was read completely, and after the last type advance the watermark."""
    if not run_kind_of(run).writes:
        return
    if _was_refused(client, record_type.plural):
        refused_endpoints.clear(session, run.account_id, refused_endpoints.COPPER, record_type.plural)
    if record_type is RecordType.OPPORTUNITY and synced_through:
        watermarks.advance_records(session, run.account_id, synced_through)


def _fetch_by_modification(run: Run, client: CopperClient, record_type: RecordType, since: datetime) -> PageResult:
    """A page of the last modified records, back to `since`, for a Copper that refuses or ignores the modified filter.

    If the result has shrunk, records may have moved to a page that was already read, so reading starts again, a few
    times. If Copper does not sort either, or returns no more results, the stage is read completely.
    """
    page_number = int(run.cursor.get("modified_page", 1))
    page = client.list_recently_modified(record_type, page_number)
    synced_through = cursor_time(run.cursor, "synced_through") or page.vendor_time
    next_cursor = _next_modification_cursor(run.cursor, page, since)

    def write(session: Session) -> DriftByType:
        if not client.refuses_modified_filter(record_type):
            refused_endpoints.record(
                session, run.account_id, refused_endpoints.COPPER, record_type.plural, MODIFIED_FILTER
            )
        rows = [record.to_row() for record in page.items]
        mirror.upsert_records(session, run.account_id, record_type, rows, page.fetched_at)
        if next_cursor is None:
            _complete_record_type(session, run, client, record_type, synced_through)
        return {}

    carried = _carried_cursor(since, synced_through)
    return PageResult(
        write, {**next_cursor, **carried} if next_cursor else None, len(page.items), next_stage_cursor=carried
    )


def _next_modification_cursor(cursor: dict[str, Any], page: RecordPage, since: datetime) -> dict[str, Any] | None:
    page_number, restarts = int(cursor.get("modified_page", 1)), int(cursor.get("restarts", 0))
    previous_total = cursor.get("total")
    modified = [record.updated_at for record in page.items if record.updated_at]
    is_sorted = modified == sorted(modified, reverse=True)
    is_last = is_sorted and (page.received_count < PAGE_SIZE or bool(modified and modified[-1] < since))
    if not is_sorted or (page_number >= MAX_PAGES and not is_last):
        return {"full": True}
    if _has_shrunk(page, previous_total) and restarts < MAX_RESTARTS:
        return {"modified_page": 1, "total": page.total, "restarts": restarts + 1}
    if is_last:
        return None
    return {"modified_page": page_number + 1, "total": page.total, "restarts": restarts}


def _has_shrunk(page: RecordPage, previous_total: int | None) -> bool:
    return previous_total is not None and page.total is not None and page.total < previous_total


def _next_cursor(cursor: dict[str, Any], page: RecordPage) -> dict[str, Any] | None:
    """Where the next page starts: at the last second of this one, whose records are then already known.

    A second with more records than a page is read page by page. If the result shrinks meanwhile, records may have moved
    to a page that was already read, so the second is read again, also if this page is the last one.
    """
    created_from, page_number = cursor.get("created_from"), int(cursor.get("page", 1))
    restarts = int(cursor.get("restarts", 0))
    known_ids = [*cursor.get("known_ids", ()), *(record.id for record in page.items)]
    same_second = {"created_from": created_from, "known_ids": known_ids, "total": page.total}
    if page_number > 1 and _has_shrunk(page, cursor.get("total")) and restarts < MAX_RESTARTS:
        return {**same_second, "page": 1, "restarts": restarts + 1}
    if page.received_count < PAGE_SIZE:
        return None
    created = {record.id: int(record.date_created.timestamp()) for record in page.items if record.date_created}
    # The records are sorted by these seconds. A second before the page's start, or beyond Copper's clock, is invalid.
    first = created_from if created_from is not None else min(created.values(), default=0)
    latest = int((page.vendor_time or datetime.now(UTC)).timestamp()) + MAX_CLOCK_SKEW_SECONDS
    last = next((second for second in reversed(created.values()) if first <= second <= latest), first)
    if last > first:
        return {
            "created_from": last,
            "known_ids": [record_id for record_id, second in created.items() if second == last],
        }
    return {**same_second, "page": page_number + 1, "restarts": restarts}


@dataclass
class RelationsBatch:
    """The relations of some opportunities. `delay` is the number of seconds to wait if Copper or the budget ran out."""

    relations: dict[int, list[RelationRow]] = field(default_factory=dict)
    deleted_ids: list[int] = field(default_factory=list)
    unreadable_ids: list[int] = field(default_factory=list)
    delay: float = 0.0

    @property
    def fetched_count(self) -> int:
        """The number of opportunities that were fetched."""
        return len(self.relations) + len(self.deleted_ids) + len(self.unreadable_ids)


def _list_relations(client: CopperClient, opportunity_ids: Sequence[int]) -> RelationsBatch:
    """Fetch the relations of opportunities one by one; returns early if Copper or the budget runs out."""
    batch = RelationsBatch()
    for opportunity_id in opportunity_ids:
        try:
            relations = client.list_relations(opportunity_id)
        except UnexpectedResponseError:
            batch.unreadable_ids.append(opportunity_id)
        except TransientError as error:
            if batch.fetched_count == 0:
                raise
            batch.delay = error.retry_after or DEFAULT_DELAY_SECONDS
            break
        else:
            if relations is None:
                batch.deleted_ids.append(opportunity_id)
            else:
                batch.relations[opportunity_id] = relations
    return batch


def _fetch_relations(run: Run, client: CopperClient) -> PageResult:
    """The relations of the next opportunities, one call each, because Copper has no endpoint that lists relations."""
    after = int(run.cursor.get("after", 0))
    unfetched_only = run_kind_of(run) is RunKind.CATCH_UP
    with transaction() as session:
        ids = refresh_candidates.opportunities_after(
            session, run.account_id, after, RELATIONS_PER_PAGE, unfetched_only=unfetched_only
        )
    began = current_time()
    batch = _list_relations(client, ids)
    is_last = batch.fetched_count == len(ids) < RELATIONS_PER_PAGE

    def write(session: Session) -> DriftByType:
        drift_by_type: DriftByType = {}
        if run_kind_of(run).counts_drift:
            drift_by_type["relations"] = drift.compare_relations(session, run.account_id, batch.relations, began)
            drift_by_type["opportunities"] = DriftCounts(extra=len(batch.deleted_ids))
        if run_kind_of(run).writes:
            mirror.replace_opportunity_relations(session, run.account_id, batch.relations, began)
            mirror.mark_relations_fetched(session, run.account_id, RecordType.OPPORTUNITY, batch.unreadable_ids, began)
            mirror.tombstone_records(session, run.account_id, RecordType.OPPORTUNITY, batch.deleted_ids, began)
            if is_last and _was_refused(client, "opportunities/related"):
                refused_endpoints.clear(session, run.account_id, refused_endpoints.COPPER, "opportunities/related")
        else:
            drift.record_seen_ids(session, run.account_id, run.id, RecordType.OPPORTUNITY.value, batch.deleted_ids)
        return drift_by_type

    next_cursor = None if is_last else {"after": ids[batch.fetched_count - 1]}
    total = None if unfetched_only else _opportunity_count(run)
    return PageResult(write, next_cursor, batch.fetched_count, total, batch.delay)


def _opportunity_count(run: Run) -> int | None:
    count: int | None = run.counts.get("opportunities", {}).get("done")
    return count


def _verify_missing(run: Run, client: CopperClient) -> PageResult:
    """Fetch records that were on no page by id: deleted ones get a tombstone, the others are corrected."""
    record_stages = list(RECORD_STAGES.items())
    type_index, after = int(run.cursor.get("type_index", 0)), int(run.cursor.get("after", 0))
    stage, record_type = record_stages[type_index]
    with transaction() as session:
        if not run.cursor and not run_kind_of(run).writes:
            drift.analyze_seen_ids(session)
        unseen = UnseenQuery(run.id, run.started_at, MISSING_PER_PAGE)
        ids = refresh_candidates.unseen_record_ids(session, run.account_id, record_type, unseen, after)
    page = _fetch_missing(client, record_type, ids)
    if page is None:
        next_cursor = {"type_index": type_index + 1} if type_index + 1 < len(record_stages) else None
        return PageResult(lambda session: _clear_seen(session, run) if next_cursor is None else {}, next_cursor, 0)

    def write(session: Session) -> DriftByType:
        if run_kind_of(run).writes:
            write_records(session, run.account_id, record_type, page, force=True)
        return {stage: DriftCounts(extra=len(page.deleted_ids))} if run_kind_of(run).counts_drift else {}

    return PageResult(write, {"type_index": type_index, "after": ids[-1]}, len(page.deleted_ids))


def _fetch_missing(client: CopperClient, record_type: RecordType, ids: list[int]) -> RecordPage | None:
    """The records of some ids; None if there are no ids, or Copper refuses their type."""
    try:
        return client.records_by_id(record_type, ids) if ids else None
    except EndpointRefusedError:
        return None


def _clear_seen(session: Session, run: Run) -> DriftByType:
    drift.delete_seen_ids(session, run.account_id, run.id)
    return {}
