"""Connecting an account: its Copper key with the webhook subscriptions, its Xero organisations."""

from __future__ import annotations

from typing import Any

import structlog

from store import accounts, inbox, runs
from store.accounts import CopperAccess, Organisation
from store.database import transaction
from store.inbox import Source
from worker import jobs, sync
from worker.budget import Purpose
from worker.copper import subscriptions
from worker.copper.client import CopperClient, connected
from worker.errors import VendorError
from worker.xero import client as xero

log = structlog.get_logger()


def connect_copper(api_key: str, email: str) -> int:
    """Check a Copper key, keep it, and subscribe to the account's webhooks; returns the account's id.

    Only an admin can make a key, so that a key which works proves an admin (Copper docs: oauth).
    """
    probe = CopperClient(CopperAccess(api_key, email, "", ""))
    probe.check_user()
    told = probe.account()
    with transaction() as session:
        account_id, access = accounts.save_copper(
            session, copper_account_id=told.id, name=told.name, api_key=api_key, email=email
        )
    made = subscriptions.register(connected(account_id, Purpose.PERSON), access)
    log.info("copper.connected", account=account_id, subscriptions=made)
    _take_up([Source(account_id, 0)])
    return account_id


def connect_xero(account_id: int, token: dict[str, Any]) -> list[Organisation]:
    """Keep a token set and connect the organisations that it covers.

    An organisation that is connected already moves to the new grant.
    """
    covered = xero.connections(token)
    if not covered:
        raise VendorError("Xero authorised no organisation: choose at least one on Xero's page")
    with transaction() as session:
        grant_id = accounts.save_grant(session, account_id, token)
        for one in covered:
            accounts.save_organisation(
                session,
                account_id,
                grant_id,
                tenant_id=one.tenant_id,
                connection_id=one.id,
                name=one.name,
            )
        organisations = accounts.organisations(session, account_id)
    log.info("xero.connected", account=account_id, organisations=len(organisations))
    _take_up([Source(account_id, one.id) for one in organisations])
    return organisations


def _take_up(sources: list[Source]) -> None:
    """What a lost connection held up goes on at once, and a catch-up finds what was missed."""
    with transaction() as session:
        for source in sources:
            inbox.resume(session, source)
            runs.resume(session, source.account_id, source.organisation_id)
    for source in sources:
        jobs.wake_source(source)
        for run in sync.begin_catch_up(source):
            jobs.wake_run(run)


def make_key(account_id: int, name: str) -> str:
    """A new API key for the account's readers, shown this once."""
    with transaction() as session:
        return accounts.make_key(session, account_id, name)
