"""Types of the sync engine: run kinds, and the result of fetching one page of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from store.db.database import Session
from store.mirror.drift import DriftCounts
from store.sync.runs import Run
from worker.vendors.rate_limit.budget import Priority

# Stages of the sync engine itself; the others are the connectors'.
PROJECT_STAGE = "project"
VERIFY_STAGE = "verify"


class RunKind(StrEnum):
    """What a run is for."""

    BACKFILL = "backfill"
    CATCH_UP = "catch_up"
    RECONCILIATION = "reconciliation"
    DRY_RUN = "dry_run"

    @property
    def priority(self) -> Priority:
        """Rate-limit priority of the run's calls."""
        return {
            RunKind.BACKFILL: Priority.INTERACTIVE,
            RunKind.DRY_RUN: Priority.INTERACTIVE,
            RunKind.CATCH_UP: Priority.CATCH_UP,
            RunKind.RECONCILIATION: Priority.RECONCILIATION,
        }[self]

    @property
    def counts_drift(self) -> bool:
        """Whether pages are compared with the mirror before they are written."""
        return self in {RunKind.RECONCILIATION, RunKind.DRY_RUN}

    @property
    def writes(self) -> bool:
        """Whether pages are written to the mirror."""
        return self is not RunKind.DRY_RUN


DriftByType = dict[str, DriftCounts]
PageWriter = Callable[[Session], DriftByType]


@dataclass(frozen=True)
class PageResult:
    """One fetched page of a stage.

    `write` stores the page and returns its drift. `next_cursor` is where the next page starts; None ends the stage.
    `total` is the number of rows in the stage, None if the vendor does not report it. `delay` is the number of seconds
    to wait before the next page, because the vendor or the budget ran out after part of this one.
    `next_stage_cursor` is the initial cursor of the next stage. `skipped_stages` are the stages that are not needed.
    """

    write: PageWriter
    next_cursor: dict[str, Any] | None
    row_count: int
    total: int | None = None
    delay: float = 0.0
    next_stage_cursor: dict[str, Any] = field(default_factory=dict)
    skipped_stages: Collection[str] = ()


def run_kind_of(run: Run) -> RunKind:
    """Return the run's kind."""
    return RunKind(run.kind)


def write_nothing(_: Session) -> DriftByType:
    """Write nothing."""
    return {}


def drift_cutoff(vendor_now: datetime | None, lag: timedelta) -> datetime:
    """Return the time before which a change missing from the mirror counts as drift.

    The events of later changes may still be in flight.
    """
    return (vendor_now or datetime.now(UTC)) - lag


def cursor_time(cursor: dict[str, Any], name: str) -> datetime | None:
    """Return the time stored in a cursor field, or None."""
    value = cursor.get(name)
    return datetime.fromisoformat(value) if value else None
