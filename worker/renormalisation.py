"""Addresses that an earlier version normalised by other rules, put right; and the proof that none is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import structlog

from store import accounts
from store.addresses import (
    FIRST_CONTACT,
    FIRST_RECORD,
    Replacement,
    StoredAddress,
    changeable,
    odd_contact_addresses,
    odd_record_addresses,
    replace_contact_addresses,
    replace_record_addresses,
)
from store.database import AccountClosedError, Session, transaction
from worker.addresses import addresses_of

log = structlog.get_logger()
Find = Callable[[Session, int, StoredAddress], list[StoredAddress]]
Replace = Callable[[Session, int, list[Replacement]], int]


def renormalise_all() -> int:
    """Normalise the odd addresses of every account anew; returns how many rows changed.

    Only rows that the current version has not written are looked at, of which there are few: what was typed is
    known again once a reconciliation has read everything.
    """
    with transaction() as session:
        account_ids = [account.id for account in accounts.accounts(session)]
    changed = 0
    for account_id in account_ids:
        with suppress(AccountClosedError):
            changed += renormalise(account_id)
    return changed


def renormalise(account_id: int) -> int:
    """The same for one account. What it changes is marked, and shows with the next projection."""
    changed = _pass(account_id, FIRST_CONTACT, odd_contact_addresses, replace_contact_addresses)
    changed += _pass(account_id, FIRST_RECORD, odd_record_addresses, replace_record_addresses)
    if changed:
        log.info("addresses.renormalised", account=account_id, addresses=changed)
    return changed


def _pass(account_id: int, after: StoredAddress, find: Find, replace: Replace) -> int:
    """Go through one table, each batch in a transaction of its own."""
    changed = 0
    while True:
        with transaction() as session:
            found = find(session, account_id, after)
            wanted = [Replacement(stored, addresses_of(stored.email)) for stored in found]
            stale = [one for one in wanted if list(one.addresses) != [one.stored.email]]
            changed += replace(session, account_id, stale) if stale else 0
        if not found:
            return changed
        after = found[-1]


def count_stale(account_id: int) -> int:
    """How many stored addresses differ from what was typed as it is normalised now."""
    with transaction() as session:
        return sum(list(addresses_of(typed)) != [email] for email, typed in changeable(session, account_id))
