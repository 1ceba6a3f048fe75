"""Relations, which no webhook reports: read again in rotation, and when somebody looks at a record.

A person's company and an opportunity's primary contact are fields of the record, 200 records a call; an
opportunity's other people and companies are one call each.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import structlog

from runtime.settings import settings
from store import due, mirror
from store.database import transaction
from store.models import RecordType
from worker.budget import Purpose
from worker.copper.client import PAGE_SIZE, CopperClient, Records, connected
from worker.copper.stages import write_records
from worker.errors import EndpointRefusedError, PassingError, UnreadableError
from worker.projecting import project

log = structlog.get_logger()
PEOPLE_OF_COMPANY = 2_000
COMPANIES_OF_OPPORTUNITY = 5


def rotate(account_id: int) -> int:
    """Read the relations that were read longest ago, from spare budget; returns how many calls it took.

    Whatever was read in the last `relations_age_seconds` is left alone.
    """
    client, most = connected(account_id, Purpose.SPARE), settings().rotation_calls
    calls = 0
    try:
        for kind in (RecordType.PERSON, RecordType.OPPORTUNITY):
            with suppress(EndpointRefusedError):
                calls += _rotate_records(account_id, client, kind, most // 4)
        with suppress(EndpointRefusedError):
            calls += _rotate_related(account_id, client, most - calls)
    except PassingError as error:
        log.info("relations.put_off", account=account_id, error=str(error))
    if calls:
        project(account_id)
        log.info("relations.rotated", account=account_id, calls=calls)
    return calls


def _rotate_records(account_id: int, client: CopperClient, kind: RecordType, most: int) -> int:
    """The records fetched longest ago, a page a call."""
    for calls in range(most):
        with transaction() as session:
            ids = due.oldest_fetched(session, account_id, kind, settings().relations_age_seconds, PAGE_SIZE)
        if not ids:
            return calls
        _write(account_id, kind, client.records(kind, ids))
    return most


def _rotate_related(account_id: int, client: CopperClient, most: int) -> int:
    with transaction() as session:
        ids = due.oldest_relations(session, account_id, settings().relations_age_seconds, max(most, 0))
    for one in ids:
        _read_related(account_id, client, one)
    return len(ids)


def _read_related(account_id: int, client: CopperClient, opportunity_id: int) -> list[mirror.RelationRow]:
    """The ends as Copper has them; none, and the mirror stays as it is, where its answer cannot be read."""
    began = datetime.now(UTC)
    try:
        ends = client.related(opportunity_id)
    except UnreadableError:
        with transaction() as session:
            mirror.read_relations(session, account_id, RecordType.OPPORTUNITY, [opportunity_id], began)
        return []
    with transaction() as session:
        if ends is None:
            mirror.bury_records(session, account_id, RecordType.OPPORTUNITY, [opportunity_id], began)
        else:
            mirror.replace_related(session, account_id, {opportunity_id: ends}, began)
    return ends or []


def _write(account_id: int, kind: RecordType, records: Records) -> None:
    with transaction() as session:
        write_records(session, account_id, kind, records)


def refresh(account_id: int, kind: RecordType, record_id: int) -> bool:
    """Read a company's or opportunity's relations again if they are older than `relations_age_seconds`.

    Returns whether they were (leads and people show their own addresses' invoices, whatever they are related
    to). Raises `PassingError` when Copper or the budget says later: the next look asks again.
    """
    if kind not in {RecordType.COMPANY, RecordType.OPPORTUNITY}:
        return False
    with transaction() as session:
        age = due.relations_age(session, account_id, kind, record_id)
    if age is None or age < settings().relations_age_seconds:
        return False
    client = connected(account_id, Purpose.SPARE)
    if kind is RecordType.COMPANY:
        _refresh_company(account_id, client, record_id)
    else:
        _write(account_id, kind, client.records(kind, [record_id]))
        ends = _read_related(account_id, client, record_id)
        companies = [one.related_id for one in ends if one.related_type is RecordType.COMPANY]
        for company in companies[:COMPANIES_OF_OPPORTUNITY]:
            _refresh_company(account_id, client, company)
    project(account_id)
    return True


def _refresh_company(account_id: int, client: CopperClient, company_id: int) -> None:
    """A company's people as Copper lists them now, and those that the mirror still counts among them."""
    began = datetime.now(UTC)
    seen: set[int] = set()
    for page in range(1, PEOPLE_OF_COMPANY // PAGE_SIZE + 1):
        records = client.page(RecordType.PERSON, page, companies=[company_id])
        seen |= {one.id for one in records.items}
        _write(account_id, RecordType.PERSON, records)
        if records.received < PAGE_SIZE:
            break
    with transaction() as session:
        place = (RecordType.COMPANY, company_id)
        known = due.related_to(session, account_id, RecordType.PERSON, place, PEOPLE_OF_COMPANY)
    left = [one for one in known if one not in seen]
    if left:
        _write(account_id, RecordType.PERSON, client.records(RecordType.PERSON, left))
    with transaction() as session:
        mirror.read_relations(session, account_id, RecordType.COMPANY, [company_id], began)
