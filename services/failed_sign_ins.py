"""Failed sign-ins in the audit log of the account that they were for: at most one entry in ten minutes."""

from __future__ import annotations

import redis
import structlog

from runtime.numbers import whole_number
from runtime.redis_client import as_text, shared_client
from runtime.settings import settings
from store.accounts import accounts, audit
from store.db.database import transaction
from worker.vendors.copper import known_keys

log = structlog.get_logger()
MIN_ENTRY_INTERVAL_SECONDS = 600
COUNT_RETENTION_SECONDS = 86_400
UNKNOWN_ACTOR = "unknown user"


def record_for_email(email: str) -> None:
    """Record that Copper rejected a key with this address, for the account whose key has worked with it before."""
    copper_account_id = known_keys.find_account_by_email(email)
    if copper_account_id is None:
        return
    with transaction() as session:
        account_id = accounts.find_by_copper_account_id(session, copper_account_id)
    if account_id is not None:
        record_for_account(account_id, UNKNOWN_ACTOR, "with a Copper key")


def record_for_account(account_id: int, actor: str, method: str) -> None:
    """Record a failed sign-in of `actor`. Without Redis, which limits the entries, nothing is recorded."""
    counter = f"{settings().redis_namespace}:failed-sign-in:{account_id}"
    try:
        if not shared_client().set(f"{counter}:quiet", "1", nx=True, ex=MIN_ENTRY_INTERVAL_SECONDS):
            shared_client().incr(counter)
            shared_client().expire(counter, COUNT_RETENTION_SECONDS)
            return
        unrecorded = whole_number(as_text(shared_client().getdel(counter) or "")) or 0
    except redis.RedisError as error:
        log.info("sign_in.record_failed", account=account_id, error=type(error).__name__)
        return
    suffix = f"; {unrecorded} more since the last entry" if unrecorded else ""
    with transaction() as session:
        audit.record(session, account_id, actor, "sign_in.failed", f"{method}{suffix}")
