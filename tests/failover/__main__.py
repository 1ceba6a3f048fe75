"""Failover: `make failover ARGS="--rounds 10 --seed 1"`.

Runs the cluster of docs/deploy/cluster on hosts in network namespaces: PostgreSQL with Patroni and etcd, Redis with
Sentinel, HAProxy, and Patina's processes. Each round lets one host fail under load, heals it, and compares every
record with the sandbox's data. Exits with 0 only if nothing acknowledged was lost, no row is wrong, and reads and
deliveries were back in time. Skipped, with exit code 0, where the programs or the rights for namespaces are missing.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from itertools import islice
from types import FrameType

from tests.failover import cluster as clusters
from tests.failover import configuration, faults, programs, synchronous_cost
from tests.failover.availability import create_probe_table
from tests.failover.rounds import Rounds, Totals
from tests.support.recovery import NotRecoveredError

GOAL_SECONDS = 5.0


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def parse_arguments() -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help='only faults whose description contains this: "freeze", "leader"')
    parser.add_argument("--goal", type=float, default=GOAL_SECONDS, help="how long reads may be away, in seconds")
    ttl = int(configuration.documented_variables()["PATRONI_TTL"])
    parser.add_argument("--ttl", type=int, default=ttl, help="Patroni's ttl in seconds; by default the documented one")
    parser.add_argument("--without-cost", action="store_true", help="do not measure what synchronous_mode costs")
    parser.add_argument("--in-memory", action="store_true", help="keep the data in memory, where commits cost nothing")
    parser.add_argument("--keep-logs", action="store_true", help="copy the services' logs to .patina/failover")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> tuple[Totals, int]:
    """Run all rounds; returns the results and how many events were acknowledged."""
    rng = random.Random(arguments.seed)
    started = time.monotonic()
    with clusters.running(ttl=arguments.ttl, in_memory=arguments.in_memory, keep_logs=arguments.keep_logs) as cluster:
        world = cluster.open_account()
        create_probe_table(cluster.superuser_url(cluster.roles().leader))
        print(f"cluster of {len(cluster.machines)} hosts: {time.monotonic() - started:.0f} s", flush=True)
        rounds = Rounds(cluster, world, rng)
        for number, (kind, victim) in enumerate(islice(faults.choose(rng, arguments.only), arguments.rounds), 1):
            print(f"round {number}: {rounds.run(kind, victim)}", flush=True)
        events = len(world.sandbox.control("GET", "acknowledged-events"))
        if not arguments.without_cost:
            cluster.wait_until_healthy()
            print(synchronous_cost.measure(cluster, world), flush=True)
    return rounds.totals, events


def main() -> int:
    """Run the rounds; the last line of the output is the summary."""
    arguments = parse_arguments()
    if not faults.matches(arguments.only):
        print(f"no fault's description contains {arguments.only!r}", file=sys.stderr)
        return 2
    reason = programs.why_impossible()
    if reason:
        print(f"failover skipped: {reason}")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        totals, events = run(arguments)
    except NotRecoveredError as error:
        print(f"failover {error}")
        return 1
    except KeyboardInterrupt:
        print("failover failed: interrupted")
        return 130
    for problem in totals.problems:
        print(problem, file=sys.stderr)
    print(f"promoted after at most {totals.promotion:.1f} s, deliveries at most {totals.beyond_promotion:.1f} s later")
    late = max(totals.reads_away, totals.beyond_promotion) > arguments.goal
    passed = not (totals.lost or totals.wrong or totals.problems or late)
    print(
        f"failover {'ok' if passed else 'failed'}: rounds {arguments.rounds}, promotions {totals.promotions}, "
        f"events {events}, lost {totals.lost}, wrong rows {totals.wrong}, "
        f"reads away at most {totals.reads_away:.1f} s, writes away at most {totals.writes_away:.1f} s"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
