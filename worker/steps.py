"""Steps of a run: what one page brought, how it is written, and where the next one starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from store.database import Session
from store.drift import Found
from store.runs import Run
from worker.budget import Purpose


class Kind(StrEnum):
    """What a run is for."""

    BACKFILL = "backfill"
    CATCH_UP = "catch_up"
    RECONCILIATION = "reconciliation"
    DRY_RUN = "dry_run"

    @property
    def purpose(self) -> Purpose:
        """Whose turn it is in the budget."""
        return {
            Kind.BACKFILL: Purpose.PERSON,
            Kind.DRY_RUN: Purpose.PERSON,
            Kind.CATCH_UP: Purpose.CATCH_UP,
            Kind.RECONCILIATION: Purpose.RECONCILIATION,
        }[self]

    @property
    def counts_drift(self) -> bool:
        """Whether pages are held against the mirror before they are written."""
        return self in {Kind.RECONCILIATION, Kind.DRY_RUN}

    @property
    def writes(self) -> bool:
        """Whether pages are written at all."""
        return self is not Kind.DRY_RUN


Drift = dict[str, Found]
Write = Callable[[Session], Drift]


@dataclass(frozen=True)
class Step:
    """One page: how to write it, where the next one starts (None: the stage is over), how much it was.

    `delay` in seconds holds the next page back: the vendor or the budget asked for it after part of the page.
    `carry` is what the next stage's cursor starts with.
    """

    write: Write
    cursor: dict[str, Any] | None
    done: int
    total: int | None = None
    delay: float = 0.0
    carry: dict[str, Any] = field(default_factory=dict)


def kind_of(run: Run) -> Kind:
    """The run's kind."""
    return Kind(run.kind)


def nothing(_: Session) -> Drift:
    """Write nothing."""
    return {}


def settled_before(vendor_now: datetime | None, lag: timedelta) -> datetime:
    """Before this, a change that is not in the mirror has drifted; events of later ones may be on their way."""
    return (vendor_now or datetime.now(UTC)) - lag


def moment_of(cursor: dict[str, Any], name: str) -> datetime | None:
    """A time that a cursor carries, or None."""
    value = cursor.get(name)
    return datetime.fromisoformat(value) if value else None
