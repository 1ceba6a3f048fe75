"""Connecting an account, its Copper key with the webhooks and its Xero organisations; and closing it again."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from runtime.settings import settings
from store import access, accounts, audit, browser_sessions, closing, inbox, invitations, refusals, runs
from store.accounts import CopperAccess, DroppedGrant, Organisation
from store.database import Session, transaction
from store.inbox import Source
from store.invitations import InvitationState
from store.models import SetupStep
from worker import jobs, known_keys, sync
from worker.broker import tell_changed
from worker.budget import Budget, Purpose
from worker.copper import identity, subscriptions
from worker.copper.client import CopperClient, connected
from worker.errors import EndpointRefusedError, ReconnectNeededError, VendorError
from worker.steps import Kind
from worker.xero import client as xero
from worker.xero import oauth, scopes
from worker.xero.wire import WireConnection

log = structlog.get_logger()
COMMAND = "the command line"
MAX_KEY, MAX_EMAIL = 500, 320


class NotAdmittedError(Exception):
    """A Copper account that is not connected yet came without a set-up code that can be used.

    `state` is the code's; None where none was given.
    """

    def __init__(self, state: InvitationState | None) -> None:
        super().__init__("no set-up code" if state is None else f"set-up code {state.value}")
        self.state = state


@dataclass(frozen=True)
class CopperAdmin:
    """Whoever holds a working Copper key: only an admin can make one (Copper docs: oauth).

    `calls` were made to find out, and belong to no account's budget yet.
    """

    copper_account_id: int
    account_name: str
    user_id: int
    user_name: str
    calls: int = 0


def identify(api_key: str, email: str) -> CopperAdmin:
    """Whose key this is; raises `ReconnectNeededError` when it cannot be one, or when Copper refuses it."""
    is_plain = all(text.isascii() and text.isprintable() for text in (api_key, email))
    if not api_key or "@" not in email or not is_plain or len(api_key) > MAX_KEY or len(email) > MAX_EMAIL:
        raise ReconnectNeededError("Copper rejected this API key and email address")
    held = CopperAccess(api_key, email, "", "")
    found = identity.of_caller(lambda counter: CopperClient.of_key(held, counter))
    known_keys.remember(api_key, email, found.account.id)
    return CopperAdmin(found.account.id, found.account.name, found.user.id, found.user.name, found.calls)


def check_invitation(code: str) -> None:
    """Refuse a set-up code that cannot be used, before Copper is asked anything; raises `NotAdmittedError`."""
    with transaction() as session:
        state = invitations.state_of(session, code)
    if state is not InvitationState.OPEN:
        raise NotAdmittedError(state)


def _admit(session: Session, copper_account_id: int, code: str) -> str:
    """By what a new account is admitted, for the audit log; a code is used up with the account that it makes.

    An account that somebody else connected at the same moment needs no code any more, and leaves this one unused.
    """
    invitations.take_turn(session, copper_account_id)
    if accounts.account_of_copper(session, copper_account_id) is not None:
        return ""
    if settings().admits(copper_account_id):
        return "listed in COPPER_ACCOUNTS"
    used = invitations.use(session, code) if code else None
    if used is None:
        raise NotAdmittedError(invitations.state_of(session, code) if code else None)
    return used


def connect_copper(
    api_key: str,
    email: str,
    *,
    who: str = COMMAND,
    admin: CopperAdmin | None = None,
    code: str = "",
    by_operator: bool = False,
    kept_session: int | None = None,
) -> int:
    """Keep a Copper key, and subscribe to the account's webhooks; returns the account's id.

    `admin` is what `identify` said of the key; without it, the key is checked here. A key that replaces another one
    removes the other's subscriptions first, as they belong to that key, and ends the account's browser sessions, all
    but `kept_session`: who had the older key may be anybody. An account that is new needs a set-up `code`, or to be
    listed (raises `NotAdmittedError`), unless it is connected `by_operator`.
    """
    admin = admin or identify(api_key, email)
    with transaction() as session:
        known = accounts.account_of_copper(session, admin.copper_account_id)
        is_visitors = known is None and not by_operator
        admitted_by = _admit(session, admin.copper_account_id, code) if is_visitors else ""
        older = accounts.copper_access(session, known) if known is not None else None
        account_id, held = accounts.save_copper(
            session, copper_account_id=admin.copper_account_id, name=admin.account_name, api_key=api_key, email=email
        )
        if older is not None and older.api_key != api_key:
            closing.leave(session, account_id, "copper.unsubscribe", vars(older))
            browser_sessions.end_others(session, account_id, kept_id=kept_session)
        was_refused = _take_refusals(session, account_id, refusals.COPPER)
        audit.note(session, account_id, who, "copper.connected", admitted_by)
    if admin.calls:
        Budget.of_copper(account_id).add(Purpose.PERSON, admin.calls)
    made = 0
    try:
        made = subscriptions.register(connected(account_id, Purpose.PERSON), held)
    except EndpointRefusedError as error:
        # Catch-ups find what webhooks would have told of; status says that they are missing.
        log.warning("copper.no_webhooks", account=account_id, endpoint=error.endpoint)
    except VendorError:
        # Without its webhooks an account looks connected and hears nothing: the next try must do it all again.
        with transaction() as session:
            accounts.mark_copper(session, account_id, "reconnect")
        raise
    finally:
        _drop_outdated(account_id, held)
    log.info("copper.connected", account=account_id, subscriptions=made)
    _take_up([Source(account_id, 0)], {0} if was_refused else set())
    return account_id


def _drop_outdated(account_id: int, held: CopperAccess) -> None:
    """Subscriptions of an account that was disconnected, or connected anew, while they were made go again."""
    with transaction() as session:
        with suppress(LookupError):
            if accounts.copper_access(session, account_id).webhook_token == held.webhook_token:
                return
        closing.leave(session, account_id, "copper.unsubscribe", vars(held))
    jobs.wake_leftovers()


def _take_refusals(session: Session, account_id: int, organisation_id: int) -> bool:
    """Forget what was refused to a connection's older credential; returns whether anything was that holds data."""
    known = refusals.of_account(session, account_id, organisation_id)
    refusals.clear(session, account_id, organisation_id)
    return any(not refusal.parameter for refusal in known)


def connect_xero(account_id: int, token: dict[str, Any], *, who: str = COMMAND) -> list[Organisation]:
    """Keep a token set and connect every organisation that its authorisation covers."""
    grant_id = keep_grant(account_id, token, who=who)
    with transaction() as session:
        for step in (SetupStep.SETTINGS, SetupStep.PANEL):
            accounts.finish_setup_step(session, account_id, step)
    return choose_organisations(account_id, grant_id, None, who=who)


def keep_grant(account_id: int, token: dict[str, Any], *, who: str) -> int:
    """Keep the token set of an admin who has just come back from Xero; returns the grant's id."""
    with transaction() as session:
        grant_id = accounts.save_grant(session, account_id, token, scopes.identity(token))
        audit.note(session, account_id, who, "xero.authorised")
    return grant_id


@dataclass(frozen=True)
class OfferedOrganisation:
    """An organisation that a Xero user's authorisation covers.

    `is_elsewhere` says that another account here is connected to it; `is_selected` whether it is chosen unless the
    admin says otherwise: it is this account's already, or nobody else's. `is_certain` is False where the user may
    have connected it at another time.
    """

    connection_id: UUID
    tenant_id: UUID
    name: str
    is_elsewhere: bool = False
    is_selected: bool = True
    is_certain: bool = True


def offered(account_id: int, grant_id: int) -> list[OfferedOrganisation]:
    """The organisations to choose from after an authorisation.

    Xero's connections belong to the user, so those of the user's other authorisations are left out; where Xero does
    not say which are of this one, all are offered, and only the account's own are selected.
    """
    grant = oauth.fresh(account_id, grant_id)
    event = grant.identity.auth_event_id
    found = xero.connections(grant.token, event)
    is_certain = bool(found) or event is None
    if not is_certain:
        found = xero.connections(grant.token)
    with transaction() as session:
        own = {organisation.tenant_id for organisation in accounts.organisations(session, account_id)}
        elsewhere = accounts.tenants_elsewhere(session, account_id, [connection.tenant_id for connection in found])
    return [_offer(connection, own, elsewhere, is_certain=is_certain) for connection in found]


def _offer(
    connection: WireConnection, own: Collection[UUID], elsewhere: Collection[UUID], *, is_certain: bool
) -> OfferedOrganisation:
    tenant = connection.tenant_id
    is_selected = tenant in own or (is_certain and tenant not in elsewhere)
    is_elsewhere = tenant in elsewhere
    return OfferedOrganisation(connection.id, tenant, connection.name, is_elsewhere, is_selected, is_certain)


def missing_permissions(account_id: int, grant_id: int) -> list[str]:
    """The scopes that Patina needs and the admin did not grant; none where Xero did not say which were."""
    with transaction() as session:
        granted = accounts.grant(session, account_id, grant_id).identity.scopes
    return [scopes.permission(endpoint) for endpoint in scopes.missing(granted)]


def choose_organisations(
    account_id: int, grant_id: int, tenants: Collection[UUID] | None, *, who: str, with_import: bool = False
) -> list[Organisation]:
    """Connect those of a grant's organisations (None: all of them); returns all that the account then has.

    An organisation that is connected already moves to the new grant; what was refused to the older one is asked
    again, and read in full. `with_import` begins a backfill of what was never read, in the same transaction: no crash
    can leave it out. Raises `VendorError` when none is left.
    """
    offers = offered(account_id, grant_id)
    if tenants is None:
        covered = [offer for offer in offers if offer.is_certain or offer.is_selected] or offers
    else:
        covered = [offer for offer in offers if offer.tenant_id in tenants]
    if not covered:
        raise VendorError("Xero authorised no organisation: choose at least one on Xero's page")
    refused: set[int] = set()
    with transaction() as session:
        lacking = scopes.missing(accounts.grant(session, account_id, grant_id).identity.scopes)
        known = accounts.xero_connections(session, account_id)
        for offer in covered:
            organisation_id = _save_organisation(session, account_id, grant_id, offer)
            if _take_refusals(session, account_id, organisation_id):
                refused.add(organisation_id)
            for endpoint in lacking:
                refusals.record(session, account_id, organisation_id, endpoint)
            audit.note(session, account_id, who, "organisation.connected", offer.name)
        for grant in accounts.drop_unused_grants(session, account_id):
            closing.leave_grant(session, account_id, grant, known.get(grant.id, []))
        organisations = accounts.organisations(session, account_id)
        imports = sync.begin_import(session, account_id) if with_import else []
    log.info("xero.connected", account=account_id, organisations=len(organisations), missing_endpoints=lacking)
    _take_up([Source(account_id, one.id) for one in organisations], refused)
    for run in imports:
        jobs.wake_run(run)
    return organisations


def _save_organisation(session: Session, account_id: int, grant_id: int, offer: OfferedOrganisation) -> int:
    return accounts.save_organisation(
        session,
        account_id,
        grant_id,
        tenant_id=offer.tenant_id,
        connection_id=offer.connection_id,
        name=offer.name,
    )


def _take_up(sources: list[Source], refused: Collection[int]) -> None:
    """What a lost connection held up goes on at once, and a catch-up finds what was missed.

    Of `refused` organisations (0: Copper) everything is read: part of it was closed to us until now.
    """
    with transaction() as session:
        for source in sources:
            inbox.resume(session, source)
            runs.resume(session, source.account_id, source.organisation_id)
    for source in sources:
        jobs.wake_source(source)
        kind = Kind.BACKFILL if source.organisation_id in refused else Kind.CATCH_UP
        for run in sync.begin_one(source, kind):
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
        connections = accounts.xero_connections(session, account_id)
        grants = [
            (DroppedGrant(grant.id, grant.token, grant.identity.user_id), connections.get(grant.id, []))
            for grant in accounts.grants(session, account_id)
        ]
        state = accounts.copper_state(session, account_id)
        copper = accounts.copper_access(session, account_id) if state is not None else None
        closing.shut(session, account_id, grants, copper)
        audit.note(session, audit.INSTALLATION, who, "account.disconnected", f"account {account_id}")
    log.info("account.closed", account=account_id)
    jobs.wake_leftovers()


def make_key(account_id: int, name: str, scopes: Collection[str] = ("read",), *, who: str = COMMAND) -> str:
    """A new API key for the account, shown this once."""
    with transaction() as session:
        key = access.make_key(session, account_id, name, list(scopes))
        audit.note(session, account_id, who, "key.made", f"{name} ({', '.join(scopes)})")
    return key
