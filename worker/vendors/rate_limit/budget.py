"""API call budgets that all workers on all hosts share, kept in Redis and corrected by the vendors' own counts.

A call counts from before it is sent until one window after its response arrived. So however long the network delays a
call, no window of the vendor ever contains more calls than its limit. Unknown usage is assumed spent: a budget that
Redis lost starts from the usage in PostgreSQL, with a full current window if the vendor was called within it. While
Redis is unreachable, no call is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import redis
import structlog

from runtime.redis_client import lua_script, shared_client
from runtime.settings import settings
from store.accounts.xero_organisations import Organisation
from store.db.database import transaction
from store.sync import api_usage
from store.sync.api_usage import ApiUsage
from worker.vendors.errors import BudgetExhaustedError
from worker.vendors.rate_limit import usage

log = structlog.get_logger()
MAX_CALL_SECONDS = 120
PROBE_INTERVAL_SECONDS = 900
CONCURRENCY_WAIT_SECONDS = 0.25
# Short, because a restart or failover of Redis takes seconds, and an attempt without it calls no vendor.
REDIS_DOWN_WAIT_SECONDS = 2.0
MAX_WAIT_SECONDS = 900.0
# One Copper call in 30 is held back for the first call of a sign-in, which is only counted once its response tells
# whose budget it belongs to.
COPPER_SIGN_IN_SHARE = 30
PIPELINE_SIZE = 500


class Priority(StrEnum):
    """What a call is made for, most urgent first."""

    EVENTS = "events"
    INTERACTIVE = "interactive"
    CATCH_UP = "catch_up"
    RECONCILIATION = "reconciliation"
    FIELDS = "fields"
    BACKGROUND = "background"


# The share of every window that calls of a priority leave to more urgent ones.
RESERVED_SHARE = {
    Priority.EVENTS: 0.0,
    Priority.INTERACTIVE: 0.10,
    Priority.CATCH_UP: 0.15,
    Priority.RECONCILIATION: 0.25,
    Priority.FIELDS: 0.40,
    Priority.BACKGROUND: 0.50,
}
# Scheduled work of all accounts together leaves half of the app's minute, so that no number of accounts delays events.
APP_RESERVED_SHARE = {
    priority: share if priority in {Priority.EVENTS, Priority.INTERACTIVE} else max(share, 0.50)
    for priority, share in RESERVED_SHARE.items()
}


def _run(script: str, keys: list[str], args: list[Any]) -> Any:
    return lua_script(__package__, script)(keys, args, client=shared_client())


@dataclass(frozen=True)
class RateLimitHeaders:
    """What a response's headers say about the limits; None where they say nothing.

    `retry_after` is in seconds; with `blocks_app` it holds for every organisation of the app.
    """

    minute_remaining: int | None = None
    day_remaining: int | None = None
    app_minute_remaining: int | None = None
    retry_after: float | None = None
    blocks_app: bool = False


class RemainingCalls(NamedTuple):
    """Calls that remain in this minute and on this day (None: no such limit, or unknown)."""

    minute: int
    day: int | None


class _Limits(NamedTuple):
    """Calls a minute, at the same time, a day, and a minute of the whole app; 0 where there is no such limit."""

    minute: int
    concurrent: int = 0
    day: int = 0
    app_minute: int = 0


@dataclass(frozen=True)
class Budget:
    """One vendor's limits for one caller: a Xero organisation (`tenant_id`) or an account's Copper."""

    account_id: int
    organisation_id: int
    tenant_id: UUID | None

    @classmethod
    def for_xero(cls, organisation: Organisation) -> Budget:
        """The budget of a Xero organisation. Accounts that are connected to the same organisation share it."""
        return cls(organisation.account_id, organisation.id, organisation.tenant_id)

    @classmethod
    def for_copper(cls, account_id: int) -> Budget:
        """The budget of an account's Copper."""
        return cls(account_id, 0, None)

    def _keys(self) -> list[str]:
        prefix = f"{settings().redis_namespace}:budget"
        own = f"{prefix}:xero:{self.tenant_id}" if self.tenant_id else f"{prefix}:copper:{self.account_id}"
        app = f"{prefix}:xero_app" if self.tenant_id else f"{prefix}:copper_app"
        return [f"{own}:state", f"{own}:minute", f"{own}:in_flight", f"{app}:state", f"{app}:minute"]

    def _limits(self) -> _Limits:
        config = settings()
        if self.tenant_id is None:
            minute = config.copper_calls_per_minute
            return _Limits(minute - minute // COPPER_SIGN_IN_SHARE)
        return _Limits(
            config.xero_calls_per_minute,
            config.xero_max_concurrent_calls,
            config.xero_calls_per_day,
            config.xero_app_calls_per_minute,
        )

    def acquire(self, priority: Priority) -> str:
        """Count one call that is about to be sent; returns its token for `release`.

        Raises `BudgetExhaustedError` with the seconds to wait if a call of this priority is not allowed now.
        """
        token = uuid4().hex
        may_probe = int(priority in {Priority.EVENTS, Priority.INTERACTIVE})
        share, window = RESERVED_SHARE[priority], settings().rate_limit_window_seconds
        args = [token, window, share, *self._limits(), may_probe, MAX_CALL_SECONDS, PROBE_INTERVAL_SECONDS]
        args.append(APP_RESERVED_SHARE[priority])
        try:
            reply = _run("acquire", self._keys(), args)
            if reply[0] == -1:
                self._seed()
                reply = _run("acquire", self._keys(), args)
        except redis.RedisError as error:
            log.warning("budget.unreachable", error=type(error).__name__)
            raise BudgetExhaustedError("the shared call budget is unreachable", REDIS_DOWN_WAIT_SECONDS) from None
        if reply[0] == 1:
            return token
        reason = reply[2].decode()
        wait = CONCURRENCY_WAIT_SECONDS if reason == "concurrency" else min(float(reply[1]), MAX_WAIT_SECONDS)
        raise BudgetExhaustedError(f"the call budget is exhausted ({reason})", wait)

    def release(self, token: str, headers: RateLimitHeaders) -> None:
        """Record that a call ended, with or without a response, and what the response says about the limits.

        If Redis is unreachable, the call stays counted for `MAX_CALL_SECONDS` and a window.
        """
        limits = self._limits()
        remaining = (headers.minute_remaining, headers.day_remaining, headers.app_minute_remaining)
        retry_after = "" if headers.retry_after is None else headers.retry_after
        args = [token, settings().rate_limit_window_seconds, limits.minute, *map(_lua_argument, remaining)]
        args += [retry_after, int(headers.blocks_app), limits.app_minute]
        try:
            _run("release", self._keys(), args)
        except redis.RedisError as error:
            log.warning("budget.unreachable", error=type(error).__name__)

    def add(self, priority: Priority, calls: int) -> None:
        """Count calls that were made before it was known that they belong to this budget."""
        try:
            self._seed()
            _run("add", self._keys()[:2], [uuid4().hex, settings().rate_limit_window_seconds, calls])
        except redis.RedisError as error:
            log.warning("budget.unreachable", error=type(error).__name__)
        for _ in range(calls):
            self.record_usage(priority, failed=False, rate_limited=False, bytes_compressed=0, bytes_uncompressed=0)

    def _seed(self) -> None:
        """Start from the usage in PostgreSQL: there was no call yet, or Redis has lost its data."""
        with transaction() as session:
            if self.tenant_id is None:
                used, age = api_usage.copper_calls_today(session, self.account_id)
            else:
                used, age = api_usage.xero_calls_today(session, self.tenant_id)
        seconds_since_call = "" if age is None else max(age, 0.0)
        args = [used, seconds_since_call, settings().rate_limit_window_seconds, self._limits().minute]
        _run("seed", self._keys()[:2], args)
        log.info("budget.seeded", account=self.account_id, organisation=self.organisation_id, used=used)

    def remaining(self) -> RemainingCalls | None:
        """The calls that remain of this budget; None if Redis is unreachable."""
        limits = self._limits()
        try:
            reply = _run("remaining", self._keys()[:2], [limits.minute, limits.day])
        except redis.RedisError:
            return None
        return _remaining_calls(reply)

    @classmethod
    def remaining_of_all(cls, budgets: Sequence[Budget]) -> list[RemainingCalls | None]:
        """`remaining` of many budgets, `PIPELINE_SIZE` per round trip; None for each that Redis did not answer."""
        results: list[RemainingCalls | None] = []
        for start in range(0, len(budgets), PIPELINE_SIZE):
            try:
                results += cls._remaining_in_one_round_trip(budgets[start : start + PIPELINE_SIZE])
            except redis.RedisError:
                return results + [None] * (len(budgets) - len(results))
        return results

    @staticmethod
    def _remaining_in_one_round_trip(budgets: Sequence[Budget]) -> list[RemainingCalls]:
        script = lua_script(__package__, "remaining")
        with shared_client().pipeline(transaction=False) as pipeline:
            for budget in budgets:
                limits = budget._limits()
                script(budget._keys()[:2], [limits.minute, limits.day], client=pipeline)
            return [_remaining_calls(reply) for reply in pipeline.execute()]

    @staticmethod
    def xero_app_calls_remaining() -> int | None:
        """The calls that remain of this minute to all Xero organisations together; None if Redis is unreachable."""
        key = f"{settings().redis_namespace}:budget:xero_app:minute"
        try:
            seconds, microseconds = shared_client().time()
            used = shared_client().zcount(key, seconds + microseconds / 1e6, "+inf")
        except redis.RedisError:
            return None
        return max(settings().xero_app_calls_per_minute - int(used), 0)

    def pacing_delay(self) -> float:
        """Seconds to delay events so that more of them share the next call; 0 while over half of the minute remains.

        As the minute runs out, the gap between two calls grows to the rate at which a minute refills. A steady stream
        of events is then fetched about once a second, many at a time. Without pacing, events would be fetched one by
        one until the minute is exhausted, and then all would wait for its rest.
        """
        try:
            args = [self._limits().minute, settings().rate_limit_window_seconds]
            return float(_run("pacing_delay", self._keys()[:2], args))
        except redis.RedisError:
            return 0.0

    def record_usage(
        self, priority: Priority, *, failed: bool, rate_limited: bool, bytes_compressed: int, bytes_uncompressed: int
    ) -> None:
        """Count a call and its bytes in PostgreSQL, for status, metrics, and the loss of Redis's data.

        Calls of an account that was closed are not counted.
        """
        usage.record(
            ApiUsage(
                self.account_id,
                self.organisation_id,
                priority.value,
                calls=1,
                failed=int(failed),
                rate_limited=int(rate_limited),
                bytes_compressed=bytes_compressed,
                bytes_uncompressed=bytes_uncompressed,
            )
        )


def _remaining_calls(reply: list[int]) -> RemainingCalls:
    minute, day = reply
    return RemainingCalls(max(minute, 0), max(day, 0) if day >= 0 else None)


def _lua_argument(number: int | None) -> str:
    return "" if number is None else str(math.floor(number))


def calls_per_minute_for_fields() -> int:
    """How many Copper calls a minute the writing of fields may make while nothing else needs them, at least 1."""
    return max(int(settings().copper_calls_per_minute * (1 - RESERVED_SHARE[Priority.FIELDS])), 1)
