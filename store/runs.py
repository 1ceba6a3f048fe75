"""Sync runs: long work as a chain of short jobs, each committing its page and its cursor together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy import text
from sqlmodel import Session

from store.database import touched


@dataclass(frozen=True)
class Run:
    """One run of one source of an account: an organisation's, or (organisation 0) Copper's."""

    account_id: int
    id: int
    organisation_id: int
    kind: str
    state: str
    stage: str
    cursor: dict[str, Any]
    counts: dict[str, Any]
    drift: dict[str, dict[str, int]] | None
    started_at: datetime
    finished_at: datetime | None
    not_before: datetime
    attempts: int
    error: str | None


class StepLostError(Exception):
    """Another worker took over the run: whoever sees this must roll back."""


COLUMNS = """account_id, id, organisation_id, kind, state, stage, cursor, counts, drift, started_at, finished_at,
    not_before, attempts, error"""
START = text(f"""
    INSERT INTO sync_run (account_id, organisation_id, kind, stage)
    VALUES (:account, :organisation, :kind, :stage)
    ON CONFLICT (account_id, organisation_id, kind) WHERE state = 'running'
    DO UPDATE SET not_before = LEAST(sync_run.not_before, now())
    RETURNING {COLUMNS}
""")
START_ANOTHER = text(f"""
    INSERT INTO sync_run (account_id, organisation_id, kind, stage)
    VALUES (:account, :organisation, :kind, :stage)
    ON CONFLICT (account_id, organisation_id, kind) WHERE state = 'running' DO NOTHING
    RETURNING {COLUMNS}
""")
RUNNING = text("""
    SELECT kind FROM sync_run
    WHERE account_id = :account AND organisation_id = :organisation AND state = 'running'
""")
TAKE = text(f"""
    UPDATE sync_run SET lease_id = :lease, leased_until = now() + make_interval(secs => :seconds),
                        attempts = attempts + 1
    WHERE account_id = :account AND id = :id AND state = 'running' AND not_before <= now()
      AND (lease_id IS NULL OR leased_until < now())
    RETURNING {COLUMNS}
""")
# A page that is written ends the attempts that it took.
ADVANCE = text("""
    UPDATE sync_run SET stage = :stage, cursor = CAST(:cursor AS jsonb), counts = CAST(:counts AS jsonb),
                        drift = CAST(:drift AS jsonb), state = :state, attempts = 0,
                        not_before = now() + make_interval(secs => :delay),
                        error = NULL, lease_id = NULL, leased_until = NULL,
                        finished_at = CASE WHEN :state = 'running' THEN NULL ELSE now() END
    WHERE account_id = :account AND id = :id AND lease_id = :lease AND state = 'running'
""")
PUT_BACK = text("""
    UPDATE sync_run SET lease_id = NULL, leased_until = NULL, error = :error,
                        attempts = attempts - CASE WHEN :free THEN 1 ELSE 0 END,
                        not_before = now() + make_interval(secs => :delay),
                        state = CASE WHEN NOT :free AND attempts >= :most THEN 'failed' ELSE state END,
                        finished_at = CASE WHEN NOT :free AND attempts >= :most THEN now() END
    WHERE account_id = :account AND id = :id AND lease_id = :lease AND state = 'running'
    RETURNING state
""")
WAITING = text("""
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
PAUSE = text("""
    UPDATE sync_run SET state = 'paused', error = :error, lease_id = NULL, leased_until = NULL, attempts = 0
    WHERE account_id = :account AND id = :id AND lease_id = :lease AND state = 'running'
    RETURNING state
""")
LAST_SUCCESS = text("""
    SELECT organisation_id, max(finished_at) FROM sync_run
    WHERE account_id = :account AND state = 'done' AND kind <> 'dry_run' GROUP BY organisation_id
""")
# One look into the index for each source, however many runs are kept.
LATEST_DRIFT = text("""
    SELECT source.account_id, r.drift
    FROM (SELECT id AS account_id, CAST(0 AS bigint) AS organisation_id FROM account WHERE closed_at IS NULL
          UNION ALL SELECT account_id, id FROM xero_organisation WHERE status <> 'dropped') source
    CROSS JOIN LATERAL (
        SELECT drift FROM sync_run
        WHERE account_id = source.account_id AND organisation_id = source.organisation_id
          AND kind = 'reconciliation' AND state = 'done'
        ORDER BY id DESC LIMIT 1) r
""")
FORGET = text("""
    DELETE FROM sync_run WHERE state IN ('done', 'failed') AND finished_at < now() - make_interval(days => :days)
""")
RECENT = text(f"""
    SELECT {COLUMNS} FROM sync_run
    WHERE account_id = :account AND (CAST(:ids AS bigint[]) IS NULL OR id = ANY(:ids))
    ORDER BY id DESC LIMIT 50
""")


def start(session: Session, account_id: int, organisation_id: int, kind: str, stage: str) -> Run:
    """Begin a run, or return the one of that source and kind that is at work already."""
    chosen = {"account": account_id, "organisation": organisation_id, "kind": kind, "stage": stage}
    return Run(*session.execute(START, chosen).one())


def start_another(session: Session, account_id: int, organisation_id: int, kind: str, stage: str) -> Run | None:
    """Begin a run that fetches nothing before now; None when one of that source and kind is at work already."""
    chosen = {"account": account_id, "organisation": organisation_id, "kind": kind, "stage": stage}
    row = session.execute(START_ANOTHER, chosen).one_or_none()
    return Run(*row) if row else None


def running_kinds(session: Session, account_id: int, organisation_id: int) -> set[str]:
    """The kinds of the source's runs that are at work."""
    chosen = {"account": account_id, "organisation": organisation_id}
    return set(session.execute(RUNNING, chosen).scalars())


def take(session: Session, account_id: int, run_id: int, seconds: float) -> tuple[Run, UUID] | None:
    """Hold a run for its next page; None when it is over, waits, or is in another worker's hands."""
    lease = uuid4()
    chosen = {"account": account_id, "id": run_id, "lease": lease, "seconds": seconds}
    row = session.execute(TAKE, chosen).one_or_none()
    return (Run(*row), lease) if row else None


def advance(
    session: Session,
    run: Run,
    lease: UUID,
    *,
    stage: str,
    cursor: dict[str, Any],
    counts: dict[str, Any],
    drift: dict[str, dict[str, int]] | None,
    state: str,
    delay: float = 0,
) -> None:
    """Commit a page's cursor with the page; the next one is due in `delay` seconds.

    Raises `StepLostError` when the lease was lost.
    """
    chosen = {
        "account": run.account_id,
        "id": run.id,
        "lease": lease,
        "stage": stage,
        "cursor": orjson.dumps(cursor).decode(),
        "counts": orjson.dumps(counts).decode(),
        "drift": orjson.dumps(drift).decode() if drift is not None else None,
        "state": state,
        "delay": delay,
    }
    if touched(session, ADVANCE, chosen) != 1:
        raise StepLostError(f"run {run.id} was taken over by another worker")


def put_back(session: Session, run: Run, lease: UUID, *, error: str, delay: float, most: int, free: bool) -> str | None:
    """Let go of a run for `delay` seconds; after `most` tries of one page it is `failed`."""
    chosen = {
        "account": run.account_id,
        "id": run.id,
        "lease": lease,
        "error": error[:500],
        "delay": delay,
        "most": most,
        "free": free,
    }
    state: str | None = session.execute(PUT_BACK, chosen).scalar_one_or_none()
    return state


def latest(session: Session, account_id: int) -> list[Run]:
    """The latest run of each kind and source of the account."""
    return [Run(*row) for row in session.execute(LATEST, {"account": account_id})]


def resume(session: Session, account_id: int, organisation_id: int) -> None:
    """Let a source's runs that were put off or paused go on now, where they were."""
    session.execute(RESUME, {"account": account_id, "organisation": organisation_id})
    unpause(session, account_id, organisation_id)


def unpause(session: Session, account_id: int, organisation_id: int) -> None:
    """The same for those that were paused alone."""
    session.execute(UNPAUSE, {"account": account_id, "organisation": organisation_id})


def pause(session: Session, run: Run, lease: UUID, error: str) -> None:
    """End a run for as long as its connection is lost; `resume` takes it up at the page where it was."""
    session.execute(PAUSE, {"account": run.account_id, "id": run.id, "lease": lease, "error": error[:500]})


def last_success(session: Session, account_id: int) -> dict[int, datetime]:
    """When a run that writes last ended well, by organisation (0: Copper)."""
    return {row[0]: row[1] for row in session.execute(LAST_SUCCESS, {"account": account_id})}


def latest_drift(session: Session) -> list[tuple[int, dict[str, dict[str, int]]]]:
    """(account, drift) of the latest completed reconciliation of every source."""
    return [(row[0], row[1] or {}) for row in session.execute(LATEST_DRIFT)]


def forget(session: Session, days: int) -> int:
    """Delete runs that ended more than `days` ago; returns how many went."""
    return touched(session, FORGET, {"days": days})


def waiting(session: Session) -> list[tuple[int, int]]:
    """(account, run) of every run whose next page nobody holds."""
    return [(row[0], row[1]) for row in session.execute(WAITING)]


def recent(session: Session, account_id: int, ids: Sequence[int] | None = None) -> list[Run]:
    """The account's latest runs, newest first, or those of `ids`."""
    chosen = {"account": account_id, "ids": list(ids) if ids is not None else None}
    return [Run(*row) for row in session.execute(RECENT, chosen)]
