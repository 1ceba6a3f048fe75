"""Every stored secret under the newest key, table by table, while everything goes on."""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched
from store.secrets import reseal

# Locked while it is sealed anew, so that a token refreshed meanwhile is not overwritten by an older one.
READ = {
    "copper_credential": text(
        "SELECT account_id, 0 AS id, sealed FROM copper_credential ORDER BY account_id FOR UPDATE"
    ),
    "xero_grant": text("SELECT account_id, id, sealed FROM xero_grant ORDER BY account_id, id FOR UPDATE"),
    "leftover": text("SELECT account_id, id, sealed FROM leftover ORDER BY account_id, id FOR UPDATE"),
}
WRITE = {
    "copper_credential": text("""
        UPDATE copper_credential t SET sealed = n.sealed
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[]), CAST(:sealed AS bytea[]))
             AS n(account_id, id, sealed)
        WHERE t.account_id = n.account_id
    """),
    "xero_grant": text("""
        UPDATE xero_grant t SET sealed = n.sealed
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[]), CAST(:sealed AS bytea[]))
             AS n(account_id, id, sealed)
        WHERE t.account_id = n.account_id AND t.id = n.id
    """),
    "leftover": text("""
        UPDATE leftover t SET sealed = n.sealed
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[]), CAST(:sealed AS bytea[]))
             AS n(account_id, id, sealed)
        WHERE t.account_id = n.account_id AND t.id = n.id
    """),
}


def rotate(session: Session, table: str) -> int:
    """Seal one table's secrets anew, in the caller's transaction; returns how many there were.

    Raises `SealBrokenError` when one cannot be opened: nothing is changed then.
    """
    rows = session.execute(READ[table]).all()
    chosen = {
        "accounts": [row.account_id for row in rows],
        "ids": [row.id for row in rows],
        "sealed": [reseal(row.sealed) for row in rows],
    }
    return touched(session, WRITE[table], chosen) if rows else 0
