"""What is left to do after something was closed on our side: tell the vendors, erase the data. Retried until done.

A vendor that refuses for good (the grant or key is gone already) has nothing left to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import structlog

from runtime.logs import scrub
from store import closing
from store.accounts import CopperAccess
from store.closing import Leftover
from store.database import transaction
from worker.copper import subscriptions
from worker.copper.client import CopperClient
from worker.errors import ReconnectNeededError, VendorError
from worker.xero import client as xero
from worker.xero import oauth

log = structlog.get_logger()
AT_ONCE = 20
ROWS = 10_000
MOST_ATTEMPTS = 60


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
    oauth.revoke(one.values["token"])


def _disconnect(one: Leftover) -> None:
    """End one organisation's connection; a grant that is gone meanwhile has ended it already."""
    try:
        held = oauth.fresh(one.account_id, int(one.values["grant"]))
    except LookupError:
        return
    xero.disconnect(held.token, UUID(one.values["connection"]))


def _unsubscribe(one: Leftover) -> None:
    held = CopperAccess(**one.values)
    subscriptions.remove(CopperClient.of_key(held), held.webhook_token)


def _erase(one: Leftover) -> None:
    organisation = one.values.get("organisation")
    while True:
        with transaction() as session:
            if not closing.erase(session, one.account_id, organisation, ROWS):
                return


DUTIES: dict[str, Callable[[Leftover], None]] = {
    "xero.revoke": _revoke,
    "xero.disconnect": _disconnect,
    "copper.unsubscribe": _unsubscribe,
    "data.erase": _erase,
    "organisation.erase": _erase,
}
