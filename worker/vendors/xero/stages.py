"""The stages of a Xero run: the organisation, contacts, credits, invoices, and rows that were on no page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import structlog

from store.accounts import refused_endpoints
from store.db.database import Session, transaction
from store.db.enums import CreditResource
from store.mirror import drift, mirror
from store.mirror.drift import DriftCounts
from store.sync import refresh_candidates, watermarks
from store.sync.refresh_candidates import UnseenQuery
from store.sync.runs import Run
from worker.vendors.errors import EndpointRefusedError, UnexpectedResponseError
from worker.vendors.sync_types import (
    DriftByType,
    PageResult,
    PageWriter,
    RunKind,
    cursor_time,
    drift_cutoff,
    run_kind_of,
    write_nothing,
)
from worker.vendors.xero import time_zones
from worker.vendors.xero.client import CREDIT_LISTINGS, IDS_PER_CALL, Page, XeroClient
from worker.vendors.xero.schemas import XeroContact

log = structlog.get_logger()
MISSING_PREFIX = "missing_"
# Invoices come last: once they have all been read, so has everything else.
LISTED_RESOURCES = ("contacts", *(resource.value for resource in CreditResource), "invoices")
CATCH_UP_STAGES = ("organisation", *LISTED_RESOURCES)
FULL_STAGES = (*CATCH_UP_STAGES, *(f"{MISSING_PREFIX}{resource}" for resource in LISTED_RESOURCES))
LAST_STAGE = FULL_STAGES[-1]
# Credits are fetched by id one by one.
CREDITS_PER_PAGE = 5
# The vendor's index may lag behind a change that it has already reported.
OVERLAP = timedelta(seconds=120)
EVENT_LAG = timedelta(minutes=5)


@dataclass(frozen=True)
class ListingSync:
    """How the rows of one of Xero's listings are compared and written.

    `id_field` is the name of their id in the mirror; `endpoint` is the listing's name in Xero.
    """

    endpoint: str
    compare: Callable[..., DriftCounts]
    upsert: Callable[..., object]
    tombstone: Callable[..., None]
    id_field: str


def _invoice_listing(endpoint: str) -> ListingSync:
    return ListingSync(
        endpoint, drift.compare_invoices, mirror.upsert_invoices, mirror.tombstone_invoices, "invoice_id"
    )


LISTINGS = {
    "contacts": ListingSync(
        "Contacts", drift.compare_contacts, mirror.upsert_contacts, mirror.tombstone_contacts, "contact_id"
    ),
    "invoices": _invoice_listing("Invoices"),
    **{resource.value: _invoice_listing(listing.endpoint) for resource, listing in CREDIT_LISTINGS.items()},
}


def stages(run_kind: RunKind) -> tuple[str, ...]:
    """The stages of a run of this kind."""
    return CATCH_UP_STAGES if run_kind is RunKind.CATCH_UP else FULL_STAGES


def fetch(run: Run, client: XeroClient) -> PageResult:
    """Fetch the run's next page. A stage whose endpoint Xero refuses is skipped; status reports the refusal."""
    hidden = set(CreditResource) - set(client.organisation.shown_credits)
    hidden_stages = {f"{prefix}{resource}" for resource in hidden for prefix in ("", MISSING_PREFIX)}
    if run.stage in hidden_stages:
        return PageResult(write_nothing, None, 0, skipped_stages=hidden_stages)
    try:
        page = _fetch_stage(run, client)
    except EndpointRefusedError as error:
        log.info("stage.skipped", account=run.account_id, run=run.id, stage=run.stage, endpoint=error.endpoint)
        page = PageResult(lambda session: _clear_seen_at_end(session, run), None, 0)
    return replace(page, skipped_stages=hidden_stages)


def _fetch_stage(run: Run, client: XeroClient) -> PageResult:
    if run.stage == "organisation":
        return _fetch_organisation(run, client)
    resource = run.stage.removeprefix(MISSING_PREFIX)
    if run.stage != resource:
        return _verify_missing(run, client, resource)
    if resource == "contacts":
        return _fetch_contacts(run, client)
    return _fetch_invoices(run, client) if resource == "invoices" else _fetch_credits(run, client, resource)


def list_documents_of(client: XeroClient, contact_ids: Sequence[UUID]) -> list[Page[Any]]:
    """All invoices and shown credits of some contacts. A merge moves them without changing their version."""
    pages: list[Page[Any]] = []
    for start in range(0, len(contact_ids), IDS_PER_CALL):
        ids = contact_ids[start : start + IDS_PER_CALL]
        pages.extend(list_pages(partial(client.list_invoices, contact_ids=ids)))
    for resource in client.organisation.shown_credits:
        with suppress(EndpointRefusedError):
            for contact_id in contact_ids:
                pages.extend(list_pages(partial(client.list_credits, resource, contact_id=contact_id)))
    return pages


def list_pages(fetch_page: Callable[[int], Page[Any]]) -> Iterator[Page[Any]]:
    """All pages of a listing, from the first."""
    for page_number in count(1):
        page = fetch_page(page_number)
        yield page
        if not page.has_more(page_number):
            return


def _fetch_organisation(run: Run, client: XeroClient) -> PageResult:
    """The organisation's details. A catch-up only fetches them if its time zone is unknown.

    Details that cannot be read stay as they were, and do not fail the run.
    """
    if run_kind_of(run) is RunKind.CATCH_UP and client.organisation.xero_time_zone is not None:
        return PageResult(write_nothing, None, 0)
    try:
        details = client.get_organisation()
    except UnexpectedResponseError:
        return PageResult(write_nothing, None, 1, 1)
    iana_names = time_zones.iana_names(details.time_zone)
    if details.time_zone and not iana_names:
        log.warning("organisation.time_zone_unknown", account=run.account_id, organisation=run.organisation_id)

    def write(session: Session) -> DriftByType:
        if run_kind_of(run).writes:
            refused_endpoints.clear(session, run.account_id, run.organisation_id, "Organisation")
            mirror.save_organisation_details(
                session,
                run.account_id,
                run.organisation_id,
                name=details.name,
                short_code=details.short_code,
                base_currency=details.base_currency,
                xero_time_zone=details.time_zone or None,
                time_zones=iana_names,
            )
        return {}

    return PageResult(write, None, 1, 1)


def _since(run: Run, synced_through: datetime | None, *, was_refused: bool) -> datetime | None:
    """Where a catch-up starts: the watermark at its start, less an overlap. It is kept in the cursor.

    A listing that was refused before is read completely, because a merge moves invoices without changing their version.
    """
    if run_kind_of(run) is not RunKind.CATCH_UP or was_refused:
        return None
    since = cursor_time(run.cursor, "since")
    return since or (synced_through - OVERLAP if synced_through else None)


def _fetch_contacts(run: Run, client: XeroClient) -> PageResult:
    organisation = client.organisation
    since = _since(run, organisation.contacts_synced_through, was_refused="Contacts" in organisation.refused)
    page = client.list_contacts(_page_number(run), since=since)
    moved_pages = _fetch_moved_documents(run, client, page)

    def write(session: Session) -> DriftByType:
        drift_by_type = _write_page(session, run, page, "contacts", organisation.refused)
        for moved_page in moved_pages:
            rows = (document.to_row() for document in moved_page.items)
            mirror.upsert_invoices(session, run.account_id, run.organisation_id, rows, moved_page.fetched_at)
        return drift_by_type

    return _page_result(run, write, page, since)


def _fetch_moved_documents(run: Run, client: XeroClient, page: Page[XeroContact]) -> list[Page[Any]]:
    """The invoices and credits of new merge targets. Only a catch-up needs them: other runs read all of them later."""
    if run_kind_of(run) is not RunKind.CATCH_UP:
        return []
    merged = {contact.contact_id: contact.merged_to for contact in page.items if contact.merged_to}
    if not merged:
        return []
    with transaction() as session:
        merge_targets = mirror.list_new_merge_targets(session, run.account_id, run.organisation_id, merged)
    try:
        return list_documents_of(client, sorted(merge_targets)) if merge_targets else []
    except EndpointRefusedError:
        return []


def _fetch_invoices(run: Run, client: XeroClient) -> PageResult:
    organisation = client.organisation
    since = _since(run, organisation.invoices_synced_through, was_refused="Invoices" in organisation.refused)
    return _listing_result(run, client.list_invoices(_page_number(run), since=since), since, organisation.refused)


def _fetch_credits(run: Run, client: XeroClient, stage: str) -> PageResult:
    organisation, resource = client.organisation, CreditResource(stage)
    was_refused = LISTINGS[stage].endpoint in organisation.refused
    since = _since(run, organisation.credits_synced_through[resource], was_refused=was_refused)
    page = client.list_credits(resource, _page_number(run), since=since)
    return _listing_result(run, page, since, organisation.refused)


def _listing_result(run: Run, page: Page[Any], since: datetime | None, refused: Collection[str]) -> PageResult:
    return _page_result(run, lambda session: _write_page(session, run, page, run.stage, refused), page, since)


def _write_page(session: Session, run: Run, page: Page[Any], resource: str, refused: Collection[str]) -> DriftByType:
    """Compare a page with the mirror if the run counts drift, then write it, or record its ids for a dry run.

    `refused` are the endpoints that were refused before this page.
    """
    scope, listing = (run.account_id, run.organisation_id), LISTINGS[resource]
    rows = [item.to_row() for item in page.items]
    drift_by_type: DriftByType = {}
    if run_kind_of(run).counts_drift:
        cutoff = drift_cutoff(page.vendor_time, EVENT_LAG)
        drift_by_type[resource] = listing.compare(session, scope, rows, page.fetched_at, cutoff)
    if run_kind_of(run).writes:
        listing.upsert(session, *scope, rows, page.fetched_at)
        _advance_watermark(session, run, page, resource, refused)
    else:
        drift.record_seen_ids(
            session, run.account_id, run.id, resource, (getattr(row, listing.id_field) for row in rows)
        )
    return drift_by_type


def _page_number(run: Run) -> int:
    return int(run.cursor.get("page", 1))


def _synced_through(run: Run, page: Page[Any]) -> datetime | None:
    """Xero's clock at the run's first page: every change before it is on one of the pages."""
    return cursor_time(run.cursor, "synced_through") or page.vendor_time


def _is_last(run: Run, page: Page[Any]) -> bool:
    return not page.has_more(_page_number(run))


def _advance_watermark(session: Session, run: Run, page: Page[Any], resource: str, refused: Collection[str]) -> None:
    if not _is_last(run, page):
        return
    synced_through = _synced_through(run, page)
    if synced_through:
        watermarks.advance_xero(session, run.account_id, run.organisation_id, resource, synced_through)
    if LISTINGS[resource].endpoint in refused:
        refused_endpoints.clear(session, run.account_id, run.organisation_id, LISTINGS[resource].endpoint)


def _page_result(run: Run, write: PageWriter, page: Page[Any], since: datetime | None) -> PageResult:
    if _is_last(run, page):
        return PageResult(write, None, len(page.items), page.total)
    synced_through = _synced_through(run, page)
    next_cursor = {
        "page": _page_number(run) + 1,
        "synced_through": synced_through.isoformat() if synced_through else None,
        "since": since.isoformat() if since else None,
    }
    return PageResult(write, next_cursor, len(page.items), page.total)


def _verify_missing(run: Run, client: XeroClient, resource: str) -> PageResult:
    """Fetch rows that were on no page by id: deleted ones get a tombstone, the others are corrected."""
    scope = (run.account_id, run.organisation_id)
    after = UUID(run.cursor.get("after", str(UUID(int=0))))
    with transaction() as session:
        if not run.cursor and not run_kind_of(run).writes:
            drift.analyze_seen_ids(session)
        batch_size = CREDITS_PER_PAGE if resource in set(CreditResource) else IDS_PER_CALL
        unseen = UnseenQuery(run.id, run.started_at, batch_size)
        ids = refresh_candidates.unseen_xero_ids(session, *scope, resource, unseen, after)
    if not ids:
        return PageResult(lambda session: _clear_seen_at_end(session, run), None, 0)
    page, listing = _fetch_by_id(client, resource, ids), LISTINGS[resource]
    rows = [item.to_row() for item in page.items]
    existing_ids = {getattr(row, listing.id_field) for row in rows}
    deleted_ids = [row_id for row_id in ids if row_id not in existing_ids and str(row_id) not in page.unreadable]

    def write(session: Session) -> DriftByType:
        if run_kind_of(run).writes:
            listing.upsert(session, *scope, rows, page.fetched_at, force=True)
            listing.tombstone(session, *scope, deleted_ids, page.fetched_at)
        return {resource: DriftCounts(extra=len(deleted_ids))} if run_kind_of(run).counts_drift else {}

    return PageResult(write, {"after": str(ids[-1])}, len(deleted_ids))


def _fetch_by_id(client: XeroClient, resource: str, ids: Sequence[UUID]) -> Page[Any]:
    if resource == "contacts":
        return client.contacts_by_id(ids)
    return client.invoices_by_id(ids) if resource == "invoices" else client.credits_by_id(CreditResource(resource), ids)


def _clear_seen_at_end(session: Session, run: Run) -> DriftByType:
    if run.stage == LAST_STAGE:
        drift.delete_seen_ids(session, run.account_id, run.id)
    return {}
