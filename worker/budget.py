"""Call budgets that all workers on all machines share, kept in Redis and corrected by the vendors' own counts.

A call is counted from before it is sent until a window after its answer came, so that however the network
delays calls, no window of the vendor's ever holds more than its limit. What is not known is taken for
spent: a budget that Redis lost starts from the meters in PostgreSQL, with the running window full if the
vendor was called within it; a Redis that cannot be reached lets no call through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import redis
import structlog

from runtime.settings import settings
from store import meters
from store.accounts import Organisation
from store.database import AccountClosedError, transaction
from worker.broker import client
from worker.errors import BudgetSpentError

log = structlog.get_logger()
CALL_SECONDS = 120
PROBE_SECONDS = 900
BUSY_SECONDS = 0.25
UNREACHABLE_SECONDS = 15.0
LONGEST_WAIT = 900.0
# One Copper call in 30 is kept free: the first call of a sign-in is counted only when its answer has said whose it was.
COPPER_KEPT_FREE = 30
PIPELINE_SIZE = 500


class Purpose(StrEnum):
    """What a call is made for, most urgent first."""

    EVENTS = "events"
    PERSON = "person"
    CATCH_UP = "catch_up"
    RECONCILIATION = "reconciliation"
    SPARE = "spare"


# The share of every window that a purpose leaves to those above it.
LEFT_TO_OTHERS = {
    Purpose.EVENTS: 0.0,
    Purpose.PERSON: 0.10,
    Purpose.CATCH_UP: 0.15,
    Purpose.RECONCILIATION: 0.25,
    Purpose.SPARE: 0.50,
}

# KEYS: state, minute, running, app's state, app's minute. ARGV: token, window, floor share, minute limit,
# limit at once (0: none), day limit (0: none), app's minute limit (0: no app), whether a probe is allowed,
# seconds that a call may last, seconds between probes.
# Answers {1} when granted, {0, wait, why} when not, {-1} when this budget's state is not known.
TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local token, window, share = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local minute, running, day = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local app, probing, lasts, probe = tonumber(ARGV[7]), ARGV[8] == '1', tonumber(ARGV[9]), tonumber(ARGV[10])
if redis.call('EXISTS', KEYS[1]) == 0 then return {-1} end

local function field(name) return tonumber(redis.call('HGET', KEYS[1], name) or '0') end
local function leaves(limit) return math.min(math.ceil(limit * share), limit - 1) end
local function full(key, limit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local allowed = limit - leaves(limit)
  local used = redis.call('ZCARD', key)
  if used < allowed then return nil end
  local frees = redis.call('ZRANGE', key, used - allowed, used - allowed, 'WITHSCORES')
  return math.max(math.min(tonumber(frees[2]) - now, window), 0.05)
end

local blocked = math.max(field('blocked'), tonumber(redis.call('HGET', KEYS[4], 'blocked') or '0'))
if blocked > now then return {0, tostring(blocked - now), 'the vendor said so'} end
local wait = full(KEYS[2], minute)
if wait then return {0, tostring(wait), 'minute'} end
if app > 0 then
  wait = full(KEYS[5], app)
  if wait then return {0, tostring(wait), 'app minute'} end
end
if running > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  if redis.call('ZCARD', KEYS[3]) >= running - (share > 0 and running > 1 and 1 or 0) then
    return {0, '0', 'at once'}
  end
end
if day > 0 then
  if now >= field('day_until') then
    redis.call('HSET', KEYS[1], 'day_used', 0, 'day_until', now + 86400)
    redis.call('HDEL', KEYS[1], 'day_told')
  end
  local left = day - field('day_used')
  local told = redis.call('HGET', KEYS[1], 'day_told')
  if told then left = math.min(left, tonumber(told)) end
  if left <= leaves(day) then
    if not probing or now < field('probe_at') then return {0, tostring(probe), 'day'} end
    redis.call('HSET', KEYS[1], 'probe_at', now + probe)
  end
  redis.call('HINCRBY', KEYS[1], 'day_used', 1)
  if told then redis.call('HINCRBY', KEYS[1], 'day_told', -1) end
end
redis.call('ZADD', KEYS[2], now + lasts, token)
redis.call('HSET', KEYS[1], 'last', tostring(now))
if running > 0 then redis.call('ZADD', KEYS[3], now + lasts, token) end
if app > 0 then redis.call('ZADD', KEYS[5], now + lasts, token) end
for _, key in ipairs({KEYS[2], KEYS[3], KEYS[5]}) do redis.call('EXPIRE', key, 600) end
redis.call('EXPIRE', KEYS[1], 604800)
return {1}
"""

# KEYS as above. ARGV: token, window, minute limit, what the vendor says is left of the minute, the day and the
# app's minute ('' where it does not say), seconds to wait ('' for none), whether the whole app must wait, app's
# minute limit. Where the vendor has counted more calls than we have, the difference is taken for calls of now.
SETTLE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local token, window = ARGV[1], tonumber(ARGV[2])
redis.call('ZREM', KEYS[3], token)
redis.call('ZADD', KEYS[2], 'XX', now + window, token)
redis.call('ZADD', KEYS[5], 'XX', now + window, token)
local function correct(key, limit, left)
  local more = math.min(limit - tonumber(left), limit) - redis.call('ZCARD', key)
  for number = 1, more do redis.call('ZADD', key, now + window, token .. ':' .. number) end
  redis.call('EXPIRE', key, 600)
end
if ARGV[4] ~= '' then correct(KEYS[2], tonumber(ARGV[3]), ARGV[4]) end
if ARGV[6] ~= '' and tonumber(ARGV[9]) > 0 then correct(KEYS[5], tonumber(ARGV[9]), ARGV[6]) end
if ARGV[5] ~= '' then
  local told = math.max(tonumber(ARGV[5]) - redis.call('ZCARD', KEYS[3]), 0)
  local known = redis.call('HGET', KEYS[1], 'day_told')
  if known and told > tonumber(known) + 10 then
    redis.call('HSET', KEYS[1], 'day_used', 0, 'day_until', now + 86400)
  end
  redis.call('HSET', KEYS[1], 'day_told', told)
end
if ARGV[7] ~= '' then
  redis.call('HSET', ARGV[8] == '1' and KEYS[4] or KEYS[1], 'blocked', now + tonumber(ARGV[7]))
  redis.call('EXPIRE', KEYS[4], 604800)
end
return 1
"""

# KEYS: state, minute. ARGV: calls of this day, seconds since the last one ('' for none), window, minute limit.
SEED = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'day_used', ARGV[1], 'day_until', now + 86400)
redis.call('EXPIRE', KEYS[1], 604800)
local left = ARGV[2] ~= '' and tonumber(ARGV[3]) - tonumber(ARGV[2]) or 0
if left > 0 then
  for number = 1, tonumber(ARGV[4]) do redis.call('ZADD', KEYS[2], now + left, 'unknown:' .. number) end
  redis.call('EXPIRE', KEYS[2], 600)
end
return 1
"""

# KEYS: state, minute. ARGV: token, window, calls. Counts calls whose answers have come.
ADD = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
for number = 1, tonumber(ARGV[3]) do
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), ARGV[1] .. ':' .. number)
end
redis.call('EXPIRE', KEYS[2], 600)
return 1
"""

# KEYS: state, minute. ARGV: minute limit, window. Answers the seconds by which the next call is best put off.
PACE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local left = limit - redis.call('ZCOUNT', KEYS[2], now, '+inf')
if left * 2 >= limit then return '0' end
local gap = 2 * window / limit * (1 - 2 * left / limit)
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0')
return tostring(math.max(last + gap - now, 0))
"""

# KEYS: state, minute. ARGV: minute limit, day limit. Answers what is left of the minute, and of the day (or -1).
LEFT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local minute = tonumber(ARGV[1]) - redis.call('ZCOUNT', KEYS[2], now, '+inf')
if tonumber(ARGV[2]) == 0 or redis.call('EXISTS', KEYS[1]) == 0 then return {minute, -1} end
local left = tonumber(ARGV[2]) - tonumber(redis.call('HGET', KEYS[1], 'day_used') or '0')
local told = redis.call('HGET', KEYS[1], 'day_told')
if told then left = math.min(left, tonumber(told)) end
return {minute, left}
"""


def _run(source: str, keys: list[str], arguments: list[Any]) -> Any:
    return client().register_script(source)(keys, arguments)


@dataclass(frozen=True)
class Told:
    """What an answer says of the limits; None where it says nothing."""

    minute_left: int | None = None
    day_left: int | None = None
    app_left: int | None = None
    wait: float | None = None
    whole_app: bool = False


@dataclass(frozen=True)
class Budget:
    """One vendor's limits for one caller: a Xero organisation (`tenant`) or an account's Copper."""

    account_id: int
    organisation_id: int
    tenant: UUID | None

    @classmethod
    def of_xero(cls, organisation: Organisation) -> Budget:
        """The budget of a Xero organisation; accounts that share the organisation share it."""
        return cls(organisation.account_id, organisation.id, organisation.tenant_id)

    @classmethod
    def of_copper(cls, account_id: int) -> Budget:
        """The budget of an account's Copper."""
        return cls(account_id, 0, None)

    def _keys(self) -> list[str]:
        space = f"{settings().redis_namespace}:budget"
        mine = f"{space}:xero:{self.tenant}" if self.tenant else f"{space}:copper:{self.account_id}"
        app = f"{space}:xero_app" if self.tenant else f"{space}:copper_app"
        return [f"{mine}:state", f"{mine}:minute", f"{mine}:running", f"{app}:state", f"{app}:minute"]

    def _limits(self) -> tuple[int, int, int, int]:
        """Calls a minute, at once, a day, and a minute of the whole app; 0 where there is no such limit."""
        chosen = settings()
        if self.tenant is None:
            return chosen.copper_minute_limit - chosen.copper_minute_limit // COPPER_KEPT_FREE, 0, 0, 0
        return (
            chosen.xero_minute_limit,
            chosen.xero_concurrent_limit,
            chosen.xero_day_limit,
            chosen.xero_app_minute_limit,
        )

    def take(self, purpose: Purpose) -> str:
        """Count one call that is about to be sent; returns its token for `settle`.

        Raises `BudgetSpentError` with the seconds to wait when this purpose may not call now.
        """
        token = uuid4().hex
        minute, running, day, app = self._limits()
        urgent = int(purpose in {Purpose.EVENTS, Purpose.PERSON})
        share, window = LEFT_TO_OTHERS[purpose], settings().limit_window_seconds
        arguments = [token, window, share, minute, running, day, app, urgent, CALL_SECONDS, PROBE_SECONDS]
        try:
            answer = _run(TAKE, self._keys(), arguments)
            if answer[0] == -1:
                self._seed()
                answer = _run(TAKE, self._keys(), arguments)
        except redis.RedisError as error:
            log.warning("budget.unreachable", error=type(error).__name__)
            raise BudgetSpentError("the shared call budget cannot be reached", UNREACHABLE_SECONDS) from None
        if answer[0] == 1:
            return token
        why = answer[2].decode()
        wait = BUSY_SECONDS if why == "at once" else min(float(answer[1]), LONGEST_WAIT)
        raise BudgetSpentError(f"the call budget is spent ({why})", wait)

    def settle(self, token: str, told: Told) -> None:
        """Note that the call's answer came (or never will), and what it says of the limits.

        Should Redis be away, the call stays counted for `CALL_SECONDS` and a window.
        """
        minute, _, _, app = self._limits()
        wait = "" if told.wait is None else told.wait
        arguments = [token, settings().limit_window_seconds, minute, *map(_word, (told.minute_left, told.day_left))]
        arguments += [_word(told.app_left), wait, int(told.whole_app), app]
        try:
            _run(SETTLE, self._keys(), arguments)
        except redis.RedisError as error:
            log.warning("budget.unreachable", error=type(error).__name__)

    def add(self, purpose: Purpose, calls: int) -> None:
        """Count and meter calls that were made before anybody knew that they belong to this budget."""
        try:
            self._seed()
            _run(ADD, self._keys()[:2], [uuid4().hex, settings().limit_window_seconds, calls])
        except redis.RedisError as error:
            log.warning("budget.unreachable", error=type(error).__name__)
        for _ in range(calls):
            self.meter(purpose, failed=False, refused=False, wire=0, plain=0)

    def _seed(self) -> None:
        """Begin from the meters: nobody has called yet, or Redis has lost its memory."""
        with transaction() as session:
            if self.tenant is None:
                used, ago = meters.copper_used(session, self.account_id)
            else:
                used, ago = meters.xero_used(session, self.tenant)
        known = "" if ago is None else max(ago, 0.0)
        _run(SEED, self._keys()[:2], [used, known, settings().limit_window_seconds, self._limits()[0]])
        log.info("budget.seeded", account=self.account_id, organisation=self.organisation_id, used=used)

    def left(self) -> tuple[int, int | None] | None:
        """Calls left of this minute and of the day (None: no such limit, or not known); None without Redis."""
        minute, _, day, _ = self._limits()
        try:
            answer = _run(LEFT, self._keys()[:2], [minute, day])
        except redis.RedisError:
            return None
        return _left(answer)

    @classmethod
    def all_left(cls, budgets: Sequence[Budget]) -> list[tuple[int, int | None] | None]:
        """`left` of many budgets, `PIPELINE_SIZE` in a round trip; None for each that Redis did not answer for."""
        found: list[tuple[int, int | None] | None] = []
        for start in range(0, len(budgets), PIPELINE_SIZE):
            chunk = budgets[start : start + PIPELINE_SIZE]
            try:
                found += cls._left_in_one_trip(chunk)
            except redis.RedisError:
                return found + [None] * (len(budgets) - len(found))
        return found

    @staticmethod
    def _left_in_one_trip(budgets: Sequence[Budget]) -> list[tuple[int, int | None] | None]:
        script = client().register_script(LEFT)
        with client().pipeline(transaction=False) as pipeline:
            for budget in budgets:
                minute, _, day, _ = budget._limits()
                script(budget._keys()[:2], [minute, day], client=pipeline)
            return [_left(answer) for answer in pipeline.execute()]

    def pace(self) -> float:
        """Seconds by which events had better wait for company, 0 while more than half of the minute is left.

        As the minute runs out the gap between two calls grows to that at which a minute refills: a steady
        stream of events is fetched every second or so, many at a time, instead of one by one until nothing
        is left and all have to wait for the rest of the minute.
        """
        try:
            return float(_run(PACE, self._keys()[:2], [self._limits()[0], settings().limit_window_seconds]))
        except redis.RedisError:
            return 0.0

    def meter(self, purpose: Purpose, *, failed: bool, refused: bool, wire: int, plain: int) -> None:
        """Count a call and its bytes in PostgreSQL, for status, metrics, and a Redis that forgets.

        Calls of an account that is gone count nowhere.
        """
        with suppress(AccountClosedError), transaction() as session:
            meters.record(
                session,
                self.account_id,
                self.organisation_id,
                purpose.value,
                failed=failed,
                refused=refused,
                wire=wire,
                plain=plain,
            )


def _left(answer: list[int]) -> tuple[int, int | None]:
    return max(answer[0], 0), (max(answer[1], 0) if answer[1] >= 0 else None)


def _word(number: int | None) -> str:
    return "" if number is None else str(math.floor(number))
