"""Key rotation: re-encryption of every stored secret with the newest key, table by table, while everything runs."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.crypto import reencrypt
from store.db.database import execute_rowcount

# Rows are locked while they are re-encrypted, so that a token that is refreshed meanwhile is not overwritten.
SELECT = {
    "copper_credential": text(
        "SELECT account_id, 0 AS id, encrypted_payload FROM copper_credential ORDER BY account_id FOR UPDATE"
    ),
    "xero_grant": text("SELECT account_id, id, encrypted_payload FROM xero_grant ORDER BY account_id, id FOR UPDATE"),
    "cleanup_task": text(
        "SELECT account_id, id, encrypted_payload FROM cleanup_task ORDER BY account_id, id FOR UPDATE"
    ),
}
UPDATE = {
    "copper_credential": text("""
        UPDATE copper_credential t SET encrypted_payload = n.encrypted_payload
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[]), CAST(:encrypted_payloads AS bytea[]))
             AS n(account_id, id, encrypted_payload)
        WHERE t.account_id = n.account_id
    """),
    "xero_grant": text("""
        UPDATE xero_grant t SET encrypted_payload = n.encrypted_payload
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[]), CAST(:encrypted_payloads AS bytea[]))
             AS n(account_id, id, encrypted_payload)
        WHERE t.account_id = n.account_id AND t.id = n.id
    """),
    "cleanup_task": text("""
        UPDATE cleanup_task t SET encrypted_payload = n.encrypted_payload
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:ids AS bigint[]), CAST(:encrypted_payloads AS bytea[]))
             AS n(account_id, id, encrypted_payload)
        WHERE t.account_id = n.account_id AND t.id = n.id
    """),
}


def reencrypt_table(session: Session, table: str) -> int:
    """Re-encrypt one table's secrets in the caller's transaction; returns how many there were.

    Raises `DecryptionError` if one cannot be decrypted; nothing is changed then.
    """
    rows = session.execute(SELECT[table]).all()
    params = {
        "accounts": [row.account_id for row in rows],
        "ids": [row.id for row in rows],
        "encrypted_payloads": [reencrypt(row.encrypted_payload) for row in rows],
    }
    return execute_rowcount(session, UPDATE[table], params) if rows else 0
