"""`patina doctor`: what is wrong with this installation, and what to do about it. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from runtime import embedded
from runtime.settings import SettingsError, settings
from store import accounts, chores, inbox, roles
from store.accounts import AccountSummary, Organisation
from store.database import UNAVAILABLE, at_head, describe_failure, now, server_version, transaction
from store.secrets import SealBrokenError
from terminal.words import counted, hint, problem
from worker import broker, health, overview, proxy_watch
from worker.budget import Purpose
from worker.copper import subscriptions
from worker.copper.client import connected
from worker.errors import EndpointRefusedError, VendorError
from worker.health import Code
from worker.heartbeat import PROCESSES
from worker.xero import client as xero
from worker.xero import oauth, scopes

CLOCK_SECONDS = 5.0
MIN_POSTGRES = 15
ENOUGH_REQUESTS = 50
REQUIRED_SETTINGS = ("xero_client_id", "xero_client_secret", "xero_webhook_keys")
RECONNECT = "Reconnect on the settings page, or with `patina connect`."
PROCESS_HINTS = {
    "web": "Start `patina web`: Copper doesn't resend what it couldn't deliver.",
    "worker": "Start `patina worker`: events wait until then.",
    "scheduler": "Start `patina scheduler`: nothing is caught up or reconciled until then.",
}
# What the checks of each connection and process tell themselves.
CHECKED_ELSEWHERE = {
    Code.COPPER_NOT_CONNECTED,
    Code.XERO_NOT_CONNECTED,
    Code.COPPER_KEY_REJECTED,
    Code.XERO_DISCONNECTED,
    Code.PERMISSION_MISSING,
    Code.PROCESS_DOWN,
}


@dataclass(frozen=True)
class Check:
    """One check; `todo` says what helps where it failed."""

    what: str
    well: bool
    said: str
    todo: str = ""

    def as_data(self) -> dict[str, Any]:
        """The check for machines: without `todo` where nothing is to be done."""
        told: dict[str, Any] = {"what": self.what, "well": self.well, "said": self.said}
        return told if self.well or not self.todo else {**told, "todo": self.todo}


def examine() -> list[Check]:
    """Check everything, as far as one thing lets the next be seen; whatever fails is a check that failed."""
    try:
        settings()
    except SettingsError as error:
        return [_settings_failed(error)]
    checks = [_guarded("settings", _configuration), _guarded("PUBLIC_URL", _public_url)]
    database = _guarded("PostgreSQL", _database)
    checks += [database, _guarded("Redis", _redis)]
    if not database.well:
        return checks
    schema = _guarded("migrations", _migrations)
    checks += [schema, _guarded("database roles", _roles), _guarded("clock", _clock)]
    checks.append(_guarded("clients' addresses", _clients))
    return checks + _contents() if schema.well else checks


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """What a person reads; the last line is the verdict."""
    for check in checks:
        yield f"{'ok  ' if check.well else 'FAIL'}  {check.what}: {check.said}"
        if not check.well and check.todo:
            yield f"      {check.todo}"
    failed = sum(not check.well for check in checks)
    yield f"doctor {'failed' if failed else 'ok'}: {counted(len(checks), 'check')}, {failed} failed"


def _guarded(what: str, check: Callable[[], Check]) -> Check:
    """A check that cannot be made has failed."""
    try:
        return check()
    except SettingsError as error:
        return _settings_failed(error, what)
    except embedded.EmbeddedServiceError as error:
        return Check(what, False, str(error))
    except Exception as error:
        return Check(what, False, describe_failure(error) or f"the check failed ({type(error).__name__})")


def _settings_failed(error: SettingsError, what: str = "settings") -> Check:
    return Check(what, False, str(error).replace("\n", " "), "Set them in the environment of every process.")


def _configuration() -> Check:
    settings().need(*REQUIRED_SETTINGS)
    unasked = [scopes.permission(endpoint) for endpoint in scopes.missing(settings().xero_scopes.split())]
    if unasked:
        todo = f"Add {' and '.join(unasked)} to XERO_SCOPES, and reconnect Xero."
        return Check("settings", False, f"XERO_SCOPES lacks {' and '.join(unasked)}", todo)
    return Check("settings", True, "all required settings are set")


def _public_url() -> Check:
    url = settings().public_url
    if url.startswith("https://"):
        return Check("PUBLIC_URL", True, url)
    if settings().uses_loopback_xero:
        return Check("PUBLIC_URL", True, f"{url}, with the sandbox")
    todo = "Serve over TLS and set PUBLIC_URL to the https address: both vendors post to nothing else."
    return Check("PUBLIC_URL", False, f"{url} is not https", todo)


def _database() -> Check:
    where = "DATABASE_URL" if settings().database_url else "embedded"
    try:
        with transaction() as session:
            version = server_version(session)
    except UNAVAILABLE as error:
        todo = "Check that it runs, and that DATABASE_URL reaches it."
        return Check("PostgreSQL", False, describe_failure(error) or type(error).__name__, todo)
    todo = f"Upgrade PostgreSQL to {MIN_POSTGRES} or newer."
    is_maintained = int(version.partition(".")[0]) >= MIN_POSTGRES
    return Check("PostgreSQL", is_maintained, f"reachable ({where}), PostgreSQL {version}", todo)


def _redis() -> Check:
    if not broker.is_reached():
        todo = "Check that it runs, and that REDIS_URL reaches it. Events are kept, and applied once it is back."
        return Check("Redis", False, "not reachable", todo)
    server = broker.redis_server()
    said = f"reachable, {server.name} {server.version}"
    if server.evicts:
        todo = "Set its maxmemory-policy to noeviction: budgets and wake-ups must not be dropped."
        return Check("Redis", False, f"{said}, which drops keys when its memory is full", todo)
    todo = "Upgrade to Redis or Valkey 7.2 or newer: older versions are no longer maintained."
    return Check("Redis", server.is_maintained, said, todo)


def _roles() -> Check:
    """Whether PostgreSQL itself keeps accounts, and databases of one cluster, apart."""
    with transaction() as session:
        found = roles.weaknesses(session)
    said = "; ".join(weakness.what for weakness in found) or "only this database's own roles have rights"
    return Check("database roles", not found, said, " ".join(weakness.remedy for weakness in found))


def _clients() -> Check:
    """Whether limits count by the clients' addresses, or by that of a proxy."""
    what, seen = "clients' addresses", proxy_watch.read()
    todo = "Set TRUSTED_PROXIES to the address or network of the proxy, and have it set X-Forwarded-For."
    if seen.requests < ENOUGH_REQUESTS or not settings().public_url.startswith("https://"):
        return Check(what, True, "too few requests to tell" if seen.requests else "no requests yet")
    if seen.is_behind_stranger:
        said = f"{seen.disbelieved} of {seen.requests} requests brought X-Forwarded-For from no trusted proxy"
        return Check(what, False, said, todo)
    if seen.is_one_private_address:
        return Check(what, False, f"all of {seen.requests} requests came from one private address", todo)
    return Check(what, True, f"of {counted(seen.requests, 'request')}")


def _migrations() -> Check:
    if at_head():
        return Check("migrations", True, "up to date")
    return Check("migrations", False, "behind this version", "Run `patina migrate` before the processes start.")


def _clock() -> Check:
    with transaction() as session:
        apart = abs((now(session) - datetime.now(UTC)).total_seconds())
    todo = "Set both machines' clocks by NTP: leases, tokens and what is overdue go by them."
    return Check("clock", apart < CLOCK_SECONDS, f"{apart:.1f} s apart from PostgreSQL's", todo)


def _contents() -> list[Check]:
    with transaction() as session:
        heartbeats = chores.heartbeat_ages(session)
        known = accounts.accounts(session)
    checks = [_process(process, heartbeats) for process in PROCESSES]
    checks.append(_guarded("failed events", _unclaimed_events))
    for account in known:
        checks += _account(account)
    return checks


def _process(process: str, heartbeats: Mapping[str, float]) -> Check:
    age = heartbeats.get(process)
    said = "no heartbeat yet" if age is None else f"last heartbeat {age:.0f} s ago"
    return Check(f"{process} process", not health.is_process_down(process, heartbeats), said, PROCESS_HINTS[process])


def _unclaimed_events() -> Check:
    """Failed events that belong to no account; those of an account are told with its data."""
    with transaction() as session:
        count = inbox.quarantined_count(session, inbox.NOBODY)
    todo = "See why with `patina inbox list --installation`; then dismiss them."
    said = "none" if not count else f"{counted(count, 'failed event')} of no account"
    return Check("failed events", not count, said, todo)


def _account(account: AccountSummary) -> list[Check]:
    with transaction() as session:
        connections = accounts.connections(session, account.id)
        organisations = {organisation.id: organisation for organisation in accounts.organisations(session, account.id)}
    checks = []
    if not any(connection.source_id == health.COPPER for connection in connections):
        checks.append(Check(f"{account.name}: Copper", False, "not connected", "Run `patina connect`."))
    if not organisations:
        todo = "Connect Xero on the settings page, or with `patina connect`."
        checks.append(Check(f"{account.name}: Xero", False, "no organisation is connected", todo))
    for connection in connections:
        organisation, what = organisations.get(connection.source_id), f"{account.name}: {connection.name}"
        checks.append(_organisation(what, organisation) if organisation else _copper(what, account.id))
    return checks + _other_findings(account)


def _other_findings(account: AccountSummary) -> list[Check]:
    """Whether all of it is imported, fresh and applied, as `patina status` tells it."""
    left = [finding for finding in overview.of(account).findings if finding.code not in CHECKED_ELSEWHERE]
    if not left:
        return [Check(f"{account.name}: data", True, "imported and up to date")]
    checks = []
    for finding in left:
        todo = hint(finding)
        checks.append(Check(f"{account.name}: data", False, problem(finding), todo[:1].upper() + todo[1:]))
    return checks


def _asked(what: str, look: Callable[[], str | None]) -> Check:
    """A check that asks a vendor; `look` answers None when all is well, or what is not."""
    try:
        wrong = look()
    except (VendorError, LookupError) as error:
        wrong = str(error)
    except SettingsError as error:
        return _settings_failed(error, what)
    except SealBrokenError as error:
        return Check(what, False, str(error), "Set ENCRYPTION_KEYS to the keys that this database was written with.")
    return Check(what, wrong is None, wrong or "reachable", RECONNECT)


def _copper(what: str, account_id: int) -> Check:
    return _asked(what, partial(_subscribed, account_id))


def _organisation(what: str, organisation: Organisation) -> Check:
    """Whether Xero still covers an organisation, and opens all that is needed of it."""
    covered = _asked(what, partial(_covered, organisation))
    if not covered.well:
        return covered
    missing: list[str] = []

    def lacks() -> str | None:
        missing.extend(
            scopes.permission(endpoint) for endpoint in scopes.NEEDED if not _is_open(organisation, endpoint)
        )
        return f"the permission {' and '.join(missing)} is missing" if missing else None

    check = _asked(what, lacks)
    return replace(check, todo=f"Reconnect Xero and allow {' and '.join(missing)}.") if missing else check


def _is_open(organisation: Organisation, endpoint: str) -> bool:
    """Whether an endpoint answers, asked for as little as it gives."""
    try:
        xero.XeroClient(organisation, Purpose.PERSON).probe(endpoint)
    except EndpointRefusedError:
        return False
    return True


def _covered(organisation: Organisation) -> str | None:
    authorised = xero.connections(oauth.fresh(organisation.account_id, organisation.grant_id).token)
    tenants = {one.tenant_id for one in authorised}
    return None if organisation.tenant_id in tenants else "Xero's authorisation doesn't cover it any more"


def _subscribed(account_id: int) -> str | None:
    with transaction() as session:
        held = accounts.copper_access(session, account_id)
    mine = subscriptions.at(connected(account_id, Purpose.PERSON), held.webhook_token)
    whole = len(mine) == subscriptions.WANTED
    return None if whole else f"{len(mine)} of {subscriptions.WANTED} webhooks are registered"
