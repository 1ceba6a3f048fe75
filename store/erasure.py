"""Erasing one person's address: from the mirror, and through its marks from the read model."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched

# The names of the records and contacts that carried it are the person's too.
RECORDS = text("""
    WITH gone AS (
        DELETE FROM crm_record_email WHERE account_id = :account AND email = :email
        RETURNING record_type, record_id, as_typed),
    named AS (
        UPDATE crm_record c SET name = '', changed_at = now() FROM gone g
        WHERE c.account_id = :account AND c.record_type = g.record_type AND c.record_id = g.record_id),
    marked AS (
        INSERT INTO dirty (account_id, kind, email) SELECT :account, 'email', :email FROM gone LIMIT 1)
    SELECT count(*) AS rows, array_agg(as_typed) FILTER (WHERE as_typed IS NOT NULL) AS typed FROM gone
""")
CONTACTS = text("""
    WITH gone AS (
        DELETE FROM xero_contact_email WHERE account_id = :account AND email = :email
        RETURNING organisation_id, contact_id, as_typed),
    named AS (
        UPDATE xero_contact c SET name = '', changed_at = now() FROM gone g
        WHERE c.account_id = :account AND c.organisation_id = g.organisation_id AND c.contact_id = g.contact_id),
    marked AS (
        INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
        SELECT :account, 'contact', organisation_id, contact_id FROM gone)
    SELECT count(*) AS rows, array_agg(as_typed) FILTER (WHERE as_typed IS NOT NULL) AS typed FROM gone
""")
# Bodies that nobody could read are kept as they came, so an address may stand in one.
BODIES = text("""
    UPDATE inbox SET body = NULL, error = 'erased on request'
    WHERE account_id IN (:account, 0) AND body IS NOT NULL
      AND EXISTS (SELECT FROM unnest(CAST(:spellings AS bytea[])) AS spelling WHERE position(spelling IN body) > 0)
""")


@dataclass(frozen=True)
class Erased:
    """Of how many Copper records, Xero contacts and kept bodies the address was erased."""

    records: int
    contacts: int
    bodies: int


def erase(session: Session, account_id: int, email: str, as_given: str = "") -> Erased:
    """Erase an address, as it is compared, from an account's mirror; what showed by it goes with the next projection.

    Kept bodies are searched for every spelling of it that is known, `as_given` among them.
    """
    params = {"account": account_id, "email": email}
    records = session.execute(RECORDS, params).one()
    contacts = session.execute(CONTACTS, params).one()
    spellings = {email, as_given.strip(), *(records.typed or ()), *(contacts.typed or ())} - {""}
    bodies = touched(session, BODIES, {**params, "spellings": sorted(one.encode() for one in spellings)})
    return Erased(int(records.rows), int(contacts.rows), bodies)
