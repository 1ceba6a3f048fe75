"""Closing an account or dropping an organisation: our side at once, data in batches, vendors until they are told.

An account that is closed keeps its row, out of everybody's sight, until the last of its data is erased: as long as it
is there, nothing that was on its way when the account was closed can come to lie where nobody would look for it. The
row goes when nobody holds it (`store.tenancy`) and no table has anything of the account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session, SQLModel

from store import tenancy
from store.accounts import CopperAccess, DroppedGrant, drop_grant
from store.database import AccountClosedError, touched
from store.projection import remove_organisation, take_turn
from store.secrets import seal, unseal

# What is left to do may outlive the account: vendors are told until they have heard.
LEFT_TO_DO = "leftover"
DATA_TABLES = tuple(
    sorted(
        name for name, table in SQLModel.metadata.tables.items() if "account_id" in table.columns and name != LEFT_TO_DO
    )
)
ORGANISATION_TABLES = (
    "contact_link",
    "invoice",
    "xero_contact_email",
    "xero_contact",
    "unreadable_field",
    "sync_run",
    "refused_endpoint",
    "inbox",
)
DOORS = ("api_key", "web_session", "oauth_state", "named_admin", "xero_organisation", "xero_grant", "copper_credential")

SHUT = {table: text(f"DELETE FROM {table} WHERE account_id = :account") for table in DOORS}
# No column of a key: whoever holds the row in the middle of something is not waited for.
SHUT_ACCOUNT = text("""
    UPDATE account SET closed_at = now(), name = '', visible_to_teams = NULL, time_zones = '{}'
    WHERE id = :account AND closed_at IS NULL
    RETURNING id
""")
ERASE = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table} WHERE account_id = :account LIMIT :limit FOR UPDATE SKIP LOCKED))
    """)
    for table in DATA_TABLES
}
IS_ANY_LEFT = text(
    "SELECT " + " OR ".join(f"EXISTS (SELECT FROM {table} WHERE account_id = :account)" for table in DATA_TABLES)
)
# Nobody is waited for: who holds it is about to add a row.
TAKE_CLOSED = text("""
    SELECT id FROM account WHERE id = :account AND closed_at IS NOT NULL FOR UPDATE SKIP LOCKED
""")
IS_THERE = text("SELECT EXISTS (SELECT FROM account WHERE id = :account)")
REMOVE_ACCOUNT = text("DELETE FROM account WHERE id = :account")
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
    RETURNING name, grant_id, connection_id, tenant_id
""")
# Over all accounts: Xero's connections belong to a user, whichever accounts of ours made use of them. What is not
# known of a grant is taken for the same user.
IS_USER_CONNECTED = text("""
    SELECT EXISTS (SELECT FROM xero_grant
        WHERE CAST(:user AS text) IS NULL OR xero_user_id IS NULL OR xero_user_id = :user)
""")
IS_CONNECTION_USED = text("""
    SELECT EXISTS (SELECT FROM xero_organisation o
        LEFT JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
        WHERE o.status <> 'dropped'
          AND (o.connection_id = :connection
               OR o.tenant_id = CAST(:tenant AS uuid)
                  AND (CAST(:user AS text) IS NULL OR g.xero_user_id IS NULL OR g.xero_user_id = :user)))
""")
# What is at work for it ends with it; the rows themselves go with the rest of its data.
END_RUNS = text("""
    UPDATE sync_run SET state = 'failed', finished_at = now(), error = 'the organisation was removed', lease_id = NULL
    WHERE account_id = :account AND organisation_id = :organisation AND state IN ('running', 'paused')
""")
# Held until the transaction ends, so that it cannot be connected again while its rows go.
IS_DROPPED = text("""
    SELECT id FROM xero_organisation
    WHERE account_id = :account AND id = :organisation AND status = 'dropped' FOR UPDATE
""")
FORGET_ORGANISATION = text("""
    WITH forgotten AS (
        DELETE FROM xero_organisation WHERE account_id = :account AND id = :organisation AND status = 'dropped'
        RETURNING id)
    UPDATE account SET time_zones = time_zones - CAST(forgotten.id AS text)
    FROM forgotten WHERE account.id = :account
""")
EXTENT = text("""
    SELECT (SELECT count(*) FROM invoice
            WHERE account_id = :account AND organisation_id = :organisation AND NOT gone AND status <> 'DELETED'),
           (SELECT count(DISTINCT (record_type, record_id)) FROM record_invoice
            WHERE account_id = :account AND organisation_id = :organisation)
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
REPLACE = text("UPDATE leftover SET sealed = :sealed WHERE account_id = :account AND id = :id")
FAILED = text("UPDATE leftover SET error = :error WHERE account_id = :account AND id = :id")
COUNT = text("SELECT count(*) FROM leftover WHERE not_before <= now()")
LOST_SECONDS = 3_600.0
LOST_ERASURES = text("""
    SELECT id FROM account a
    WHERE closed_at < now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT FROM leftover l WHERE l.account_id = a.id AND l.kind = 'data.erase')
""")


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


def leave_grant(
    session: Session, account_id: int, grant: DroppedGrant, connections: Sequence[tuple[UUID, UUID]]
) -> None:
    """Note that a grant is to be ended at Xero, with its (connection, tenant) pairs."""
    pairs = [[str(connection), str(tenant)] for connection, tenant in connections]
    leave(session, account_id, "xero.revoke", {"token": grant.token, "user": grant.user_id, "connections": pairs})


def is_user_connected(session: Session, user_id: str | None) -> bool:
    """Whether any account here has a grant of this Xero user, or may have: what is not known counts as theirs."""
    return bool(session.execute(IS_USER_CONNECTED, {"user": user_id}).scalar_one())


def is_connection_used(session: Session, connection_id: UUID, tenant_id: UUID | None, user_id: str | None) -> bool:
    """Whether an organisation of any account here needs this connection of a Xero user."""
    params = {"connection": connection_id, "tenant": tenant_id, "user": user_id}
    return bool(session.execute(IS_CONNECTION_USED, params).scalar_one())


def shut(
    session: Session,
    account_id: int,
    grants: Sequence[tuple[DroppedGrant, Sequence[tuple[UUID, UUID]]]],
    copper: CopperAccess | None,
) -> None:
    """Close an account: from the commit on nobody comes in and nothing is fetched.

    `grants` come with their (connection, tenant) pairs. What the vendors are to be told, and the data, are left to
    be done, in the same transaction. Raises `AccountClosedError` when somebody else has closed it already.
    """
    for grant, connections in grants:
        leave_grant(session, account_id, grant, connections)
    if copper is not None:
        leave(session, account_id, "copper.unsubscribe", vars(copper))
    leave(session, account_id, "data.erase", {})
    for statement in SHUT.values():
        session.execute(statement, {"account": account_id})
    if session.execute(SHUT_ACCOUNT, {"account": account_id}).scalar_one_or_none() is None:
        raise AccountClosedError(f"account {account_id} is closed already")


def extent(session: Session, account_id: int, organisation_id: int) -> tuple[int, int]:
    """What goes with an organisation: how many invoices, and how many records show some of them."""
    params = {"account": account_id, "organisation": organisation_id}
    row = session.execute(EXTENT, params).one()
    return int(row[0]), int(row[1])


def drop(session: Session, account_id: int, organisation_id: int) -> str | None:
    """Drop one organisation: nothing of it is fetched or shown any more. Returns its name, None when there is none.

    A grant that no other organisation needs goes with it; otherwise this one connection is ended by it.
    """
    take_turn(session, account_id)
    row = session.execute(DROP, {"account": account_id, "organisation": organisation_id}).one_or_none()
    if row is None:
        return None
    session.execute(END_RUNS, {"account": account_id, "organisation": organisation_id})
    grant = drop_grant(session, account_id, row.grant_id)
    if grant is not None:
        leave_grant(session, account_id, grant, [(row.connection_id, row.tenant_id)])
    else:
        values = {"grant": row.grant_id, "connection": str(row.connection_id), "tenant": str(row.tenant_id)}
        leave(session, account_id, "xero.disconnect", values)
    leave(session, account_id, "organisation.erase", {"organisation": organisation_id})
    remove_organisation(session, account_id, organisation_id)
    return str(row.name)


def erase_account(session: Session, account_id: int, limit: int) -> int:
    """Delete up to `limit` rows a table of a closed account; returns how many went.

    Rows that somebody is just writing are left for the next time. An account that is open loses nothing.
    """
    if tenancy.is_open(session, account_id):
        return 0
    params = {"account": account_id, "limit": limit}
    return sum(touched(session, statement, params) for statement in ERASE.values())


def remove_account(session: Session, account_id: int) -> bool:
    """Delete a closed account's own row; returns whether nothing of the account is left, and nothing can come.

    False while it has rows, or while somebody who is adding some holds it.
    """
    params = {"account": account_id}
    is_taken = session.execute(TAKE_CLOSED, params).scalar_one_or_none() is not None
    if not is_taken and session.execute(IS_THERE, params).scalar_one():
        return tenancy.is_open(session, account_id)
    if session.execute(IS_ANY_LEFT, params).scalar_one():
        return False
    session.execute(REMOVE_ACCOUNT, params)
    return True


def erase_organisation(session: Session, account_id: int, organisation_id: int, limit: int) -> int:
    """Delete up to `limit` rows a table of a dropped organisation; returns how many went.

    0 means that nothing is left, or that the organisation was connected again meanwhile.
    """
    chosen = {"account": account_id, "organisation": organisation_id, "limit": limit}
    take_turn(session, account_id)
    if session.execute(IS_DROPPED, chosen).scalar_one_or_none() is None:
        return 0
    gone = sum(touched(session, statement, chosen) for statement in ERASE_OF_ORGANISATION.values())
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


def replace(session: Session, leftover: Leftover, values: dict[str, Any]) -> None:
    """Keep what a thing to be done needs from now on: a token set that was refreshed."""
    chosen = {"account": leftover.account_id, "id": leftover.id, "sealed": seal(values)}
    session.execute(REPLACE, chosen)


def failed(session: Session, leftover: Leftover, error: str) -> None:
    """One thing did not work; it stays."""
    chosen = {"account": leftover.account_id, "id": leftover.id, "error": error[:500]}
    session.execute(FAILED, chosen)


def resume_erasures(session: Session) -> int:
    """Note once more that closed accounts are to be erased, where that was lost or given up; returns how many."""
    lost = list(session.execute(LOST_ERASURES, {"seconds": LOST_SECONDS}).scalars())
    for account_id in lost:
        leave(session, account_id, "data.erase", {})
    return len(lost)


def waiting(session: Session) -> int:
    """How many things could be done now."""
    return int(session.execute(COUNT).scalar_one())
