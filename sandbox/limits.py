"""The vendors' rate limits, counted the way the vendors count them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from sandbox.world import Clock


class Limits(BaseModel):
    """The calls that the vendors allow; with `enabled` false, no call is refused and no limit headers are sent.

    Xero's limits are per organisation, `app_calls_per_minute` is for the whole app. Copper's bulk calls count in both
    of its limits. `max_search_results` is the number of results of a Copper search that can be paged through.
    """

    enabled: bool = True
    calls_per_minute: int = Field(60, ge=1)
    concurrent_calls: int = Field(5, ge=1)
    calls_per_day: int = Field(5_000, ge=1)
    app_calls_per_minute: int = Field(10_000, ge=1)
    copper_calls_per_minute: int = Field(180, ge=1)
    copper_bulk_calls_per_second: int = Field(3, ge=1)
    max_search_results: int = Field(100_000, ge=1)


@dataclass
class Window:
    """A fixed window: it starts with its first call and resets when its time is up."""

    started: float = 0.0
    used: int = 0

    def count_call(self, limit: int, now: float, seconds: float) -> float | None:
        """Count a call; returns the seconds until the window resets if the call exceeds the limit."""
        if now - self.started >= seconds:
            self.started, self.used = now, 0
        if self.used >= limit:
            return seconds - (now - self.started)
        self.used += 1
        return None


@dataclass
class RateLimitProblem:
    """The limit that a call exceeded (Xero's name for it), and the seconds until a retry makes sense."""

    name: str
    retry_after: float | None


@dataclass
class RateLimiter:
    """Counts calls by caller: a Xero tenant id or a Copper API key (Copper's limit: an account id).

    It also keeps the highest concurrency and the busiest minute of each caller, for tests of the client's budgets.
    """

    limits: Limits
    clock: Clock
    minutes: dict[str, Window] = field(default_factory=lambda: defaultdict(Window))
    days: dict[str, Window] = field(default_factory=lambda: defaultdict(Window))
    app: Window = field(default_factory=Window)
    running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    max_running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    recent_calls: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    max_per_minute: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    copper_calls: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    copper_bulk_calls: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    rate_limited: int = 0

    def check_xero(self, tenant: str) -> RateLimitProblem | None:
        """Count a call for an organisation; returns the limit that it exceeds, if any."""
        now, limits, minute = time.monotonic(), self.limits, self.clock.real_seconds(60)
        problem: RateLimitProblem | None = None
        if limits.enabled and self.running[tenant] > limits.concurrent_calls:
            problem = RateLimitProblem("concurrent", None)
        else:
            windows = (
                ("minute", self.minutes[tenant], limits.calls_per_minute, minute),
                ("day", self.days[tenant], limits.calls_per_day, self.clock.real_seconds(86_400)),
                ("appminute", self.app, limits.app_calls_per_minute, minute),
            )
            for name, window, limit, seconds in windows:
                retry_after = window.count_call(limit, now, seconds)
                if retry_after is not None and limits.enabled:
                    problem = RateLimitProblem(name, retry_after)
                    break
        self.rate_limited += problem is not None
        return problem

    def xero_headers(self, tenant: str) -> dict[str, str]:
        """The rate limit headers that Xero sends with every response."""
        limits = self.limits
        if not limits.enabled:
            return {}
        return {
            "X-MinLimit-Remaining": str(max(limits.calls_per_minute - self.minutes[tenant].used, 0)),
            "X-DayLimit-Remaining": str(max(limits.calls_per_day - self.days[tenant].used, 0)),
            "X-AppMinLimit-Remaining": str(max(limits.app_calls_per_minute - self.app.used, 0)),
        }

    def start_call(self, caller: str) -> None:
        """Record that a call of a Xero organisation or a Copper key starts."""
        self.running[caller] += 1
        self.max_running[caller] = max(self.max_running[caller], self.running[caller])
        self.max_per_minute[caller] = max(
            self.max_per_minute[caller], len(self._recent(self.recent_calls[caller], 60)) + 1
        )
        self.recent_calls[caller].append(time.monotonic())

    def end_call(self, caller: str) -> None:
        """Record that a call ended."""
        self.running[caller] -= 1

    def _recent(self, calls: deque[float], seconds: float) -> deque[float]:
        now = time.monotonic()
        while calls and now - calls[0] >= self.clock.real_seconds(seconds):
            calls.popleft()
        return calls

    def allow_copper(self, account: str) -> bool:
        """Count a call of a Copper account; False when the limit of the last minute is reached."""
        return self._allow(self._recent(self.copper_calls[account], 60), self.limits.copper_calls_per_minute)

    def allow_copper_bulk(self, account: str) -> bool:
        """Count a bulk call of a Copper account; False when the limit of the last second is reached."""
        return self._allow(self._recent(self.copper_bulk_calls[account], 1), self.limits.copper_bulk_calls_per_second)

    def _allow(self, calls: deque[float], limit: int) -> bool:
        if self.limits.enabled and len(calls) >= limit:
            self.rate_limited += 1
            return False
        calls.append(time.monotonic())
        return True
