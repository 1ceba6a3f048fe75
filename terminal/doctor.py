"""`patina doctor`: what is wrong with this installation, and what to do about it. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from runtime import embedded
from runtime.settings import SettingsError, settings
from store import accounts, chores, inbox
from store.accounts import AccountSummary, Organisation
from store.database import UNAVAILABLE, at_head, now, transaction
from worker import broker
from worker.budget import Purpose
from worker.copper import subscriptions
from worker.copper.client import connected
from worker.errors import EndpointRefusedError, VendorError
from worker.overview import distinct_names
from worker.schedule import WEB_AWAY_SECONDS
from worker.xero import client as xero
from worker.xero import oauth, scopes

CLOCK_SECONDS = 5.0
NEEDED = ("xero_client_id", "xero_client_secret", "xero_webhook_keys")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `todo` says what helps where it is not well."""

    what: str
    well: bool
    said: str
    todo: str = ""


def examine() -> list[Finding]:
    """Look at everything, as far as one thing lets the next be seen."""
    found = [_configuration(), _public_url()]
    database = _services()
    found += database
    if database[0].well:
        found += [_migrations(), _clock()]
        if found[-2].well:
            found += [_web(), _failed_events()]
            with transaction() as session:
                known = accounts.accounts(session)
            for account in known:
                found += _account(account)
    return found


def lines(found: list[Finding]) -> Iterator[str]:
    """What a person reads; the last line is the verdict."""
    for one in found:
        yield f"{'ok   ' if one.well else 'WRONG'}  {one.what}: {one.said}"
        if not one.well and one.todo:
            yield f"       {one.todo}"
    wrong = sum(not one.well for one in found)
    yield f"doctor {'ok' if not wrong else 'failed'}: {len(found)} looked at, {wrong} wrong"


def _configuration() -> Finding:
    try:
        settings().need(*NEEDED)
    except SettingsError as error:
        return Finding(
            "settings", False, str(error).replace("\n", " "), "Set them in the environment of every process."
        )
    unasked = [scopes.permission(endpoint) for endpoint in scopes.missing(settings().xero_scopes.split())]
    if unasked:
        todo = f"Add {' and '.join(unasked)} to XERO_SCOPES, and reconnect Xero."
        return Finding("settings", False, f"XERO_SCOPES lacks {' and '.join(unasked)}", todo)
    return Finding("settings", True, "what the processes need is set")


def _public_url() -> Finding:
    url = settings().public_url
    if url.startswith("https://"):
        return Finding("PUBLIC_URL", True, url)
    if settings().uses_loopback_xero:
        return Finding("PUBLIC_URL", True, f"{url}, with the sandbox")
    todo = "Serve over TLS and set PUBLIC_URL to the https address: both vendors post to nothing else."
    return Finding("PUBLIC_URL", False, f"{url} is not https", todo)


def _services() -> list[Finding]:
    where = "embedded" if not settings().database_url else "DATABASE_URL"
    try:
        with transaction() as session:
            now(session)
        database = Finding("PostgreSQL", True, f"answers ({where})")
    except (*UNAVAILABLE, OSError, embedded.EmbeddedServiceError) as error:
        database = Finding(
            "PostgreSQL", False, type(error).__name__, "Check that it runs, and that DATABASE_URL reaches it."
        )
    reached = broker.is_reached()
    todo = "Check that it runs, and that REDIS_URL reaches it. Events are kept meanwhile, and applied once it is back."
    redis = Finding("Redis", reached, "answers" if reached else "does not answer", todo)
    return [database, redis]


def _migrations() -> Finding:
    if at_head():
        return Finding("migrations", True, "at head")
    return Finding("migrations", False, "behind this version", "Run `patina migrate` before the processes start.")


def _clock() -> Finding:
    with transaction() as session:
        apart = abs((now(session) - datetime.now(UTC)).total_seconds())
    said = f"{apart:.1f} s apart from PostgreSQL's"
    todo = "Set both machines' clocks by NTP: leases, tokens and what is overdue go by them."
    return Finding("clock", apart < CLOCK_SECONDS, said, todo)


def _web() -> Finding:
    with transaction() as session:
        ago = chores.since_beat(session, "web")
    if ago is not None and ago < WEB_AWAY_SECONDS:
        return Finding("web process", True, f"was up {ago:.0f} s ago")
    said = "was never up" if ago is None else f"was last up {ago:.0f} s ago"
    return Finding("web process", False, said, "Start `patina web`: what Copper sends while it is down, it sends once.")


def _failed_events() -> Finding:
    with transaction() as session:
        counts = inbox.quarantined_by_account(session)
        names = {account.id: account.name for account in accounts.accounts(session)}
    if not counts:
        return Finding("failed events", True, "none")
    owners = [f"{count} of {names.get(owner, 'no account')}" for owner, count in counts.items()]
    todo = (
        "See why: `patina inbox list` (of no account: `patina inbox list --installation`). Then retry or dismiss them."
    )
    return Finding("failed events", False, ", ".join(owners), todo)


def _account(account: AccountSummary) -> list[Finding]:
    with transaction() as session:
        organisations = accounts.organisations(session, account.id)
    found = [_asked(f"{account.name}: Copper", lambda: _subscribed(account.id))]
    if not organisations:
        todo = "Connect Xero on the settings page, or with `patina connect`."
        found.append(Finding(f"{account.name}: Xero", False, "no organisation is connected", todo))
    names = distinct_names(organisations)
    found += [_organisation(f"{account.name}: {names[each.id]}", each) for each in organisations]
    return found


def _organisation(what: str, organisation: Organisation) -> Finding:
    """Whether Xero still covers an organisation, and opens all that is needed of it."""
    covered = _asked(what, lambda: _covered(organisation))
    if not covered.well:
        return covered
    try:
        missing = [scopes.permission(endpoint) for endpoint in scopes.NEEDED if not _is_open(organisation, endpoint)]
    except VendorError as error:
        return Finding(what, False, str(error), covered.todo)
    if not missing:
        return Finding(what, True, "answers")
    said = f"the permission {' and '.join(missing)} is missing"
    return Finding(what, False, said, f"Reconnect Xero and allow {' and '.join(missing)}.")


def _covered(organisation: Organisation) -> str | None:
    grant = oauth.fresh(organisation.account_id, organisation.grant_id)
    known = {connection.tenant_id for connection in xero.connections(grant.token)}
    return None if organisation.tenant_id in known else "Xero's grant does not cover it any more"


def _is_open(organisation: Organisation, endpoint: str) -> bool:
    """Whether an endpoint answers, asked for as little as it gives."""
    try:
        xero.XeroClient(organisation, Purpose.PERSON).probe(endpoint)
    except EndpointRefusedError:
        return False
    return True


def _asked(what: str, look: Callable[[], str | None]) -> Finding:
    """A look that asks a vendor; it answers None when all is well, or what is not."""
    try:
        wrong = look()
    except VendorError as error:
        wrong = str(error)
    todo = "Reconnect on the settings page, or with `patina connect`."
    return Finding(what, wrong is None, wrong or "answers", todo)


def _subscribed(account_id: int) -> str | None:
    with transaction() as session:
        held = accounts.copper_access(session, account_id)
    mine = subscriptions.at(connected(account_id, Purpose.PERSON), held.webhook_token)
    whole = len(mine) == subscriptions.WANTED
    return None if whole else f"{len(mine)} of {subscriptions.WANTED} webhooks are registered"
