"""Connecting an account, its Copper key with the webhooks and its Xero organisations; and closing it again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from store import access, accounts, audit, closing, inbox, runs
from store.accounts import CopperAccess, Organisation
from store.database import transaction
from store.inbox import Source
from store.models import SetupStep
from worker import jobs, sync
from worker.broker import tell_changed
from worker.budget import Purpose
from worker.copper import subscriptions
from worker.copper.client import CopperClient, connected
from worker.errors import VendorError
from worker.steps import Kind
from worker.xero import client as xero
from worker.xero import oauth
from worker.xero.wire import WireConnection

log = structlog.get_logger()
COMMAND = "the command line"


@dataclass(frozen=True)
class CopperAdmin:
    """Whoever holds a working Copper key: only an admin can make one (Copper docs: oauth)."""

    copper_account_id: int
    account_name: str
    user_id: int
    user_name: str


def identify(api_key: str, email: str) -> CopperAdmin:
    """Whose key this is; raises `ReconnectNeededError` when Copper refuses it."""
    probe = CopperClient.of_key(CopperAccess(api_key, email, "", ""))
    user, account = probe.me(), probe.account()
    return CopperAdmin(account.id, account.name, user.id, user.name)


def connect_copper(api_key: str, email: str, *, who: str = COMMAND) -> int:
    """Check a Copper key, keep it, and subscribe to the account's webhooks; returns the account's id.

    A key that replaces another one removes the other's subscriptions first: they belong to that key.
    """
    admin = identify(api_key, email)
    with transaction() as session:
        known = accounts.account_of_copper(session, admin.copper_account_id)
        older = accounts.copper_access(session, known) if known is not None else None
        account_id, held = accounts.save_copper(
            session, copper_account_id=admin.copper_account_id, name=admin.account_name, api_key=api_key, email=email
        )
        if older is not None and older.api_key != api_key:
            closing.leave(session, account_id, "copper.unsubscribe", vars(older))
        audit.note(session, account_id, who, "copper.connected")
    try:
        made = subscriptions.register(connected(account_id, Purpose.PERSON), held)
    except VendorError:
        # Without its webhooks an account looks connected and hears nothing: the next try must do it all again.
        with transaction() as session:
            accounts.mark_copper(session, account_id, "reconnect")
        raise
    log.info("copper.connected", account=account_id, subscriptions=made)
    _take_up([Source(account_id, 0)])
    return account_id


def connect_xero(account_id: int, token: dict[str, Any], *, who: str = COMMAND) -> list[Organisation]:
    """Keep a token set and connect every organisation that it covers."""
    with transaction() as session:
        grant_id = accounts.save_grant(session, account_id, token)
        for step in (SetupStep.SETTINGS, SetupStep.PANEL):
            accounts.finish_setup_step(session, account_id, step)
    return choose_organisations(account_id, grant_id, None, who=who)


def offered(account_id: int, grant_id: int) -> list[WireConnection]:
    """The organisations that a grant covers."""
    return xero.connections(oauth.fresh(account_id, grant_id).token)


def choose_organisations(
    account_id: int, grant_id: int, tenants: Collection[UUID] | None, *, who: str, with_import: bool = False
) -> list[Organisation]:
    """Connect those of a grant's organisations (None: all of them); returns all that the account then has.

    `with_import` begins a backfill of what was never read, in the same transaction: no crash can leave it out.
    An organisation that is connected already moves to the new grant. Raises `VendorError` when none is left.
    """
    covered = [one for one in offered(account_id, grant_id) if tenants is None or one.tenant_id in tenants]
    if not covered:
        raise VendorError("Xero authorised no organisation: choose at least one on Xero's page")
    with transaction() as session:
        for one in covered:
            accounts.save_organisation(
                session,
                account_id,
                grant_id,
                tenant_id=one.tenant_id,
                connection_id=one.id,
                name=one.name,
            )
            audit.note(session, account_id, who, "organisation.connected", one.name)
        organisations = accounts.organisations(session, account_id)
        imports = sync.begin_import(session, account_id) if with_import else []
    log.info("xero.connected", account=account_id, organisations=len(organisations))
    _take_up([Source(account_id, one.id) for one in organisations])
    for run in imports:
        jobs.wake_run(run)
    return organisations


def _take_up(sources: list[Source]) -> None:
    """What a lost connection held up goes on at once, and a catch-up finds what was missed."""
    with transaction() as session:
        for source in sources:
            inbox.resume(session, source)
            runs.resume(session, source.account_id, source.organisation_id)
    for source in sources:
        jobs.wake_source(source)
        for run in sync.begin_one(source, Kind.CATCH_UP):
            jobs.wake_run(run)


def backfill(account_id: int) -> None:
    """Import what was never read in full: all of a new account, or the organisations that were added."""
    with transaction() as session:
        imports = sync.begin_import(session, account_id)
    for run in imports:
        jobs.wake_run(run)


def drop_organisation(account_id: int, organisation_id: int, *, who: str) -> str | None:
    """Drop an organisation; its rows and its connection at Xero follow. Returns its name, None when there is none."""
    with transaction() as session:
        name = closing.drop(session, account_id, organisation_id)
        if name is not None:
            audit.note(session, account_id, who, "organisation.dropped", name)
    jobs.wake_leftovers()
    if name is not None:
        tell_changed(account_id)
    return name


def disconnect(account_id: int, *, who: str) -> None:
    """Close an account: our side at once, the vendors and the data by the workers, for as long as it takes."""
    with transaction() as session:
        tokens = [one.token for one in accounts.grants(session, account_id)]
        state = accounts.copper_state(session, account_id)
        copper = accounts.copper_access(session, account_id) if state is not None else None
        closing.shut(session, account_id, tokens, copper)
        audit.note(session, audit.INSTALLATION, who, "account.disconnected", f"account {account_id}")
    log.info("account.closed", account=account_id)
    jobs.wake_leftovers()


def make_key(account_id: int, name: str, scopes: Collection[str] = ("read",), *, who: str = COMMAND) -> str:
    """A new API key for the account, shown this once."""
    with transaction() as session:
        key = access.make_key(session, account_id, name, list(scopes))
        audit.note(session, account_id, who, "key.made", f"{name} ({', '.join(scopes)})")
    return key
