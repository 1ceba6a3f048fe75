"""Normalise stored addresses again after the normalisation rules changed, and verify that none is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import structlog

from store.db.database import AccountClosedError, Session, transaction
from store.mirror.addresses import (
    FIRST_CONTACT,
    FIRST_RECORD,
    Replacement,
    StoredAddress,
    accounts_with_unusual_addresses,
    iterate_normalisable,
    list_unusual_contact_addresses,
    list_unusual_record_addresses,
    replace_contact_addresses,
    replace_record_addresses,
)
from worker.vendors.addresses import extract_addresses

log = structlog.get_logger()
ListAddresses = Callable[[Session, int, StoredAddress], list[StoredAddress]]
ReplaceAddresses = Callable[[Session, int, list[Replacement]], int]


def renormalise_all() -> int:
    """Normalise the unusual addresses of every account again; return the number of rows changed.

    Only the few rows that the current version has not written are processed. The original text of an address is
    available again once a reconciliation has read everything.
    """
    with transaction() as session:
        account_ids = accounts_with_unusual_addresses(session)
    changed = 0
    for account_id in account_ids:
        with suppress(AccountClosedError):
            changed += renormalise(account_id)
    return changed


def renormalise(account_id: int) -> int:
    """Normalise the unusual addresses of one account again; the next projection shows the changes."""
    changed = _renormalise_table(account_id, FIRST_CONTACT, list_unusual_contact_addresses, replace_contact_addresses)
    changed += _renormalise_table(account_id, FIRST_RECORD, list_unusual_record_addresses, replace_record_addresses)
    if changed:
        log.info("addresses.renormalised", account=account_id, addresses=changed)
    return changed


def _renormalise_table(
    account_id: int, after: StoredAddress, list_addresses: ListAddresses, replace: ReplaceAddresses
) -> int:
    """Process one table in batches, each in a transaction of its own."""
    changed = 0
    while True:
        with transaction() as session:
            batch = list_addresses(session, account_id, after)
            replacements = [Replacement(stored, extract_addresses(stored.email)) for stored in batch]
            stale = [
                replacement for replacement in replacements if list(replacement.addresses) != [replacement.stored.email]
            ]
            changed += replace(session, account_id, stale) if stale else 0
        if not batch:
            return changed
        after = batch[-1]


def count_stale(account_id: int) -> int:
    """Return the number of stored addresses that the current rules would normalise differently."""
    with transaction() as session:
        stored = iterate_normalisable(session, account_id)
        return sum(list(extract_addresses(typed)) != [email] for email, typed in stored)
