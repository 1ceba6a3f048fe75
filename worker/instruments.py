"""What a process counts of its own work, for Prometheus. No label names an account: who scrapes learns no customer."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from store.freshness import BOUNDS

CALL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STATEMENT_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)

OUTCOMES = ("kept", "ignored", "repeated", "malformed")
EVENTS = Counter(
    "patina_events_total",
    "events that webhooks brought, by vendor and outcome: kept, ignored (counted only: see "
    "patina_events_dropped_total), repeated, malformed (put aside unread: an event, an id or a whole body)",
    ("source", "outcome"),
)
DROPPED = Counter(
    "patina_events_dropped_total",
    "events that webhooks brought and that were counted, not kept, by vendor and reason: a type that is not followed "
    "(task, project, activity_log, other_type), no_organisation, malformed (beyond those kept), over_limit",
    ("source", "reason"),
)
QUARANTINED = Counter("patina_events_quarantined_total", "events put aside after their last try", ("source",))
UNREADABLE = Counter(
    "patina_unreadable_fields_total",
    "fields of vendors' rows that could not be read, by vendor, resource and field ('': a row without an id)",
    ("vendor", "resource", "field"),
)
FRESHNESS = Histogram(
    "patina_freshness_seconds", "from an event's receipt to the rows it led to", ("source",), buckets=BOUNDS
)
CALLS = Histogram(
    "patina_vendor_call_seconds", "calls to a vendor, each try", ("source", "outcome"), buckets=CALL_SECONDS
)
BATCHES = Histogram("patina_projection_seconds", "batches of the projection", buckets=STATEMENT_SECONDS)
ROWS = Counter("patina_projection_rows_total", "rows that the projection changed", ("change",))
ORPHANS = Counter("patina_orphans_deleted_total", "rows whose owner is gone, found and deleted, by table", ("table",))
FOUND = Counter("patina_sweep_found_total", "what the scheduler's sweep found waiting", ("what",))
RUNS = Counter("patina_runs_begun_total", "runs begun by the schedule or by events, by kind", ("kind",))
TICKS = Histogram(
    "patina_task_seconds", "the scheduler's tasks, by outcome", ("task", "outcome"), buckets=STATEMENT_SECONDS
)
