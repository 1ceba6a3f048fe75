"""The faults: which host fails, and how."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from tests.failover.cluster import DATA, WEB, WORKERS, Cluster, Roles
from tests.failover.machine import Machine


class FaultKind(StrEnum):
    """How a host fails."""

    KILL = "kill"
    """All processes end at once, and start again when the fault is healed."""
    FREEZE = "freeze"
    """All processes stop where they are, and continue."""
    CUT_OFF = "cut off"
    """The host reaches no other host, and no other host reaches it."""
    SEPARATE = "separate"
    """A data host and the other two no longer reach each other, but everybody else reaches all of them."""


class Victim(StrEnum):
    """The role of the host that fails."""

    LEADER = "leader"
    SYNCHRONOUS_STANDBY = "synchronous standby"
    STANDBY = "standby"
    REDIS_PRIMARY = "Redis primary"
    WEB = "web"
    WORKER = "worker"


# How often each role is the victim, of `sum` rounds.
WEIGHTS = {
    Victim.LEADER: 6,
    Victim.SYNCHRONOUS_STANDBY: 2,
    Victim.STANDBY: 1,
    Victim.REDIS_PRIMARY: 1,
    Victim.WEB: 1,
    Victim.WORKER: 1,
}


@dataclass
class Fault:
    """One fault of one host."""

    kind: FaultKind
    victim: Victim
    name: str
    machine: Machine
    peers: list[Machine] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.victim})"

    def inject(self) -> None:
        """Let the host fail."""
        match self.kind:
            case FaultKind.KILL:
                self.machine.kill()
            case FaultKind.FREEZE:
                self.machine.freeze()
            case FaultKind.CUT_OFF:
                self.machine.host.cut_off()
            case FaultKind.SEPARATE:
                for peer in self.peers:
                    self.machine.host.separate(peer.host)
                    peer.host.separate(self.machine.host)

    def heal(self) -> None:
        """Let the host work again."""
        match self.kind:
            case FaultKind.KILL:
                self.machine.switch_on()
            case FaultKind.FREEZE:
                self.machine.thaw()
            case FaultKind.CUT_OFF:
                self.machine.host.heal()
            case FaultKind.SEPARATE:
                for peer in self.peers:
                    self.machine.host.rejoin(peer.host)
                    peer.host.rejoin(self.machine.host)


def matches(name_filter: str) -> bool:
    """Whether any fault's description contains `name_filter`."""
    return any(name_filter in f"{kind} {victim}" for kind in FaultKind for victim in Victim)


def choose(rng: random.Random, name_filter: str = "") -> Iterator[tuple[FaultKind, Victim]]:
    """Kinds and victims without end, in an order that the seed decides and in which no kind of fault waits for long.

    Only those whose description contains `name_filter`.
    """
    while True:
        kinds = [kind for kind in FaultKind for _ in range(sum(WEIGHTS.values()) // len(FaultKind))]
        victims = [victim for victim, weight in WEIGHTS.items() for _ in range(weight)]
        rng.shuffle(kinds)
        rng.shuffle(victims)
        for kind, victim in zip(kinds, victims, strict=True):
            if kind is FaultKind.SEPARATE and victim in {Victim.WEB, Victim.WORKER}:
                kind = FaultKind.CUT_OFF
            if name_filter in f"{kind} {victim}":
                yield kind, victim


def build(kind: FaultKind, victim: Victim, cluster: Cluster, roles: Roles, rng: random.Random) -> Fault:
    """The fault of the host that has a role now."""
    name = {
        Victim.LEADER: roles.leader,
        Victim.SYNCHRONOUS_STANDBY: roles.synchronous_standby,
        Victim.STANDBY: roles.standby,
        Victim.REDIS_PRIMARY: roles.redis_primary,
        Victim.WEB: rng.choice(WEB),
        Victim.WORKER: rng.choice(WORKERS),
    }[victim]
    peers = [cluster.machines[peer] for peer in DATA if peer != name] if name in DATA else []
    return Fault(kind, victim, name, cluster.machines[name], peers)
