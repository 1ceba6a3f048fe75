"""Orphaned rows: rows of accounts or organisations that no longer exist.

Normal operation leaves none (`store.db.tenancy`). They are searched for all the same, because an account's owner cannot
notice what a defect overlooks or a restored backup brings back.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.accounts.deprovisioning import DATA_TABLES
from store.db.database import execute_rowcount

# A loose index scan from one account to the next: its cost depends on the number of accounts, not of rows.
FIND_ACCOUNTS = {
    table: text(f"""
        WITH RECURSIVE present AS (
            (SELECT account_id AS id FROM {table} ORDER BY account_id LIMIT 1)
            UNION ALL
            SELECT (SELECT t.account_id FROM {table} t WHERE t.account_id > present.id ORDER BY t.account_id LIMIT 1)
            FROM present WHERE present.id IS NOT NULL)
        SELECT id FROM present WHERE id <> 0 AND NOT EXISTS (SELECT FROM account a WHERE a.id = present.id)
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
# Rows that are written beside a run or an event and outlive it. These tables are small.
DELETE_OF_ORGANISATIONS = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT t.ctid FROM {table} t
            WHERE t.organisation_id <> 0 AND NOT EXISTS (
                SELECT FROM xero_organisation o WHERE o.account_id = t.account_id AND o.id = t.organisation_id)
            LIMIT :limit FOR UPDATE SKIP LOCKED))
    """)
    for table in ("contact_link", "invoice_pin", "refused_endpoint", "unreadable_field")
}


def find_orphaned_accounts(session: Session, table: str) -> Sequence[int]:
    """The ids of accounts that have rows in a table and do not exist."""
    return list(session.execute(FIND_ACCOUNTS[table]).scalars())


def delete_of_accounts(session: Session, table: str, account_ids: Sequence[int], limit: int) -> int:
    """Delete up to `limit` rows of these accounts from a table; return how many."""
    return execute_rowcount(session, DELETE[table], {"accounts": list(account_ids), "limit": limit})


def delete_of_organisations(session: Session, table: str, limit: int) -> int:
    """Delete up to `limit` rows of organisations that do not exist; 0 for a table that cannot have any."""
    statement = DELETE_OF_ORGANISATIONS.get(table)
    return execute_rowcount(session, statement, {"limit": limit}) if statement is not None else 0
