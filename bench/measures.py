"""What `make bench` measures, in the order of the report.

Importing this module connects to Redis, so the settings must be applied before.
"""

from __future__ import annotations

from collections.abc import Callable

from bench import (
    backfill,
    backfill_limits,
    drain,
    fleet,
    growth,
    ingestion,
    large_account,
    latency,
    memory,
    mirror,
    panel,
    partitions,
    payment,
    processes,
    reads,
    rebuild,
    startup,
)
from bench.figures import Figure

MEASURES: dict[str, tuple[str, Callable[[int], list[Figure]]]] = {
    "reads": ("Reads", reads.measure),
    "growth": ("Cost in the database as the read model grows", growth.measure),
    "intake": ("Webhook ingestion", ingestion.measure),
    "mirror": ("Writing the mirror", mirror.measure),
    "drain": ("Draining the inbox", drain.measure),
    "backfill": ("Initial backfill", backfill.measure),
    "backfill-limits": ("Initial backfill at the vendors' limits", backfill_limits.measure),
    "rebuild": ("Rebuilding the read model", rebuild.measure),
    "large-account": ("One very large account", large_account.measure),
    "latency": ("Event latency (webhook to row)", latency.measure),
    "payment": ("One payment, from webhook to row", payment.measure),
    "panel": ("First row of the panel", panel.measure),
    "fleet": ("Many accounts", fleet.measure),
    "partitions": ("Tables partitioned by account", partitions.measure),
    "processes": ("Scaling to more processes", processes.measure),
    "startup": ("Start-up and sizes", startup.measure),
    "memory": ("Memory of a small installation", memory.measure),
}
