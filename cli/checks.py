"""The checks of `patina doctor`. They change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from cli.findings import describe_problem, get_hint
from runtime import redis_client
from runtime.embedded import EmbeddedServiceError
from runtime.numbers import count_noun
from runtime.settings import SettingsError, settings
from services import account_status, health, proxy_watch
from services.health import FindingCode
from store.accounts import accounts, connection_status, copper_credentials, xero_organisations
from store.accounts.accounts import AccountSummary
from store.accounts.xero_organisations import Organisation
from store.db import roles
from store.db.crypto import DecryptionError
from store.db.database import (
    UNAVAILABLE_ERRORS,
    database_now,
    describe_failure,
    server_version,
    transaction,
)
from store.db.enums import INSTALLATION
from store.db.read_replica import replica_position
from store.db.schema_version import is_at_head
from store.ingest import inbox
from store.sync import heartbeats
from worker.jobs.heartbeat import PROCESSES
from worker.vendors.copper import subscriptions
from worker.vendors.copper.client import client_for_account
from worker.vendors.errors import EndpointRefusedError, VendorError
from worker.vendors.rate_limit.budget import Priority
from worker.vendors.xero import client as xero
from worker.vendors.xero import oauth, scopes

MAX_CLOCK_SKEW_SECONDS = 5.0
MIN_POSTGRES = 15
MIN_REQUESTS = 50
REQUIRED_SETTINGS = ("xero_client_id", "xero_client_secret", "xero_webhook_keys")
RECONNECT_HINT = "Reconnect on the settings page, or with `patina connect`."
PROCESS_HINTS = {
    "web": "Start `patina web`: Copper doesn't resend what it couldn't deliver.",
    "worker": "Start `patina worker`: events wait until then.",
    "scheduler": "Start `patina scheduler`: nothing is caught up or reconciled until then.",
}
# Findings that the checks of each connection and process already report.
CHECKED_SEPARATELY = {
    FindingCode.COPPER_NOT_CONNECTED,
    FindingCode.XERO_NOT_CONNECTED,
    FindingCode.COPPER_KEY_REJECTED,
    FindingCode.XERO_DISCONNECTED,
    FindingCode.PERMISSION_MISSING,
    FindingCode.PROCESS_DOWN,
}


@dataclass(frozen=True)
class CheckResult:
    """The result of one check; `hint` suggests a fix if it failed."""

    name: str
    ok: bool
    detail: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """The result for JSON, without `hint` if there is nothing to fix."""
        fields: dict[str, Any] = {"name": self.name, "ok": self.ok, "detail": self.detail}
        return fields if self.ok or not self.hint else {**fields, "hint": self.hint}


def run_checks() -> list[CheckResult]:
    """Run all checks; those that depend on a failed one are left out."""
    try:
        settings()
    except SettingsError as error:
        return [_settings_failure(error)]
    results = [_run("settings", _check_settings), _run("PUBLIC_URL", _check_public_url)]
    database = _run("PostgreSQL", _check_database)
    results += [database, _run("Redis", _check_redis)]
    if settings().read_database_url:
        results.append(_run("read replica", _check_replica))
    if not database.ok:
        return results
    schema = _run("migrations", _check_migrations)
    results += [schema, _run("database roles", _check_roles), _run("clock", _check_clock)]
    results.append(_run("client addresses", check_client_addresses))
    return results + _check_contents() if schema.ok else results


def _run(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """Run a check; one that raises has failed."""
    try:
        return check()
    except SettingsError as error:
        return _settings_failure(error, name)
    except EmbeddedServiceError as error:
        return CheckResult(name, False, str(error))
    except Exception as error:
        return CheckResult(name, False, describe_failure(error) or f"the check failed ({type(error).__name__})")


def _settings_failure(error: SettingsError, name: str = "settings") -> CheckResult:
    return CheckResult(name, False, str(error).replace("\n", " "), "Set them in the environment of every process.")


def _check_settings() -> CheckResult:
    settings().require(*REQUIRED_SETTINGS)
    missing_endpoints = scopes.missing_endpoints(settings().xero_scopes.split())
    missing = " and ".join(scopes.required_scope(endpoint) for endpoint in missing_endpoints)
    if missing:
        return CheckResult(
            "settings", False, f"XERO_SCOPES lacks {missing}", f"Add {missing} to XERO_SCOPES, and reconnect Xero."
        )
    return CheckResult("settings", True, "all required settings are set")


def _check_public_url() -> CheckResult:
    url = settings().public_url
    if url.startswith("https://"):
        return CheckResult("PUBLIC_URL", True, url)
    if settings().uses_loopback_xero:
        return CheckResult("PUBLIC_URL", True, f"{url}, with the sandbox")
    hint = "Serve over TLS and set PUBLIC_URL to the https URL: both vendors only deliver to https."
    return CheckResult("PUBLIC_URL", False, f"{url} is not https", hint)


def _check_database() -> CheckResult:
    origin = "DATABASE_URL" if settings().database_url else "embedded"
    try:
        with transaction() as session:
            version = server_version(session)
    except UNAVAILABLE_ERRORS as error:
        hint = "Check that it runs, and that DATABASE_URL is right."
        return CheckResult("PostgreSQL", False, describe_failure(error) or type(error).__name__, hint)
    hint = f"Upgrade PostgreSQL to {MIN_POSTGRES} or newer."
    is_supported = int(version.partition(".")[0]) >= MIN_POSTGRES
    return CheckResult("PostgreSQL", is_supported, f"reachable ({origin}), PostgreSQL {version}", hint)


def _check_replica() -> CheckResult:
    hint = "Check that the standby runs and follows the primary, and that READ_DATABASE_URL is right."
    try:
        position = replica_position()
    except UNAVAILABLE_ERRORS as error:
        return CheckResult("read replica", False, describe_failure(error, "READ_DATABASE_URL") or "not reached", hint)
    if not position.is_standby:
        return CheckResult("read replica", True, "reachable, but no standby: reads use it all the same")
    if not position.is_receiving:
        return CheckResult("read replica", False, "reachable, but receives no changes from the primary", hint)
    return CheckResult("read replica", True, f"reachable, {position.bytes_behind} bytes of the write-ahead log behind")


def _check_redis() -> CheckResult:
    if not redis_client.is_available():
        hint = "Check that it runs, and that REDIS_URL is right. Until then events are stored, but not applied."
        return CheckResult("Redis", False, "not reachable", hint)
    server = redis_client.server_info()
    detail = f"reachable, {server.name} {server.version}"
    if server.evicts:
        hint = "Set its maxmemory-policy to noeviction: budgets and messages must not be dropped."
        return CheckResult("Redis", False, f"{detail}, which drops keys when its memory is full", hint)
    hint = "Upgrade to Redis or Valkey 7.2 or newer: older versions are no longer maintained."
    return CheckResult("Redis", server.is_maintained, detail, hint)


def _check_roles() -> CheckResult:
    """Whether PostgreSQL itself separates accounts, and the databases of one cluster."""
    with transaction() as session:
        weaknesses = roles.find_weaknesses(session)
    detail = "; ".join(weakness.description for weakness in weaknesses) or "only this database's own roles have rights"
    return CheckResult("database roles", not weaknesses, detail, " ".join(weakness.remedy for weakness in weaknesses))


def check_client_addresses() -> CheckResult:
    """Whether rate limits see the clients' addresses, not that of a proxy."""
    name, stats = "client addresses", proxy_watch.read_today()
    hint = "Set TRUSTED_PROXIES to the address or network of the proxy, and have it set X-Forwarded-For."
    if stats.requests < MIN_REQUESTS or not settings().public_url.startswith("https://"):
        return CheckResult(name, True, "too few requests to tell" if stats.requests else "no requests yet")
    if stats.is_behind_untrusted_proxy:
        detail = f"{stats.untrusted} of {stats.requests} requests had X-Forwarded-For from an untrusted proxy"
        return CheckResult(name, False, detail, hint)
    if stats.has_single_private_origin:
        return CheckResult(name, False, f"all {stats.requests} requests came from one private address", hint)
    return CheckResult(name, True, f"of {count_noun(stats.requests, 'request')}")


def _check_migrations() -> CheckResult:
    if is_at_head():
        return CheckResult("migrations", True, "up to date")
    hint = "Run `patina migrate` before the processes start."
    return CheckResult("migrations", False, "the schema is older than this version", hint)


def _check_clock() -> CheckResult:
    with transaction() as session:
        skew = abs((database_now(session) - datetime.now(UTC)).total_seconds())
    hint = "Synchronise both machines' clocks with NTP: leases, tokens and due dates depend on them."
    return CheckResult("clock", skew < MAX_CLOCK_SKEW_SECONDS, f"{skew:.1f} s apart from PostgreSQL's", hint)


def _check_contents() -> list[CheckResult]:
    with transaction() as session:
        heartbeat_ages = heartbeats.heartbeat_ages(session)
        known_accounts = accounts.list_accounts(session)
    results = [_check_process(process, heartbeat_ages) for process in PROCESSES]
    results.append(_run("failed events", _check_unassigned_events))
    for account in known_accounts:
        results += _check_account(account)
    return results


def _check_process(process: str, heartbeat_ages: Mapping[str, float]) -> CheckResult:
    age = heartbeat_ages.get(process)
    detail = "no heartbeat yet" if age is None else f"last heartbeat {age:.0f} s ago"
    is_up = not health.is_process_down(process, heartbeat_ages)
    return CheckResult(f"{process} process", is_up, detail, PROCESS_HINTS[process])


def _check_unassigned_events() -> CheckResult:
    """Failed events of no account; those of an account are part of its data check."""
    with transaction() as session:
        count = inbox.quarantined_count(session, INSTALLATION)
    hint = "See why with `patina inbox list --installation`; then dismiss them."
    detail = "none" if not count else f"{count_noun(count, 'failed event')} of no account"
    return CheckResult("failed events", not count, detail, hint)


def _check_account(account: AccountSummary) -> list[CheckResult]:
    with transaction() as session:
        connections = connection_status.list_statuses(session, account.id)
        organisations = {
            organisation.id: organisation for organisation in xero_organisations.list_connected(session, account.id)
        }
    results = []
    if not any(connection.organisation_id == health.COPPER for connection in connections):
        results.append(CheckResult(f"{account.name}: Copper", False, "not connected", "Run `patina connect`."))
    if not organisations:
        hint = "Connect Xero on the settings page, or with `patina connect`."
        results.append(CheckResult(f"{account.name}: Xero", False, "no organisation is connected", hint))
    for connection in connections:
        organisation, name = organisations.get(connection.organisation_id), f"{account.name}: {connection.name}"
        results.append(_check_organisation(name, organisation) if organisation else _check_copper(name, account.id))
    return results + _check_data(account)


def _check_data(account: AccountSummary) -> list[CheckResult]:
    """Whether everything is imported, up to date and applied, by the findings of `patina status`."""
    name = f"{account.name}: data"
    all_findings = account_status.for_account(account).findings
    findings = [finding for finding in all_findings if finding.code not in CHECKED_SEPARATELY]
    if not findings:
        return [CheckResult(name, True, "imported and up to date")]
    results = []
    for finding in findings:
        hint = get_hint(finding)
        results.append(CheckResult(name, False, describe_problem(finding), hint[:1].upper() + hint[1:]))
    return results


def _check_vendor(name: str, find_problem: Callable[[], str | None]) -> CheckResult:
    """A check that calls a vendor; `find_problem` returns None if there is none."""
    try:
        problem = find_problem()
    except (VendorError, LookupError) as error:
        problem = str(error)
    except SettingsError as error:
        return _settings_failure(error, name)
    except DecryptionError as error:
        hint = "Set ENCRYPTION_KEYS to the keys that this database was written with."
        return CheckResult(name, False, str(error), hint)
    return CheckResult(name, problem is None, problem or "reachable", RECONNECT_HINT)


def _check_copper(name: str, account_id: int) -> CheckResult:
    return _check_vendor(name, partial(_find_missing_webhooks, account_id))


def _check_organisation(name: str, organisation: Organisation) -> CheckResult:
    """Whether Xero still authorises an organisation, with all permissions that are needed."""
    result = _check_vendor(name, partial(_find_authorisation_problem, organisation))
    if not result.ok:
        return result
    missing: list[str] = []

    def find_missing_permissions() -> str | None:
        missing.extend(
            dict.fromkeys(
                scopes.required_scope(endpoint)
                for endpoint in scopes.needed_endpoints(organisation.shown_credits)
                if not _is_endpoint_allowed(organisation, endpoint)
            )
        )
        return f"the permission {' and '.join(missing)} is missing" if missing else None

    result = _check_vendor(name, find_missing_permissions)
    return replace(result, hint=f"Reconnect Xero and allow {' and '.join(missing)}.") if missing else result


def _is_endpoint_allowed(organisation: Organisation, endpoint: str) -> bool:
    """Whether an endpoint responds to the smallest possible request."""
    try:
        xero.XeroClient(organisation, Priority.INTERACTIVE).probe(endpoint)
    except EndpointRefusedError:
        return False
    return True


def _find_authorisation_problem(organisation: Organisation) -> str | None:
    grant = oauth.get_valid_grant(organisation.account_id, organisation.grant_id)
    tenant_ids = {connection.tenant_id for connection in xero.list_connections(grant.token)}
    return None if organisation.tenant_id in tenant_ids else "Xero's authorisation doesn't cover it any more"


def _find_missing_webhooks(account_id: int) -> str | None:
    with transaction() as session:
        credentials = copper_credentials.get(session, account_id)
    client = client_for_account(account_id, Priority.INTERACTIVE)
    count = len(subscriptions.list_for_token(client, credentials.webhook_token))
    return (
        None
        if count == subscriptions.EXPECTED_COUNT
        else f"{count} of {subscriptions.EXPECTED_COUNT} webhooks are registered"
    )
