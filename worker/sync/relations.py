"""Refresh relations, which no webhook reports: the stalest ones regularly, and those of a record when it is viewed.

A person's company and an opportunity's primary contact are fields of the record: 200 records per call. An opportunity's
other people and companies cost one call per opportunity.
"""

from __future__ import annotations

from contextlib import suppress

import structlog

from runtime.settings import settings
from store.db.database import current_time, transaction
from store.db.enums import RecordType
from store.mirror import mirror
from store.mirror.rows import RelationRow
from store.sync import refresh_candidates
from worker.sync.projector import project
from worker.vendors.copper.client import PAGE_SIZE, CopperClient, RecordPage, client_for_account
from worker.vendors.copper.stages import write_records
from worker.vendors.errors import EndpointRefusedError, TransientError, UnexpectedResponseError
from worker.vendors.rate_limit.budget import Priority

log = structlog.get_logger()
MAX_PEOPLE_PER_COMPANY = 2_000
MAX_COMPANIES_PER_OPPORTUNITY = 5


def refresh_stale(account_id: int) -> int:
    """Fetch the relations that were fetched longest ago, from the background budget; return the number of calls made.

    Relations fetched within `relations_max_age_seconds` are skipped.
    """
    client, max_calls = client_for_account(account_id, Priority.BACKGROUND), settings().relations_refresh_max_calls
    calls = 0
    try:
        for record_type in (RecordType.PERSON, RecordType.OPPORTUNITY):
            with suppress(EndpointRefusedError):
                calls += _refresh_stale_records(account_id, client, record_type, max_calls // 4)
        with suppress(EndpointRefusedError):
            calls += _refresh_stale_relations(account_id, client, max_calls - calls)
    except TransientError as error:
        log.info("relations.deferred", account=account_id, error=str(error))
    if calls:
        project(account_id)
        log.info("relations.refreshed", account=account_id, calls=calls)
    return calls


def _refresh_stale_records(account_id: int, client: CopperClient, record_type: RecordType, max_calls: int) -> int:
    """Fetch the records that were fetched longest ago, one page per call."""
    max_age = settings().relations_max_age_seconds
    for calls in range(max_calls):
        with transaction() as session:
            record_ids = refresh_candidates.stale_record_ids(session, account_id, record_type, max_age, PAGE_SIZE)
        if not record_ids:
            return calls
        _write(account_id, record_type, client.records_by_id(record_type, record_ids))
    return max_calls


def _refresh_stale_relations(account_id: int, client: CopperClient, max_calls: int) -> int:
    max_age = settings().relations_max_age_seconds
    with transaction() as session:
        opportunity_ids = refresh_candidates.stale_relation_ids(session, account_id, max_age, max(max_calls, 0))
    for opportunity_id in opportunity_ids:
        _fetch_relations(account_id, client, opportunity_id)
    return len(opportunity_ids)


def _fetch_relations(account_id: int, client: CopperClient, opportunity_id: int) -> list[RelationRow]:
    """Fetch an opportunity's relations and write them to the mirror.

    Returns none, and leaves the mirror unchanged, if Copper's response cannot be parsed.
    """
    fetched_at = current_time()
    try:
        relations = client.list_relations(opportunity_id)
    except UnexpectedResponseError:
        with transaction() as session:
            mirror.mark_relations_fetched(session, account_id, RecordType.OPPORTUNITY, [opportunity_id], fetched_at)
        return []
    with transaction() as session:
        if relations is None:
            mirror.tombstone_records(session, account_id, RecordType.OPPORTUNITY, [opportunity_id], fetched_at)
        else:
            mirror.replace_opportunity_relations(session, account_id, {opportunity_id: relations}, fetched_at)
    return relations or []


def _write(account_id: int, record_type: RecordType, records: RecordPage) -> None:
    with transaction() as session:
        write_records(session, account_id, record_type, records)


def refresh_record(account_id: int, record_type: RecordType, record_id: int) -> bool:
    """Fetch a company's or opportunity's relations if they are older than `relations_max_age_seconds`.

    Returns whether they were. Leads and people are skipped, because only their own addresses count. Raises
    `TransientError` if Copper or the budget asks to wait; the next view of the record tries again.
    """
    if record_type not in {RecordType.COMPANY, RecordType.OPPORTUNITY}:
        return False
    with transaction() as session:
        age = refresh_candidates.relations_age(session, account_id, record_type, record_id)
    if age is None or age < settings().relations_max_age_seconds:
        return False
    client = client_for_account(account_id, Priority.BACKGROUND)
    if record_type is RecordType.COMPANY:
        _refresh_company(account_id, client, record_id)
    else:
        _write(account_id, record_type, client.records_by_id(record_type, [record_id]))
        relations = _fetch_relations(account_id, client, record_id)
        company_ids = [relation.related_id for relation in relations if relation.related_type is RecordType.COMPANY]
        for company_id in company_ids[:MAX_COMPANIES_PER_OPPORTUNITY]:
            _refresh_company(account_id, client, company_id)
    project(account_id)
    return True


def _refresh_company(account_id: int, client: CopperClient, company_id: int) -> None:
    """Fetch a company's people as Copper lists them, and those that only the mirror still relates to it."""
    fetched_at = current_time()
    listed_ids: set[int] = set()
    for page in range(1, MAX_PEOPLE_PER_COMPANY // PAGE_SIZE + 1):
        records = client.list_records(RecordType.PERSON, page, company_ids=[company_id])
        listed_ids |= {person.id for person in records.items}
        _write(account_id, RecordType.PERSON, records)
        if records.received_count < PAGE_SIZE:
            break
    with transaction() as session:
        mirrored_ids = refresh_candidates.records_related_to(
            session, account_id, RecordType.PERSON, (RecordType.COMPANY, company_id), MAX_PEOPLE_PER_COMPANY
        )
    unlisted_ids = [person_id for person_id in mirrored_ids if person_id not in listed_ids]
    if unlisted_ids:
        _write(account_id, RecordType.PERSON, client.records_by_id(RecordType.PERSON, unlisted_ids))
    with transaction() as session:
        mirror.mark_relations_fetched(session, account_id, RecordType.COMPANY, [company_id], fetched_at)
