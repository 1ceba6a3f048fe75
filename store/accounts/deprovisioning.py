"""Deprovisioning: closing an account or removing an organisation.

Access ends at once, in one transaction. The data is deleted in batches, and the vendors are informed with retries until
they have answered: both are clean-up tasks.

A closed account keeps its row, invisible to everybody, until the last of its data is erased. As long as the row exists,
nothing that was under way when the account was closed can add data that nobody would find. The row is deleted when
nobody locks it (`store.db.tenancy`) and no table has data of the account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.accounts import accounts, xero_grants
from store.accounts.copper_credentials import CopperCredentials
from store.accounts.xero_grants import DeletedGrant
from store.db import tenancy
from store.db.crypto import decrypt, encrypt
from store.db.database import AccountClosedError, execute_rowcount
from store.read_model import field_values, projection

MAX_ERROR_LENGTH = 500
# How many records have their fields in Copper emptied after their account is closed: a few hours of calls at most.
MAX_CLEARED_RECORDS = 20_000

# Clean-up tasks may outlive their account.
CLEANUP_TABLE = "cleanup_task"
# All others with data of an account. Named here, because the models take memory of each process; a test compares.
DATA_TABLES = (
    "api_key",
    "api_usage",
    "audit_log",
    "browser_session",
    "contact_link",
    "copper_credential",
    "copper_field",
    "copper_field_settings",
    "copper_field_value",
    "copper_record",
    "copper_record_email",
    "copper_record_phone",
    "copper_relation",
    "copper_user",
    "dropped_events",
    "event_latency",
    "inbox",
    "invoice_pin",
    "named_admin",
    "oauth_state",
    "projection_queue",
    "record_balance",
    "record_invoice",
    "refused_endpoint",
    "run_seen_id",
    "scheduled_task",
    "sync_run",
    "unreadable_field",
    "webhook_quota",
    "xero_contact",
    "xero_contact_email",
    "xero_contact_phone",
    "xero_grant",
    "xero_invoice",
    "xero_organisation",
)
ORGANISATION_TABLES = (
    "contact_link",
    "invoice_pin",
    "xero_invoice",
    "xero_contact_email",
    "xero_contact_phone",
    "xero_contact",
    "unreadable_field",
    "sync_run",
    "refused_endpoint",
    "inbox",
)
CREDENTIAL_TABLES = (
    "api_key",
    "browser_session",
    "oauth_state",
    "named_admin",
    "xero_organisation",
    "xero_grant",
    "copper_credential",
)

DELETE_CREDENTIALS = {table: text(f"DELETE FROM {table} WHERE account_id = :account") for table in CREDENTIAL_TABLES}
# Changes no key column, so it does not wait for transactions that lock the account.
CLOSE_ACCOUNT = text("""
    UPDATE account SET closed_at = now(), name = '', visible_to_teams = NULL, time_zones = '{}',
                       organisation_names = '{}'
    WHERE id = :account AND closed_at IS NULL
    RETURNING id
""")
ERASE_ACCOUNT = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table} WHERE account_id = :account LIMIT :limit FOR UPDATE SKIP LOCKED))
    """)
    for table in DATA_TABLES
}
HAS_DATA = text(
    "SELECT " + " OR ".join(f"EXISTS (SELECT FROM {table} WHERE account_id = :account)" for table in DATA_TABLES)
)
# Skips a locked row instead of waiting, because its holder is about to add data.
LOCK_CLOSED_ACCOUNT = text("""
    SELECT id FROM account WHERE id = :account AND closed_at IS NOT NULL FOR UPDATE SKIP LOCKED
""")
ACCOUNT_EXISTS = text("SELECT EXISTS (SELECT FROM account WHERE id = :account)")
DELETE_ACCOUNT = text("DELETE FROM account WHERE id = :account")
ERASE_ORGANISATION = {
    table: text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table} WHERE account_id = :account AND organisation_id = :organisation LIMIT :limit))
    """)
    for table in ORGANISATION_TABLES
}
REMOVE_ORGANISATION = text("""
    UPDATE xero_organisation SET status = 'removed'
    WHERE account_id = :account AND id = :organisation AND status <> 'removed'
    RETURNING name, grant_id, connection_id, tenant_id
""")
# Across all accounts, because a Xero connection belongs to a Xero user and several accounts may use it. A grant of an
# unknown user counts as the same user's.
IS_USER_CONNECTED = text("""
    SELECT EXISTS (SELECT FROM xero_grant
        WHERE CAST(:user AS text) IS NULL OR xero_user_id IS NULL OR xero_user_id = :user)
""")
IS_CONNECTION_USED = text("""
    SELECT EXISTS (SELECT FROM xero_organisation o
        LEFT JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
        WHERE o.status <> 'removed'
          AND (o.connection_id = :connection
               OR o.tenant_id = CAST(:tenant AS uuid)
                  AND (CAST(:user AS text) IS NULL OR g.xero_user_id IS NULL OR g.xero_user_id = :user)))
""")
# The rows themselves are deleted with the rest of the data.
END_RUNS = text("""
    UPDATE sync_run SET state = 'failed', finished_at = now(), error = 'the organisation was removed', lease_id = NULL
    WHERE account_id = :account AND organisation_id = :organisation AND state IN ('running', 'paused')
""")
# Locked until the transaction ends, so that it cannot be reconnected while its rows are deleted.
LOCK_REMOVED_ORGANISATION = text("""
    SELECT id FROM xero_organisation
    WHERE account_id = :account AND id = :organisation AND status = 'removed' FOR UPDATE
""")
DELETE_ORGANISATION = text("""
    WITH deleted AS (
        DELETE FROM xero_organisation WHERE account_id = :account AND id = :organisation AND status = 'removed'
        RETURNING id)
    UPDATE account SET time_zones = time_zones - CAST(deleted.id AS text),
                       organisation_names = organisation_names - CAST(deleted.id AS text)
    FROM deleted WHERE account.id = :account
""")
COUNT_ORGANISATION_DATA = text("""
    SELECT (SELECT count(*) FROM xero_invoice
            WHERE account_id = :account AND organisation_id = :organisation AND NOT is_deleted AND status <> 'DELETED'),
           (SELECT count(DISTINCT (record_type, record_id)) FROM record_invoice
            WHERE account_id = :account AND organisation_id = :organisation)
""")
ENQUEUE = text("""
    INSERT INTO cleanup_task (account_id, task_type, encrypted_payload)
    VALUES (:account, :task_type, :encrypted_payload)
""")
CLAIM = text("""
    UPDATE cleanup_task SET attempts = attempts + 1,
                        not_before = now() + make_interval(secs => 30 * power(2, least(attempts, 8)))
    WHERE (account_id, id) IN (
        SELECT account_id, id FROM cleanup_task WHERE not_before <= now()
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING account_id, id, task_type, encrypted_payload, attempts
""")
COMPLETE = text("DELETE FROM cleanup_task WHERE account_id = :account AND id = :id")
REPLACE_PAYLOAD = text(
    "UPDATE cleanup_task SET encrypted_payload = :encrypted_payload WHERE account_id = :account AND id = :id"
)
# Nobody else has claimed it since.
CONTINUE = text("""
    UPDATE cleanup_task SET encrypted_payload = :encrypted_payload, attempts = 0, not_before = now(), error = NULL
    WHERE account_id = :account AND id = :id AND attempts = :attempts
""")
RECORD_FAILURE = text("UPDATE cleanup_task SET error = :error WHERE account_id = :account AND id = :id")
COUNT_DUE = text("SELECT count(*) FROM cleanup_task WHERE not_before <= now()")
LOST_ERASURE_SECONDS = 3_600.0
LOST_ERASURES = text("""
    SELECT id FROM account a
    WHERE closed_at < now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT FROM cleanup_task t WHERE t.account_id = a.id AND t.task_type = 'data.erase')
""")


@dataclass(frozen=True)
class CleanupTask:
    """A clean-up task; `payload` is what it needs, secrets among it. Never logged."""

    account_id: int
    id: int
    task_type: str
    payload: dict[str, Any]
    attempts: int

    def __repr__(self) -> str:
        return f"CleanupTask({self.account_id}, {self.id}, {self.task_type!r})"


def enqueue_task(session: Session, account_id: int, task_type: str, payload: dict[str, Any]) -> None:
    """Enqueue a clean-up task, in the transaction that makes it necessary."""
    params = {"account": account_id, "task_type": task_type, "encrypted_payload": encrypt(payload)}
    session.execute(ENQUEUE, params)


def enqueue_grant_revocation(
    session: Session, account_id: int, grant: DeletedGrant, connections: Sequence[tuple[UUID, UUID]]
) -> None:
    """Enqueue the revocation of a grant at Xero, with its (connection, tenant) pairs."""
    pairs = [[str(connection), str(tenant)] for connection, tenant in connections]
    payload = {"token": grant.token, "user": grant.user_id, "connections": pairs}
    enqueue_task(session, account_id, "xero.revoke", payload)


def is_user_connected(session: Session, user_id: str | None) -> bool:
    """Whether any account has a grant of this Xero user; grants of unknown users count as theirs."""
    return bool(session.execute(IS_USER_CONNECTED, {"user": user_id}).scalar_one())


def is_connection_used(session: Session, connection_id: UUID, tenant_id: UUID | None, user_id: str | None) -> bool:
    """Whether an organisation of any account needs this connection of a Xero user."""
    params = {"connection": connection_id, "tenant": tenant_id, "user": user_id}
    return bool(session.execute(IS_CONNECTION_USED, params).scalar_one())


def close_account(
    session: Session,
    account_id: int,
    grants: Sequence[tuple[DeletedGrant, Sequence[tuple[UUID, UUID]]]],
    copper: CopperCredentials | None,
) -> None:
    """Close an account: access ends with the commit, and nothing more is fetched.

    `grants` come with their (connection, tenant) pairs. Informing the vendors and erasing the data are enqueued in the
    same transaction. Raises `AccountClosedError` if the account is closed already.
    """
    for grant, connections in grants:
        enqueue_grant_revocation(session, account_id, grant, connections)
    if copper is not None:
        records = field_values.list_written(session, account_id, MAX_CLEARED_RECORDS)
        if records:
            copper_account_id = accounts.get_copper_account_id(session, account_id)
            payload = {"copper": vars(copper), "copper_account": copper_account_id, "records": records}
            enqueue_task(session, account_id, "copper.clear_fields", payload)
        enqueue_task(session, account_id, "copper.unsubscribe", vars(copper))
    enqueue_task(session, account_id, "data.erase", {})
    for statement in DELETE_CREDENTIALS.values():
        session.execute(statement, {"account": account_id})
    if session.execute(CLOSE_ACCOUNT, {"account": account_id}).scalar_one_or_none() is None:
        raise AccountClosedError(f"account {account_id} is closed already")


def count_organisation_data(session: Session, account_id: int, organisation_id: int) -> tuple[int, int]:
    """The number of an organisation's invoices, and of records that show some of them."""
    params = {"account": account_id, "organisation": organisation_id}
    row = session.execute(COUNT_ORGANISATION_DATA, params).one()
    return int(row[0]), int(row[1])


def remove_organisation(session: Session, account_id: int, organisation_id: int) -> str | None:
    """Remove an organisation: nothing of it is fetched or shown any more. Return its name, None if there is none.

    A grant that no other organisation needs is revoked with it; otherwise only its own connection is deleted.
    """
    projection.lock_account(session, account_id)
    params = {"account": account_id, "organisation": organisation_id}
    row = session.execute(REMOVE_ORGANISATION, params).one_or_none()
    if row is None:
        return None
    session.execute(END_RUNS, params)
    grant = xero_grants.delete_if_unused(session, account_id, row.grant_id)
    if grant is not None:
        enqueue_grant_revocation(session, account_id, grant, [(row.connection_id, row.tenant_id)])
    else:
        payload = {"grant": row.grant_id, "connection": str(row.connection_id), "tenant": str(row.tenant_id)}
        enqueue_task(session, account_id, "xero.disconnect", payload)
    enqueue_task(session, account_id, "organisation.erase", {"organisation": organisation_id})
    projection.remove_organisation(session, account_id, organisation_id)
    return str(row.name)


def erase_account(session: Session, account_id: int, limit: int) -> int:
    """Delete up to `limit` rows a table of a closed account; return how many.

    Rows that are locked are left for the next call. Nothing of an open account is deleted.
    """
    if tenancy.is_open(session, account_id):
        return 0
    params = {"account": account_id, "limit": limit}
    return sum(execute_rowcount(session, statement, params) for statement in ERASE_ACCOUNT.values())


def remove_account(session: Session, account_id: int) -> bool:
    """Delete a closed account's own row; return whether all of the account is deleted for good.

    False while it has data, or while somebody who may add some locks its row.
    """
    params = {"account": account_id}
    is_locked = session.execute(LOCK_CLOSED_ACCOUNT, params).scalar_one_or_none() is not None
    if not is_locked and session.execute(ACCOUNT_EXISTS, params).scalar_one():
        return tenancy.is_open(session, account_id)
    if session.execute(HAS_DATA, params).scalar_one():
        return False
    session.execute(DELETE_ACCOUNT, params)
    return True


def erase_organisation(session: Session, account_id: int, organisation_id: int, limit: int) -> int:
    """Delete up to `limit` rows a table of a removed organisation; return how many.

    0 means that nothing is left, or that the organisation has been reconnected.
    """
    params = {"account": account_id, "organisation": organisation_id, "limit": limit}
    projection.lock_account(session, account_id)
    if session.execute(LOCK_REMOVED_ORGANISATION, params).scalar_one_or_none() is None:
        return 0
    count = sum(execute_rowcount(session, statement, params) for statement in ERASE_ORGANISATION.values())
    if not count:
        session.execute(DELETE_ORGANISATION, params)
    return count


def claim_tasks(session: Session, limit: int) -> list[CleanupTask]:
    """Claim due tasks; unless completed, each is due again later, at growing intervals."""
    rows = session.execute(CLAIM, {"limit": limit}).all()
    return [
        CleanupTask(row.account_id, row.id, row.task_type, decrypt(row.encrypted_payload), row.attempts) for row in rows
    ]


def complete_task(session: Session, task: CleanupTask) -> None:
    """Delete a task that is done."""
    session.execute(COMPLETE, {"account": task.account_id, "id": task.id})


def replace_task_payload(session: Session, task: CleanupTask, payload: dict[str, Any]) -> None:
    """Replace a task's payload, for instance after its token set was refreshed."""
    params = {"account": task.account_id, "id": task.id, "encrypted_payload": encrypt(payload)}
    session.execute(REPLACE_PAYLOAD, params)


def continue_task(session: Session, task: CleanupTask, payload: dict[str, Any]) -> None:
    """Store what is left of a task that has made progress, so that it is due again at once."""
    params = {
        "account": task.account_id,
        "id": task.id,
        "attempts": task.attempts,
        "encrypted_payload": encrypt(payload),
    }
    session.execute(CONTINUE, params)


def record_task_failure(session: Session, task: CleanupTask, error: str) -> None:
    """Record a failed attempt; the task stays."""
    params = {"account": task.account_id, "id": task.id, "error": error[:MAX_ERROR_LENGTH]}
    session.execute(RECORD_FAILURE, params)


def requeue_lost_erasures(session: Session) -> int:
    """Enqueue again the erasure of closed accounts whose task was lost or abandoned; return how many."""
    account_ids = list(session.execute(LOST_ERASURES, {"seconds": LOST_ERASURE_SECONDS}).scalars())
    for account_id in account_ids:
        enqueue_task(session, account_id, "data.erase", {})
    return len(account_ids)


def count_due_tasks(session: Session) -> int:
    """The number of tasks that are due."""
    return int(session.execute(COUNT_DUE).scalar_one())
