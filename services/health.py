"""Account health: whether an account is connected, imported and up to date, with nothing quarantined.

Status, doctor and the pages share this definition; each words the findings itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from runtime.settings import settings
from store.accounts.connection_status import ConnectionStatus
from store.accounts.refused_endpoints import Refusal
from store.accounts.xero_organisations import Organisation
from store.db.enums import RunState
from store.sync.runs import Run
from worker.jobs import heartbeat
from worker.vendors.copper.client import FIELD_ENDPOINTS
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import scopes

COPPER = 0
# A source that missed more catch-ups than this is out of date.
MAX_MISSED_CATCH_UPS = 4
MIN_STALE_SECONDS = 60.0
# Endpoints that a Copper plan or role may exclude. Everything else works without them.
OPTIONAL_ENDPOINTS = ("leads", "users/search", "webhooks/lead")


class FindingCode(StrEnum):
    """Problems that an account can have."""

    COPPER_NOT_CONNECTED = "copper_not_connected"
    XERO_NOT_CONNECTED = "xero_not_connected"
    COPPER_KEY_REJECTED = "copper_key_rejected"
    XERO_DISCONNECTED = "xero_disconnected"
    NOT_IMPORTED = "not_imported"
    OUT_OF_DATE = "out_of_date"
    RUN_FAILED = "run_failed"
    EVENTS_QUARANTINED = "events_quarantined"
    PERMISSION_MISSING = "permission_missing"
    ENDPOINT_REFUSED = "endpoint_refused"
    FIELDS_NOT_WRITTEN = "fields_not_written"
    PROCESS_DOWN = "process_down"


@dataclass(frozen=True)
class Finding:
    """One problem of an account.

    `organisation_id` is that of the connection (0: Copper); None if the problem is not a connection's. `subject` is the
    connection's name, or the process that is down. `detail` is the error of a failed run (of kind `run_kind`), the
    missing scope, the refused endpoint or why fields are not written; `resource` is what is not synced because of that.
    `count` is the number of quarantined events; `since` is when the source was last synced (None: never).
    """

    code: FindingCode
    organisation_id: int | None = None
    subject: str = ""
    run_kind: RunKind | None = None
    detail: str = ""
    resource: str = ""
    count: int = 0
    since: datetime | None = None


@dataclass(frozen=True)
class AccountSnapshot:
    """The data that an account's findings are derived from; `now` is the database's clock."""

    now: datetime
    connections: Sequence[ConnectionStatus]
    runs: Sequence[Run]
    last_success: Mapping[int, datetime]
    quarantined_events: int
    synced_at: datetime | None
    heartbeats: Mapping[str, float]
    organisations: Sequence[Organisation] = ()
    refusals: Sequence[Refusal] = ()
    fields_error: str | None = None


def check_account(snapshot: AccountSnapshot) -> tuple[Finding, ...]:
    """Return all problems of an account, the most urgent first."""
    findings = [*_check_connections(snapshot), *_check_scopes(snapshot), *_check_refusals(snapshot)]
    findings += [*_check_runs(snapshot), *_check_imports(snapshot), *_check_processes(snapshot.heartbeats)]
    findings += _check_freshness(snapshot)
    if snapshot.fields_error:
        findings.append(Finding(FindingCode.FIELDS_NOT_WRITTEN, detail=snapshot.fields_error))
    if snapshot.quarantined_events:
        findings.append(Finding(FindingCode.EVENTS_QUARANTINED, count=snapshot.quarantined_events))
    if not findings and snapshot.synced_at is not None and _is_stale(snapshot.synced_at, snapshot.now):
        findings.append(Finding(FindingCode.OUT_OF_DATE, since=snapshot.synced_at))
    return tuple(findings)


def is_process_down(process: str, heartbeats: Mapping[str, float]) -> bool:
    """Whether a process has no recent heartbeat."""
    age = heartbeats.get(process)
    return age is None or age > heartbeat.max_age(process, settings().sweep_interval_seconds)


def _check_connections(snapshot: AccountSnapshot) -> Iterator[Finding]:
    organisation_ids = {connection.organisation_id for connection in snapshot.connections}
    if COPPER not in organisation_ids:
        yield Finding(FindingCode.COPPER_NOT_CONNECTED, COPPER, "Copper")
    if not organisation_ids - {COPPER}:
        yield Finding(FindingCode.XERO_NOT_CONNECTED)
    for connection in snapshot.connections:
        if connection.needs_reauth:
            code = FindingCode.XERO_DISCONNECTED if connection.organisation_id else FindingCode.COPPER_KEY_REJECTED
            yield Finding(code, connection.organisation_id, connection.name)


def missing_scopes(organisation: Organisation) -> tuple[str, ...]:
    """Return the scopes that an organisation's connection lacks."""
    return tuple(_refused_endpoints(organisation))


def _refused_endpoints(organisation: Organisation) -> dict[str, list[str]]:
    """Return the endpoints that the account needs and Xero refuses, by the scope that they lack."""
    endpoints_by_scope: dict[str, list[str]] = {}
    for endpoint in scopes.needed_endpoints(organisation.shown_credits):
        if endpoint in organisation.refused:
            endpoints_by_scope.setdefault(scopes.required_scope(endpoint), []).append(endpoint)
    return endpoints_by_scope


def optional_findings(refusals: Sequence[Refusal]) -> tuple[Finding, ...]:
    """Return findings about optional endpoints, which need no action."""
    return tuple(_endpoint_refused(refusal) for refusal in refusals if refusal.endpoint in OPTIONAL_ENDPOINTS)


def _check_scopes(snapshot: AccountSnapshot) -> Iterator[Finding]:
    names = {connection.organisation_id: connection.name for connection in _connected(snapshot)}
    for organisation in snapshot.organisations:
        for scope, endpoints in _refused_endpoints(organisation).items():
            if organisation.id in names:
                yield Finding(
                    FindingCode.PERMISSION_MISSING,
                    organisation.id,
                    names[organisation.id],
                    detail=scope,
                    resource=" and ".join(scopes.ENDPOINT_LABELS[endpoint] for endpoint in endpoints),
                )


def _check_refusals(snapshot: AccountSnapshot) -> Iterator[Finding]:
    for refusal in snapshot.refusals:
        # A refusal of custom fields is reported with the fields that are not written.
        if refusal.endpoint not in OPTIONAL_ENDPOINTS and not refusal.endpoint.startswith(FIELD_ENDPOINTS):
            yield _endpoint_refused(refusal)


def _endpoint_refused(refusal: Refusal) -> Finding:
    return Finding(FindingCode.ENDPOINT_REFUSED, COPPER, "Copper", detail=refusal.endpoint)


def _connected(snapshot: AccountSnapshot) -> list[ConnectionStatus]:
    return [connection for connection in snapshot.connections if not connection.needs_reauth]


def _check_runs(snapshot: AccountSnapshot) -> Iterator[Finding]:
    names = {connection.organisation_id: connection.name for connection in _connected(snapshot)}
    for run in snapshot.runs:
        if run.state == RunState.FAILED and run.organisation_id in names:
            detail = f"{run.stage}: {run.error}"
            yield Finding(
                FindingCode.RUN_FAILED,
                run.organisation_id,
                names[run.organisation_id],
                RunKind(run.kind),
                detail=detail,
            )


def _check_imports(snapshot: AccountSnapshot) -> Iterator[Finding]:
    importing = {
        run.organisation_id for run in snapshot.runs if run.state == RunState.RUNNING and RunKind(run.kind).writes
    }
    for connection in _connected(snapshot):
        if connection.synced_through is None and connection.organisation_id not in importing:
            yield Finding(FindingCode.NOT_IMPORTED, connection.organisation_id, connection.name)


def _check_processes(heartbeats: Mapping[str, float]) -> Iterator[Finding]:
    for process in heartbeat.PROCESSES:
        if is_process_down(process, heartbeats):
            yield Finding(FindingCode.PROCESS_DOWN, subject=process)


def _check_freshness(snapshot: AccountSnapshot) -> Iterator[Finding]:
    for connection in _connected(snapshot):
        synced_at = snapshot.last_success.get(connection.organisation_id)
        if connection.synced_through is not None and synced_at is not None and _is_stale(synced_at, snapshot.now):
            yield Finding(FindingCode.OUT_OF_DATE, connection.organisation_id, connection.name, since=synced_at)


def stale_seconds() -> float:
    """Return the seconds after which a source without a successful run is out of date."""
    return max(MAX_MISSED_CATCH_UPS * settings().catch_up_interval_seconds, MIN_STALE_SECONDS)


def _is_stale(synced_at: datetime, now: datetime) -> bool:
    return (now - synced_at).total_seconds() > stale_seconds()
