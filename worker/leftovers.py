"""What is left to do after something was closed on our side: tell the vendors, erase the data. Retried until done.

A vendor that refuses for good (the grant or key is gone already) has nothing left to be told.
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
from store import accounts, closing
from store.accounts import CopperAccess
from store.closing import Leftover
from store.database import AccountClosedError, transaction
from worker import known_keys
from worker.budget import Budget, Purpose
from worker.copper import subscriptions
from worker.copper.client import CopperClient
from worker.errors import PassingError, ReconnectNeededError, VendorError
from worker.vendor import Spender
from worker.xero import client as xero
from worker.xero import oauth

log = structlog.get_logger()
AT_ONCE = 20
ROWS = 10_000
MOST_ATTEMPTS = 60
# How often an account is looked at again that somebody is just writing to, before that is put off.
LOOKS, LONGEST_LOOK_SECONDS = 8, 1.0


def clean_up() -> int:
    """Do what is due; returns how many things were done."""
    done = 0
    with transaction() as session:
        due = closing.take(session, AT_ONCE)
    for one in due:
        try:
            DUTIES[one.kind](one)
        except ReconnectNeededError:
            log.info("leftover.moot", account=one.account_id, kind=one.kind)
        except VendorError as error:
            if one.attempts < MOST_ATTEMPTS:
                with transaction() as session:
                    closing.failed(session, one, scrub(str(error)))
                log.warning("leftover.put_off", account=one.account_id, kind=one.kind, error=scrub(str(error)))
                continue
            log.error("leftover.given_up", account=one.account_id, kind=one.kind, error=scrub(str(error)))
        with transaction() as session:
            closing.done(session, one)
        done += 1
        log.info("leftover.done", account=one.account_id, kind=one.kind)
    return done


def _revoke(one: Leftover) -> None:
    """End a grant at Xero: revoke it, or end its connections one by one where others need the same Xero user.

    A revocation ends all of a user's connections to the app, whichever accounts here use them. Decided now and not
    when the grant was dropped: somebody may have connected since.
    """
    user, connections = one.values.get("user"), one.values.get("connections", [])
    with transaction() as session:
        is_shared = closing.is_user_connected(session, user)
        unused = [
            UUID(connection)
            for connection, tenant in connections
            if not closing.is_connection_used(session, UUID(connection), UUID(tenant), user)
        ]
    if not is_shared:
        oauth.revoke(one.values["token"])
        return
    token = _usable_token(one) if unused else {}
    for connection_id in unused:
        xero.disconnect(token, connection_id)


def _usable_token(one: Leftover) -> dict[str, Any]:
    """The token set of a grant that is being ended, refreshed (and kept) when its access token is too old."""
    token: dict[str, Any] = one.values["token"]
    if oauth.lasts(token):
        return token
    token = oauth.refresh(token)
    with transaction() as session:
        closing.replace(session, one, {**one.values, "token": token})
    return token


def _disconnect(one: Leftover) -> None:
    """End one organisation's connection, unless an account here needs it; a grant that is gone took care of it."""
    try:
        held = oauth.fresh(one.account_id, int(one.values["grant"]))
    except LookupError:
        return
    connection_id, tenant = UUID(one.values["connection"]), one.values.get("tenant")
    with transaction() as session:
        user = held.identity.user_id
        if closing.is_connection_used(session, connection_id, UUID(tenant) if tenant else None, user):
            return
    xero.disconnect(held.token, connection_id)


def _unsubscribe(one: Leftover) -> None:
    held = CopperAccess(**one.values)
    counter = Spender(Budget.of_copper(one.account_id), Purpose.PERSON, metered=False)
    subscriptions.remove(CopperClient.of_key(held, counter), held.webhook_token)


def _erase_account(one: Leftover) -> None:
    """Erase in batches; raises `PassingError` when others are still at work on it after some looks."""
    _forget_keys(one.account_id)
    for look in range(LOOKS):
        while _erase_some(one.account_id):
            pass
        with transaction() as session:
            if closing.remove_account(session, one.account_id):
                return
        time.sleep(min(0.05 * 2**look, LONGEST_LOOK_SECONDS))
    raise PassingError("something is still at work on the account")


def _forget_keys(account_id: int) -> None:
    with transaction() as session:
        copper_account_id = accounts.copper_account_if_kept(session, account_id)
    if copper_account_id is None:
        return
    try:
        known_keys.forget_account(copper_account_id)
    except redis.RedisError as error:
        raise PassingError(f"Redis is away ({type(error).__name__})") from error


def _erase_some(account_id: int) -> int:
    with transaction() as session:
        return closing.erase_account(session, account_id, ROWS)


def _erase_organisation(one: Leftover) -> None:
    """Erase in batches; an account that is closed meanwhile is erased as a whole."""
    with suppress(AccountClosedError):
        while True:
            with transaction() as session:
                if not closing.erase_organisation(session, one.account_id, one.values["organisation"], ROWS):
                    return


DUTIES: dict[str, Callable[[Leftover], None]] = {
    "xero.revoke": _revoke,
    "xero.disconnect": _disconnect,
    "copper.unsubscribe": _unsubscribe,
    "data.erase": _erase_account,
    "organisation.erase": _erase_organisation,
}
