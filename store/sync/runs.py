"""Sync runs: long work as a chain of short jobs, each of which commits its page and its cursor together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount
from store.db.enums import RunState

MAX_ERROR_LENGTH = 500
CATCH_UP_DAYS = 1
"""For how long successful catch-ups are kept; the latest of each source is kept like other runs."""


@dataclass(frozen=True)
class Run:
    """One run of one source of an account: of a Xero organisation, or (organisation 0) of Copper."""

    account_id: int
    id: int
    organisation_id: int
    kind: str
    state: RunState
    stage: str
    cursor: dict[str, Any]
    counts: dict[str, Any]
    drift: dict[str, dict[str, int]] | None
    started_at: datetime
    finished_at: datetime | None
    not_before: datetime
    attempts: int
    error: str | None


@dataclass(frozen=True)
class NewRun:
    """A run to start of one source, with its first stage, `delay` seconds from now."""

    account_id: int
    organisation_id: int
    stage: str
    delay: float


@dataclass(frozen=True)
class ScheduledRun:
    """A run whose next page is due in `delay` seconds."""

    account_id: int
    id: int
    delay: float


class RunLeaseLostError(Exception):
    """Another worker took over the run: the caller must roll back."""


COLUMNS = """account_id, id, organisation_id, kind, state, stage, cursor, counts, drift, started_at, finished_at,
    not_before, attempts, error"""
START = text(f"""
    INSERT INTO sync_run (account_id, organisation_id, kind, stage)
    VALUES (:account, :organisation, :kind, :stage)
    ON CONFLICT (account_id, organisation_id, kind) WHERE state = 'running'
    DO UPDATE SET not_before = LEAST(sync_run.not_before, now())
    RETURNING {COLUMNS}
""")
# A run that was scheduled for later and has fetched nothing: started now, it fetches from now on.
NOT_STARTED = (
    """{run}.not_before > now() AND {run}.counts = '{{}}' AND {run}.error IS NULL AND {run}.lease_id IS NULL"""
)
# In the order of the index, so that two schedulers cannot wait for each other.
START_ALL = text("""
    INSERT INTO sync_run (account_id, organisation_id, kind, stage, not_before)
    SELECT account_id, organisation_id, :kind, stage, now() + make_interval(secs => delay)
    FROM unnest(CAST(:accounts AS bigint[]), CAST(:organisations AS bigint[]), CAST(:stages AS text[]),
                CAST(:delays AS double precision[])) AS new(account_id, organisation_id, stage, delay)
    ORDER BY account_id, organisation_id
    ON CONFLICT (account_id, organisation_id, kind) WHERE state = 'running'
    DO UPDATE SET not_before = LEAST(sync_run.not_before, EXCLUDED.not_before)
    RETURNING account_id, id, extract(epoch FROM not_before - now())
""")
START_IF_IDLE = text(f"""
    INSERT INTO sync_run (account_id, organisation_id, kind, stage)
    VALUES (:account, :organisation, :kind, :stage)
    ON CONFLICT (account_id, organisation_id, kind) WHERE state = 'running' DO UPDATE SET not_before = now()
    WHERE {NOT_STARTED.format(run="sync_run")}
    RETURNING {COLUMNS}
""")
RUNNING_KINDS = text(f"""
    SELECT kind FROM sync_run r
    WHERE account_id = :account AND organisation_id = :organisation AND state = 'running'
      AND NOT ({NOT_STARTED.format(run="r")})
""")
LEASE = text(f"""
    UPDATE sync_run SET lease_id = :lease_id, leased_until = now() + make_interval(secs => :seconds),
                        attempts = attempts + 1
    WHERE account_id = :account AND id = :id AND state = 'running' AND not_before <= now()
      AND (lease_id IS NULL OR leased_until < now())
    RETURNING {COLUMNS}
""")
# A committed page resets the attempts.
ADVANCE = text("""
    UPDATE sync_run SET stage = :stage, cursor = CAST(:cursor AS jsonb), counts = CAST(:counts AS jsonb),
                        drift = CAST(:drift AS jsonb), state = :state, attempts = 0,
                        not_before = now() + make_interval(secs => :delay),
                        error = NULL, lease_id = NULL, leased_until = NULL,
                        finished_at = CASE WHEN :state = 'running' THEN NULL ELSE now() END
    WHERE account_id = :account AND id = :id AND lease_id = :lease_id AND state = 'running'
""")
RELEASE = text("""
    UPDATE sync_run SET lease_id = NULL, leased_until = NULL, error = :error,
                        attempts = attempts - CASE WHEN :count_attempt THEN 0 ELSE 1 END,
                        not_before = now() + make_interval(secs => :delay),
                        state = CASE WHEN :count_attempt AND attempts >= :max_attempts THEN 'failed' ELSE state END,
                        finished_at = CASE WHEN :count_attempt AND attempts >= :max_attempts THEN now() END
    WHERE account_id = :account AND id = :id AND lease_id = :lease_id AND state = 'running'
    RETURNING state
""")
# A run whose page is being committed at this moment needs no renewal, and is not waited for.
RENEW_LEASE = text("""
    UPDATE sync_run SET leased_until = now() + make_interval(secs => :seconds)
    WHERE account_id = :account AND id = (
        SELECT id FROM sync_run
        WHERE account_id = :account AND id = :id AND lease_id = :lease_id AND state = 'running' FOR UPDATE SKIP LOCKED)
""")
# Not an attempt: the page may be all right.
RETURN_LEASE = text("""
    UPDATE sync_run SET lease_id = NULL, leased_until = NULL, attempts = attempts - 1
    WHERE account_id = :account AND id = :id AND lease_id = :lease_id AND state = 'running'
""")
PENDING = text("""
    SELECT account_id, id FROM sync_run
    WHERE state = 'running' AND not_before <= now() AND (lease_id IS NULL OR leased_until < now())
""")
LATEST = text(f"""
    SELECT DISTINCT ON (organisation_id, kind) {COLUMNS} FROM sync_run
    WHERE account_id = :account ORDER BY organisation_id, kind, id DESC
""")
RESUME = text("""
    UPDATE sync_run SET not_before = now()
    WHERE account_id = :account AND organisation_id = :organisation AND state = 'running' AND not_before > now()
""")
UNPAUSE = text("""
    UPDATE sync_run p SET state = 'running', error = NULL, not_before = now()
    WHERE account_id = :account AND organisation_id = :organisation AND state = 'paused'
      AND id = (SELECT max(id) FROM sync_run m
                WHERE m.account_id = p.account_id AND m.organisation_id = p.organisation_id AND m.kind = p.kind
                  AND m.state = 'paused')
      AND NOT EXISTS (SELECT FROM sync_run r
                      WHERE r.account_id = p.account_id AND r.organisation_id = p.organisation_id AND r.kind = p.kind
                        AND r.state = 'running')
    RETURNING id
""")
UNPAUSE_ALL = text("""
    UPDATE sync_run p SET state = 'running', error = NULL, not_before = now()
    FROM unnest(CAST(:accounts AS bigint[]), CAST(:organisations AS bigint[])) AS source(account_id, organisation_id)
    WHERE p.account_id = source.account_id AND p.organisation_id = source.organisation_id AND p.state = 'paused'
      AND p.id = (SELECT max(id) FROM sync_run m
                  WHERE m.account_id = p.account_id AND m.organisation_id = p.organisation_id AND m.kind = p.kind
                    AND m.state = 'paused')
      AND NOT EXISTS (SELECT FROM sync_run r
                      WHERE r.account_id = p.account_id AND r.organisation_id = p.organisation_id AND r.kind = p.kind
                        AND r.state = 'running')
""")
PAUSE = text("""
    UPDATE sync_run SET state = 'paused', error = :error, lease_id = NULL, leased_until = NULL, attempts = 0
    WHERE account_id = :account AND id = :id AND lease_id = :lease_id AND state = 'running'
    RETURNING state
""")
LAST_SUCCESS = text("""
    SELECT organisation_id, max(finished_at) FROM sync_run
    WHERE account_id = :account AND state = 'done' AND kind <> 'dry_run' GROUP BY organisation_id
""")
# A partial index has the reconciliations that found drift, so it only reads these, and looks for later ones.
LATEST_DRIFT = text("""
    SELECT r.account_id, r.drift FROM sync_run r JOIN account a ON a.id = r.account_id AND a.closed_at IS NULL
    WHERE r.kind = 'reconciliation' AND r.state = 'done' AND jsonb_path_exists(r.drift, '$.*.* ? (@ > 0)')
      AND NOT EXISTS (SELECT FROM sync_run later
                      WHERE later.account_id = r.account_id AND later.organisation_id = r.organisation_id
                        AND later.kind = 'reconciliation' AND later.state = 'done' AND later.id > r.id)
      AND (r.organisation_id = 0 OR EXISTS (
          SELECT FROM xero_organisation o
          WHERE o.account_id = r.account_id AND o.id = r.organisation_id AND o.status <> 'removed'))
""")
# Each account has a hundred catch-ups a day of each source. The latest says when the source was last synced.
DELETE_EXPIRED = text("""
    DELETE FROM sync_run r
    WHERE state IN ('done', 'failed') AND finished_at < now() - make_interval(days => :days)
       OR kind = 'catch_up' AND state = 'done' AND finished_at < now() - make_interval(days => :catch_up_days)
          AND EXISTS (SELECT FROM sync_run later
                      WHERE later.account_id = r.account_id AND later.organisation_id = r.organisation_id
                        AND later.kind = r.kind AND later.state = 'done' AND later.id > r.id)
""")
RECENT = text(f"""
    SELECT {COLUMNS} FROM sync_run
    WHERE account_id = :account AND (CAST(:ids AS bigint[]) IS NULL OR id = ANY(:ids))
    ORDER BY id DESC LIMIT 50
""")


def _run(row: Row[Any]) -> Run:
    values = dict(row._mapping)
    return Run(**{**values, "state": RunState(values["state"])})


def start(session: Session, account_id: int, organisation_id: int, kind: str, stage: str) -> Run:
    """Start a run, or return the running one of the same source and kind."""
    params = {"account": account_id, "organisation": organisation_id, "kind": kind, "stage": stage}
    return _run(session.execute(START, params).one())


def start_all(session: Session, kind: str, new_runs: Sequence[NewRun]) -> list[ScheduledRun]:
    """Start runs of one kind of many sources, or return the running ones; continue the sources' paused runs."""
    if not new_runs:
        return []
    params = {
        "kind": kind,
        "accounts": [run.account_id for run in new_runs],
        "organisations": [run.organisation_id for run in new_runs],
        "stages": [run.stage for run in new_runs],
        "delays": [run.delay for run in new_runs],
    }
    session.execute(UNPAUSE_ALL, params)
    return [ScheduledRun(row[0], row[1], max(float(row[2]), 0.0)) for row in session.execute(START_ALL, params)]


def start_if_idle(session: Session, account_id: int, organisation_id: int, kind: str, stage: str) -> Run | None:
    """Start a run, which fetches only from now on; None if one of the same source and kind has begun."""
    params = {"account": account_id, "organisation": organisation_id, "kind": kind, "stage": stage}
    row = session.execute(START_IF_IDLE, params).one_or_none()
    return _run(row) if row else None


def running_kinds(session: Session, account_id: int, organisation_id: int) -> set[str]:
    """The kinds of the source's runs that have begun."""
    params = {"account": account_id, "organisation": organisation_id}
    return set(session.execute(RUNNING_KINDS, params).scalars())


def lease(session: Session, account_id: int, run_id: int, seconds: float) -> tuple[Run, UUID] | None:
    """Lease a run for its next page; None if it has ended, is not due, or is leased by another worker."""
    lease_id = uuid4()
    params = {"account": account_id, "id": run_id, "lease_id": lease_id, "seconds": seconds}
    row = session.execute(LEASE, params).one_or_none()
    return (_run(row), lease_id) if row else None


def renew_lease(session: Session, run: Run, lease_id: UUID, seconds: float) -> bool:
    """Keep a lease for `seconds` from now; False if it was lost."""
    params = {"account": run.account_id, "id": run.id, "lease_id": lease_id, "seconds": seconds}
    return execute_rowcount(session, RENEW_LEASE, params) > 0


def return_lease(session: Session, run: Run, lease_id: UUID) -> None:
    """Return a lease unchanged, for the next worker."""
    session.execute(RETURN_LEASE, {"account": run.account_id, "id": run.id, "lease_id": lease_id})


def advance(
    session: Session,
    run: Run,
    lease_id: UUID,
    *,
    stage: str,
    cursor: dict[str, Any],
    counts: dict[str, Any],
    drift: dict[str, dict[str, int]] | None,
    state: RunState,
    delay: float = 0,
) -> None:
    """Commit a page's cursor with the page; the next page is due in `delay` seconds.

    Raises `RunLeaseLostError` if the lease was lost.
    """
    params = {
        "account": run.account_id,
        "id": run.id,
        "lease_id": lease_id,
        "stage": stage,
        "cursor": orjson.dumps(cursor).decode(),
        "counts": orjson.dumps(counts).decode(),
        "drift": orjson.dumps(drift).decode() if drift is not None else None,
        "state": state.value,
        "delay": delay,
    }
    if execute_rowcount(session, ADVANCE, params) != 1:
        raise RunLeaseLostError(f"run {run.id} was taken over by another worker")


def release(
    session: Session,
    run: Run,
    lease_id: UUID,
    *,
    error: str,
    delay: float,
    max_attempts: int,
    count_attempt: bool,
) -> RunState | None:
    """Release a run for `delay` seconds; after `max_attempts` attempts at one page it fails.

    Returns the new state, None if the lease was lost.
    """
    params = {
        "account": run.account_id,
        "id": run.id,
        "lease_id": lease_id,
        "error": error[:MAX_ERROR_LENGTH],
        "delay": delay,
        "max_attempts": max_attempts,
        "count_attempt": count_attempt,
    }
    state = session.execute(RELEASE, params).scalar_one_or_none()
    return RunState(state) if state is not None else None


def latest(session: Session, account_id: int) -> list[Run]:
    """The latest run of each kind and source of the account."""
    return [_run(row) for row in session.execute(LATEST, {"account": account_id})]


def resume(session: Session, account_id: int, organisation_id: int) -> None:
    """Let a source's deferred or paused runs continue now, where they stopped."""
    session.execute(RESUME, {"account": account_id, "organisation": organisation_id})
    unpause(session, account_id, organisation_id)


def unpause(session: Session, account_id: int, organisation_id: int) -> None:
    """Let a source's paused runs continue now, where they stopped."""
    session.execute(UNPAUSE, {"account": account_id, "organisation": organisation_id})


def pause(session: Session, run: Run, lease_id: UUID, error: str) -> None:
    """Pause a run while its connection needs a new authorisation; `resume` continues at the same page."""
    params = {"account": run.account_id, "id": run.id, "lease_id": lease_id, "error": error[:MAX_ERROR_LENGTH]}
    session.execute(PAUSE, params)


def last_success(session: Session, account_id: int) -> dict[int, datetime]:
    """When a run that writes to the mirror last succeeded, by organisation (0: Copper)."""
    return {row[0]: row[1] for row in session.execute(LAST_SUCCESS, {"account": account_id})}


def latest_drift(session: Session) -> list[tuple[int, dict[str, dict[str, int]]]]:
    """The (account, drift) of the latest completed reconciliation of every source where it found any."""
    return [(row[0], row[1] or {}) for row in session.execute(LATEST_DRIFT)]


def delete_expired(session: Session, days: int) -> int:
    """Delete runs that ended more than `days` ago, catch-ups after `CATCH_UP_DAYS`; return how many."""
    return execute_rowcount(session, DELETE_EXPIRED, {"days": days, "catch_up_days": CATCH_UP_DAYS})


def list_pending(session: Session) -> list[tuple[int, int]]:
    """The (account, run) of every run whose next page is due and not leased."""
    return [(row[0], row[1]) for row in session.execute(PENDING)]


def recent(session: Session, account_id: int, ids: Sequence[int] | None = None) -> list[Run]:
    """The account's latest runs, or those of `ids`, newest first."""
    params = {"account": account_id, "ids": list(ids) if ids is not None else None}
    return [_run(row) for row in session.execute(RECENT, params)]
