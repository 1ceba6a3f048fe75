"""The vendors' call limits, counted as they count them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from sandbox.world import Clock


class Limits(BaseModel):
    """Calls allowed; `on` false lets everything through and says nothing of limits.

    `reachable` is how many results of a Copper search can be paged through.
    """

    on: bool = True
    minute: int = Field(60, ge=1)
    concurrent: int = Field(5, ge=1)
    day: int = Field(5_000, ge=1)
    app_minute: int = Field(10_000, ge=1)
    copper_minute: int = Field(180, ge=1)
    reachable: int = Field(100_000, ge=1)


@dataclass
class Window:
    """A window that starts with its first call and resets when it is over."""

    started: float = 0.0
    used: int = 0

    def take(self, most: int, now: float, seconds: float) -> float | None:
        """Count a call; the seconds until the window resets if it was one too many."""
        if now - self.started >= seconds:
            self.started, self.used = now, 0
        if self.used >= most:
            return seconds - (now - self.started)
        self.used += 1
        return None


@dataclass
class Refusal:
    """Which limit was hit, and when to come back."""

    problem: str
    retry_after: float | None


@dataclass
class Meter:
    """Counts of the vendors' callers, and the most ever seen at once and within a minute (for tests of budgets)."""

    limits: Limits
    clock: Clock
    minutes: dict[str, Window] = field(default_factory=lambda: defaultdict(Window))
    days: dict[str, Window] = field(default_factory=lambda: defaultdict(Window))
    app: Window = field(default_factory=Window)
    running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    most_running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    arrivals: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    busiest: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rolling: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    refused: int = 0

    def xero(self, tenant: str) -> Refusal | None:
        """Count a call for an organisation, unless a limit forbids it."""
        now, limits, minute = time.monotonic(), self.limits, self.clock.seconds(60)
        problem: Refusal | None = None
        if limits.on and self.running[tenant] > limits.concurrent:
            problem = Refusal("concurrent", None)
        else:
            tries = (
                ("minute", self.minutes[tenant], limits.minute, minute),
                ("day", self.days[tenant], limits.day, self.clock.seconds(86_400)),
                ("appminute", self.app, limits.app_minute, minute),
            )
            for name, window, most, seconds in tries:
                wait = window.take(most, now, seconds)
                if wait is not None and limits.on:
                    problem = Refusal(name, wait)
                    break
        self.refused += problem is not None
        return problem

    def headers(self, tenant: str) -> dict[str, str]:
        """What Xero says of the limits on every answer."""
        limits = self.limits
        if not limits.on:
            return {}
        return {
            "X-MinLimit-Remaining": str(max(limits.minute - self.minutes[tenant].used, 0)),
            "X-DayLimit-Remaining": str(max(limits.day - self.days[tenant].used, 0)),
            "X-AppMinLimit-Remaining": str(max(limits.app_minute - self.app.used, 0)),
        }

    def enter(self, caller: str) -> None:
        """A call of a Xero organisation or a Copper key begins."""
        self.running[caller] += 1
        self.most_running[caller] = max(self.most_running[caller], self.running[caller])
        self.busiest[caller] = max(self.busiest[caller], len(self._recent(self.arrivals[caller])) + 1)
        self.arrivals[caller].append(time.monotonic())

    def leave(self, caller: str) -> None:
        """A call ended."""
        self.running[caller] -= 1

    def _recent(self, calls: deque[float]) -> deque[float]:
        now = time.monotonic()
        while calls and now - calls[0] >= self.clock.seconds(60):
            calls.popleft()
        return calls

    def copper(self, account: str) -> bool:
        """Count a call of a Copper account; False when the last minute is full."""
        calls = self._recent(self.rolling[account])
        if self.limits.on and len(calls) >= self.limits.copper_minute:
            self.refused += 1
            return False
        calls.append(time.monotonic())
        return True
