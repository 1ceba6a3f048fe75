"""The mirror: versioned upserts and tombstones of what Xero and Copper have.

A row is replaced only by an equal or newer version; if versions are equal, the later fetch wins. A tombstone yields
only to a fetch that began after it. Children (addresses, relations) are replaced in a second statement: by then the
parents' row locks are held and its snapshot is fresh, so two writers cannot mix their sets. Marks are made only for
rows that a statement actually changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from store.db.enums import CreditResource, RecordType
from store.mirror import phones
from store.mirror.rows import CONTACTS, INVOICES, RECORDS, ContactRow, InvoiceRow, RecordRow, RelationRow, newest

# The fields of an invoice that Xero may change, with their types in SQL.
INVOICE_FIELDS = {
    "contact_id": "uuid",
    "type": "text",
    "status": "text",
    "number": "text",
    "reference": "text",
    "issue_date": "date",
    "due_date": "date",
    "paid_on": "date",
    "expected_payment_date": "date",
    "total": "numeric",
    "balance": "numeric",
    "amount_paid": "numeric",
    "amount_credited": "numeric",
    "currency": "text",
    "currency_rate": "numeric",
    "is_sent": "boolean",
}
INVOICE_COLUMNS = ", ".join(INVOICE_FIELDS)
INVOICE_DEFINITIONS = ", ".join(f"{name} {sql_type}" for name, sql_type in INVOICE_FIELDS.items())


def invoice_columns_of(table: str) -> str:
    """The fields of an invoice as columns of a table."""
    return ", ".join(f"{table}.{name}" for name in INVOICE_FIELDS)


UPSERT_INVOICES = text(f"""
    WITH written AS (
        INSERT INTO xero_invoice AS old (account_id, organisation_id, invoice_id, {INVOICE_COLUMNS}, created_at,
            created_source, updated_at, has_version, fetched_at, changed_at)
        SELECT :account, :organisation, invoice_id, {INVOICE_COLUMNS}, created_at,
            created_source, updated_at, has_version, :fetched_at, now()
        FROM json_to_recordset(CAST(:rows AS json)) AS r(invoice_id uuid, {INVOICE_DEFINITIONS},
            created_at timestamptz, created_source text, updated_at timestamptz, has_version boolean)
        ORDER BY invoice_id
        ON CONFLICT (account_id, organisation_id, invoice_id) DO UPDATE SET
            {", ".join(f"{name} = EXCLUDED.{name}" for name in INVOICE_FIELDS)},
            created_at = CASE WHEN old.created_source IN ('webhook', 'history')
                                   OR (EXCLUDED.created_source = 'updated_date' AND NOT EXCLUDED.has_version)
                              THEN old.created_at ELSE EXCLUDED.created_at END,
            created_source = CASE WHEN old.created_source IN ('webhook', 'history')
                                       OR (EXCLUDED.created_source = 'updated_date' AND NOT EXCLUDED.has_version)
                                  THEN old.created_source ELSE EXCLUDED.created_source END,
            updated_at = EXCLUDED.updated_at, has_version = EXCLUDED.has_version,
            fetched_at = EXCLUDED.fetched_at, is_deleted = false,
            changed_at = CASE WHEN old.is_deleted
                OR ({invoice_columns_of("old")}) IS DISTINCT FROM ({invoice_columns_of("EXCLUDED")})
                OR (old.created_source NOT IN ('webhook', 'history')
                    AND old.created_at <> EXCLUDED.created_at)
                THEN EXCLUDED.changed_at ELSE old.changed_at END
        WHERE CASE WHEN old.is_deleted OR :force THEN EXCLUDED.fetched_at > old.fetched_at
              WHEN NOT (old.has_version AND EXCLUDED.has_version) THEN EXCLUDED.fetched_at >= old.fetched_at
              ELSE (EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END
        RETURNING invoice_id, changed_at = now() AS changed),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT :account, 'invoice', :organisation, invoice_id FROM written WHERE changed
        RETURNING 1)
    SELECT count(*) FROM marked
""")

# A CREATE event's time is stored whatever version of the invoice is in the mirror; an earlier one replaces it.
SET_CREATED_DATES = text("""
    WITH changed AS (
        UPDATE xero_invoice i SET created_at = e.created_at, created_source = 'webhook', changed_at = now()
        FROM json_to_recordset(CAST(:rows AS json)) AS e(invoice_id uuid, created_at timestamptz)
        WHERE i.account_id = :account AND i.organisation_id = :organisation AND i.invoice_id = e.invoice_id
          AND (i.created_source <> 'webhook' OR e.created_at < i.created_at)
        RETURNING i.invoice_id)
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
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
        fetched_at = EXCLUDED.fetched_at, is_deleted = false,
        changed_at = CASE WHEN old.is_deleted OR old.name <> EXCLUDED.name THEN EXCLUDED.changed_at
                          ELSE old.changed_at END
    WHERE CASE WHEN old.is_deleted OR :force THEN EXCLUDED.fetched_at > old.fetched_at
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
        WHERE e.account_id = :account AND e.organisation_id = :organisation AND e.contact_id = ANY(:accepted)
          AND e.contact_id = i.contact_id AND e.email = i.email AND e.as_typed IS DISTINCT FROM i.as_typed),
    added AS (
        INSERT INTO xero_contact_email (account_id, organisation_id, contact_id, email, as_typed)
        SELECT :account, :organisation, contact_id, email, as_typed FROM incoming
        ON CONFLICT DO NOTHING
        RETURNING contact_id)
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, contact_id
    FROM (SELECT contact_id FROM removed UNION SELECT contact_id FROM added
          UNION SELECT unnest(CAST(:changed AS uuid[]))) AS changed
""")

UPSERT_RECORDS = text("""
    INSERT INTO copper_record AS old (account_id, record_type, record_id, name, name_key, assignee_id, email_domain,
        updated_at, has_version, fetched_at, changed_at)
    SELECT :account, CAST(:type AS text), record_id, name, name_key, assignee_id, email_domain, updated_at, has_version,
        :fetched_at, now()
    FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, name text, name_key text, assignee_id bigint,
        email_domain text, updated_at timestamptz, has_version boolean)
    ORDER BY record_id
    ON CONFLICT (account_id, record_type, record_id) DO UPDATE SET
        name = EXCLUDED.name, name_key = EXCLUDED.name_key, assignee_id = EXCLUDED.assignee_id,
        email_domain = EXCLUDED.email_domain, updated_at = EXCLUDED.updated_at,
        has_version = EXCLUDED.has_version, fetched_at = EXCLUDED.fetched_at, is_deleted = false,
        changed_at = CASE WHEN old.is_deleted OR old.email_domain IS DISTINCT FROM EXCLUDED.email_domain
                          THEN EXCLUDED.changed_at ELSE old.changed_at END,
        relations_fetched_at = CASE WHEN old.updated_at = EXCLUDED.updated_at AND NOT old.is_deleted
                                    THEN old.relations_fetched_at END
    WHERE CASE WHEN old.is_deleted OR :force THEN EXCLUDED.fetched_at > old.fetched_at
          WHEN NOT (old.has_version AND EXCLUDED.has_version) THEN EXCLUDED.fetched_at >= old.fetched_at
          ELSE (EXCLUDED.updated_at, EXCLUDED.fetched_at) >= (old.updated_at, old.fetched_at) END
    RETURNING record_id, changed_at = now() AS changed
""")
TOMBSTONE_RECORDS = text("""
    INSERT INTO copper_record AS old (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at,
        is_deleted)
    SELECT :account, CAST(:type AS text), id, '', '-infinity', :fetched_at, now(), true
    FROM unnest(CAST(:ids AS bigint[])) AS id
    ORDER BY id
    ON CONFLICT (account_id, record_type, record_id) DO UPDATE SET
        is_deleted = true, name = '', name_key = '', assignee_id = NULL, email_domain = NULL,
        fetched_at = EXCLUDED.fetched_at, relations_fetched_at = NULL,
        changed_at = CASE WHEN old.is_deleted THEN old.changed_at ELSE EXCLUDED.changed_at END
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
        DELETE FROM copper_record_email e
        WHERE e.account_id = :account AND e.record_type = CAST(:type AS text) AND e.record_id = ANY(:accepted)
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = e.record_id AND i.email = e.email)
        RETURNING e.email),
    typed AS (
        UPDATE copper_record_email e SET as_typed = i.as_typed FROM incoming i
        WHERE e.account_id = :account AND e.record_type = CAST(:type AS text) AND e.record_id = ANY(:accepted)
          AND e.record_id = i.record_id AND e.email = i.email AND e.as_typed IS DISTINCT FROM i.as_typed),
    added AS (
        INSERT INTO copper_record_email (account_id, record_type, record_id, email, as_typed)
        SELECT :account, CAST(:type AS text), record_id, email, as_typed FROM incoming
        ON CONFLICT DO NOTHING
        RETURNING email)
    INSERT INTO projection_queue (account_id, entity_type, email)
    SELECT :account, 'email', email FROM (SELECT email FROM removed UNION SELECT email FROM added) AS changed
""")
REPLACE_RELATIONS = text("""
    WITH incoming AS (
        SELECT r.record_id, f.related_type, f.related_id
        FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, relations json),
             json_to_recordset(r.relations) AS f(related_type text, related_id bigint)
        WHERE r.record_id = ANY(:accepted)),
    removed AS (
        DELETE FROM copper_relation l
        WHERE l.account_id = :account AND l.record_type = CAST(:type AS text) AND l.record_id = ANY(:accepted)
          AND l.origin = ANY(:origins)
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = l.record_id
                          AND i.related_type = l.related_type AND i.related_id = l.related_id)
        RETURNING l.record_id),
    added AS (
        INSERT INTO copper_relation (account_id, record_type, record_id, related_type, related_id, origin)
        SELECT :account, CAST(:type AS text), record_id, related_type, related_id, (:origins)[1] FROM incoming
        ON CONFLICT DO NOTHING
        RETURNING record_id)
    INSERT INTO projection_queue (account_id, entity_type, record_id)
    SELECT :account, CAST(:type AS text), record_id
    FROM (SELECT record_id FROM removed UNION SELECT record_id FROM added
          UNION SELECT unnest(CAST(:changed AS bigint[]))) AS changed
""")
# When a linked lead, person or opportunity appears or is deleted, so do the linked contact's invoices on it.
MARK_LINKED_CONTACTS = text("""
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT DISTINCT :account, 'contact', organisation_id, contact_id FROM contact_link
    WHERE account_id = :account AND record_type = :type AND record_id = ANY(:changed)
""")
# When an opportunity appears or is deleted, so do the invoices that are pinned to it.
MARK_PINNED_OPPORTUNITIES = text("""
    INSERT INTO projection_queue (account_id, entity_type, record_id)
    SELECT DISTINCT :account, 'opportunity', opportunity_id FROM invoice_pin
    WHERE account_id = :account AND opportunity_id = ANY(:changed)
""")
# The links of a contact that was merged move to the contact that it was merged into.
MOVE_LINKS = text("""
    WITH moved AS (
        DELETE FROM contact_link k
        USING json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, merged_to uuid)
        WHERE k.account_id = :account AND k.organisation_id = :organisation AND k.contact_id = r.contact_id
          AND r.merged_to IS NOT NULL
        RETURNING k.contact_id, r.merged_to, k.record_type, k.record_id, k.linked_by, k.linked_at, k.batch_id),
    added AS (
        INSERT INTO contact_link (account_id, organisation_id, contact_id, record_type, record_id, linked_by,
            linked_at, batch_id)
        SELECT :account, :organisation, merged_to, record_type, record_id, linked_by, linked_at, batch_id FROM moved
        ON CONFLICT DO NOTHING)
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, contact_id FROM moved
    UNION SELECT :account, 'contact', :organisation, merged_to FROM moved
""")
MARK_RELATIONS_FETCHED = text("""
    UPDATE copper_record SET relations_fetched_at = :fetched_at
    WHERE account_id = :account AND record_type = CAST(:type AS text) AND record_id = ANY(:ids) AND NOT is_deleted
      AND (relations_fetched_at IS NULL OR relations_fetched_at <= :fetched_at)
    RETURNING record_id
""")
TOMBSTONE_INVOICES = text("""
    WITH deleted AS (
        UPDATE xero_invoice SET is_deleted = true, fetched_at = :fetched_at, changed_at = now()
        WHERE account_id = :account AND organisation_id = :organisation AND invoice_id = ANY(:ids)
          AND NOT is_deleted AND fetched_at <= :fetched_at
        RETURNING invoice_id),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT :account, 'invoice', :organisation, invoice_id FROM deleted)
    SELECT count(*) FROM deleted
""")
TOMBSTONE_CONTACTS = text("""
    UPDATE xero_contact SET is_deleted = true, name = '', fetched_at = :fetched_at, changed_at = now()
    WHERE account_id = :account AND organisation_id = :organisation AND contact_id = ANY(:ids)
      AND NOT is_deleted AND fetched_at <= :fetched_at
    RETURNING contact_id
""")
# If a contact's merge target is not the one in the mirror, it was merged since: Xero moved its invoices to the target
# without changing their versions.
LIST_NEW_MERGE_TARGETS = text("""
    SELECT DISTINCT r.merged_to
    FROM json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, merged_to uuid)
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = :organisation
         AND c.contact_id = r.contact_id
    WHERE r.merged_to IS NOT NULL AND c.merged_to IS DISTINCT FROM r.merged_to
""")
LIST_UNKNOWN_CONTACTS = text("""
    SELECT id FROM unnest(CAST(:ids AS uuid[])) AS id
    WHERE NOT EXISTS (SELECT FROM xero_contact c WHERE c.account_id = :account
                      AND c.organisation_id = :organisation AND c.contact_id = id)
""")
SET_HISTORY_CREATED_DATE = text("""
    WITH known AS (
        SELECT invoice_id, CAST(:created_at AS timestamptz) IS NOT NULL
               AND created_source IN ('issue_date', 'updated_date') AS is_improved
        FROM xero_invoice
        WHERE account_id = :account AND organisation_id = :organisation AND invoice_id = :invoice
        FOR UPDATE),
    updated AS (
        UPDATE xero_invoice i SET history_fetched_at = now(),
            created_at = CASE WHEN is_improved THEN :created_at ELSE created_at END,
            created_source = CASE WHEN is_improved THEN 'history' ELSE created_source END,
            changed_at = CASE WHEN is_improved THEN now() ELSE changed_at END
        FROM known
        WHERE i.account_id = :account AND i.organisation_id = :organisation AND i.invoice_id = known.invoice_id
        RETURNING i.invoice_id, is_improved)
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT :account, 'invoice', :organisation, invoice_id FROM updated WHERE is_improved
""")
RECORD_TABLES = ("copper_record", "copper_record_email", "copper_record_phone", "copper_relation")
# The tables that rows of a resource are written to.
TABLES: dict[str, tuple[str, ...]] = {
    "contacts": ("xero_contact", "xero_contact_email", "xero_contact_phone"),
    "invoices": ("xero_invoice",),
    **{resource.value: ("xero_invoice",) for resource in CreditResource},
    **{record_type.plural: RECORD_TABLES for record_type in RecordType},
}
COUNT_ROWS = text("""
    SELECT (SELECT count(*) FROM copper_record WHERE account_id = :account AND NOT is_deleted) AS records,
           (SELECT count(*) FROM xero_invoice
            WHERE account_id = :account AND NOT is_deleted AND credit_resource(type) IS NULL) AS invoices
""")
# The organisation's name and short code are part of every read-model row, so a change marks all of its contacts. The
# time zone is one that PostgreSQL knows, so that no statement fails on an unknown one. The account keeps copies,
# merged by key, because two organisations may be saved at once. A zone that Xero leaves out is unchanged.
SAVE_ORGANISATION_DETAILS = text("""
    WITH before AS (
        SELECT name, short_code FROM xero_organisation WHERE account_id = :account AND id = :organisation
        FOR UPDATE),
    zone AS (
        SELECT coalesce((
            SELECT name FROM unnest(CAST(:time_zones AS text[])) WITH ORDINALITY AS candidate(name, preference)
            JOIN pg_timezone_names USING (name) ORDER BY preference LIMIT 1), 'UTC') AS name),
    saved AS (
        UPDATE xero_organisation o
        SET name = coalesce(nullif(:name, ''), o.name), short_code = coalesce(nullif(:short_code, ''), o.short_code),
            base_currency = coalesce(nullif(:base_currency, ''), o.base_currency),
            xero_time_zone = coalesce(CAST(:xero_time_zone AS text), o.xero_time_zone, ''),
            time_zone = CASE WHEN CAST(:xero_time_zone AS text) IS NULL THEN o.time_zone ELSE zone.name END
        FROM before, zone WHERE o.account_id = :account AND o.id = :organisation
        RETURNING (before.name, before.short_code) IS DISTINCT FROM (o.name, o.short_code) AS changed,
                  jsonb_build_object(CAST(o.id AS text), o.time_zone) AS zones,
                  jsonb_build_object(CAST(o.id AS text), o.name) AS names),
    copied AS (
        UPDATE account a SET time_zones = a.time_zones || saved.zones,
                             organisation_names = a.organisation_names || saved.names
        FROM saved WHERE a.id = :account
             AND NOT (a.time_zones @> saved.zones AND a.organisation_names @> saved.names))
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, c.contact_id
    FROM xero_contact c, saved WHERE c.account_id = :account AND c.organisation_id = :organisation AND changed
""")


def upsert_invoices(
    session: Session,
    account_id: int,
    organisation_id: int,
    rows: Iterable[InvoiceRow],
    fetched_at: datetime,
    *,
    force: bool = False,
) -> int:
    """Write invoices of a fetch that began at `fetched_at`; returns how many read-model changes they cause.

    `force` is for a fetch by id: the fetched row wins regardless of the version in the mirror.
    """
    invoices = newest(rows, "invoice_id")
    if not invoices:
        return 0
    params = _xero_params(
        account_id,
        organisation_id,
        rows=INVOICES.dump_json(invoices).decode(),
        fetched_at=fetched_at,
        force=force,
    )
    return int(session.execute(UPSERT_INVOICES, params).scalar_one()) if invoices else 0


def set_created_dates(session: Session, account_id: int, organisation_id: int, created: dict[UUID, datetime]) -> None:
    """Store the times of CREATE events as the invoices' created dates."""
    if not created:
        return
    rows = TypeAdapter(list[dict[str, UUID | datetime]]).dump_json(
        [{"invoice_id": invoice_id, "created_at": created_at} for invoice_id, created_at in created.items()]
    )
    session.execute(SET_CREATED_DATES, _xero_params(account_id, organisation_id, rows=rows.decode()))


def upsert_contacts(
    session: Session,
    account_id: int,
    organisation_id: int,
    rows: Iterable[ContactRow],
    fetched_at: datetime,
    *,
    force: bool = False,
) -> None:
    """Write contacts and their addresses of a fetch that began at `fetched_at`; `force` as for invoices."""
    contacts = newest(rows, "contact_id")
    if not contacts:
        return
    params = _xero_params(
        account_id,
        organisation_id,
        rows=CONTACTS.dump_json(contacts).decode(),
        fetched_at=fetched_at,
        force=force,
    )
    written = session.execute(UPSERT_CONTACTS, params).all()
    accepted = [row.contact_id for row in written]
    changed = [row.contact_id for row in written if row.changed]
    session.execute(REPLACE_CONTACT_EMAILS, {**params, "accepted": accepted, "changed": changed})
    unknown = {contact.contact_id for contact in contacts if contact.phones is None}
    phones.replace_contact_phones(session, params, [contact for contact in accepted if contact not in unknown])
    if any(contact.merged_to for contact in contacts):
        session.execute(MOVE_LINKS, params)


def upsert_records(
    session: Session,
    account_id: int,
    record_type: RecordType,
    rows: Iterable[RecordRow],
    fetched_at: datetime,
    *,
    force: bool = False,
) -> None:
    """Write Copper records, their addresses, phone numbers and the relations in their fields; `force` as for invoices.

    If a record's version changed, its relations count as not fetched.
    """
    records = newest(rows, "record_id")
    if not records:
        return
    params = {
        "account": account_id,
        "type": record_type.value,
        "rows": RECORDS.dump_json(records).decode(),
        "fetched_at": fetched_at,
        "force": force,
    }
    written = session.execute(UPSERT_RECORDS, params).all()
    _replace_children(session, record_type, params, written, ["field"])


def tombstone_records(
    session: Session, account_id: int, record_type: RecordType, ids: Sequence[int], fetched_at: datetime
) -> None:
    """Mark records as deleted that a fetch begun at `fetched_at` did not find."""
    if not ids:
        return
    params = {"account": account_id, "type": record_type.value, "ids": list(ids), "fetched_at": fetched_at}
    written = session.execute(TOMBSTONE_RECORDS, params).all()
    _replace_children(session, record_type, {**params, "rows": "[]"}, written, ["field", "related"])


def _replace_children(
    session: Session, record_type: RecordType, params: dict[str, Any], written: Sequence[Row[Any]], origins: list[str]
) -> None:
    """Replace addresses, phone numbers and relations of the written records.

    A company that appeared, was deleted or has another email domain marks itself; another record that appeared or was
    deleted marks the contacts that are linked to it.
    """
    accepted = [row.record_id for row in written]
    written_anew = [row.record_id for row in written if row.changed]
    changed = written_anew if record_type is RecordType.COMPANY else []
    children = {**params, "accepted": accepted, "changed": changed, "origins": origins}
    if record_type in {RecordType.LEAD, RecordType.PERSON}:
        session.execute(REPLACE_RECORD_EMAILS, children)
    if record_type is RecordType.OPPORTUNITY:
        session.execute(MARK_PINNED_OPPORTUNITIES, {**params, "changed": written_anew})
    if record_type is not RecordType.COMPANY:
        session.execute(MARK_LINKED_CONTACTS, {**params, "changed": written_anew})
    if record_type is not RecordType.OPPORTUNITY:
        phones.replace_record_phones(session, children)
    if record_type is not RecordType.LEAD:
        session.execute(REPLACE_RELATIONS, children)


def replace_opportunity_relations(
    session: Session,
    account_id: int,
    relations: Mapping[int, Sequence[RelationRow]],
    fetched_at: datetime,
) -> None:
    """Write the relations that Copper's `/related` returned for opportunities, in a fetch begun at `fetched_at`."""
    if not relations:
        return
    rows: list[dict[str, int | list[RelationRow]]] = [
        {"record_id": opportunity_id, "relations": list(far_ends)}
        for opportunity_id, far_ends in sorted(relations.items())
    ]
    params = {
        "account": account_id,
        "type": RecordType.OPPORTUNITY.value,
        "ids": list(relations),
        "fetched_at": fetched_at,
        "rows": TypeAdapter(list[dict[str, int | list[RelationRow]]]).dump_json(rows).decode(),
    }
    accepted = list(session.execute(MARK_RELATIONS_FETCHED, params).scalars())
    session.execute(REPLACE_RELATIONS, {**params, "accepted": accepted, "changed": [], "origins": ["related"]})


def mark_relations_fetched(
    session: Session, account_id: int, record_type: RecordType, ids: Sequence[int], fetched_at: datetime
) -> None:
    """Record that the relations of some records were read by a fetch begun at `fetched_at`."""
    if not ids:
        return
    params = {"account": account_id, "type": record_type.value, "ids": list(ids), "fetched_at": fetched_at}
    session.execute(MARK_RELATIONS_FETCHED, params)


def list_unknown_contacts(session: Session, account_id: int, organisation_id: int, ids: Iterable[UUID]) -> list[UUID]:
    """Those of `ids` that were never in the mirror."""
    params = _xero_params(account_id, organisation_id, ids=list(ids))
    return list(session.execute(LIST_UNKNOWN_CONTACTS, params).scalars())


def tombstone_invoices(
    session: Session, account_id: int, organisation_id: int, ids: Sequence[UUID], fetched_at: datetime
) -> None:
    """Mark invoices as deleted that a fetch begun at `fetched_at` did not find."""
    session.execute(TOMBSTONE_INVOICES, _xero_params(account_id, organisation_id, ids=list(ids), fetched_at=fetched_at))


def tombstone_contacts(
    session: Session, account_id: int, organisation_id: int, ids: Sequence[UUID], fetched_at: datetime
) -> None:
    """Mark contacts as deleted that a fetch begun at `fetched_at` did not find; their addresses no longer match."""
    params = _xero_params(account_id, organisation_id, ids=list(ids), fetched_at=fetched_at, rows="[]")
    deleted = list(session.execute(TOMBSTONE_CONTACTS, params).scalars())
    session.execute(REPLACE_CONTACT_EMAILS, {**params, "accepted": deleted, "changed": deleted})
    phones.replace_contact_phones(session, params, deleted)


def list_new_merge_targets(
    session: Session, account_id: int, organisation_id: int, merged: Mapping[UUID, UUID]
) -> list[UUID]:
    """Of contacts and what they were merged into: the merge targets that are not in the mirror yet."""
    rows = TypeAdapter(list[dict[str, UUID]]).dump_json(
        [{"contact_id": merged_contact, "merged_to": merge_target} for merged_contact, merge_target in merged.items()]
    )
    params = _xero_params(account_id, organisation_id, rows=rows.decode())
    return list(session.execute(LIST_NEW_MERGE_TARGETS, params).scalars()) if merged else []


def set_history_created_date(
    session: Session, account_id: int, organisation_id: int, invoice_id: UUID, created_at: datetime | None
) -> None:
    """Store the creation date in an invoice's history (None if it has none); it is not looked up again."""
    params = _xero_params(account_id, organisation_id, invoice=invoice_id, created_at=created_at)
    session.execute(SET_HISTORY_CREATED_DATE, params)


def analyze(session: Session, resource: str) -> None:
    """Update the planner's statistics of the tables that rows of a resource have just filled."""
    if tables := TABLES.get(resource):
        session.execute(text(f"ANALYZE {', '.join(tables)}"))


def count_rows(session: Session, account_id: int) -> tuple[int, int]:
    """How many Copper records and Xero invoices (not credits) are in the account's mirror, without deleted ones."""
    row = session.execute(COUNT_ROWS, {"account": account_id}).one()
    return row.records, row.invoices


def save_organisation_details(
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
    """Store what Xero returns about the organisation itself. Empty values were not given and change nothing.

    `time_zones` are IANA names of its zone, best first: the first that PostgreSQL knows is stored, else UTC.
    """
    params = _xero_params(
        account_id,
        organisation_id,
        name=name,
        short_code=short_code,
        base_currency=base_currency,
        xero_time_zone=xero_time_zone,
        time_zones=list(time_zones),
    )
    session.execute(SAVE_ORGANISATION_DETAILS, params)


def _xero_params(account_id: int, organisation_id: int, **params: Any) -> dict[str, Any]:
    return {"account": account_id, "organisation": organisation_id, **params}
