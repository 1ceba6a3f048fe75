"""Refresh candidates: mirror rows to fetch again because a run did not see them, they are stale or only estimated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import RecordType

UNSEEN_RECORDS = text("""
    SELECT record_id FROM copper_record
    WHERE account_id = :account AND record_type = CAST(:record_type AS text) AND NOT is_deleted AND fetched_at < :since
      AND record_id > :after
      AND NOT EXISTS (SELECT FROM run_seen_id s WHERE s.account_id = :account AND s.run_id = :run_id
                      AND s.resource_type = record_type AND s.resource_id = record_id::text)
    ORDER BY record_id LIMIT :limit
""")
UNSEEN_INVOICES = text("""
    SELECT invoice_id FROM xero_invoice
    WHERE account_id = :account AND organisation_id = :organisation AND NOT is_deleted AND fetched_at < :since
      AND invoice_id > :after AND coalesce(credit_resource(type), 'invoices') = :resource
      AND NOT EXISTS (SELECT FROM run_seen_id s WHERE s.account_id = :account AND s.run_id = :run_id
                      AND s.resource_type = :resource AND s.resource_id = invoice_id::text)
    ORDER BY invoice_id LIMIT :limit
""")
UNSEEN_CONTACTS = text("""
    SELECT contact_id FROM xero_contact
    WHERE account_id = :account AND organisation_id = :organisation AND NOT is_deleted AND fetched_at < :since
      AND contact_id > :after
      AND NOT EXISTS (SELECT FROM run_seen_id s WHERE s.account_id = :account AND s.run_id = :run_id
                      AND s.resource_type = 'contacts' AND s.resource_id = contact_id::text)
    ORDER BY contact_id LIMIT :limit
""")
OPPORTUNITIES_AFTER = text("""
    SELECT record_id FROM copper_record
    WHERE account_id = :account AND record_type = 'opportunity' AND NOT is_deleted AND record_id > :after
      AND (relations_fetched_at IS NULL OR NOT :unfetched_only)
    ORDER BY record_id LIMIT :limit
""")
STALE_RELATIONS = text("""
    SELECT record_id FROM copper_record
    WHERE account_id = :account AND record_type = 'opportunity' AND NOT is_deleted
      AND (relations_fetched_at IS NULL OR relations_fetched_at < now() - make_interval(secs => :seconds))
    ORDER BY relations_fetched_at NULLS FIRST, record_id LIMIT :limit
""")
STALE_RECORDS = text("""
    SELECT record_id FROM copper_record
    WHERE account_id = :account AND record_type = CAST(:record_type AS text) AND NOT is_deleted
      AND fetched_at < now() - make_interval(secs => :seconds)
    ORDER BY fetched_at, record_id LIMIT :limit
""")
RELATIONS_AGE = text("""
    SELECT extract(epoch FROM now() - relations_fetched_at) FROM copper_record
    WHERE account_id = :account AND record_type = CAST(:record_type AS text) AND record_id = :record_id
      AND NOT is_deleted
""")
RECORDS_RELATED_TO = text("""
    SELECT record_id FROM copper_relation
    WHERE account_id = :account AND record_type = CAST(:record_type AS text)
      AND related_type = CAST(:related_type AS text) AND related_id = :related_id
    ORDER BY record_id LIMIT :limit
""")
WITHOUT_CREATED_DATE = text("""
    SELECT invoice_id FROM xero_invoice
    WHERE account_id = :account AND organisation_id = :organisation AND NOT is_deleted AND history_fetched_at IS NULL
      AND created_source IN ('issue_date', 'updated_date') AND status <> 'DELETED' AND credit_resource(type) IS NULL
      AND created_at > now() - make_interval(days => :days)
    ORDER BY created_at DESC, invoice_id LIMIT :limit
""")


@dataclass(frozen=True)
class UnseenQuery:
    """Selects rows that were not fetched since `since` and whose ids (dry) run `run_id` did not record as seen."""

    run_id: int
    since: datetime
    limit: int


def unseen_record_ids(
    session: Session, account_id: int, record_type: RecordType, query: UnseenQuery, after: int
) -> list[int]:
    """Existing records with an id above `after` that the run did not see, in order of id."""
    params = {"account": account_id, "record_type": record_type.value, "after": after, **vars(query)}
    return list(session.execute(UNSEEN_RECORDS, params).scalars())


def unseen_xero_ids(
    session: Session, account_id: int, organisation_id: int, resource: str, query: UnseenQuery, after: UUID
) -> list[UUID]:
    """The same for an organisation's `contacts`, `invoices` or one of the `CreditResource`s."""
    statement = UNSEEN_CONTACTS if resource == "contacts" else UNSEEN_INVOICES
    params = {
        "account": account_id,
        "organisation": organisation_id,
        "resource": resource,
        "after": after,
        **vars(query),
    }
    return list(session.execute(statement, params).scalars())


def opportunities_after(
    session: Session, account_id: int, after: int, limit: int, *, unfetched_only: bool
) -> list[int]:
    """Existing opportunities with an id above `after`, in order of id; `unfetched_only`: without fetched relations."""
    params = {"account": account_id, "after": after, "limit": limit, "unfetched_only": unfetched_only}
    return list(session.execute(OPPORTUNITIES_AFTER, params).scalars())


def stale_relation_ids(session: Session, account_id: int, seconds: float, limit: int) -> list[int]:
    """Opportunities whose relations were fetched at least `seconds` ago, oldest first."""
    params = {"account": account_id, "seconds": seconds, "limit": limit}
    return list(session.execute(STALE_RELATIONS, params).scalars())


def stale_record_ids(
    session: Session, account_id: int, record_type: RecordType, seconds: float, limit: int
) -> list[int]:
    """Records that were fetched at least `seconds` ago, oldest first."""
    params = {"account": account_id, "record_type": record_type.value, "seconds": seconds, "limit": limit}
    return list(session.execute(STALE_RECORDS, params).scalars())


def relations_age(session: Session, account_id: int, record_type: RecordType, record_id: int) -> float | None:
    """Seconds since a record's relations were fetched (infinite: never); None for an unknown record."""
    params = {"account": account_id, "record_type": record_type.value, "record_id": record_id}
    row = session.execute(RELATIONS_AGE, params).one_or_none()
    if row is None:
        return None
    return float(row[0]) if row[0] is not None else float("inf")


def records_related_to(
    session: Session, account_id: int, record_type: RecordType, related: tuple[RecordType, int], limit: int
) -> list[int]:
    """Records of a type with a relation to `related`, in order of id, at most `limit`."""
    related_type, related_id = related
    params = {
        "account": account_id,
        "record_type": record_type.value,
        "related_type": related_type.value,
        "related_id": related_id,
        "limit": limit,
    }
    return list(session.execute(RECORDS_RELATED_TO, params).scalars())


def invoices_without_created_date(
    session: Session, account_id: int, organisation_id: int, days: int, limit: int
) -> list[UUID]:
    """Invoices whose created date is only an estimate, newest first, none older than `days`."""
    params = {"account": account_id, "organisation": organisation_id, "days": days, "limit": limit}
    return list(session.execute(WITHOUT_CREATED_DATE, params).scalars())
