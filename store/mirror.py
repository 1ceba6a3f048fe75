"""The mirror: versioned upserts and tombstones of what Xero and Copper hold.

A row is replaced by an equal or newer version only, ties going to the later fetch; a tombstone yields
only to a fetch begun after it. Children (addresses, relations) are replaced in a second statement: by
then the parents' row locks are held and its snapshot is fresh, so two writers cannot mix their sets.
Marks come from the rows that a statement in fact changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, TypeAdapter
from sqlalchemy import text
from sqlmodel import Session

from store.models import RecordType


class InvoiceRow(BaseModel):
    """An invoice as the mirror keeps it; `created_*` is the fallback that needs no event.

    Without a version of the vendor's own (`has_version`), `updated_at` is when it was fetched.
    """

    invoice_id: UUID
    contact_id: UUID | None
    type: str
    status: str
    number: str | None
    issue_date: date | None
    due_date: date | None
    total: Decimal
    balance: Decimal
    currency: str | None
    created_at: datetime
    created_source: str
    updated_at: datetime
    has_version: bool = True


class ContactRow(BaseModel):
    """A contact with its addresses as they are compared, each with what was typed."""

    contact_id: UUID
    name: str
    status: str
    merged_to: UUID | None
    updated_at: datetime
    has_version: bool = True
    emails: Mapping[str, str]


class RelationRow(BaseModel):
    """The far end of a relation."""

    related_type: RecordType
    related_id: int


class RecordRow(BaseModel):
    """A Copper record with its addresses (as for contacts) and the relations that its own fields tell."""

    record_id: int
    name: str
    updated_at: datetime
    has_version: bool = True
    emails: Mapping[str, str] = {}
    relations: tuple[RelationRow, ...] = ()


Row = TypeVar("Row", InvoiceRow, ContactRow, RecordRow)
INVOICES = TypeAdapter(list[InvoiceRow])
CONTACTS = TypeAdapter(list[ContactRow])
RECORDS = TypeAdapter(list[RecordRow])

UPSERT_INVOICES = text("""
    WITH written AS (
        INSERT INTO invoice AS old (account_id, organisation_id, invoice_id, contact_id, type, status, number,
            issue_date, due_date, total, balance, currency, created_at, created_source, updated_at, has_version,
            fetched_at, changed_at)
        SELECT :account, :organisation, invoice_id, contact_id, type, status, number, issue_date, due_date,
            total, balance, currency, created_at, created_source, updated_at, has_version, :fetched_at, now()
        FROM json_to_recordset(CAST(:rows AS json)) AS r(invoice_id uuid, contact_id uuid, type text,
            status text, number text, issue_date date, due_date date, total numeric, balance numeric,
            currency text, created_at timestamptz, created_source text, updated_at timestamptz, has_version boolean)
        ORDER BY invoice_id
        ON CONFLICT (account_id, organisation_id, invoice_id) DO UPDATE SET
            contact_id = EXCLUDED.contact_id, type = EXCLUDED.type, status = EXCLUDED.status,
            number = EXCLUDED.number, issue_date = EXCLUDED.issue_date, due_date = EXCLUDED.due_date,
            total = EXCLUDED.total, balance = EXCLUDED.balance, currency = EXCLUDED.currency,
            created_at = CASE WHEN old.created_source IN ('webhook', 'history')
                                   OR (EXCLUDED.created_source = 'updated_date' AND NOT EXCLUDED.has_version)
                              THEN old.created_at ELSE EXCLUDED.created_at END,
            created_source = CASE WHEN old.created_source IN ('webhook', 'history')
                                       OR (EXCLUDED.created_source = 'updated_date' AND NOT EXCLUDED.has_version)
                                  THEN old.created_source ELSE EXCLUDED.created_source END,
            updated_at = EXCLUDED.updated_at, has_version = EXCLUDED.has_version,
            fetched_at = EXCLUDED.fetched_at, gone = false,
            changed_at = CASE WHEN old.gone
                OR (old.contact_id, old.type, old.status, old.number, old.issue_date, old.due_date,
                    old.total, old.balance, old.currency) IS DISTINCT FROM
                   (EXCLUDED.contact_id, EXCLUDED.type, EXCLUDED.status, EXCLUDED.number,
                    EXCLUDED.issue_date, EXCLUDED.due_date, EXCLUDED.total, EXCLUDED.balance,
                    EXCLUDED.currency)
                OR (old.created_source NOT IN ('webhook', 'history')
                    AND old.created_at <> EXCLUDED.created_at)
                THEN EXCLUDED.changed_at ELSE old.changed_at END
        WHERE CASE WHEN old.gone OR :force THEN EXCLUDED.fetched_at > old.fetched_at
              WHEN NOT (old.has_version AND EXCLUDED.has_version) THEN EXCLUDED.fetched_at >= old.fetched_at
              ELSE (EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END
        RETURNING invoice_id, changed_at = now() AS changed),
    marked AS (
        INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
        SELECT :account, 'invoice', :organisation, invoice_id FROM written WHERE changed
        RETURNING 1)
    SELECT count(*) FROM marked
""")

# A CREATE event's time is kept whatever version of the invoice is stored, and never replaced by a worse one.
SET_CREATED = text("""
    WITH changed AS (
        UPDATE invoice i SET created_at = e.created_at, created_source = 'webhook', changed_at = now()
        FROM json_to_recordset(CAST(:rows AS json)) AS e(invoice_id uuid, created_at timestamptz)
        WHERE i.account_id = :account AND i.organisation_id = :organisation AND i.invoice_id = e.invoice_id
          AND (i.created_source <> 'webhook' OR e.created_at < i.created_at)
        RETURNING i.invoice_id)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT :account, 'invoice', :organisation, invoice_id FROM changed
""")

UPSERT_CONTACTS = text("""
    INSERT INTO xero_contact AS old (account_id, organisation_id, contact_id, name, status, merged_to,
        updated_at, has_version, fetched_at, changed_at)
    SELECT :account, :organisation, contact_id, name, status, merged_to, updated_at, has_version, :fetched_at, now()
    FROM json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, name text, status text, merged_to uuid,
        updated_at timestamptz, has_version boolean)
    ORDER BY contact_id
    ON CONFLICT (account_id, organisation_id, contact_id) DO UPDATE SET
        name = EXCLUDED.name, status = EXCLUDED.status, merged_to = EXCLUDED.merged_to,
        updated_at = EXCLUDED.updated_at, has_version = EXCLUDED.has_version,
        fetched_at = EXCLUDED.fetched_at, gone = false,
        changed_at = CASE WHEN old.gone OR old.name <> EXCLUDED.name THEN EXCLUDED.changed_at
                          ELSE old.changed_at END
    WHERE CASE WHEN old.gone OR :force THEN EXCLUDED.fetched_at > old.fetched_at
          WHEN NOT (old.has_version AND EXCLUDED.has_version) THEN EXCLUDED.fetched_at >= old.fetched_at
          ELSE (EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END
    RETURNING contact_id, changed_at = now() AS changed
""")
REPLACE_CONTACT_EMAILS = text("""
    WITH incoming AS (
        SELECT r.contact_id, a.email, nullif(a.typed, a.email) AS as_typed
        FROM json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, emails json),
             json_each_text(r.emails) AS a(email, typed)
        WHERE r.contact_id = ANY(:accepted)),
    removed AS (
        DELETE FROM xero_contact_email e
        WHERE e.account_id = :account AND e.organisation_id = :organisation AND e.contact_id = ANY(:accepted)
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.contact_id = e.contact_id AND i.email = e.email)
        RETURNING e.contact_id),
    typed AS (
        UPDATE xero_contact_email e SET as_typed = i.as_typed FROM incoming i
        WHERE e.account_id = :account AND e.organisation_id = :organisation AND e.contact_id = i.contact_id
          AND e.email = i.email AND e.as_typed IS DISTINCT FROM i.as_typed),
    added AS (
        INSERT INTO xero_contact_email (account_id, organisation_id, contact_id, email, as_typed)
        SELECT :account, :organisation, contact_id, email, as_typed FROM incoming
        ON CONFLICT DO NOTHING
        RETURNING contact_id)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, contact_id
    FROM (SELECT contact_id FROM removed UNION SELECT contact_id FROM added
          UNION SELECT unnest(CAST(:changed AS uuid[]))) AS changed
""")

UPSERT_RECORDS = text("""
    INSERT INTO crm_record AS old (account_id, record_type, record_id, name, updated_at, has_version, fetched_at,
        changed_at)
    SELECT :account, CAST(:type AS text), record_id, name, updated_at, has_version, :fetched_at, now()
    FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, name text, updated_at timestamptz,
        has_version boolean)
    ORDER BY record_id
    ON CONFLICT (account_id, record_type, record_id) DO UPDATE SET
        name = EXCLUDED.name, updated_at = EXCLUDED.updated_at, has_version = EXCLUDED.has_version,
        fetched_at = EXCLUDED.fetched_at, gone = false,
        changed_at = CASE WHEN old.gone THEN EXCLUDED.changed_at ELSE old.changed_at END,
        related_at = CASE WHEN old.updated_at = EXCLUDED.updated_at AND NOT old.gone THEN old.related_at END
    WHERE CASE WHEN old.gone OR :force THEN EXCLUDED.fetched_at > old.fetched_at
          WHEN NOT (old.has_version AND EXCLUDED.has_version) THEN EXCLUDED.fetched_at >= old.fetched_at
          ELSE (EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END
    RETURNING record_id, changed_at = now() AS changed
""")
BURY_RECORDS = text("""
    INSERT INTO crm_record AS old (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at,
        gone)
    SELECT :account, CAST(:type AS text), id, '', '-infinity', :fetched_at, now(), true
    FROM unnest(CAST(:ids AS bigint[])) AS id
    ORDER BY id
    ON CONFLICT (account_id, record_type, record_id) DO UPDATE SET
        gone = true, name = '', fetched_at = EXCLUDED.fetched_at, related_at = NULL,
        changed_at = CASE WHEN old.gone THEN old.changed_at ELSE EXCLUDED.changed_at END
    WHERE old.fetched_at <= EXCLUDED.fetched_at
    RETURNING record_id, changed_at = now() AS changed
""")
REPLACE_RECORD_EMAILS = text("""
    WITH incoming AS (
        SELECT r.record_id, a.email, nullif(a.typed, a.email) AS as_typed
        FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, emails json),
             json_each_text(r.emails) AS a(email, typed)
        WHERE r.record_id = ANY(:accepted)),
    removed AS (
        DELETE FROM crm_record_email e
        WHERE e.account_id = :account AND e.record_type = CAST(:type AS text) AND e.record_id = ANY(:accepted)
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = e.record_id AND i.email = e.email)
        RETURNING e.email),
    typed AS (
        UPDATE crm_record_email e SET as_typed = i.as_typed FROM incoming i
        WHERE e.account_id = :account AND e.record_type = CAST(:type AS text) AND e.record_id = i.record_id
          AND e.email = i.email AND e.as_typed IS DISTINCT FROM i.as_typed),
    added AS (
        INSERT INTO crm_record_email (account_id, record_type, record_id, email, as_typed)
        SELECT :account, CAST(:type AS text), record_id, email, as_typed FROM incoming
        ON CONFLICT DO NOTHING
        RETURNING email)
    INSERT INTO dirty (account_id, kind, email)
    SELECT :account, 'email', email FROM (SELECT email FROM removed UNION SELECT email FROM added) AS changed
""")
REPLACE_RELATIONS = text("""
    WITH incoming AS (
        SELECT r.record_id, f.related_type, f.related_id
        FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, relations json),
             json_to_recordset(r.relations) AS f(related_type text, related_id bigint)
        WHERE r.record_id = ANY(:accepted)),
    removed AS (
        DELETE FROM crm_relation l
        WHERE l.account_id = :account AND l.record_type = CAST(:type AS text) AND l.record_id = ANY(:accepted)
          AND l.source = ANY(:sources)
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = l.record_id
                          AND i.related_type = l.related_type AND i.related_id = l.related_id)
        RETURNING l.record_id),
    added AS (
        INSERT INTO crm_relation (account_id, record_type, record_id, related_type, related_id, source)
        SELECT :account, CAST(:type AS text), record_id, related_type, related_id, (:sources)[1] FROM incoming
        ON CONFLICT DO NOTHING
        RETURNING record_id)
    INSERT INTO dirty (account_id, kind, record_id)
    SELECT :account, CAST(:type AS text), record_id
    FROM (SELECT record_id FROM removed UNION SELECT record_id FROM added
          UNION SELECT unnest(CAST(:changed AS bigint[]))) AS changed
""")
# A linked lead or person that came or went takes the contact's invoices along.
MARK_LINKED = text("""
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT DISTINCT :account, 'contact', organisation_id, contact_id FROM contact_link
    WHERE account_id = :account AND record_type = :type AND record_id = ANY(:changed)
""")
# A contact that was merged into another hands its links on to it.
MOVE_LINKS = text("""
    WITH moved AS (
        DELETE FROM contact_link k
        USING json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, merged_to uuid)
        WHERE k.account_id = :account AND k.organisation_id = :organisation AND k.contact_id = r.contact_id
          AND r.merged_to IS NOT NULL
        RETURNING k.contact_id, r.merged_to, k.record_type, k.record_id, k.linked_by, k.linked_at),
    added AS (
        INSERT INTO contact_link (account_id, organisation_id, contact_id, record_type, record_id, linked_by, linked_at)
        SELECT :account, :organisation, merged_to, record_type, record_id, linked_by, linked_at FROM moved
        ON CONFLICT DO NOTHING)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, contact_id FROM moved
    UNION SELECT :account, 'contact', :organisation, merged_to FROM moved
""")
LOOK_AT_RELATIONS = text("""
    UPDATE crm_record SET related_at = :fetched_at
    WHERE account_id = :account AND record_type = CAST(:type AS text) AND record_id = ANY(:ids) AND NOT gone
      AND (related_at IS NULL OR related_at <= :fetched_at)
    RETURNING record_id
""")
BURY_INVOICES = text("""
    WITH buried AS (
        UPDATE invoice SET gone = true, fetched_at = :fetched_at, changed_at = now()
        WHERE account_id = :account AND organisation_id = :organisation AND invoice_id = ANY(:ids)
          AND NOT gone AND fetched_at <= :fetched_at
        RETURNING invoice_id),
    marked AS (
        INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
        SELECT :account, 'invoice', :organisation, invoice_id FROM buried)
    SELECT count(*) FROM buried
""")
BURY_CONTACTS = text("""
    UPDATE xero_contact SET gone = true, name = '', fetched_at = :fetched_at, changed_at = now()
    WHERE account_id = :account AND organisation_id = :organisation AND contact_id = ANY(:ids)
      AND NOT gone AND fetched_at <= :fetched_at
    RETURNING contact_id
""")
# A contact whose heir is not the one that the mirror knows was merged since: its invoices moved, untouched.
NEW_HEIRS = text("""
    SELECT DISTINCT r.merged_to
    FROM json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, merged_to uuid)
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = :organisation
         AND c.contact_id = r.contact_id
    WHERE r.merged_to IS NOT NULL AND c.merged_to IS DISTINCT FROM r.merged_to
""")
UNKNOWN_CONTACTS = text("""
    SELECT id FROM unnest(CAST(:ids AS uuid[])) AS id
    WHERE NOT EXISTS (SELECT FROM xero_contact c WHERE c.account_id = :account
                      AND c.organisation_id = :organisation AND c.contact_id = id)
""")
SET_HISTORY = text("""
    WITH known AS (
        SELECT invoice_id, CAST(:created_at AS timestamptz) IS NOT NULL
               AND created_source IN ('issue_date', 'updated_date') AS worse
        FROM invoice
        WHERE account_id = :account AND organisation_id = :organisation AND invoice_id = :invoice
        FOR UPDATE),
    looked AS (
        UPDATE invoice i SET history_at = now(),
            created_at = CASE WHEN worse THEN :created_at ELSE created_at END,
            created_source = CASE WHEN worse THEN 'history' ELSE created_source END,
            changed_at = CASE WHEN worse THEN now() ELSE changed_at END
        FROM known
        WHERE i.account_id = :account AND i.organisation_id = :organisation AND i.invoice_id = known.invoice_id
        RETURNING i.invoice_id, worse)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT :account, 'invoice', :organisation, invoice_id FROM looked WHERE worse
""")
ANALYZE = text("""
    ANALYZE xero_contact, xero_contact_email, invoice, crm_record, crm_record_email, crm_relation, record_invoice,
            record_balance
""")
COUNTS = text("""
    SELECT (SELECT count(*) FROM crm_record WHERE account_id = :account AND NOT gone) AS records,
           (SELECT count(*) FROM invoice WHERE account_id = :account AND NOT gone) AS invoices
""")
# The organisation's name and short code stand on every row: a change marks all its contacts. Its time zone is one that
# PostgreSQL knows, so that no statement fails for an odd one; the account keeps a copy, merged in by key, as two
# organisations may be saved at once. A zone that Xero leaves out stays as it was.
SAVE_ORGANISATION = text("""
    WITH before AS (
        SELECT name, short_code FROM xero_organisation WHERE account_id = :account AND id = :organisation
        FOR UPDATE),
    zone AS (
        SELECT coalesce((
            SELECT name FROM unnest(CAST(:time_zones AS text[])) WITH ORDINALITY AS candidate(name, place)
            JOIN pg_timezone_names USING (name) ORDER BY place LIMIT 1), 'UTC') AS name),
    saved AS (
        UPDATE xero_organisation o
        SET name = coalesce(nullif(:name, ''), o.name), short_code = coalesce(nullif(:short_code, ''), o.short_code),
            base_currency = coalesce(nullif(:base_currency, ''), o.base_currency),
            xero_time_zone = coalesce(CAST(:xero_time_zone AS text), o.xero_time_zone, ''),
            time_zone = CASE WHEN CAST(:xero_time_zone AS text) IS NULL THEN o.time_zone ELSE zone.name END
        FROM before, zone WHERE o.account_id = :account AND o.id = :organisation
        RETURNING (before.name, before.short_code) IS DISTINCT FROM (o.name, o.short_code) AS changed,
                  jsonb_build_object(CAST(o.id AS text), o.time_zone) AS zones),
    copied AS (
        UPDATE account a SET time_zones = a.time_zones || saved.zones
        FROM saved WHERE a.id = :account AND NOT a.time_zones @> saved.zones)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, c.contact_id
    FROM xero_contact c, saved WHERE c.account_id = :account AND c.organisation_id = :organisation AND changed
""")


def newest(rows: Iterable[Row], key: str) -> list[Row]:
    """One row for each id: the newest version where an answer or a batch holds several."""
    kept: dict[Any, Row] = {}
    for row in rows:
        known = kept.get(getattr(row, key))
        if known is None or row.updated_at >= known.updated_at:
            kept[getattr(row, key)] = row
    return list(kept.values())


def upsert_invoices(
    session: Session,
    account_id: int,
    organisation_id: int,
    rows: Iterable[InvoiceRow],
    fetched_at: datetime,
    *,
    force: bool = False,
) -> int:
    """Write invoices of one fetch that began at `fetched_at`; returns how many changed what is shown.

    `force` is for a second look by id: what it brings is right, whatever version the mirror claims to have.
    """
    kept = newest(rows, "invoice_id")
    chosen = {
        "account": account_id,
        "organisation": organisation_id,
        "rows": INVOICES.dump_json(kept).decode(),
        "fetched_at": fetched_at,
        "force": force,
    }
    return int(session.execute(UPSERT_INVOICES, chosen).scalar_one()) if kept else 0


def set_created(session: Session, account_id: int, organisation_id: int, created: dict[UUID, datetime]) -> None:
    """Keep the times of CREATE events as the invoices' created dates."""
    if not created:
        return
    rows = TypeAdapter(list[dict[str, UUID | datetime]]).dump_json(
        [{"invoice_id": key, "created_at": at} for key, at in created.items()]
    )
    chosen = {"account": account_id, "organisation": organisation_id, "rows": rows.decode()}
    session.execute(SET_CREATED, chosen)


def upsert_contacts(
    session: Session,
    account_id: int,
    organisation_id: int,
    rows: Iterable[ContactRow],
    fetched_at: datetime,
    *,
    force: bool = False,
) -> None:
    """Write contacts and their addresses, of one fetch that began at `fetched_at`; `force` as for invoices."""
    kept = newest(rows, "contact_id")
    if not kept:
        return
    chosen = {
        "account": account_id,
        "organisation": organisation_id,
        "rows": CONTACTS.dump_json(kept).decode(),
        "fetched_at": fetched_at,
        "force": force,
    }
    written = session.execute(UPSERT_CONTACTS, chosen).all()
    accepted = [row.contact_id for row in written]
    changed = [row.contact_id for row in written if row.changed]
    session.execute(REPLACE_CONTACT_EMAILS, {**chosen, "accepted": accepted, "changed": changed})
    if any(row.merged_to for row in kept):
        session.execute(MOVE_LINKS, chosen)


def upsert_records(
    session: Session,
    account_id: int,
    kind: RecordType,
    rows: Iterable[RecordRow],
    fetched_at: datetime,
    *,
    force: bool = False,
) -> None:
    """Write Copper records, their addresses and the relations in their fields; `force` as for invoices.

    A record of another version than before has its relations read again.
    """
    kept = newest(rows, "record_id")
    if not kept:
        return
    chosen = {
        "account": account_id,
        "type": kind.value,
        "rows": RECORDS.dump_json(kept).decode(),
        "fetched_at": fetched_at,
        "force": force,
    }
    written = session.execute(UPSERT_RECORDS, chosen).all()
    _replace_children(session, kind, chosen, written, ["field"])


def bury_records(session: Session, account_id: int, kind: RecordType, ids: Sequence[int], fetched_at: datetime) -> None:
    """Leave tombstones for records that a fetch begun at `fetched_at` found to be gone."""
    if not ids:
        return
    chosen = {"account": account_id, "type": kind.value, "ids": list(ids), "fetched_at": fetched_at}
    written = session.execute(BURY_RECORDS, chosen).all()
    _replace_children(session, kind, {**chosen, "rows": "[]"}, written, ["field", "related"])


def _replace_children(
    session: Session, kind: RecordType, chosen: dict[str, Any], written: Sequence[Any], sources: list[str]
) -> None:
    """Addresses and relations of the accepted records; a company that came or went marks itself."""
    accepted = [row.record_id for row in written]
    came_or_went = [row.record_id for row in written if row.changed]
    changed = came_or_went if kind is RecordType.COMPANY else []
    children = {**chosen, "accepted": accepted, "changed": changed, "sources": sources}
    if kind in {RecordType.LEAD, RecordType.PERSON}:
        session.execute(REPLACE_RECORD_EMAILS, children)
        session.execute(MARK_LINKED, {**chosen, "changed": came_or_went})
    if kind is not RecordType.LEAD:
        session.execute(REPLACE_RELATIONS, children)


def replace_related(
    session: Session,
    account_id: int,
    related: Mapping[int, Sequence[RelationRow]],
    fetched_at: datetime,
) -> None:
    """Write what `/related` of some opportunities said, in a fetch that began at `fetched_at`."""
    if not related:
        return
    rows: list[dict[str, int | list[RelationRow]]] = [
        {"record_id": key, "relations": list(value)} for key, value in sorted(related.items())
    ]
    chosen = {
        "account": account_id,
        "type": RecordType.OPPORTUNITY.value,
        "ids": list(related),
        "fetched_at": fetched_at,
        "rows": TypeAdapter(list[dict[str, int | list[RelationRow]]]).dump_json(rows).decode(),
    }
    accepted = list(session.execute(LOOK_AT_RELATIONS, chosen).scalars())
    session.execute(REPLACE_RELATIONS, {**chosen, "accepted": accepted, "changed": [], "sources": ["related"]})


def unknown_contacts(session: Session, account_id: int, organisation_id: int, ids: Iterable[UUID]) -> list[UUID]:
    """Those of `ids` that the mirror has never seen."""
    chosen = {"account": account_id, "organisation": organisation_id, "ids": list(ids)}
    return list(session.execute(UNKNOWN_CONTACTS, chosen).scalars())


def bury_invoices(
    session: Session, account_id: int, organisation_id: int, ids: Sequence[UUID], fetched_at: datetime
) -> None:
    """Leave tombstones for invoices that a fetch begun at `fetched_at` found to be gone."""
    session.execute(BURY_INVOICES, _of_xero(account_id, organisation_id, ids=list(ids), fetched_at=fetched_at))


def bury_contacts(
    session: Session, account_id: int, organisation_id: int, ids: Sequence[UUID], fetched_at: datetime
) -> None:
    """The same for contacts; their addresses match nothing any more."""
    chosen = _of_xero(account_id, organisation_id, ids=list(ids), fetched_at=fetched_at, rows="[]")
    buried = list(session.execute(BURY_CONTACTS, chosen).scalars())
    session.execute(REPLACE_CONTACT_EMAILS, {**chosen, "accepted": buried, "changed": buried})


def _of_xero(account_id: int, organisation_id: int, **more: Any) -> dict[str, Any]:
    return {"account": account_id, "organisation": organisation_id, **more}


def new_heirs(session: Session, account_id: int, organisation_id: int, merged: Mapping[UUID, UUID]) -> list[UUID]:
    """Of contacts and what they were merged into: the heirs that the mirror does not know of yet."""
    rows = TypeAdapter(list[dict[str, UUID]]).dump_json(
        [{"contact_id": loser, "merged_to": heir} for loser, heir in merged.items()]
    )
    chosen = _of_xero(account_id, organisation_id, rows=rows.decode())
    return list(session.execute(NEW_HEIRS, chosen).scalars()) if merged else []


def read_relations(session: Session, account_id: int, kind: RecordType, ids: Sequence[int], at: datetime) -> None:
    """Note that the relations of some records were read by a fetch begun at `at`."""
    chosen = {"account": account_id, "type": kind.value, "ids": list(ids), "fetched_at": at}
    session.execute(LOOK_AT_RELATIONS, chosen)


def set_history(
    session: Session, account_id: int, organisation_id: int, invoice_id: UUID, created_at: datetime | None
) -> None:
    """Keep what an invoice's history says of its creation (None: nothing); it is not looked up again."""
    chosen = _of_xero(account_id, organisation_id, invoice=invoice_id, created_at=created_at)
    session.execute(SET_HISTORY, chosen)


def analyze(session: Session) -> None:
    """Tell the planner of tables that have just been filled: it goes by what they were when it last looked."""
    session.execute(ANALYZE)


def count(session: Session, account_id: int) -> tuple[int, int]:
    """How many living Copper records and Xero invoices the account's mirror holds."""
    row = session.execute(COUNTS, {"account": account_id}).one()
    return row.records, row.invoices


def save_organisation(
    session: Session,
    account_id: int,
    organisation_id: int,
    *,
    name: str,
    short_code: str,
    base_currency: str,
    xero_time_zone: str | None,
    time_zones: Sequence[str],
) -> None:
    """Keep what Xero says of the organisation itself; what is empty was not given, and stays as it was.

    `time_zones` are IANA names of its zone, the best first: the first that PostgreSQL knows is kept, else UTC.
    """
    chosen = {
        "account": account_id,
        "organisation": organisation_id,
        "name": name,
        "short_code": short_code,
        "base_currency": base_currency,
        "xero_time_zone": xero_time_zone,
        "time_zones": list(time_zones),
    }
    session.execute(SAVE_ORGANISATION, chosen)
