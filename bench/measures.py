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
    ingestion,
    large_account,
    latency,
    memory,
    mirror,
    panel,
    payment,
    processes,
    projection_speed,
    reads,
    startup,
)
from bench.figures import Figure

MEASURES: dict[str, tuple[str, Callable[[int], list[Figure]]]] = {
    "reads": ("Reads", reads.measure_http),
    "read-cost": ("Database cost of a read", reads.measure_cost),
    "intake": ("Webhook ingestion", ingestion.measure),
    "mirror": ("Writing the mirror", mirror.measure),
    "drain": ("Draining the inbox", drain.measure),
    "backfill": ("Initial backfill", backfill.measure),
    "backfill-limits": ("Initial backfill at the vendors' limits", backfill_limits.measure),
    "rebuild": ("Rebuilding the read model", projection_speed.measure_rebuild),
    "single-invoice": ("Projecting one changed invoice", projection_speed.measure_single_invoice),
    "large-account": ("One very large account", large_account.measure),
    "latency": ("Event latency (webhook to row)", latency.measure),
    "payment": ("One payment, from webhook to row", payment.measure),
    "panel": ("First row of the panel", panel.measure),
    "fleet": ("Many accounts", fleet.measure),
    "processes": ("Scaling to more processes", processes.measure),
    "startup": ("Start-up and sizes", startup.measure),
    "memory": ("Memory of a small installation", memory.measure),
}
