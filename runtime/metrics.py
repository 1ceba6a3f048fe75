"""Prometheus metrics of this process's own work.

No label names an account, because whoever scrapes a worker must not learn about customers.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENT_LATENCY_BUCKETS = (
    0.05,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
    3_600.0,
)
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STATEMENT_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)

EVENT_OUTCOMES = ("accepted", "ignored", "duplicate", "malformed")
EVENTS_RECEIVED = Counter(
    "patina_events_total",
    "webhook events by vendor and outcome: accepted, ignored (counted but not stored: see "
    "patina_events_dropped_total), duplicate, malformed (quarantined on receipt: an event, an id or a whole body)",
    ("vendor", "outcome"),
)
EVENTS_DROPPED = Counter(
    "patina_events_dropped_total",
    "webhook events counted but not stored, by vendor and reason: a type that is not synced "
    "(task, project, activity_log, other_type), no_organisation, malformed (beyond the stored ones), over_limit",
    ("vendor", "reason"),
)
EVENTS_QUARANTINED = Counter(
    "patina_events_quarantined_total", "events quarantined after their last attempt", ("vendor",)
)
UNREADABLE_FIELDS = Counter(
    "patina_unreadable_fields_total",
    "fields of vendors' rows that could not be parsed, by vendor, resource and field ('': a row without an id)",
    ("vendor", "resource", "field"),
)
EVENT_LATENCY = Histogram(
    "patina_event_latency_seconds",
    "time from an event's receipt until its rows are visible",
    ("vendor",),
    buckets=EVENT_LATENCY_BUCKETS,
)
VENDOR_REQUEST_DURATION = Histogram(
    "patina_vendor_request_duration_seconds",
    "requests to a vendor, per attempt, by outcome: ok, rate_limited, error",
    ("vendor", "outcome"),
    buckets=REQUEST_BUCKETS,
)
PROJECTION_BATCH_DURATION = Histogram(
    "patina_projection_batch_duration_seconds", "projection batches", buckets=STATEMENT_BUCKETS
)
PROJECTION_ROWS = Counter("patina_projection_rows_total", "read model rows changed by the projection", ("change",))
ORPHANS_DELETED = Counter(
    "patina_orphans_deleted_total", "deleted rows whose account or organisation no longer exists, by table", ("table",)
)
READ_REPLICA_LAG = Gauge(
    "patina_read_replica_lag_seconds",
    "by how much the standby of READ_DATABASE_URL lags behind as this web process sees it; +Inf: not known",
)
SWEEP_RECOVERED = Counter(
    "patina_sweep_recovered_total", "pending work enqueued by the scheduler's sweep, by type", ("type",)
)
FIELD_WRITES = Counter(
    "patina_field_writes_total", "records whose custom fields in Copper were written, by outcome", ("outcome",)
)
SYNC_RUNS_STARTED = Counter(
    "patina_sync_runs_started_total", "sync runs started by the schedule or by events, by kind", ("kind",)
)
TASK_DURATION = Histogram(
    "patina_scheduler_task_duration_seconds",
    "scheduler tasks, by outcome: ok, error",
    ("task", "outcome"),
    buckets=STATEMENT_BUCKETS,
)
