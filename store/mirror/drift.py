"""Drift: how far the mirror differs from a vendor's data, counted page by page before anything is repaired.

A row is missing if the mirror lacks it, and stale if the mirror has other values. Rows that the vendor changed after
`settled_at`, or that a later fetch has updated, are not compared, because their events may still be under way. Extra
rows, which the vendor no longer has, are found in a second pass over the rows that no page contained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from store.db.enums import RecordType
from store.mirror.mirror import INVOICE_DEFINITIONS, invoice_columns_of
from store.mirror.rows import CONTACTS, INVOICES, RECORDS, ContactRow, InvoiceRow, RecordRow, RelationRow, newest

INVOICE_DRIFT = text(f"""
    SELECT count(*) FILTER (WHERE i.invoice_id IS NULL OR i.is_deleted),
           count(*) FILTER (WHERE NOT i.is_deleted AND
               ({invoice_columns_of("i")}) IS DISTINCT FROM ({invoice_columns_of("r")}))
    FROM json_to_recordset(CAST(:rows AS json)) AS r(invoice_id uuid, {INVOICE_DEFINITIONS}, updated_at timestamptz)
    LEFT JOIN xero_invoice i ON i.account_id = :account AND i.organisation_id = :organisation
         AND i.invoice_id = r.invoice_id
    WHERE r.updated_at <= :settled_at AND (i.fetched_at IS NULL OR i.fetched_at < :fetched_at)
""")
CONTACT_DRIFT = text("""
    SELECT count(*) FILTER (WHERE c.contact_id IS NULL OR c.is_deleted),
           count(*) FILTER (WHERE NOT c.is_deleted AND
               ((c.name, c.status, c.merged_to) IS DISTINCT FROM (r.name, r.status, r.merged_to)
                OR ours.emails IS DISTINCT FROM theirs.emails
                OR (r.phones IS NOT NULL AND ours.phones IS DISTINCT FROM theirs.phones)))
    FROM json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, name text, status text, merged_to uuid,
        updated_at timestamptz, emails json, phones json)
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = :organisation
         AND c.contact_id = r.contact_id,
    LATERAL (SELECT (SELECT array_agg(e.email ORDER BY e.email) FROM xero_contact_email e
                     WHERE e.account_id = :account AND e.organisation_id = :organisation
                       AND e.contact_id = r.contact_id) AS emails,
                    (SELECT array_agg(p.phone ORDER BY p.phone) FROM xero_contact_phone p
                     WHERE p.account_id = :account AND p.organisation_id = :organisation
                       AND p.contact_id = r.contact_id) AS phones) ours,
    LATERAL (SELECT (SELECT array_agg(email ORDER BY email) FROM json_object_keys(r.emails) AS email) AS emails,
                    (SELECT array_agg(DISTINCT phone ORDER BY phone)
                     FROM json_array_elements_text(r.phones) AS phone) AS phones) theirs
    WHERE r.updated_at <= :settled_at AND (c.fetched_at IS NULL OR c.fetched_at < :fetched_at)
""")
RECORD_DRIFT = text("""
    SELECT count(*) FILTER (WHERE c.record_id IS NULL OR c.is_deleted),
           count(*) FILTER (WHERE NOT c.is_deleted
               AND ((c.name, c.assignee_id, c.email_domain) IS DISTINCT FROM (r.name, r.assignee_id, r.email_domain)
               OR (ours.emails, ours.phones, ours.ends) IS DISTINCT FROM (theirs.emails, theirs.phones, theirs.ends)))
    FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, name text, assignee_id bigint,
        email_domain text, updated_at timestamptz, emails json, phones json, relations json)
    LEFT JOIN copper_record c ON c.account_id = :account AND c.record_type = CAST(:record_type AS text)
         AND c.record_id = r.record_id,
    LATERAL (SELECT (SELECT array_agg(e.email ORDER BY e.email) FROM copper_record_email e
                     WHERE e.account_id = :account AND e.record_type = CAST(:record_type AS text)
                       AND e.record_id = r.record_id) AS emails,
                    (SELECT array_agg(p.phone ORDER BY p.phone) FROM copper_record_phone p
                     WHERE p.account_id = :account AND p.record_type = CAST(:record_type AS text)
                       AND p.record_id = r.record_id) AS phones,
                    (SELECT array_agg(l.related_type || ':' || l.related_id ORDER BY l.related_type, l.related_id)
                     FROM copper_relation l
                     WHERE l.account_id = :account AND l.record_type = CAST(:record_type AS text)
                       AND l.record_id = r.record_id AND l.origin = 'field') AS ends) ours,
    LATERAL (SELECT (SELECT array_agg(email ORDER BY email) FROM json_object_keys(r.emails) AS email) AS emails,
                    (SELECT array_agg(DISTINCT phone ORDER BY phone)
                     FROM json_array_elements_text(r.phones) AS phone) AS phones,
                    (SELECT array_agg(f.related_type || ':' || f.related_id ORDER BY f.related_type, f.related_id)
                     FROM json_to_recordset(r.relations)
                          AS f(related_type text, related_id bigint)) AS ends) theirs
    WHERE r.updated_at <= :settled_at AND (c.fetched_at IS NULL OR c.fetched_at < :fetched_at)
""")
# Relations have no version and no events of their own; only a later fetch takes precedence.
RELATION_DRIFT = text("""
    SELECT count(*) FILTER (WHERE NOT ours.known AND theirs.known),
           count(*) FILTER (WHERE ours.known AND ours.ends IS DISTINCT FROM theirs.ends)
    FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, relations json)
    JOIN copper_record c ON c.account_id = :account AND c.record_type = 'opportunity' AND c.record_id = r.record_id
         AND NOT c.is_deleted AND (c.relations_fetched_at IS NULL OR c.relations_fetched_at < :fetched_at),
    LATERAL (SELECT count(*) > 0 AS known,
                    array_agg(l.related_type || ':' || l.related_id ORDER BY l.related_type, l.related_id) AS ends
             FROM copper_relation l
             WHERE l.account_id = :account AND l.record_type = 'opportunity' AND l.record_id = r.record_id
               AND l.origin = 'related') ours,
    LATERAL (SELECT count(*) > 0 AS known,
                    array_agg(f.related_type || ':' || f.related_id ORDER BY f.related_type, f.related_id) AS ends
             FROM json_to_recordset(r.relations) AS f(related_type text, related_id bigint)) theirs
""")
INSERT_SEEN_IDS = text("""
    INSERT INTO run_seen_id (account_id, run_id, resource_type, resource_id)
    SELECT :account, :run_id, :resource_type, id FROM unnest(CAST(:ids AS text[])) AS id
    ON CONFLICT DO NOTHING
""")
# Without fresh statistics the planner assumes an empty table and scans it once for each row.
ANALYZE_SEEN_IDS = text("ANALYZE run_seen_id")
DELETE_SEEN_IDS = text("DELETE FROM run_seen_id WHERE account_id = :account AND run_id = :run_id")


@dataclass(frozen=True)
class DriftCounts:
    """Rows of one page that the mirror lacks, has with other values, or has beyond the vendor's."""

    missing: int = 0
    stale: int = 0
    extra: int = 0


Report = dict[str, dict[str, int]]
"""Missing, stale and extra rows by resource type."""


def merge_reports(*reports: Report | None) -> Report:
    """The sum of several reports; None counts as an empty one."""
    merged: Report = {}
    for report in reports:
        for resource_type, counts in (report or {}).items():
            totals = merged.setdefault(resource_type, {})
            for name, rows in counts.items():
                totals[name] = totals.get(name, 0) + rows
    return merged


def compare_invoices(
    session: Session,
    organisation: tuple[int, int],
    rows: Iterable[InvoiceRow],
    fetched_at: datetime,
    settled_at: datetime,
) -> DriftCounts:
    """Compare a page of invoices with the mirror; `organisation` is an (account, organisation) pair."""
    params = _xero_params(organisation, INVOICES.dump_json(newest(rows, "invoice_id")), fetched_at, settled_at)
    return _count(session, INVOICE_DRIFT, params)


def compare_contacts(
    session: Session,
    organisation: tuple[int, int],
    rows: Iterable[ContactRow],
    fetched_at: datetime,
    settled_at: datetime,
) -> DriftCounts:
    """The same for contacts and their addresses."""
    params = _xero_params(organisation, CONTACTS.dump_json(newest(rows, "contact_id")), fetched_at, settled_at)
    return _count(session, CONTACT_DRIFT, params)


def compare_records(
    session: Session,
    account_id: int,
    record_type: RecordType,
    rows: Iterable[RecordRow],
    fetched_at: datetime,
    settled_at: datetime,
) -> DriftCounts:
    """The same for Copper records, their addresses and the relations in their fields."""
    params = {
        "account": account_id,
        "record_type": record_type.value,
        "rows": RECORDS.dump_json(newest(rows, "record_id")).decode(),
        "fetched_at": fetched_at,
        "settled_at": settled_at,
    }
    return _count(session, RECORD_DRIFT, params)


def compare_relations(
    session: Session, account_id: int, related: Mapping[int, Sequence[RelationRow]], fetched_at: datetime
) -> DriftCounts:
    """The same for the `/related` responses of some opportunities: one count an opportunity."""
    rows = [
        {"record_id": record_id, "relations": [relation.model_dump(mode="json") for relation in relations]}
        for record_id, relations in related.items()
    ]
    params = {"account": account_id, "rows": orjson.dumps(rows).decode(), "fetched_at": fetched_at}
    return _count(session, RELATION_DRIFT, params)


def _xero_params(
    organisation: tuple[int, int], rows: bytes, fetched_at: datetime, settled_at: datetime
) -> dict[str, Any]:
    account_id, organisation_id = organisation
    return {
        "account": account_id,
        "organisation": organisation_id,
        "rows": rows.decode(),
        "fetched_at": fetched_at,
        "settled_at": settled_at,
    }


def _count(session: Session, statement: TextClause, params: dict[str, Any]) -> DriftCounts:
    missing, stale = session.execute(statement, params).one()
    return DriftCounts(int(missing), int(stale))


def record_seen_ids(session: Session, account_id: int, run_id: int, resource_type: str, ids: Iterable[object]) -> None:
    """Record, for a run that does not write to the mirror, which ids the vendor's pages contained."""
    params = {
        "account": account_id,
        "run_id": run_id,
        "resource_type": resource_type,
        "ids": [str(resource_id) for resource_id in ids],
    }
    session.execute(INSERT_SEEN_IDS, params)


def analyze_seen_ids(session: Session) -> None:
    """Update the planner's statistics of the seen ids before they are compared with the mirror."""
    session.execute(ANALYZE_SEEN_IDS)


def delete_seen_ids(session: Session, account_id: int, run_id: int) -> None:
    """Delete the seen ids of a run that has ended."""
    session.execute(DELETE_SEEN_IDS, {"account": account_id, "run_id": run_id})
