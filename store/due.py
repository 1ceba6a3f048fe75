"""Which rows of the mirror are due for a look: not seen by a run, read long ago, or only guessed at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store.models import RecordType

UNSEEN_RECORDS = text("""
    SELECT record_id FROM crm_record
    WHERE account_id = :account AND record_type = CAST(:type AS text) AND NOT gone AND fetched_at < :since
      AND record_id > :after
      AND NOT EXISTS (SELECT FROM run_seen s WHERE s.account_id = :account AND s.run_id = :run
                      AND s.kind = record_type AND s.key = record_id::text)
    ORDER BY record_id LIMIT :limit
""")
UNSEEN_INVOICES = text("""
    SELECT invoice_id FROM invoice
    WHERE account_id = :account AND organisation_id = :organisation AND NOT gone AND fetched_at < :since
      AND invoice_id > :after
      AND NOT EXISTS (SELECT FROM run_seen s WHERE s.account_id = :account AND s.run_id = :run
                      AND s.kind = 'invoices' AND s.key = invoice_id::text)
    ORDER BY invoice_id LIMIT :limit
""")
UNSEEN_CONTACTS = text("""
    SELECT contact_id FROM xero_contact
    WHERE account_id = :account AND organisation_id = :organisation AND NOT gone AND fetched_at < :since
      AND contact_id > :after
      AND NOT EXISTS (SELECT FROM run_seen s WHERE s.account_id = :account AND s.run_id = :run
                      AND s.kind = 'contacts' AND s.key = contact_id::text)
    ORDER BY contact_id LIMIT :limit
""")
OPPORTUNITIES = text("""
    SELECT record_id FROM crm_record
    WHERE account_id = :account AND record_type = 'opportunity' AND NOT gone AND record_id > :after
      AND (related_at IS NULL OR NOT :unread)
    ORDER BY record_id LIMIT :limit
""")
OLDEST_RELATIONS = text("""
    SELECT record_id FROM crm_record
    WHERE account_id = :account AND record_type = 'opportunity' AND NOT gone
      AND (related_at IS NULL OR related_at < now() - make_interval(secs => :seconds))
    ORDER BY related_at NULLS FIRST, record_id LIMIT :limit
""")
OLDEST_FETCHED = text("""
    SELECT record_id FROM crm_record
    WHERE account_id = :account AND record_type = CAST(:type AS text) AND NOT gone
      AND fetched_at < now() - make_interval(secs => :seconds)
    ORDER BY fetched_at, record_id LIMIT :limit
""")
AGE = text("""
    SELECT extract(epoch FROM now() - related_at) FROM crm_record
    WHERE account_id = :account AND record_type = CAST(:type AS text) AND record_id = :record AND NOT gone
""")
RELATED_TO = text("""
    SELECT record_id FROM crm_relation
    WHERE account_id = :account AND record_type = CAST(:type AS text)
      AND related_type = CAST(:related_type AS text) AND related_id = :related
    ORDER BY record_id LIMIT :limit
""")
WITHOUT_HISTORY = text("""
    SELECT invoice_id FROM invoice
    WHERE account_id = :account AND organisation_id = :organisation AND NOT gone AND history_at IS NULL
      AND created_source IN ('issue_date', 'updated_date') AND status <> 'DELETED'
      AND created_at > now() - make_interval(days => :days)
    ORDER BY created_at DESC, invoice_id LIMIT :limit
""")


@dataclass(frozen=True)
class Unseen:
    """Which rows a run did not see: not fetched since `since`, and not remembered by (dry) run `run`."""

    run: int
    since: datetime
    limit: int


def unseen_records(session: Session, account_id: int, kind: RecordType, what: Unseen, after: int) -> list[int]:
    """Living records above id `after` that the run has not seen, in order of id."""
    chosen = {"account": account_id, "type": kind.value, "after": after, **vars(what)}
    return list(session.execute(UNSEEN_RECORDS, chosen).scalars())


def unseen_xero(
    session: Session, account_id: int, organisation_id: int, kind: str, what: Unseen, after: UUID
) -> list[UUID]:
    """The same of an organisation's `invoices` or `contacts`."""
    statement = {"invoices": UNSEEN_INVOICES, "contacts": UNSEEN_CONTACTS}[kind]
    chosen = {"account": account_id, "organisation": organisation_id, "after": after, **vars(what)}
    return list(session.execute(statement, chosen).scalars())


def opportunities_after(session: Session, account_id: int, after: int, limit: int, *, unread: bool) -> list[int]:
    """Living opportunities above id `after`, in order of id; `unread`: whose relations are to be read again."""
    chosen = {"account": account_id, "after": after, "limit": limit, "unread": unread}
    return list(session.execute(OPPORTUNITIES, chosen).scalars())


def oldest_relations(session: Session, account_id: int, seconds: float, limit: int) -> list[int]:
    """Opportunities whose relations were read `seconds` ago or longer, longest ago first."""
    chosen = {"account": account_id, "seconds": seconds, "limit": limit}
    return list(session.execute(OLDEST_RELATIONS, chosen).scalars())


def oldest_fetched(session: Session, account_id: int, kind: RecordType, seconds: float, limit: int) -> list[int]:
    """Records that were fetched `seconds` ago or longer, longest ago first."""
    chosen = {"account": account_id, "type": kind.value, "seconds": seconds, "limit": limit}
    return list(session.execute(OLDEST_FETCHED, chosen).scalars())


def relations_age(session: Session, account_id: int, kind: RecordType, record_id: int) -> float | None:
    """Seconds since a living record's relations were read (infinite: never); None for an unknown record."""
    chosen = {"account": account_id, "type": kind.value, "record": record_id}
    row = session.execute(AGE, chosen).one_or_none()
    if row is None:
        return None
    return float(row[0]) if row[0] is not None else float("inf")


def related_to(
    session: Session, account_id: int, kind: RecordType, related: tuple[RecordType, int], limit: int
) -> list[int]:
    """Records of a type that name `related`, in order of id, at most `limit`."""
    chosen = {
        "account": account_id,
        "type": kind.value,
        "related_type": related[0].value,
        "related": related[1],
        "limit": limit,
    }
    return list(session.execute(RELATED_TO, chosen).scalars())


def without_history(session: Session, account_id: int, organisation_id: int, days: int, limit: int) -> list[UUID]:
    """The newest invoices whose created date is only guessed, newest first, none older than `days`."""
    chosen = {"account": account_id, "organisation": organisation_id, "days": days, "limit": limit}
    return list(session.execute(WITHOUT_HISTORY, chosen).scalars())
