"""Failed sign-ins on the audit log of the account that they were for: a line in ten minutes, however many."""

from __future__ import annotations

import redis
import structlog

from runtime.numbers import whole_number
from runtime.settings import settings
from store import accounts, audit
from store.database import transaction
from worker import known_keys
from worker.broker import client, text_of

log = structlog.get_logger()
QUIET_SECONDS = 600
COUNT_SECONDS = 86_400
SOMEBODY = "somebody"


def note(email: str) -> None:
    """A Copper key was refused that came with this address: told to the account whose key came with it before."""
    copper_account_id = known_keys.account_of_email(email)
    if copper_account_id is None:
        return
    with transaction() as session:
        account_id = accounts.account_of_copper(session, copper_account_id)
    if account_id is not None:
        note_for(account_id, SOMEBODY, "with a Copper key")


def note_for(account_id: int, who: str, how: str) -> None:
    """A Copper key was refused to `who` of an account; without Redis, which keeps the lines few, it is not told."""
    name = f"{settings().redis_namespace}:failed-sign-in:{account_id}"
    try:
        if not client().set(f"{name}:quiet", "1", nx=True, ex=QUIET_SECONDS):
            client().incr(name)
            client().expire(name, COUNT_SECONDS)
            return
        left_out = whole_number(text_of(client().getdel(name) or "")) or 0
    except redis.RedisError as error:
        log.info("sign_in.untold", account=account_id, error=type(error).__name__)
        return
    more = f"; {left_out} more since the last line" if left_out else ""
    with transaction() as session:
        audit.note(session, account_id, who, "sign_in.failed", f"{how}{more}")
