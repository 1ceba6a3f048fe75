"""Drift: how far the mirror is from what a vendor holds, page by page, counted before anything is repaired.

A row counts as missing when the mirror does not have it, as stale when it shows something else. What the
vendor changed after `settled`, or a fetch later than this one has brought, does not count: its event may
still be on its way. Rows that the vendor no longer has (extra) are found by a second look at what no page
brought.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import TextClause, text
from sqlmodel import Session

from store.mirror import CONTACTS, INVOICES, RECORDS, ContactRow, InvoiceRow, RecordRow, RelationRow, newest
from store.models import RecordType

INVOICE_DRIFT = text("""
    SELECT count(*) FILTER (WHERE i.invoice_id IS NULL OR i.gone),
           count(*) FILTER (WHERE NOT i.gone AND
               (i.contact_id, i.type, i.status, i.number, i.issue_date, i.due_date, i.total, i.balance, i.currency)
               IS DISTINCT FROM
               (r.contact_id, r.type, r.status, r.number, r.issue_date, r.due_date, r.total, r.balance, r.currency))
    FROM json_to_recordset(CAST(:rows AS json)) AS r(invoice_id uuid, contact_id uuid, type text, status text,
        number text, issue_date date, due_date date, total numeric, balance numeric, currency text,
        updated_at timestamptz)
    LEFT JOIN invoice i ON i.account_id = :account AND i.organisation_id = :organisation
         AND i.invoice_id = r.invoice_id
    WHERE r.updated_at <= :settled AND (i.fetched_at IS NULL OR i.fetched_at < :fetched_at)
""")
CONTACT_DRIFT = text("""
    SELECT count(*) FILTER (WHERE c.contact_id IS NULL OR c.gone),
           count(*) FILTER (WHERE NOT c.gone AND
               ((c.name, c.status, c.merged_to) IS DISTINCT FROM (r.name, r.status, r.merged_to)
                OR mine.emails IS DISTINCT FROM theirs.emails))
    FROM json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, name text, status text, merged_to uuid,
        updated_at timestamptz, emails json)
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = :organisation
         AND c.contact_id = r.contact_id,
    LATERAL (SELECT array_agg(e.email ORDER BY e.email) AS emails FROM xero_contact_email e
             WHERE e.account_id = :account AND e.organisation_id = :organisation
               AND e.contact_id = r.contact_id) mine,
    LATERAL (SELECT array_agg(email ORDER BY email) AS emails FROM json_object_keys(r.emails) AS email) theirs
    WHERE r.updated_at <= :settled AND (c.fetched_at IS NULL OR c.fetched_at < :fetched_at)
""")
RECORD_DRIFT = text("""
    SELECT count(*) FILTER (WHERE c.record_id IS NULL OR c.gone),
           count(*) FILTER (WHERE NOT c.gone AND (c.name IS DISTINCT FROM r.name
               OR mine.emails IS DISTINCT FROM theirs.emails OR mine.ends IS DISTINCT FROM theirs.ends))
    FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, name text, updated_at timestamptz,
        emails json, relations json)
    LEFT JOIN crm_record c ON c.account_id = :account AND c.record_type = CAST(:type AS text)
         AND c.record_id = r.record_id,
    LATERAL (SELECT (SELECT array_agg(e.email ORDER BY e.email) FROM crm_record_email e
                     WHERE e.account_id = :account AND e.record_type = CAST(:type AS text)
                       AND e.record_id = r.record_id) AS emails,
                    (SELECT array_agg(l.related_type || ':' || l.related_id ORDER BY l.related_type, l.related_id)
                     FROM crm_relation l
                     WHERE l.account_id = :account AND l.record_type = CAST(:type AS text)
                       AND l.record_id = r.record_id AND l.source = 'field') AS ends) mine,
    LATERAL (SELECT (SELECT array_agg(email ORDER BY email) FROM json_object_keys(r.emails) AS email) AS emails,
                    (SELECT array_agg(f.related_type || ':' || f.related_id ORDER BY f.related_type, f.related_id)
                     FROM json_to_recordset(r.relations)
                          AS f(related_type text, related_id bigint)) AS ends) theirs
    WHERE r.updated_at <= :settled AND (c.fetched_at IS NULL OR c.fetched_at < :fetched_at)
""")
# Relations have no version and no events of their own; only a later look at them takes precedence.
RELATION_DRIFT = text("""
    SELECT count(*) FILTER (WHERE NOT mine.known AND theirs.known),
           count(*) FILTER (WHERE mine.known AND mine.ends IS DISTINCT FROM theirs.ends)
    FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, relations json)
    JOIN crm_record c ON c.account_id = :account AND c.record_type = 'opportunity' AND c.record_id = r.record_id
         AND NOT c.gone AND (c.related_at IS NULL OR c.related_at < :fetched_at),
    LATERAL (SELECT count(*) > 0 AS known,
                    array_agg(l.related_type || ':' || l.related_id ORDER BY l.related_type, l.related_id) AS ends
             FROM crm_relation l
             WHERE l.account_id = :account AND l.record_type = 'opportunity' AND l.record_id = r.record_id
               AND l.source = 'related') mine,
    LATERAL (SELECT count(*) > 0 AS known,
                    array_agg(f.related_type || ':' || f.related_id ORDER BY f.related_type, f.related_id) AS ends
             FROM json_to_recordset(r.relations) AS f(related_type text, related_id bigint)) theirs
""")
SEE = text("""
    INSERT INTO run_seen (account_id, run_id, kind, key)
    SELECT :account, :run, :kind, key FROM unnest(CAST(:keys AS text[])) AS key
    ON CONFLICT DO NOTHING
""")
# Without it the planner takes the table for empty and reads it once a row.
ANALYZE_SEEN = text("ANALYZE run_seen")
FORGET_SEEN = text("DELETE FROM run_seen WHERE account_id = :account AND run_id = :run")


@dataclass(frozen=True)
class Found:
    """What one page showed: rows that the mirror lacks, shows differently, and has beyond the vendor's."""

    missing: int = 0
    stale: int = 0
    extra: int = 0


Report = dict[str, dict[str, int]]


def added(*reports: Report | None) -> Report:
    """Several reports (rows missing, stale and extra, by kind) as one; None is one of nothing."""
    whole: Report = {}
    for report in reports:
        for kind, found in (report or {}).items():
            known = whole.setdefault(kind, {})
            for name, rows in found.items():
                known[name] = known.get(name, 0) + rows
    return whole


def of_invoices(
    session: Session, place: tuple[int, int], rows: Iterable[InvoiceRow], fetched_at: datetime, settled: datetime
) -> Found:
    """Hold a page of invoices of (account, organisation) against the mirror."""
    chosen = _of_xero(place, INVOICES.dump_json(newest(rows, "invoice_id")), fetched_at, settled)
    return _found(session, INVOICE_DRIFT, chosen)


def of_contacts(
    session: Session, place: tuple[int, int], rows: Iterable[ContactRow], fetched_at: datetime, settled: datetime
) -> Found:
    """The same for contacts and their addresses."""
    chosen = _of_xero(place, CONTACTS.dump_json(newest(rows, "contact_id")), fetched_at, settled)
    return _found(session, CONTACT_DRIFT, chosen)


def of_records(
    session: Session,
    account_id: int,
    kind: RecordType,
    rows: Iterable[RecordRow],
    fetched_at: datetime,
    settled: datetime,
) -> Found:
    """The same for Copper records, their addresses and the relations in their fields."""
    chosen = {
        "account": account_id,
        "type": kind.value,
        "rows": RECORDS.dump_json(newest(rows, "record_id")).decode(),
        "fetched_at": fetched_at,
        "settled": settled,
    }
    return _found(session, RECORD_DRIFT, chosen)


def of_relations(
    session: Session, account_id: int, related: Mapping[int, Sequence[RelationRow]], fetched_at: datetime
) -> Found:
    """The same for what `/related` said of some opportunities: one count an opportunity."""
    rows = [
        {"record_id": key, "relations": [one.model_dump(mode="json") for one in ends]} for key, ends in related.items()
    ]
    chosen = {"account": account_id, "rows": orjson.dumps(rows).decode(), "fetched_at": fetched_at}
    return _found(session, RELATION_DRIFT, chosen)


def _of_xero(place: tuple[int, int], rows: bytes, fetched_at: datetime, settled: datetime) -> dict[str, Any]:
    return {
        "account": place[0],
        "organisation": place[1],
        "rows": rows.decode(),
        "fetched_at": fetched_at,
        "settled": settled,
    }


def _found(session: Session, statement: TextClause, chosen: dict[str, Any]) -> Found:
    missing, stale = session.execute(statement, chosen).one()
    return Found(int(missing), int(stale))


def see(session: Session, account_id: int, run_id: int, kind: str, keys: Iterable[object]) -> None:
    """Remember, for a run that writes nothing, which ids the vendor's pages brought."""
    chosen = {"account": account_id, "run": run_id, "kind": kind, "keys": [str(key) for key in keys]}
    session.execute(SEE, chosen)


def analyze_seen(session: Session) -> None:
    """Tell the planner how much is remembered, before it is held against the mirror."""
    session.execute(ANALYZE_SEEN)


def forget_seen(session: Session, account_id: int, run_id: int) -> None:
    """Drop what an ended run remembered."""
    session.execute(FORGET_SEEN, {"account": account_id, "run": run_id})
