"""The vendors' call limits, counted as they count them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

from pydantic import BaseModel, Field


class Limits(BaseModel):
    """Calls allowed; `on` false lets everything through (headers still count down)."""

    on: bool = True
    minute: int = Field(60, ge=1)
    concurrent: int = Field(5, ge=1)
    day: int = Field(5_000, ge=1)
    app_minute: int = Field(10_000, ge=1)
    copper_minute: int = Field(180, ge=1)


@dataclass
class Window:
    """A window that starts with its first call and resets when it is over."""

    seconds: float
    started: float = 0.0
    used: int = 0

    def take(self, most: int, now: float) -> float | None:
        """Count a call; the seconds until the window resets if it was one too many."""
        if now - self.started >= self.seconds:
            self.started, self.used = now, 0
        if self.used >= most:
            return self.seconds - (now - self.started)
        self.used += 1
        return None


def _minute() -> Window:
    return Window(60)


@dataclass
class Refusal:
    """Which limit was hit, and when to come back."""

    problem: str
    retry_after: float | None


@dataclass
class Meter:
    """Counts of one vendor's callers, and the most ever seen (for tests of budgets)."""

    limits: Limits
    minutes: dict[str, Window] = field(default_factory=lambda: defaultdict(_minute))
    days: dict[str, Window] = field(default_factory=lambda: defaultdict(lambda: Window(86_400)))
    app: Window = field(default_factory=_minute)
    running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    most_running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rolling: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    refused: int = 0

    def xero(self, tenant: str) -> Refusal | None:
        """Count a call for an organisation, unless a limit forbids it."""
        now, limits = time.monotonic(), self.limits
        problem: Refusal | None = None
        if limits.on and self.running[tenant] > limits.concurrent:
            problem = Refusal("concurrent", None)
        else:
            tries = (
                ("minute", self.minutes[tenant], limits.minute),
                ("day", self.days[tenant], limits.day),
                ("appminute", self.app, limits.app_minute),
            )
            for name, window, most in tries:
                wait = window.take(most, now)
                if wait is not None and limits.on:
                    problem = Refusal(name, wait)
                    break
        self.refused += problem is not None
        return problem

    def headers(self, tenant: str) -> dict[str, str]:
        """What Xero says of the limits on every answer."""
        limits = self.limits
        return {
            "X-MinLimit-Remaining": str(max(limits.minute - self.minutes[tenant].used, 0)),
            "X-DayLimit-Remaining": str(max(limits.day - self.days[tenant].used, 0)),
            "X-AppMinLimit-Remaining": str(max(limits.app_minute - self.app.used, 0)),
        }

    def enter(self, tenant: str) -> None:
        """A call for an organisation begins."""
        self.running[tenant] += 1
        self.most_running[tenant] = max(self.most_running[tenant], self.running[tenant])

    def leave(self, tenant: str) -> None:
        """A call for an organisation ended."""
        self.running[tenant] -= 1

    def copper(self, account: str) -> bool:
        """Count a call of a Copper account; False when the last 60 seconds are full."""
        now, calls = time.monotonic(), self.rolling[account]
        while calls and now - calls[0] >= 60:
            calls.popleft()
        if self.limits.on and len(calls) >= self.limits.copper_minute:
            self.refused += 1
            return False
        calls.append(now)
        return True
