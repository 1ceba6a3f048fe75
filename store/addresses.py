"""Stored addresses to be normalised anew: what an earlier version kept, and what `patina verify` proves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import TextClause, text
from sqlmodel import Session

from store.models import IS_ODD, PLAIN_ADDRESS

BATCH = 1_000

# Ids of both tables are told apart by their type alone, so that one function serves both.
ODD_CONTACTS = text(f"""
    SELECT organisation_id, contact_id, email FROM xero_contact_email
    WHERE account_id = :account AND {IS_ODD}
      AND (organisation_id, contact_id, email) > (:owner_0, :owner_1, :email)
    ORDER BY organisation_id, contact_id, email LIMIT :limit
""")
ODD_RECORDS = text(f"""
    SELECT record_type, record_id, email FROM crm_record_email
    WHERE account_id = :account AND {IS_ODD}
      AND (record_type, record_id, email) > (:owner_0, :owner_1, :email)
    ORDER BY record_type, record_id, email LIMIT :limit
""")
REPLACE_OF_CONTACTS = text("""
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json))
               AS r(organisation_id bigint, contact_id uuid, email text, address text, as_typed text)),
    removed AS (
        DELETE FROM xero_contact_email e USING (SELECT DISTINCT organisation_id, contact_id, email FROM given) g
        WHERE e.account_id = :account AND e.organisation_id = g.organisation_id AND e.contact_id = g.contact_id
          AND e.email = g.email AND e.as_typed IS NULL
        RETURNING e.organisation_id, e.contact_id, e.email),
    added AS (
        INSERT INTO xero_contact_email (account_id, organisation_id, contact_id, email, as_typed)
        SELECT :account, organisation_id, contact_id, g.address, nullif(g.as_typed, g.address)
        FROM removed JOIN given g USING (organisation_id, contact_id, email)
        WHERE g.address IS NOT NULL
        ON CONFLICT DO NOTHING),
    marked AS (
        INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
        SELECT DISTINCT :account, 'contact', organisation_id, contact_id FROM removed)
    SELECT count(*) FROM removed
""")
REPLACE_OF_RECORDS = text("""
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json))
               AS r(record_type text, record_id bigint, email text, address text, as_typed text)),
    removed AS (
        DELETE FROM crm_record_email e USING (SELECT DISTINCT record_type, record_id, email FROM given) g
        WHERE e.account_id = :account AND e.record_type = g.record_type AND e.record_id = g.record_id
          AND e.email = g.email AND e.as_typed IS NULL
        RETURNING e.record_type, e.record_id, e.email),
    added AS (
        INSERT INTO crm_record_email (account_id, record_type, record_id, email, as_typed)
        SELECT :account, record_type, record_id, g.address, nullif(g.as_typed, g.address)
        FROM removed JOIN given g USING (record_type, record_id, email)
        WHERE g.address IS NOT NULL
        ON CONFLICT DO NOTHING),
    marked AS (
        INSERT INTO dirty (account_id, kind, email)
        SELECT :account, 'email', email FROM (
            SELECT email FROM removed
            UNION SELECT address FROM given JOIN removed USING (record_type, record_id, email)
                  WHERE address IS NOT NULL) AS changed)
    SELECT count(*) FROM removed
""")
CHANGEABLE = text(f"""
    SELECT email, coalesce(as_typed, email) AS typed FROM xero_contact_email
    WHERE account_id = :account AND (as_typed IS NOT NULL OR email !~ '{PLAIN_ADDRESS}')
    UNION ALL
    SELECT email, coalesce(as_typed, email) FROM crm_record_email
    WHERE account_id = :account AND (as_typed IS NOT NULL OR email !~ '{PLAIN_ADDRESS}')
""")


@dataclass(frozen=True)
class StoredAddress:
    """An address as a row has it; `owner` is (organisation, contact) or (record type, record)."""

    owner: tuple[Any, Any]
    email: str


FIRST_CONTACT = StoredAddress((0, UUID(int=0)), "")
FIRST_RECORD = StoredAddress(("", 0), "")


@dataclass(frozen=True)
class Replacement:
    """What a stored address becomes: addresses as they are compared, with what was typed; none of them removes it."""

    stored: StoredAddress
    addresses: dict[str, str]


def odd_contact_addresses(session: Session, account_id: int, after: StoredAddress) -> list[StoredAddress]:
    """The next 1,000 addresses of contacts that were never typed here and may have to be normalised anew."""
    return _odd_addresses(session, ODD_CONTACTS, account_id, after)


def odd_record_addresses(session: Session, account_id: int, after: StoredAddress) -> list[StoredAddress]:
    """The same of leads and people."""
    return _odd_addresses(session, ODD_RECORDS, account_id, after)


def _odd_addresses(session: Session, query: TextClause, account_id: int, after: StoredAddress) -> list[StoredAddress]:
    params = {
        "account": account_id,
        "owner_0": after.owner[0],
        "owner_1": after.owner[1],
        "email": after.email,
        "limit": BATCH,
    }
    return [StoredAddress((row[0], row[1]), row[2]) for row in session.execute(query, params)]


def replace_contact_addresses(session: Session, account_id: int, replacements: Sequence[Replacement]) -> int:
    """Put other addresses in the place of stored ones, and mark their contacts; returns how many went."""
    rows = _rows(replacements, ("organisation_id", "contact_id"))
    return int(session.execute(REPLACE_OF_CONTACTS, {"account": account_id, "rows": rows}).scalar_one())


def replace_record_addresses(session: Session, account_id: int, replacements: Sequence[Replacement]) -> int:
    """The same of leads and people: the addresses are marked, the old and the new ones."""
    rows = _rows(replacements, ("record_type", "record_id"))
    return int(session.execute(REPLACE_OF_RECORDS, {"account": account_id, "rows": rows}).scalar_one())


def _rows(replacements: Sequence[Replacement], names: tuple[str, str]) -> str:
    rows = []
    for one in replacements:
        key = dict(zip(names, one.stored.owner, strict=True)) | {"email": one.stored.email}
        rows += [{**key, "address": address, "as_typed": typed} for address, typed in one.addresses.items()]
        rows += [] if one.addresses else [{**key, "address": None, "as_typed": None}]
    return orjson.dumps(rows).decode()


def changeable(session: Session, account_id: int) -> Iterator[tuple[str, str]]:
    """Addresses that normalising may change, as they are compared and as they were typed, a thousand at a time."""
    result = session.execute(CHANGEABLE, {"account": account_id}, execution_options={"yield_per": BATCH})
    for row in result:
        yield row.email, row.typed
