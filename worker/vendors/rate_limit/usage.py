"""Store API usage: call by call, or that of a piece of work together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace

from store.db.database import AccountClosedError, Session, transaction
from store.sync import api_usage
from store.sync.api_usage import ApiUsage


class CollectedUsage:
    """The usage of the calls in a `collected_usage` block, one sum for each source and priority."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int, str], ApiUsage] = {}

    def add(self, usage: ApiUsage) -> None:
        """Add a call."""
        key = (usage.account_id, usage.organisation_id, usage.priority)
        known = self._sums.get(key)
        self._sums[key] = usage if known is None else _sum(known, usage)

    def store(self, session: Session) -> None:
        """Store the sums in the caller's transaction. It locks rows that other calls count in, so it comes last."""
        for key in sorted(self._sums):
            api_usage.record(session, self._sums[key])

    def clear(self) -> None:
        """Forget the sums, once they are committed."""
        self._sums.clear()

    def store_rest(self) -> None:
        """Store the sums, if there are any, in a transaction of their own. Usage of a closed account is not stored."""
        if self._sums:
            with suppress(AccountClosedError), transaction() as session:
                self.store(session)
            self.clear()


_collected: ContextVar[CollectedUsage | None] = ContextVar("collected_usage", default=None)


@contextmanager
def collected_usage() -> Iterator[CollectedUsage]:
    """Sum the usage of this context's calls, for the caller to `store` and `clear`; at the end the rest is stored.

    Within another such block the calls are added to the outer one's sum. If the process is killed meanwhile, these
    calls are missing in the usage, but not in the budgets in Redis.
    """
    outer = _collected.get()
    if outer is not None:
        yield outer
        return
    usage = CollectedUsage()
    token = _collected.set(usage)
    try:
        yield usage
    finally:
        _collected.reset(token)
        usage.store_rest()


def record(usage: ApiUsage) -> None:
    """Record a call: in the collection of this context, otherwise in a transaction of its own."""
    collected = _collected.get()
    if collected is not None:
        collected.add(usage)
        return
    # Calls of an account that was closed are not counted.
    with suppress(AccountClosedError), transaction() as session:
        api_usage.record(session, usage)


def _sum(first: ApiUsage, second: ApiUsage) -> ApiUsage:
    return replace(
        first,
        calls=first.calls + second.calls,
        failed=first.failed + second.failed,
        rate_limited=first.rate_limited + second.rate_limited,
        bytes_compressed=first.bytes_compressed + second.bytes_compressed,
        bytes_uncompressed=first.bytes_uncompressed + second.bytes_uncompressed,
    )
