"""Keeps the leases of running work alive, and returns those whose work ended in an error.

A lease is short (LEASE_SECONDS), so that others soon take over what a killed or isolated worker held. One thread of
each process renews the leases of work that takes longer. Work that ends in an error, for example because the database
is away, gives its lease back as soon as the database answers again. A lease that was lost nevertheless does no harm:
the transaction that would complete the work checks it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from runtime.process_values import once_per_process
from runtime.settings import settings

log = structlog.get_logger()
RENEWALS_PER_LEASE = 3
MAX_POLL_SECONDS = 1.0


@dataclass(eq=False)
class HeldLease:
    """A lease that this process holds; `renew` returns False once there is nothing left to renew.

    `is_abandoned`: its work ended in an error, and the lease is still to be released.
    """

    renew: Callable[[], bool]
    release: Callable[[], None]
    renewed_at: float
    is_abandoned: bool = False


class LeaseKeeper:
    """The leases of one process, and the thread that keeps them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[HeldLease] = set()
        self._after_returns: list[Callable[[], object]] = []
        self._has_leases = threading.Event()
        threading.Thread(target=self._run, name="lease-keeper", daemon=True).start()

    def add(self, lease: HeldLease) -> None:
        """Renew a lease from now on."""
        with self._lock:
            self._held.add(lease)
            self._has_leases.set()

    def remove(self, lease: HeldLease) -> None:
        """Leave a lease alone from now on."""
        with self._lock:
            self._held.discard(lease)

    def after_returns(self, action: Callable[[], object]) -> None:
        """Call `action` once no lease is abandoned any more; not at all if none is now."""
        with self._lock:
            if self._has_abandoned():
                self._after_returns.append(action)

    def _has_abandoned(self) -> bool:
        return any(lease.is_abandoned for lease in self._held)

    def _run(self) -> None:
        while True:
            self._has_leases.wait()
            interval = settings().lease_seconds / RENEWALS_PER_LEASE
            time.sleep(min(interval / 2, MAX_POLL_SECONDS))
            with self._lock:
                leases = list(self._held)
                if not leases:
                    self._has_leases.clear()
            for lease in leases:
                if lease.is_abandoned or time.monotonic() - lease.renewed_at >= interval:
                    self._keep(lease)
            self._act_after_returns()

    def _act_after_returns(self) -> None:
        with self._lock:
            if self._has_abandoned():
                return
            actions, self._after_returns = self._after_returns, []
        for action in actions:
            try:
                action()
            except Exception as error:
                log.info("lease.action_failed", error=type(error).__name__)

    def _keep(self, lease: HeldLease) -> None:
        try:
            if lease.is_abandoned:
                lease.release()
                is_held = False
            else:
                is_held = lease.renew()
        except Exception as error:
            log.info("lease.renewal_failed", error=type(error).__name__)
            return
        lease.renewed_at = time.monotonic()
        if not is_held:
            self.remove(lease)


@once_per_process
def _keeper() -> LeaseKeeper:
    return LeaseKeeper()


# A forked process has no thread yet, and none of its parent's leases.
os.register_at_fork(after_in_child=_keeper.clear)


def after_returns(action: Callable[[], object]) -> None:
    """Call `action` in the keeper's thread once this process has returned the leases of work that ended in an error.

    Does nothing if it has no such lease now. Best effort: errors of `action` are only logged.
    """
    _keeper().after_returns(action)


@contextmanager
def renewing(renew: Callable[[], bool], release: Callable[[], None]) -> Iterator[None]:
    """Renew a lease while the block runs; if the block ends in an error, release it as soon as that succeeds.

    The keeper's thread calls both functions; they must change nothing if the lease has become another's.
    """
    lease = HeldLease(renew, release, time.monotonic())
    _keeper().add(lease)
    try:
        yield
    except BaseException:
        lease.is_abandoned = True
        raise
    else:
        _keeper().remove(lease)
