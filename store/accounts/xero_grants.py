"""Xero grants: the token sets that Xero issued for an account, encrypted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from store.db.crypto import decrypt, encrypt
from store.db.enums import GrantStatus

INSERT = text("""
    INSERT INTO xero_grant (account_id, encrypted_payload, expires_at, status, scopes, xero_user_id, auth_event_id)
    VALUES (:account, :encrypted_payload, :expires_at, 'pending', :scopes, :user_id, :auth_event_id)
    RETURNING id
""")
REPLACE_TOKEN = text("""
    UPDATE xero_grant SET encrypted_payload = :encrypted_payload, expires_at = :expires_at, refreshed_at = now(),
        scopes = coalesce(CAST(:scopes AS text[]), scopes),
        xero_user_id = coalesce(CAST(:user_id AS text), xero_user_id),
        auth_event_id = coalesce(auth_event_id, CAST(:auth_event_id AS text)),
        status = CASE WHEN status = 'pending' THEN status ELSE 'active' END
    WHERE account_id = :account AND id = :grant
""")
SELECT = text("""
    SELECT id, encrypted_payload, status, xero_user_id, auth_event_id, scopes FROM xero_grant
    WHERE account_id = :account AND id = :grant
""")
SELECT_FOR_UPDATE = text(f"{SELECT.text} FOR UPDATE")
LIST = text("""
    SELECT id, encrypted_payload, status, xero_user_id, auth_event_id, scopes FROM xero_grant
    WHERE account_id = :account ORDER BY id
""")
LIST_IDLE = text("""
    SELECT account_id, id FROM xero_grant
    WHERE status = 'active' AND refreshed_at < now() - make_interval(secs => :seconds)
    ORDER BY refreshed_at LIMIT :limit
""")
SET_STATUS = text("UPDATE xero_grant SET status = :status WHERE account_id = :account AND id = :grant")
# A grant from which no organisation was selected yet: the admin has just returned from Xero.
FIND_PENDING = text("""
    SELECT id FROM xero_grant WHERE account_id = :account AND status = 'pending' ORDER BY id DESC LIMIT 1
""")
DELETE_IF_UNUSED = text("""
    DELETE FROM xero_grant g WHERE g.account_id = :account AND g.id = :grant AND NOT EXISTS (
        SELECT FROM xero_organisation o
        WHERE o.account_id = g.account_id AND o.grant_id = g.id AND o.status <> 'removed')
    RETURNING encrypted_payload, xero_user_id
""")
DELETE_UNUSED = text("""
    DELETE FROM xero_grant g WHERE g.account_id = :account AND NOT EXISTS (
        SELECT FROM xero_organisation o WHERE o.account_id = g.account_id AND o.grant_id = g.id)
    RETURNING id, encrypted_payload, xero_user_id
""")


@dataclass(frozen=True)
class GrantIdentity:
    """What a token response says about itself: the Xero user, the authorisation, the scopes; None if not known."""

    user_id: str | None = None
    auth_event_id: str | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Grant:
    """A token set as Xero issued it. Never logged."""

    account_id: int
    id: int
    token: dict[str, Any]
    status: GrantStatus
    identity: GrantIdentity = GrantIdentity()

    def __repr__(self) -> str:
        return f"Grant(account_id={self.account_id}, id={self.id}, status={self.status!r})"


@dataclass(frozen=True)
class DeletedGrant:
    """A token set that is no longer stored and must be revoked at Xero; `user_id` is the Xero user's. Never logged."""

    id: int
    token: dict[str, Any]
    user_id: str | None

    def __repr__(self) -> str:
        return f"DeletedGrant(id={self.id})"


def insert(session: Session, account_id: int, token: dict[str, Any], identity: GrantIdentity = GrantIdentity()) -> int:
    """Store a new token set, pending until an organisation is selected from it; returns the grant's id."""
    params = {"account": account_id, **_token_params(token, identity)}
    return int(session.execute(INSERT, params).scalar_one())


def get(session: Session, account_id: int, grant_id: int, *, lock: bool = False) -> Grant:
    """A grant with its token set; with `lock`, its row is locked until the transaction ends.

    Raises `LookupError` if the account has no such grant.
    """
    params = {"account": account_id, "grant": grant_id}
    row = session.execute(SELECT_FOR_UPDATE if lock else SELECT, params).one_or_none()
    if row is None:
        raise LookupError(f"account {account_id} no longer has Xero grant {grant_id}")
    return _to_grant(account_id, row)


def list_grants(session: Session, account_id: int) -> list[Grant]:
    """All grants of the account."""
    rows = session.execute(LIST, {"account": account_id})
    return [_to_grant(account_id, row) for row in rows]


def list_idle(session: Session, seconds: float, limit: int) -> list[tuple[int, int]]:
    """(account, grant) ids of active grants that were not refreshed for `seconds`, longest first."""
    rows = session.execute(LIST_IDLE, {"seconds": seconds, "limit": limit})
    return [(row.account_id, row.id) for row in rows]


def find_pending(session: Session, account_id: int) -> int | None:
    """The newest grant from which no organisation was selected yet, or None."""
    grant_id: int | None = session.execute(FIND_PENDING, {"account": account_id}).scalar_one_or_none()
    return grant_id


def replace_token(
    session: Session, grant: Grant, token: dict[str, Any], identity: GrantIdentity = GrantIdentity()
) -> None:
    """Store the token set that a refresh returned. What the response leaves out is unchanged.

    The caller holds the grant's lock.
    """
    params = {"account": grant.account_id, "grant": grant.id, **_token_params(token, identity)}
    session.execute(REPLACE_TOKEN, params)


def set_status(session: Session, account_id: int, grant_id: int, status: GrantStatus) -> None:
    """Set a grant's status."""
    session.execute(SET_STATUS, {"account": account_id, "grant": grant_id, "status": status.value})


def delete_if_unused(session: Session, account_id: int, grant_id: int) -> DeletedGrant | None:
    """Delete a grant that no organisation needs; returns it, so that it can be revoked at Xero, or None."""
    row = session.execute(DELETE_IF_UNUSED, {"account": account_id, "grant": grant_id}).one_or_none()
    return DeletedGrant(grant_id, decrypt(row.encrypted_payload), row.xero_user_id) if row is not None else None


def delete_unused(session: Session, account_id: int) -> list[DeletedGrant]:
    """Delete the grants that no organisation refers to; returns them, so that they can be revoked at Xero."""
    rows = session.execute(DELETE_UNUSED, {"account": account_id})
    return [DeletedGrant(row.id, decrypt(row.encrypted_payload), row.xero_user_id) for row in rows]


def _token_params(token: dict[str, Any], identity: GrantIdentity) -> dict[str, Any]:
    return {
        "encrypted_payload": encrypt(token),
        "expires_at": datetime.fromtimestamp(float(token["expires_at"]), UTC),
        "scopes": list(identity.scopes) if identity.scopes is not None else None,
        "user_id": identity.user_id,
        "auth_event_id": identity.auth_event_id,
    }


def _to_grant(account_id: int, row: Row[Any]) -> Grant:
    scopes = tuple(row.scopes) if row.scopes is not None else None
    identity = GrantIdentity(row.xero_user_id, row.auth_event_id, scopes)
    return Grant(account_id, row.id, decrypt(row.encrypted_payload), GrantStatus(row.status), identity)
