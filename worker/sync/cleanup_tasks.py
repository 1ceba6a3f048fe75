"""Clean-up after an account or organisation is removed: disconnect it at the vendors and erase its data.

Each task is retried until it succeeds. A vendor that no longer accepts the grant or key has nothing left to clean up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import redis
import structlog

from runtime.logs import scrub
from store.accounts import accounts, copper_fields, deprovisioning
from store.accounts.copper_credentials import CopperCredentials
from store.accounts.deprovisioning import CleanupTask
from store.db.database import AccountClosedError, transaction
from store.db.enums import FieldWriting
from worker.vendors.copper import field_clearing, known_keys, subscriptions
from worker.vendors.copper.client import CopperClient
from worker.vendors.errors import AuthorizationLostError, TransientError, VendorError
from worker.vendors.http import CallContext
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.xero import client as xero
from worker.vendors.xero import oauth

log = structlog.get_logger()
MAX_TASKS = 20
BATCH_ROWS = 10_000
# Less than the time after which a claimed task is due again.
CLEARING_SECONDS = 15.0
MAX_ATTEMPTS = 60
# How often the removal of an account is tried while others still write to it, before the task is deferred.
MAX_REMOVAL_ATTEMPTS, MAX_REMOVAL_DELAY_SECONDS = 8, 1.0


def run_due() -> int:
    """Run the due tasks; return the number of tasks completed."""
    count = 0
    with transaction() as session:
        tasks = deprovisioning.claim_tasks(session, MAX_TASKS)
    # What takes longest comes last.
    for task in sorted(tasks, key=lambda task: task.task_type == "copper.clear_fields"):
        context = {"account": task.account_id, "task_type": task.task_type}
        try:
            is_done = HANDLERS[task.task_type](task) is not False
            if not is_done:
                continue
        except AuthorizationLostError:
            log.info("cleanup.skipped", **context)
        except VendorError as error:
            message = scrub(str(error))
            if task.attempts < MAX_ATTEMPTS:
                with transaction() as session:
                    deprovisioning.record_task_failure(session, task, message)
                log.warning("cleanup.deferred", **context, error=message)
                continue
            log.error("cleanup.abandoned", **context, error=message)
        with transaction() as session:
            deprovisioning.complete_task(session, task)
        count += 1
        log.info("cleanup.done", **context)
    return count


def _revoke_grant(task: CleanupTask) -> None:
    """Revoke a grant at Xero, or only end its unused connections if other accounts use the same Xero user.

    A revocation ends all of a user's connections to the app, whichever accounts use them. This is decided here and not
    when the grant was removed, because somebody may have connected since.
    """
    user_id, connections = task.payload.get("user"), task.payload.get("connections", [])
    with transaction() as session:
        is_shared = deprovisioning.is_user_connected(session, user_id)
        unused_ids = [
            UUID(connection_id)
            for connection_id, tenant_id in connections
            if not deprovisioning.is_connection_used(session, UUID(connection_id), UUID(tenant_id), user_id)
        ]
    if not is_shared:
        oauth.revoke(task.payload["token"])
        return
    token = _valid_token(task) if unused_ids else {}
    for connection_id in unused_ids:
        xero.disconnect(token, connection_id)


def _valid_token(task: CleanupTask) -> dict[str, Any]:
    """Return the token set of a removed grant; refresh and store it first if the access token has expired."""
    token: dict[str, Any] = task.payload["token"]
    if oauth.is_token_valid(token):
        return token
    token = oauth.refresh(token)
    with transaction() as session:
        deprovisioning.replace_task_payload(session, task, {**task.payload, "token": token})
    return token


def _disconnect_organisation(task: CleanupTask) -> None:
    """End one organisation's connection, unless another account uses it. Without its grant there is nothing to end."""
    try:
        grant = oauth.get_valid_grant(task.account_id, int(task.payload["grant"]))
    except LookupError:
        return
    connection_id, tenant = UUID(task.payload["connection"]), task.payload.get("tenant")
    tenant_id = UUID(tenant) if tenant else None
    with transaction() as session:
        if deprovisioning.is_connection_used(session, connection_id, tenant_id, grant.identity.user_id):
            return
    xero.disconnect(grant.token, connection_id)


def _unsubscribe_webhooks(task: CleanupTask) -> None:
    credentials = CopperCredentials(**task.payload)
    context = CallContext(Budget.for_copper(task.account_id), Priority.INTERACTIVE, is_metered=False)
    subscriptions.remove(CopperClient.with_api_key(credentials, context), credentials.webhook_token)


def _clear_fields(task: CleanupTask) -> bool:
    """Empty the fields that Patina wrote in Copper, for some time; return whether none is left.

    Ends at once if the Copper account is connected again and writes fields of its own. Raises `TransientError` if
    Copper or the budget allows nothing.
    """
    with transaction() as session:
        again = accounts.find_by_copper_account_id(session, task.payload["copper_account"])
        if again is not None and copper_fields.get_settings(session, again).state is not FieldWriting.OFF:
            return True
    context = CallContext(Budget.for_copper(task.account_id), Priority.FIELDS, is_metered=False)
    client = CopperClient.with_api_key(CopperCredentials(**task.payload["copper"]), context)
    remaining = field_clearing.clear_records(client, task.payload["records"], CLEARING_SECONDS)
    if remaining:
        with transaction() as session:
            deprovisioning.continue_task(session, task, {**task.payload, "records": remaining})
    return not remaining


def _erase_account(task: CleanupTask) -> None:
    """Erase an account in batches; raises `TransientError` if others still write to it after some attempts."""
    _forget_keys(task.account_id)
    for attempt in range(MAX_REMOVAL_ATTEMPTS):
        while _erase_batch(task.account_id):
            pass
        with transaction() as session:
            if deprovisioning.remove_account(session, task.account_id):
                return
        time.sleep(min(0.05 * 2**attempt, MAX_REMOVAL_DELAY_SECONDS))
    raise TransientError("another process is still writing to the account")


def _forget_keys(account_id: int) -> None:
    with transaction() as session:
        copper_account_id = accounts.find_copper_account_id(session, account_id)
    if copper_account_id is None:
        return
    try:
        known_keys.delete_account(copper_account_id)
    except redis.RedisError as error:
        raise TransientError(f"Redis is unavailable ({type(error).__name__})") from error


def _erase_batch(account_id: int) -> int:
    with transaction() as session:
        return deprovisioning.erase_account(session, account_id, BATCH_ROWS)


def _erase_organisation(task: CleanupTask) -> None:
    """Erase an organisation in batches. If its account is closed meanwhile, all of the account is erased instead."""
    organisation_id = task.payload["organisation"]
    with suppress(AccountClosedError):
        while True:
            with transaction() as session:
                if not deprovisioning.erase_organisation(session, task.account_id, organisation_id, BATCH_ROWS):
                    return


# A handler that returns False has more to do later.
HANDLERS: dict[str, Callable[[CleanupTask], bool | None]] = {
    "xero.revoke": _revoke_grant,
    "xero.disconnect": _disconnect_organisation,
    "copper.clear_fields": _clear_fields,
    "copper.unsubscribe": _unsubscribe_webhooks,
    "data.erase": _erase_account,
    "organisation.erase": _erase_organisation,
}
