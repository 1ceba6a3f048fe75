"""Closing an account or dropping an organisation: our side at once, data in batches, vendors until they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from store.accounts import CopperAccess, drop_grant
from store.database import touched
from store.projection import balances_are_old, take_turn
from store.secrets import seal, unseal

DATA_TABLES = (
    "record_invoice",
    "record_balance",
    "contact_link",
    "invoice",
    "xero_contact_email",
    "xero_contact",
    "crm_record_email",
    "crm_relation",
    "crm_record",
    "dirty",
    "inbox",
    "run_seen",
    "sync_run",
    "call_meter",
    "freshness",
    "chore",
    "audit",
)
ORGANISATION_TABLES = (
    "record_invoice",
    "contact_link",
    "invoice",
    "xero_contact_email",
    "xero_contact",
    "sync_run",
    "inbox",
)
DOORS = ("api_key", "web_session", "oauth_state", "named_admin", "xero_organisation", "xero_grant", "copper_credential")

SHUT = {table: text(f"DELETE FROM {table} WHERE account_id = :account") for table in DOORS}
SHUT_ACCOUNT = text("DELETE FROM account WHERE id = :account RETURNING name")
ERASE = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table} WHERE account_id = :account LIMIT :limit))
    """)
    for table in DATA_TABLES
}
ERASE_OF_ORGANISATION = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table} WHERE account_id = :account AND organisation_id = :organisation LIMIT :limit))
    """)
    for table in ORGANISATION_TABLES
}
DROP = text("""
    UPDATE xero_organisation SET status = 'dropped'
    WHERE account_id = :account AND id = :organisation AND status <> 'dropped'
    RETURNING name, grant_id, connection_id
""")
# What is at work for it ends with it; the rows themselves go with the rest of its data.
END_RUNS = text("""
    UPDATE sync_run SET state = 'failed', finished_at = now(), error = 'the organisation was removed', lease_id = NULL
    WHERE account_id = :account AND organisation_id = :organisation AND state IN ('running', 'paused')
""")
FORGET_ORGANISATION = text("""
    DELETE FROM xero_organisation WHERE account_id = :account AND id = :organisation AND status = 'dropped'
""")
LEAVE = text("INSERT INTO leftover (account_id, kind, sealed) VALUES (:account, :kind, :sealed)")
TAKE = text("""
    UPDATE leftover SET attempts = attempts + 1,
                        not_before = now() + make_interval(secs => 30 * power(2, least(attempts, 8)))
    WHERE (account_id, id) IN (
        SELECT account_id, id FROM leftover WHERE not_before <= now()
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING account_id, id, kind, sealed, attempts
""")
DONE = text("DELETE FROM leftover WHERE account_id = :account AND id = :id")
FAILED = text("UPDATE leftover SET error = :error WHERE account_id = :account AND id = :id")
COUNT = text("SELECT count(*) FROM leftover WHERE not_before <= now()")


@dataclass(frozen=True)
class Leftover:
    """One thing left to do; `values` are what it needs, secrets among them. Never logged."""

    account_id: int
    id: int
    kind: str
    values: dict[str, Any]
    attempts: int

    def __repr__(self) -> str:
        return f"Leftover({self.account_id}, {self.id}, {self.kind!r})"


def leave(session: Session, account_id: int, kind: str, values: dict[str, Any]) -> None:
    """Note something to be done, in the transaction that makes it necessary."""
    session.execute(LEAVE, {"account": account_id, "kind": kind, "sealed": seal(values)})


def shut(session: Session, account_id: int, grants: list[dict[str, Any]], copper: CopperAccess | None) -> str | None:
    """Close an account: from the commit on nobody comes in and nothing is fetched. Returns its name.

    What the vendors are to be told, and the data, are left to be done, in the same transaction.
    """
    for token in grants:
        leave(session, account_id, "xero.revoke", {"token": token})
    if copper is not None:
        leave(session, account_id, "copper.unsubscribe", vars(copper))
    leave(session, account_id, "data.erase", {})
    for statement in SHUT.values():
        session.execute(statement, {"account": account_id})
    name: str | None = session.execute(SHUT_ACCOUNT, {"account": account_id}).scalar_one_or_none()
    return name


def drop(session: Session, account_id: int, organisation_id: int) -> str | None:
    """Drop one organisation: nothing is fetched any more. Returns its name, None when there is none.

    A grant that no other organisation needs is revoked; otherwise this one connection is ended with it.
    """
    row = session.execute(DROP, {"account": account_id, "organisation": organisation_id}).one_or_none()
    if row is None:
        return None
    session.execute(END_RUNS, {"account": account_id, "organisation": organisation_id})
    token = drop_grant(session, account_id, row.grant_id)
    if token is not None:
        leave(session, account_id, "xero.revoke", {"token": token})
    else:
        values = {"grant": row.grant_id, "connection": str(row.connection_id)}
        leave(session, account_id, "xero.disconnect", values)
    leave(session, account_id, "organisation.erase", {"organisation": organisation_id})
    return str(row.name)


def erase(session: Session, account_id: int, organisation_id: int | None, limit: int) -> int:
    """Delete up to `limit` rows a table of a closed account, or of a dropped organisation; returns how many went.

    0 means that nothing is left.
    """
    chosen = {"account": account_id, "organisation": organisation_id, "limit": limit}
    if organisation_id is None:
        return sum(touched(session, statement, chosen) for statement in ERASE.values())
    take_turn(session, account_id)
    gone = sum(touched(session, statement, chosen) for statement in ERASE_OF_ORGANISATION.values())
    balances_are_old(session, account_id)
    if not gone:
        session.execute(FORGET_ORGANISATION, chosen)
    return gone


def take(session: Session, limit: int) -> list[Leftover]:
    """Things whose turn it is; each is due again later, ever more rarely, unless it is `done` before."""
    rows = session.execute(TAKE, {"limit": limit}).all()
    return [Leftover(row.account_id, row.id, row.kind, unseal(row.sealed), row.attempts) for row in rows]


def done(session: Session, leftover: Leftover) -> None:
    """One thing is done."""
    session.execute(DONE, {"account": leftover.account_id, "id": leftover.id})


def failed(session: Session, leftover: Leftover, error: str) -> None:
    """One thing did not work; it stays."""
    chosen = {"account": leftover.account_id, "id": leftover.id, "error": error[:500]}
    session.execute(FAILED, chosen)


def waiting(session: Session) -> int:
    """How many things could be done now."""
    return int(session.execute(COUNT).scalar_one())
