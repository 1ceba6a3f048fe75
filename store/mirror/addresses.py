"""Stored addresses that normalise differently now: an earlier version stored them, and `patina verify` finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from store.mirror.address_patterns import IS_IRREGULAR, PLAIN_ADDRESS

BATCH_SIZE = 1_000

# Partial indexes have the irregular addresses, so accounts without any cost nothing.
ACCOUNTS_WITH_UNUSUAL = text(f"""
    SELECT account_id FROM xero_contact_email WHERE {IS_IRREGULAR}
    UNION
    SELECT account_id FROM copper_record_email WHERE {IS_IRREGULAR}
    ORDER BY 1
""")
# The ids of both tables differ only in their types, so one function serves both.
LIST_UNUSUAL_OF_CONTACTS = text(f"""
    SELECT organisation_id, contact_id, email FROM xero_contact_email
    WHERE account_id = :account AND {IS_IRREGULAR}
      AND (organisation_id, contact_id, email) > (:owner_0, :owner_1, :email)
    ORDER BY organisation_id, contact_id, email LIMIT :limit
""")
LIST_UNUSUAL_OF_RECORDS = text(f"""
    SELECT record_type, record_id, email FROM copper_record_email
    WHERE account_id = :account AND {IS_IRREGULAR}
      AND (record_type, record_id, email) > (:owner_0, :owner_1, :email)
    ORDER BY record_type, record_id, email LIMIT :limit
""")
REPLACE_OF_CONTACTS = text("""
    WITH replacement AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json))
               AS r(organisation_id bigint, contact_id uuid, email text, address text, as_typed text)),
    removed AS (
        DELETE FROM xero_contact_email e USING (SELECT DISTINCT organisation_id, contact_id, email FROM replacement) g
        WHERE e.account_id = :account AND e.organisation_id = g.organisation_id AND e.contact_id = g.contact_id
          AND e.email = g.email AND e.as_typed IS NULL
        RETURNING e.organisation_id, e.contact_id, e.email),
    added AS (
        INSERT INTO xero_contact_email (account_id, organisation_id, contact_id, email, as_typed)
        SELECT :account, organisation_id, contact_id, g.address, nullif(g.as_typed, g.address)
        FROM removed JOIN replacement g USING (organisation_id, contact_id, email)
        WHERE g.address IS NOT NULL
        ON CONFLICT DO NOTHING),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT DISTINCT :account, 'contact', organisation_id, contact_id FROM removed)
    SELECT count(*) FROM removed
""")
REPLACE_OF_RECORDS = text("""
    WITH replacement AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json))
               AS r(record_type text, record_id bigint, email text, address text, as_typed text)),
    removed AS (
        DELETE FROM copper_record_email e USING (SELECT DISTINCT record_type, record_id, email FROM replacement) g
        WHERE e.account_id = :account AND e.record_type = g.record_type AND e.record_id = g.record_id
          AND e.email = g.email AND e.as_typed IS NULL
        RETURNING e.record_type, e.record_id, e.email),
    added AS (
        INSERT INTO copper_record_email (account_id, record_type, record_id, email, as_typed)
        SELECT :account, record_type, record_id, g.address, nullif(g.as_typed, g.address)
        FROM removed JOIN replacement g USING (record_type, record_id, email)
        WHERE g.address IS NOT NULL
        ON CONFLICT DO NOTHING),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, email)
        SELECT :account, 'email', email FROM (
            SELECT email FROM removed
            UNION SELECT address FROM replacement JOIN removed USING (record_type, record_id, email)
                  WHERE address IS NOT NULL) AS changed)
    SELECT count(*) FROM removed
""")
SELECT_NORMALISABLE = text(f"""
    SELECT email, coalesce(as_typed, email) AS typed FROM xero_contact_email
    WHERE account_id = :account AND (as_typed IS NOT NULL OR email !~ '{PLAIN_ADDRESS}')
    UNION ALL
    SELECT email, coalesce(as_typed, email) FROM copper_record_email
    WHERE account_id = :account AND (as_typed IS NOT NULL OR email !~ '{PLAIN_ADDRESS}')
""")


@dataclass(frozen=True)
class StoredAddress:
    """An address as a row stores it; `owner` is (organisation, contact) or (record type, record)."""

    owner: tuple[Any, Any]
    email: str


FIRST_CONTACT = StoredAddress((0, UUID(int=0)), "")
FIRST_RECORD = StoredAddress(("", 0), "")


@dataclass(frozen=True)
class Replacement:
    """What a stored address becomes: normalised addresses, each with what was typed; none of them deletes it."""

    stored: StoredAddress
    addresses: dict[str, str]


def accounts_with_unusual_addresses(session: Session) -> list[int]:
    """The accounts with addresses that `list_unusual_contact_addresses` or `list_unusual_record_addresses` returns."""
    return list(session.execute(ACCOUNTS_WITH_UNUSUAL).scalars())


def list_unusual_contact_addresses(session: Session, account_id: int, after: StoredAddress) -> list[StoredAddress]:
    """The next 1,000 addresses of contacts whose typed form was never stored and that may normalise differently."""
    return _list_unusual(session, LIST_UNUSUAL_OF_CONTACTS, account_id, after)


def list_unusual_record_addresses(session: Session, account_id: int, after: StoredAddress) -> list[StoredAddress]:
    """The next 1,000 such addresses of leads and people."""
    return _list_unusual(session, LIST_UNUSUAL_OF_RECORDS, account_id, after)


def _list_unusual(session: Session, query: TextClause, account_id: int, after: StoredAddress) -> list[StoredAddress]:
    params = {
        "account": account_id,
        "owner_0": after.owner[0],
        "owner_1": after.owner[1],
        "email": after.email,
        "limit": BATCH_SIZE,
    }
    return [StoredAddress((row[0], row[1]), row.email) for row in session.execute(query, params)]


def replace_contact_addresses(session: Session, account_id: int, replacements: Sequence[Replacement]) -> int:
    """Replace stored addresses of contacts and mark the contacts; returns how many addresses were deleted."""
    rows = _to_json(replacements, ("organisation_id", "contact_id"))
    return int(session.execute(REPLACE_OF_CONTACTS, {"account": account_id, "rows": rows}).scalar_one())


def replace_record_addresses(session: Session, account_id: int, replacements: Sequence[Replacement]) -> int:
    """Replace stored addresses of leads and people and mark old and new addresses; returns how many were deleted."""
    rows = _to_json(replacements, ("record_type", "record_id"))
    return int(session.execute(REPLACE_OF_RECORDS, {"account": account_id, "rows": rows}).scalar_one())


def _to_json(replacements: Sequence[Replacement], key_columns: tuple[str, str]) -> str:
    rows = []
    for replacement in replacements:
        stored = replacement.stored
        key = dict(zip(key_columns, stored.owner, strict=True)) | {"email": stored.email}
        new_addresses: dict[Any, Any] = replacement.addresses or {None: None}
        rows += [{**key, "address": address, "as_typed": typed} for address, typed in new_addresses.items()]
    return orjson.dumps(rows).decode()


def iterate_normalisable(session: Session, account_id: int) -> Iterator[tuple[str, str]]:
    """Addresses that normalisation may change, as (normalised, typed), fetched a thousand at a time."""
    result = session.execute(SELECT_NORMALISABLE, {"account": account_id}, execution_options={"yield_per": BATCH_SIZE})
    for row in result:
        yield row.email, row.typed
