"""Rows that belong to nobody any more: of accounts, or of organisations, that are gone.

Nothing that is at work leaves any (`store.tenancy`). They are looked for all the same: of what one version of the code
overlooks, or a backup brings back, the account's owner could not tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlmodel import Session

from store.closing import DATA_TABLES
from store.database import touched

# From one account to the next by the index: however many rows there are, it takes a look for each account.
FIND = {
    table: text(f"""
        WITH RECURSIVE known AS (
            (SELECT account_id AS id FROM {table} ORDER BY account_id LIMIT 1)
            UNION ALL
            SELECT (SELECT t.account_id FROM {table} t WHERE t.account_id > known.id ORDER BY t.account_id LIMIT 1)
            FROM known WHERE known.id IS NOT NULL)
        SELECT id FROM known WHERE id <> 0 AND NOT EXISTS (SELECT FROM account a WHERE a.id = known.id)
    """)
    for table in DATA_TABLES
}
DELETE = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table} WHERE account_id = ANY(:accounts) LIMIT :limit FOR UPDATE SKIP LOCKED))
    """)
    for table in DATA_TABLES
}
# What is written beside a run or an event and does not end with it. These tables are small.
DELETE_OF_ORGANISATIONS = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT t.ctid FROM {table} t
            WHERE t.organisation_id <> 0 AND NOT EXISTS (
                SELECT FROM xero_organisation o WHERE o.account_id = t.account_id AND o.id = t.organisation_id)
            LIMIT :limit FOR UPDATE SKIP LOCKED))
    """)
    for table in ("contact_link", "refused_endpoint", "unreadable_field")
}


def accounts_without_row(session: Session, table: str) -> Sequence[int]:
    """The ids of accounts that do not exist and have rows in a table."""
    return list(session.execute(FIND[table]).scalars())


def delete(session: Session, table: str, account_ids: Sequence[int], limit: int) -> int:
    """Delete up to `limit` rows of such accounts from a table; returns how many went."""
    return touched(session, DELETE[table], {"accounts": list(account_ids), "limit": limit})


def delete_of_organisations(session: Session, table: str, limit: int) -> int:
    """Delete up to `limit` rows of organisations that do not exist; 0 for a table that none can come to lie in."""
    statement = DELETE_OF_ORGANISATIONS.get(table)
    return touched(session, statement, {"limit": limit}) if statement is not None else 0
