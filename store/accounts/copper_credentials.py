"""Copper credentials: each account's API key, its status, and the secrets of its webhooks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.accounts import accounts
from store.db.crypto import decrypt, digest, encrypt, generate_token
from store.db.enums import GrantStatus

UPSERT = text("""
    INSERT INTO copper_credential (account_id, encrypted_payload, webhook_token_hash)
    VALUES (:account, :encrypted_payload, :token_hash)
    ON CONFLICT (account_id) DO UPDATE SET encrypted_payload = EXCLUDED.encrypted_payload,
        status = 'active', changed_at = now(),
        webhook_token_hash = EXCLUDED.webhook_token_hash
""")
SELECT = text(
    "SELECT encrypted_payload, status, records_synced_through FROM copper_credential WHERE account_id = :account"
)
# A rejected key says nothing about the key that has replaced it meanwhile.
SET_STATUS = text("""
    UPDATE copper_credential SET status = :status
    WHERE account_id = :account AND (CAST(:token_hash AS bytea) IS NULL OR webhook_token_hash = :token_hash)
""")


@dataclass(frozen=True)
class CopperCredentials:
    """What a call to Copper needs, and the secret that Copper's webhook notifications carry. Never logged."""

    api_key: str
    email: str
    webhook_token: str
    webhook_secret: str

    def __repr__(self) -> str:
        return "CopperCredentials(…)"


@dataclass(frozen=True)
class CopperConnection:
    """The state of an account's connection to Copper. `needs_reauth`: Copper rejected the key; an admin must act."""

    needs_reauth: bool
    records_synced_through: datetime | None


def connect(
    session: Session, *, copper_account_id: int, name: str, api_key: str, email: str
) -> tuple[int, CopperCredentials]:
    """Create or update an account and its Copper key, with a new webhook path and secret."""
    account_id = accounts.upsert(session, copper_account_id, name)
    credentials = CopperCredentials(api_key, email, generate_token(), generate_token())
    session.execute(
        UPSERT,
        {
            "account": account_id,
            "encrypted_payload": encrypt(vars(credentials)),
            "token_hash": digest(credentials.webhook_token),
        },
    )
    return account_id, credentials


def get(session: Session, account_id: int) -> CopperCredentials:
    """The account's Copper credentials; raises `LookupError` if Copper is not connected."""
    row = session.execute(SELECT, {"account": account_id}).one_or_none()
    if row is None:
        raise LookupError(f"account {account_id} has no Copper key: connect Copper first")
    return CopperCredentials(**decrypt(row.encrypted_payload))


def find_connection(session: Session, account_id: int) -> CopperConnection | None:
    """Whether the account's Copper key works, and how far its records are synced; None if it is not connected."""
    row = session.execute(SELECT, {"account": account_id}).one_or_none()
    return CopperConnection(row.status == GrantStatus.NEEDS_REAUTH, row.records_synced_through) if row else None


def set_status(
    session: Session, account_id: int, status: GrantStatus, credentials: CopperCredentials | None = None
) -> None:
    """Set the status of an account's Copper key.

    With `credentials`, only if they are still the account's.
    """
    token_hash = digest(credentials.webhook_token) if credentials is not None else None
    session.execute(SET_STATUS, {"account": account_id, "status": status.value, "token_hash": token_hash})
