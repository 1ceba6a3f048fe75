"""The phone numbers of contacts and records. They match nothing: they only suggest what an admin may link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

REPLACE_CONTACT_PHONES = text("""
    WITH incoming AS (
        SELECT DISTINCT r.contact_id, p.phone
        FROM json_to_recordset(CAST(:rows AS json)) AS r(contact_id uuid, phones json),
             json_array_elements_text(r.phones) AS p(phone)
        WHERE r.contact_id = ANY(:replaced)),
    removed AS (
        DELETE FROM xero_contact_phone o
        WHERE o.account_id = :account AND o.organisation_id = :organisation AND o.contact_id = ANY(:replaced)
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.contact_id = o.contact_id AND i.phone = o.phone))
    INSERT INTO xero_contact_phone (account_id, organisation_id, contact_id, phone)
    SELECT :account, :organisation, contact_id, phone FROM incoming
    ON CONFLICT DO NOTHING
""")
REPLACE_RECORD_PHONES = text("""
    WITH incoming AS (
        SELECT DISTINCT r.record_id, p.phone
        FROM json_to_recordset(CAST(:rows AS json)) AS r(record_id bigint, phones json),
             json_array_elements_text(r.phones) AS p(phone)
        WHERE r.record_id = ANY(:accepted)),
    removed AS (
        DELETE FROM copper_record_phone o
        WHERE o.account_id = :account AND o.record_type = CAST(:type AS text) AND o.record_id = ANY(:accepted)
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.record_id = o.record_id AND i.phone = o.phone))
    INSERT INTO copper_record_phone (account_id, record_type, record_id, phone)
    SELECT :account, CAST(:type AS text), record_id, phone FROM incoming
    ON CONFLICT DO NOTHING
""")


def replace_contact_phones(session: Session, params: Mapping[str, Any], replaced: Sequence[object]) -> None:
    """Replace the phone numbers of the contacts `replaced` by those in the rows of an upsert with these parameters."""
    if replaced:
        session.execute(REPLACE_CONTACT_PHONES, {**params, "replaced": list(replaced)})


def replace_record_phones(session: Session, params: Mapping[str, Any]) -> None:
    """Replace the phone numbers of the accepted records by those in the rows of an upsert with these parameters."""
    session.execute(REPLACE_RECORD_PHONES, params)
