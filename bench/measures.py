"""What `make bench` measures, in the order of the page.

Importing this connects the process to its broker: the settings must stand by then.
"""

from __future__ import annotations

from collections.abc import Callable

from bench import backfill, drain, freshness, intake, mirror, processes, projecting, reads, startup, whale
from bench.figures import Figure

MEASURES: dict[str, tuple[str, Callable[[int], list[Figure]]]] = {
    "reads": ("Reading", reads.http),
    "cost": ("What a read costs in the database", reads.cost),
    "intake": ("Taking webhooks in", intake.measure),
    "mirror": ("Writing the mirror", mirror.measure),
    "drain": ("Draining the inbox", drain.measure),
    "backfill": ("Reading everything for the first time", backfill.measure),
    "rebuild": ("Projecting everything anew", projecting.rebuild),
    "one": ("Projecting one changed invoice", projecting.one),
    "whale": ("A whale", whale.measure),
    "freshness": ("From webhook to row", freshness.measure),
    "processes": ("One process or two", processes.measure),
    "startup": ("Starting", startup.measure),
}
