"""Whether an account is well: connected, imported, fresh, and nothing put aside. One definition for every reader.

Status, doctor and the pages each make their own words of these findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from runtime.settings import settings
from store.accounts import Connection, Organisation
from store.refusals import Refusal
from store.runs import Run
from worker import heartbeat
from worker.steps import Kind
from worker.xero import scopes

COPPER = 0
# A source that missed so many catch-ups is out of date.
MAX_MISSED_CATCH_UPS = 4
MIN_STALE_SECONDS = 60.0
# What a plan or a role of Copper's may well leave out: the rest works without it.
OPTIONAL_ENDPOINTS = ("leads", "users/search", "webhooks/lead")


class Code(StrEnum):
    """What can be wrong with an account."""

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
    PROCESS_DOWN = "process_down"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `source_id` names the connection (0: Copper), None where it is no connection's.

    `subject` is the connection's name, or the process that is down; `run_kind` and `detail` are a failed run's.
    `detail` is also the scope that is missing, or the endpoint that Copper refuses, `noun` what is not updated for
    want of it; `count` is how many events are put aside, `since` when the source was last synced (None: never).
    """

    code: Code
    source_id: int | None = None
    subject: str = ""
    run_kind: Kind | None = None
    detail: str = ""
    noun: str = ""
    count: int = 0
    since: datetime | None = None


@dataclass(frozen=True)
class AccountState:
    """What the findings of an account follow from; `now` is the database's clock."""

    now: datetime
    connections: Sequence[Connection]
    runs: Sequence[Run]
    last_success: Mapping[int, datetime]
    quarantined: int
    synced_at: datetime | None
    heartbeats: Mapping[str, float]
    organisations: Sequence[Organisation] = ()
    refusals: Sequence[Refusal] = ()


def examine(state: AccountState) -> tuple[Finding, ...]:
    """Everything that is wrong with an account, the most pressing first."""
    findings = [*_connections(state), *_permissions(state), *_refusals(state)]
    findings += [*_runs(state), *_imports(state), *_processes(state.heartbeats)]
    findings += _freshness(state)
    if state.quarantined:
        findings.append(Finding(Code.EVENTS_QUARANTINED, count=state.quarantined))
    if not findings and state.synced_at is not None and _is_stale(state.synced_at, state.now):
        findings.append(Finding(Code.OUT_OF_DATE, since=state.synced_at))
    return tuple(findings)


def is_process_down(process: str, heartbeats: Mapping[str, float]) -> bool:
    """Whether a kind of process has no heartbeat, or only an old one."""
    age = heartbeats.get(process)
    return age is None or age > heartbeat.max_age(process, settings().sweep_seconds)


def _connections(state: AccountState) -> Iterator[Finding]:
    known = {connection.source_id for connection in state.connections}
    if COPPER not in known:
        yield Finding(Code.COPPER_NOT_CONNECTED, COPPER, "Copper")
    if not known - {COPPER}:
        yield Finding(Code.XERO_NOT_CONNECTED)
    for connection in state.connections:
        if connection.is_lost:
            code = Code.XERO_DISCONNECTED if connection.source_id else Code.COPPER_KEY_REJECTED
            yield Finding(code, connection.source_id, connection.name)


def permissions(organisation: Organisation) -> tuple[str, ...]:
    """The scopes that an organisation's connection lacks."""
    return tuple(scopes.permission(endpoint) for endpoint in organisation.refused if endpoint in scopes.NEEDED)


def notes(refusals: Sequence[Refusal]) -> tuple[Finding, ...]:
    """What an account may well do without: worth knowing, nothing to be done."""
    return tuple(_refused(refusal) for refusal in refusals if refusal.endpoint in OPTIONAL_ENDPOINTS)


def _permissions(state: AccountState) -> Iterator[Finding]:
    names = {connection.source_id: connection.name for connection in _connected(state)}
    for organisation in state.organisations:
        for endpoint in organisation.refused:
            if endpoint in scopes.NEEDED and organisation.id in names:
                yield Finding(
                    Code.PERMISSION_MISSING,
                    organisation.id,
                    names[organisation.id],
                    detail=scopes.permission(endpoint),
                    noun=scopes.NOUNS[endpoint],
                )


def _refusals(state: AccountState) -> Iterator[Finding]:
    for refusal in state.refusals:
        if refusal.endpoint not in OPTIONAL_ENDPOINTS:
            yield _refused(refusal)


def _refused(refusal: Refusal) -> Finding:
    return Finding(Code.ENDPOINT_REFUSED, COPPER, "Copper", detail=refusal.endpoint)


def _connected(state: AccountState) -> list[Connection]:
    return [connection for connection in state.connections if not connection.is_lost]


def _runs(state: AccountState) -> Iterator[Finding]:
    names = {connection.source_id: connection.name for connection in _connected(state)}
    for run in state.runs:
        if run.state == "failed" and run.organisation_id in names:
            detail = f"{run.stage}: {run.error}"
            yield Finding(
                Code.RUN_FAILED, run.organisation_id, names[run.organisation_id], Kind(run.kind), detail=detail
            )


def _imports(state: AccountState) -> Iterator[Finding]:
    importing = {run.organisation_id for run in state.runs if run.state == "running" and Kind(run.kind).writes}
    for connection in _connected(state):
        if connection.seen_to is None and connection.source_id not in importing:
            yield Finding(Code.NOT_IMPORTED, connection.source_id, connection.name)


def _processes(heartbeats: Mapping[str, float]) -> Iterator[Finding]:
    for process in heartbeat.PROCESSES:
        if is_process_down(process, heartbeats):
            yield Finding(Code.PROCESS_DOWN, subject=process)


def _freshness(state: AccountState) -> Iterator[Finding]:
    for connection in _connected(state):
        synced = state.last_success.get(connection.source_id)
        if connection.seen_to is not None and synced is not None and _is_stale(synced, state.now):
            yield Finding(Code.OUT_OF_DATE, connection.source_id, connection.name, since=synced)


def _is_stale(at: datetime, now: datetime) -> bool:
    return (now - at).total_seconds() > max(MAX_MISSED_CATCH_UPS * settings().catch_up_seconds, MIN_STALE_SECONDS)
