"""A round: a fault under load, its healing, and the comparison of every record with the vendors' data."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from tests.failover import availability, faults
from tests.failover.availability import Availability, PromotionWatch
from tests.failover.cluster import DATA, Cluster
from tests.failover.faults import Fault, FaultKind, Victim
from tests.support.load import Load
from tests.support.recovery import missing_events, wait_until_idle
from tests.support.world import World

MAX_PAUSE_SECONDS = 0.1
BEFORE_SECONDS = (1.0, 3.0)
# How long a fault lasts; that of a leader in multiples of Patroni's ttl, so that a standby is promoted meanwhile.
FAULT_SECONDS = (5.0, 15.0)
LEADER_FAULT_TTLS = (1.3, 2.0)
# How long to wait for reads and deliveries after the fault is healed.
RETURN_SECONDS = 60.0
AFTER_SECONDS = 1.0
PROMOTION_SECONDS = 60.0


@dataclass
class Totals:
    """The results of all rounds; times in seconds."""

    promotions: int = 0
    lost: int = 0
    wrong: int = 0
    reads_away: float = 0.0
    writes_away: float = 0.0
    promotion: float = 0.0
    beyond_promotion: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Rounds:
    """Runs rounds on one cluster."""

    cluster: Cluster
    world: World
    rng: random.Random
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self.load = Load(self.world, self.rng)

    def run(self, kind: FaultKind, victim: Victim) -> str:
        """Run one round; returns a line about it."""
        self.cluster.wait_until_healthy()
        roles = self.cluster.roles()
        fault = faults.build(kind, victim, self.cluster, roles, self.rng)
        is_leader = fault.name == roles.leader
        shortest, longest = (self.cluster.ttl * ttls for ttls in LEADER_FAULT_TTLS) if is_leader else FAULT_SECONDS
        fault_seconds = self.rng.uniform(shortest, longest)
        measured = Availability(self.world, self.load.people)
        with self.load.running(MAX_PAUSE_SECONDS), measured.measured():
            time.sleep(self.rng.uniform(*BEFORE_SECONDS))
            promotion = self._fail(fault, fault_seconds, measured, is_leader=is_leader)
        reads, writes = self._note_gaps(measured, promotion)
        healed = time.monotonic()
        self.cluster.wait_until_healthy()
        healthy = time.monotonic()
        wait_until_idle(self.world, self.cluster.is_web_ready)
        self.cluster.wait_for_standbys()
        idle = time.monotonic()
        wrong = self._compare(str(fault))
        promoted = f"promoted after {promotion:.1f} s; " if promotion else ""
        return (
            f"{fault}, {fault_seconds:.1f} s; {promoted}away: reads {reads:.1f} s, writes {writes:.1f} s; "
            f"healthy after {healthy - healed:.1f} s, idle after {idle - healed:.1f} s{wrong}"
        )

    def _fail(self, fault: Fault, seconds: float, measured: Availability, *, is_leader: bool) -> float:
        """Inject a fault for some seconds and heal it; returns the seconds until a new leader accepted writes, or 0."""
        others = [self.cluster.superuser_url(name) for name in DATA if name != fault.name]
        self.started = time.monotonic()
        fault.inject()
        injected = time.monotonic()
        watch = PromotionWatch(others) if is_leader else None
        try:
            time.sleep(seconds)
            fault.heal()
            healed = time.monotonic()
            if not availability.wait_for(lambda: self._is_back(measured, healed), RETURN_SECONDS):
                self.totals.problems.append(f"after {fault} not back within {RETURN_SECONDS:.0f} s")
            time.sleep(AFTER_SECONDS)
            self.ended = time.monotonic()
        finally:
            if watch:
                watch.close()
        if watch is None or watch.accepted_at is None:
            return 0.0
        self.totals.promotions += 1
        return watch.accepted_at - injected

    @staticmethod
    def _is_back(measured: Availability, healed: float) -> bool:
        return (
            bool(measured.reads and measured.deliveries) and min(measured.reads[-1], measured.deliveries[-1]) > healed
        )

    def _note_gaps(self, measured: Availability, promotion: float) -> tuple[float, float]:
        """How long reads and deliveries were away in this round."""
        reads = availability.longest_gap(measured.reads, self.started, self.ended)
        writes = availability.longest_gap(measured.deliveries, self.started, self.ended)
        totals = self.totals
        totals.reads_away, totals.writes_away = max(totals.reads_away, reads), max(totals.writes_away, writes)
        totals.promotion = max(totals.promotion, promotion)
        totals.beyond_promotion = max(totals.beyond_promotion, writes - promotion)
        return reads, writes

    def _compare(self, description: str) -> str:
        """Check that every acknowledged event is stored, and every record equals the vendors' data."""
        lost = missing_events(self.world)
        comparison = self.world.compare()
        wrong = comparison.missing + comparison.stale + comparison.extra + comparison.balances
        try:
            self.world.check()
        except AssertionError as error:
            wrong += 1
            self.totals.problems.append(f"wrong after {description}: {str(error)[:1500]}")
        self.totals.lost += len(lost)
        self.totals.wrong += wrong
        if lost:
            self.totals.problems.append(f"lost after {description}: {lost[:5]}")
        return f"; lost {len(lost)}, wrong rows {wrong}" if lost or wrong else ""
