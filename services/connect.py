"""Connect accounts to Copper (API key and webhooks) and to Xero organisations, and disconnect them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from runtime.settings import settings
from store.accounts import (
    accounts,
    audit,
    browser_sessions,
    copper_credentials,
    deprovisioning,
    invitations,
    refused_endpoints,
    xero_grants,
    xero_organisations,
)
from store.accounts.audit import COMMAND_LINE
from store.accounts.copper_credentials import CopperCredentials
from store.accounts.invitations import InvitationState
from store.accounts.xero_grants import DeletedGrant
from store.accounts.xero_organisations import Organisation
from store.db.database import Session, transaction
from store.db.enums import INSTALLATION, GrantStatus, SetupStep
from store.ingest import inbox
from store.ingest.inbox import SyncSource
from store.sync import runs
from worker.jobs import actors
from worker.sync import run_processor
from worker.sync.change_channel import publish_change
from worker.vendors.copper import identity, known_keys, subscriptions
from worker.vendors.copper.client import CopperClient, client_for_account
from worker.vendors.errors import AuthorizationLostError, EndpointRefusedError, VendorError
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import client as xero
from worker.vendors.xero import oauth, scopes
from worker.vendors.xero.schemas import XeroConnection

log = structlog.get_logger()
MAX_KEY_LENGTH, MAX_EMAIL_LENGTH = 500, 320


class AccountNotAllowedError(Exception):
    """A new Copper account needs a valid set-up code.

    `state` is that of the code; None if no code was given.
    """

    def __init__(self, state: InvitationState | None) -> None:
        super().__init__("no set-up code" if state is None else f"set-up code {state.value}")
        self.state = state


@dataclass(frozen=True)
class CopperAdmin:
    """The owner of a valid Copper API key. Only admins can create keys (Copper docs: oauth).

    `calls` is the number of API calls made to identify them, which no budget has counted yet.
    """

    copper_account_id: int
    account_name: str
    user_id: int
    user_name: str
    calls: int = 0


def identify(api_key: str, email: str) -> CopperAdmin:
    """Return the owner of a Copper key; raises `AuthorizationLostError` if it is malformed or Copper rejects it."""
    is_printable_ascii = all(text.isascii() and text.isprintable() for text in (api_key, email))
    if (
        not api_key
        or "@" not in email
        or not is_printable_ascii
        or len(api_key) > MAX_KEY_LENGTH
        or len(email) > MAX_EMAIL_LENGTH
    ):
        raise AuthorizationLostError("Copper rejected this API key and email address")
    credentials = CopperCredentials(api_key, email, "", "")
    owner = identity.identify_owner(lambda counter: CopperClient.with_api_key(credentials, counter))
    known_keys.record(api_key, email, owner.account.id)
    return CopperAdmin(owner.account.id, owner.account.name, owner.user.id, owner.user.name, owner.uncounted_calls)


def check_invitation(code: str) -> None:
    """Check a set-up code before any call to Copper; raises `AccountNotAllowedError` if it is not valid."""
    with transaction() as session:
        state = invitations.get_state(session, code)
    if state is not InvitationState.OPEN:
        raise AccountNotAllowedError(state)


def _allow_account(session: Session, copper_account_id: int, code: str) -> str:
    """Check that a new account may be connected and redeem its code; return why it may, for the audit log.

    If the account was connected concurrently, the code is not redeemed.
    """
    invitations.lock_copper_account(session, copper_account_id)
    if accounts.find_by_copper_account_id(session, copper_account_id) is not None:
        return ""
    if settings().allows_account(copper_account_id):
        return "listed in COPPER_ACCOUNTS"
    invitation = invitations.redeem(session, code) if code else None
    if invitation is None:
        raise AccountNotAllowedError(invitations.get_state(session, code) if code else None)
    return invitation


def connect_copper(
    api_key: str,
    email: str,
    *,
    actor: str = COMMAND_LINE,
    admin: CopperAdmin | None = None,
    code: str = "",
    by_operator: bool = False,
    kept_session_id: int | None = None,
) -> int:
    """Store a Copper key and subscribe to the account's webhooks; return the account's id.

    `admin` is the result of `identify` for the key; without it the key is checked here. Replacing a key removes the
    webhook subscriptions of the previous one, because they belong to it, and ends all browser sessions of the account
    except `kept_session_id`, because the previous key may have leaked. A new account needs a set-up `code`, unless it
    is in COPPER_ACCOUNTS or connected `by_operator`; otherwise `AccountNotAllowedError` is raised.
    """
    admin = admin or identify(api_key, email)
    with transaction() as session:
        known_id = accounts.find_by_copper_account_id(session, admin.copper_account_id)
        needs_permission = known_id is None and not by_operator
        allowed_by = _allow_account(session, admin.copper_account_id, code) if needs_permission else ""
        previous = copper_credentials.get(session, known_id) if known_id is not None else None
        account_id, credentials = copper_credentials.connect(
            session, copper_account_id=admin.copper_account_id, name=admin.account_name, api_key=api_key, email=email
        )
        if previous is not None and previous.api_key != api_key:
            deprovisioning.enqueue_task(session, account_id, "copper.unsubscribe", vars(previous))
            browser_sessions.end_all(session, account_id, except_id=kept_session_id)
        was_refused = _clear_refusals(session, account_id, refused_endpoints.COPPER)
        audit.record(session, account_id, actor, "copper.connected", allowed_by)
    if admin.calls:
        Budget.for_copper(account_id).add(Priority.INTERACTIVE, admin.calls)
    subscription_count = 0
    try:
        subscription_count = subscriptions.register(client_for_account(account_id, Priority.INTERACTIVE), credentials)
    except EndpointRefusedError as error:
        # Without webhooks changes are only found by catch-ups; the status page reports the missing endpoint.
        log.warning("copper.webhooks_refused", account=account_id, endpoint=error.endpoint)
    except VendorError:
        # Without webhooks the account would look connected but receive no events: the next attempt starts over.
        with transaction() as session:
            copper_credentials.set_status(session, account_id, GrantStatus.NEEDS_REAUTH)
        raise
    finally:
        _remove_outdated_subscriptions(account_id, credentials)
    log.info("copper.connected", account=account_id, subscriptions=subscription_count)
    _resume_sync([SyncSource(account_id, 0)], {0} if was_refused else set())
    return account_id


def _remove_outdated_subscriptions(account_id: int, credentials: CopperCredentials) -> None:
    """Remove the new subscriptions if the account was disconnected or reconnected while they were created."""
    with transaction() as session:
        with suppress(LookupError):
            if copper_credentials.get(session, account_id).webhook_token == credentials.webhook_token:
                return
        deprovisioning.enqueue_task(session, account_id, "copper.unsubscribe", vars(credentials))
    actors.enqueue_cleanup()


def _clear_refusals(session: Session, account_id: int, organisation_id: int) -> bool:
    """Clear the endpoints refused to the previous credential; return whether any of them had data to sync."""
    refused = refused_endpoints.list_refusals(session, account_id, organisation_id)
    refused_endpoints.clear(session, account_id, organisation_id)
    return any(not refusal.parameter for refusal in refused)


def connect_xero(account_id: int, token: dict[str, Any], *, actor: str = COMMAND_LINE) -> list[Organisation]:
    """Store a token set and connect every organisation that it authorises."""
    grant_id = save_grant(account_id, token, actor=actor)
    with transaction() as session:
        for step in (SetupStep.SETTINGS, SetupStep.PANEL):
            accounts.complete_setup_step(session, account_id, step)
    return connect_organisations(account_id, grant_id, None, actor=actor)


def save_grant(account_id: int, token: dict[str, Any], *, actor: str) -> int:
    """Store the token set of an admin who returned from Xero; return the grant's id."""
    with transaction() as session:
        grant_id = xero_grants.insert(session, account_id, token, scopes.grant_identity(token))
        audit.record(session, account_id, actor, "xero.authorised")
    return grant_id


@dataclass(frozen=True)
class AuthorisedOrganisation:
    """An organisation that a Xero user authorised.

    `is_connected_elsewhere`: another account is connected to it. `is_selected`: preselected, because it is connected to
    this account or to no other. `is_certain`: it belongs to this authorisation; False if the user may have authorised
    it earlier.
    """

    connection_id: UUID
    tenant_id: UUID
    name: str
    is_connected_elsewhere: bool = False
    is_selected: bool = True
    is_certain: bool = True


def list_authorised_organisations(account_id: int, grant_id: int) -> list[AuthorisedOrganisation]:
    """Return the organisations that an admin can choose from after an authorisation.

    Xero's connections belong to the user, so those of the user's other authorisations are excluded. If Xero does not
    say which ones belong to this authorisation, all are returned, and only the account's own are preselected.
    """
    grant = oauth.get_valid_grant(account_id, grant_id)
    auth_event_id = grant.identity.auth_event_id
    connections = xero.list_connections(grant.token, auth_event_id)
    is_certain = bool(connections) or auth_event_id is None
    if not is_certain:
        connections = xero.list_connections(grant.token)
    with transaction() as session:
        own_tenants = {
            organisation.tenant_id for organisation in xero_organisations.list_connected(session, account_id)
        }
        other_tenants = xero_organisations.find_tenants_of_other_accounts(
            session, account_id, [connection.tenant_id for connection in connections]
        )
    return [
        _authorised_organisation(connection, own_tenants, other_tenants, is_certain=is_certain)
        for connection in connections
    ]


def _authorised_organisation(
    connection: XeroConnection, own_tenants: Collection[UUID], other_tenants: Collection[UUID], *, is_certain: bool
) -> AuthorisedOrganisation:
    tenant_id = connection.tenant_id
    return AuthorisedOrganisation(
        connection.id,
        tenant_id,
        connection.name,
        is_connected_elsewhere=tenant_id in other_tenants,
        is_selected=tenant_id in own_tenants or (is_certain and tenant_id not in other_tenants),
        is_certain=is_certain,
    )


def missing_scopes(account_id: int, grant_id: int) -> list[str]:
    """Return the required scopes that the admin did not grant; none if Xero did not report the granted scopes."""
    with transaction() as session:
        granted = xero_grants.get(session, account_id, grant_id).identity.scopes
    return [scopes.required_scope(endpoint) for endpoint in scopes.missing_endpoints(granted)]


def connect_organisations(
    account_id: int, grant_id: int, tenants: Collection[UUID] | None, *, actor: str, with_backfill: bool = False
) -> list[Organisation]:
    """Connect the selected organisations of a grant (None: all); return all organisations of the account.

    An organisation that is already connected moves to the new grant. Endpoints refused to the previous grant are tried
    again and read in full. `with_backfill` starts the backfills of sources never read in full, in the same transaction,
    so that a crash cannot omit them. Raises `VendorError` if no organisation is selected.
    """
    authorised = list_authorised_organisations(account_id, grant_id)
    if tenants is None:
        selected = [
            organisation for organisation in authorised if organisation.is_certain or organisation.is_selected
        ] or authorised
    else:
        selected = [organisation for organisation in authorised if organisation.tenant_id in tenants]
    if not selected:
        raise VendorError("Xero authorised no organisation: choose at least one on Xero's page")
    reread_ids: set[int] = set()
    with transaction() as session:
        missing_endpoints = scopes.missing_endpoints(xero_grants.get(session, account_id, grant_id).identity.scopes)
        connections = xero_organisations.list_xero_connections(session, account_id)
        for organisation in selected:
            organisation_id = _save_organisation(session, account_id, grant_id, organisation)
            if _clear_refusals(session, account_id, organisation_id):
                reread_ids.add(organisation_id)
            for endpoint in missing_endpoints:
                refused_endpoints.record(session, account_id, organisation_id, endpoint)
            audit.record(session, account_id, actor, "organisation.connected", organisation.name)
        for grant in xero_grants.delete_unused(session, account_id):
            deprovisioning.enqueue_grant_revocation(session, account_id, grant, connections.get(grant.id, []))
        organisations = xero_organisations.list_connected(session, account_id)
        backfills = run_processor.start_initial_backfills(session, account_id) if with_backfill else []
    log.info(
        "xero.connected", account=account_id, organisations=len(organisations), missing_endpoints=missing_endpoints
    )
    _resume_sync([SyncSource(account_id, organisation.id) for organisation in organisations], reread_ids)
    for run in backfills:
        actors.enqueue_run(run)
    return organisations


def _save_organisation(session: Session, account_id: int, grant_id: int, organisation: AuthorisedOrganisation) -> int:
    return xero_organisations.connect(
        session,
        account_id,
        grant_id,
        tenant_id=organisation.tenant_id,
        connection_id=organisation.connection_id,
        name=organisation.name,
    )


def _resume_sync(sources: list[SyncSource], reread_ids: Collection[int]) -> None:
    """Resume the events and runs of reconnected sources, and start catch-ups of what they missed.

    The organisations in `reread_ids` (0: Copper) are read in full, because endpoints were refused to them before.
    """
    with transaction() as session:
        for source in sources:
            inbox.resume(session, source)
            runs.resume(session, source.account_id, source.organisation_id)
    for source in sources:
        actors.enqueue_drain(source)
        kind = RunKind.BACKFILL if source.organisation_id in reread_ids else RunKind.CATCH_UP
        for run in run_processor.start_source_run(source, kind):
            actors.enqueue_run(run)


def start_backfills(account_id: int) -> None:
    """Start backfills of the sources never read in full: those of a new account, or added organisations."""
    with transaction() as session:
        backfills = run_processor.start_initial_backfills(session, account_id)
    for run in backfills:
        actors.enqueue_run(run)


def start_catch_ups(account_id: int) -> None:
    """Start a catch-up of every source, for example to fetch what the account did not show before."""
    for run in run_processor.start_account_runs(account_id, RunKind.CATCH_UP):
        actors.enqueue_run(run)


def remove_organisation(account_id: int, organisation_id: int, *, actor: str) -> str | None:
    """Remove an organisation and enqueue the cleanup of its rows and its Xero connection.

    Returns its name; None if there is no such organisation.
    """
    with transaction() as session:
        name = deprovisioning.remove_organisation(session, account_id, organisation_id)
        if name is not None:
            audit.record(session, account_id, actor, "organisation.removed", name)
    actors.enqueue_cleanup()
    if name is not None:
        publish_change(account_id)
    return name


def disconnect(account_id: int, *, actor: str) -> None:
    """Disconnect an account: access ends at once; workers then disconnect the vendors and erase the data."""
    with transaction() as session:
        connections = xero_organisations.list_xero_connections(session, account_id)
        grants = [
            (DeletedGrant(grant.id, grant.token, grant.identity.user_id), connections.get(grant.id, []))
            for grant in xero_grants.list_grants(session, account_id)
        ]
        is_copper_connected = copper_credentials.find_connection(session, account_id) is not None
        copper = copper_credentials.get(session, account_id) if is_copper_connected else None
        deprovisioning.close_account(session, account_id, grants, copper)
        audit.record(session, INSTALLATION, actor, "account.disconnected", f"account {account_id}")
    log.info("account.closed", account=account_id)
    actors.enqueue_cleanup()
