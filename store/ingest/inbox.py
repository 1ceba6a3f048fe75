"""The inbox: events are accepted once, leased, completed together with their rows, and quarantined on failure.

Unreadable events of an authentic sender are quarantined at once, with category `malformed`, up to a limit an account.
Xero events of a category that is not fetched by id request a catch-up of their organisation, which completes them. So
does the event that stands for Copper notifications beyond the webhook quota. Events of an organisation or a type that
no account follows are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount
from store.db.enums import INSTALLATION, EventState
from store.db.tenancy import LOCK_ACCOUNT

LEASE_LIMIT = 1_000
MAX_LEASE_EVENTS, MAX_LEASE_WINDOW = 10_000, 100_000
MAX_ERROR_LENGTH = 500

MALFORMED = "malformed"
MAX_MALFORMED_KEPT = 100
"""How many malformed events an account (0: the installation) may have in quarantine; more are only counted."""

# Events of these categories are fetched by id. Any other Xero category requests a catch-up of the organisation; any
# other Copper type is ignored. Every event only means that something changed.
XERO_CATEGORIES = ("INVOICE", "CONTACT", "CREDITNOTE", "PREPAYMENT", "OVERPAYMENT")
COPPER_CATEGORIES = ("lead", "person", "company", "opportunity")
# The Copper events that are subscribed to.
COPPER_EVENTS = ("new", "update", "delete")
# The events that stand for Copper notifications beyond the quota: all changes are to be fetched, or all records if
# some notifications were deletions, which a catch-up does not see.
CATCH_UP, RECONCILIATION = "catch_up", "reconciliation"
OVERFLOW_CATEGORIES = (CATCH_UP, RECONCILIATION)


@dataclass(slots=True)
class NewEvent:
    """One event as a webhook endpoint read it, before its account is resolved.

    `dedupe_key` is the hexadecimal SHA-256 of what identifies the event.
    """

    tenant: str
    category: str
    event_type: str
    resource_id: str
    occurred_at: datetime | None
    dedupe_key: str
    correlation: str


@dataclass(frozen=True, slots=True)
class MalformedEvent:
    """An event, an id or a whole body of an authentic request that could not be read.

    It belongs to `account_id` or, if that is None, to the account that has the `tenant`. `error` names the position,
    never the value. `body` is for a person to inspect and holds no secret. `dedupe_key` is hexadecimal.
    """

    account_id: int | None
    vendor: str
    tenant: str
    resource_id: str
    dedupe_key: str
    body: bytes
    error: str
    correlation: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """The content of one Xero webhook; `first` and `last` are its sequence numbers, 0 if it has none."""

    events: Sequence[NewEvent]
    first: int = 0
    last: int = 0
    malformed: Sequence[MalformedEvent] = ()

    @property
    def size(self) -> int:
        """The minimum number of inbox rows it takes."""
        return len(self.events) + len(self.malformed)


@dataclass(frozen=True)
class SyncSource:
    """A source of events and sync runs: an organisation of an account, or (organisation 0) its Copper."""

    account_id: int
    organisation_id: int

    @property
    def is_copper(self) -> bool:
        """Whether this is the account's Copper."""
        return self.organisation_id == 0

    @property
    def vendor(self) -> str:
        """`copper` or `xero`."""
        return "copper" if self.is_copper else "xero"


# The organisations are found by the index on their tenant: an array is expected to be short, and a join is not.
# Xero's eventDateUtc is the change's own millisecond, and a fetch always begins later. An event with a known key
# therefore carries no new information and is dropped.
ACCEPT_XERO = """
    WITH delivery AS (
        INSERT INTO xero_delivery (first_sequence, last_sequence)
        SELECT first, last FROM json_to_recordset(%(deliveries)s::json) AS d(first bigint, last bigint)
        WHERE first > 0 AND last >= first ORDER BY 1, 2
        ON CONFLICT DO NOTHING),
    received AS (
        SELECT *, CASE WHEN tenant ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN tenant::uuid END AS tenant_id
        FROM json_to_recordset(%(events)s::json)
             AS e(tenant text, category text, event_type text, resource_id text, occurred_at timestamptz,
                  dedupe_key text, correlation text)),
    organisation AS (
        SELECT o.account_id, o.id, o.tenant_id
        FROM xero_organisation o JOIN account a ON a.id = o.account_id AND a.closed_at IS NULL
        WHERE o.tenant_id = ANY(ARRAY(SELECT DISTINCT tenant_id FROM received)) AND o.status <> 'removed'
        FOR KEY SHARE OF a),
    event AS MATERIALIZED (
        SELECT e.*, o.account_id, o.id AS organisation_id
        FROM received e LEFT JOIN organisation o ON o.tenant_id = e.tenant_id),
    accepted AS (
        INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, resource_id, occurred_at,
                           dedupe_key, correlation_id)
        SELECT account_id, 'xero', organisation_id, tenant, category, event_type, resource_id, occurred_at,
               decode(dedupe_key, 'hex'), correlation
        FROM event WHERE organisation_id IS NOT NULL
        ORDER BY 1, dedupe_key
        ON CONFLICT (account_id, dedupe_key) DO NOTHING
        RETURNING account_id, organisation_id)
    SELECT account_id, organisation_id, count(*) FROM accepted GROUP BY 1, 2
    UNION ALL
    SELECT 0, 0, count(*) FROM event WHERE organisation_id IS NULL
"""

# Copper's timestamps may be whole seconds, so two changes can look alike, and the second may arrive after the first
# was fetched. A known key is therefore reopened instead of dropped, which costs one fetch at most.
ACCEPT_COPPER = f"""
    WITH locked AS ({LOCK_ACCOUNT.format(account="%(account)s")}),
    accepted AS (
        INSERT INTO inbox AS existing (account_id, vendor, tenant, category, event_type, resource_id, occurred_at,
                                       dedupe_key, correlation_id)
        SELECT locked.id, 'copper', e.tenant, e.category, e.event_type, e.resource_id, e.occurred_at,
               decode(e.dedupe_key, 'hex'), e.correlation
        FROM json_to_recordset(%(events)s::json)
             AS e(tenant text, category text, event_type text, resource_id text, occurred_at timestamptz,
                  dedupe_key text, correlation text),
             locked
        ORDER BY e.dedupe_key
        ON CONFLICT (account_id, dedupe_key) DO UPDATE
        SET state = 'pending', attempts = 0, not_before = now(), lease_id = NULL, leased_until = NULL,
            finished_at = NULL, error = NULL
        WHERE existing.state IN ('leased', 'done', 'failed', 'dismissed')
        RETURNING account_id, organisation_id)
    SELECT account_id, organisation_id, count(*) FROM accepted GROUP BY 1, 2
"""

# Malformed events are rare. They are stored one call at a time, so that two calls together cannot exceed the limit.
LOCK_MALFORMED = "SELECT pg_advisory_xact_lock(hashtext('patina malformed'))"
STORE_MALFORMED = f"""
    WITH malformed AS MATERIALIZED (
        SELECT m.*, coalesce(m.account_id, o.account_id, {INSTALLATION}) AS owner_id,
               coalesce(o.id, 0) AS organisation_id
        FROM json_to_recordset(%s::json)
             AS m(account_id bigint, vendor text, tenant text, resource_id text, dedupe_key text, body text, error text,
                  correlation text)
        LEFT JOIN xero_organisation o
            ON m.account_id IS NULL AND o.tenant_id::text = lower(m.tenant) AND o.status <> 'removed'),
    locked AS (
        SELECT id FROM account WHERE id IN (SELECT owner_id FROM malformed) AND closed_at IS NULL FOR KEY SHARE),
    new AS (
        SELECT m.*, row_number() OVER (PARTITION BY owner_id ORDER BY dedupe_key) AS position
        FROM malformed m
        WHERE (m.owner_id = {INSTALLATION} OR m.owner_id IN (SELECT id FROM locked))
          AND NOT EXISTS (SELECT FROM inbox existing WHERE existing.account_id = m.owner_id
                          AND existing.dedupe_key = decode(m.dedupe_key, 'hex'))),
    room AS (
        SELECT owner_id, {MAX_MALFORMED_KEPT} - (
            SELECT count(*) FROM inbox stored
            WHERE stored.account_id = o.owner_id AND stored.state = 'failed'
              AND stored.category = '{MALFORMED}') AS rows
        FROM (SELECT DISTINCT owner_id FROM new) o),
    inserted AS (
        INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, resource_id, dedupe_key,
                           correlation_id, state, error, body)
        SELECT owner_id, vendor, organisation_id, tenant, '{MALFORMED}', '', resource_id, decode(dedupe_key, 'hex'),
               correlation, 'failed', error, decode(body, 'hex')
        FROM new JOIN room USING (owner_id) WHERE position <= room.rows
        ORDER BY owner_id, dedupe_key
        ON CONFLICT (account_id, dedupe_key) DO NOTHING
        RETURNING 1)
    SELECT owner_id, vendor, count(*) FILTER (WHERE position <= rows), count(*) FILTER (WHERE position > rows)
    FROM new JOIN room USING (owner_id) GROUP BY 1, 2
"""
# Due when the minute is over, because until then a web process may drop further notifications.
REQUEST_OVERFLOW = """
    INSERT INTO inbox AS existing (account_id, vendor, tenant, category, event_type, resource_id, dedupe_key,
                                   correlation_id, not_before)
    SELECT a.id, 'copper', '', %(category)s, '', '',
           sha256(convert_to(concat_ws(' ', 'overflow', %(category)s::text, minute), 'UTF8')), %(correlation)s,
           minute + interval '1 minute'
    FROM account a, date_trunc('minute', now()) AS minute
    WHERE a.id = %(account)s AND a.closed_at IS NULL FOR KEY SHARE OF a
    ON CONFLICT (account_id, dedupe_key) DO UPDATE
    SET state = 'pending', not_before = EXCLUDED.not_before, finished_at = NULL
    WHERE existing.state <> 'pending'
"""

CREDENTIAL = """
    SELECT c.account_id, c.encrypted_payload,
           ARRAY(SELECT f.definition_id FROM copper_field f
                 WHERE f.account_id = c.account_id AND f.definition_id IS NOT NULL)
    FROM copper_credential c WHERE c.webhook_token_hash = %s
"""


@dataclass(frozen=True)
class DroppedMalformed:
    """Malformed events that were not stored because the account (0: the installation) has reached its limit."""

    account_id: int
    vendor: str
    events: int


@dataclass(frozen=True)
class IngestResult:
    """The outcome of some deliveries: the sources to wake, and events accepted, ignored, duplicate and malformed.

    An event of an organisation that two accounts have is stored, and counted, twice. `dropped` are malformed events
    beyond the limit.
    """

    sources: frozenset[SyncSource]
    accepted: int
    ignored: int
    duplicates: int
    malformed: int
    dropped: tuple[DroppedMalformed, ...] = ()

    @property
    def outcomes(self) -> tuple[int, int, int, int]:
        """The counts in the order of the metric's outcomes: accepted, ignored, duplicate, malformed."""
        return self.accepted, self.ignored, self.duplicates, self.malformed


def _as_json(events: Sequence[NewEvent]) -> str:
    unique = {event.dedupe_key: event for event in events}
    return orjson.dumps(list(unique.values())).decode()


def _ingest_result(events: Sequence[NewEvent], rows: Sequence[TupleRow], malformed: Sequence[TupleRow]) -> IngestResult:
    accepted_by_source = {SyncSource(row[0], row[1]): row[2] for row in rows if row[0] != INSTALLATION}
    ignored = sum(row[2] for row in rows if row[0] == INSTALLATION)
    accepted = sum(accepted_by_source.values())
    return IngestResult(
        frozenset(accepted_by_source),
        accepted,
        ignored,
        max(len(events) - accepted - ignored, 0),
        sum(row[2] for row in malformed),
        tuple(DroppedMalformed(row[0], row[1], row[3]) for row in malformed if row[3]),
    )


async def accept_xero(connection: AsyncConnection[TupleRow], deliveries: Sequence[Delivery]) -> IngestResult:
    """Commit Xero events, one row for each account that has the tenant, and their deliveries' sequence numbers.

    Malformed events are committed first, so that a delivery counts as received only when all of it is stored.
    """
    malformed = await _store_malformed(connection, [event for delivery in deliveries for event in delivery.malformed])
    events = [event for delivery in deliveries for event in delivery.events]
    sequences = [{"first": delivery.first, "last": delivery.last} for delivery in deliveries]
    params = {"events": _as_json(events), "deliveries": orjson.dumps(sequences).decode()}
    cursor = await connection.execute(ACCEPT_XERO, params)
    return _ingest_result(events, await cursor.fetchall(), malformed)


async def accept_copper(
    connection: AsyncConnection[TupleRow],
    account_id: int,
    events: Sequence[NewEvent],
    malformed: Sequence[MalformedEvent] = (),
) -> IngestResult:
    """Commit one account's Copper events."""
    malformed_rows = await _store_malformed(connection, malformed)
    params = {"account": account_id, "events": _as_json(events)}
    cursor = await connection.execute(ACCEPT_COPPER, params)
    return _ingest_result(events, await cursor.fetchall(), malformed_rows)


async def _store_malformed(
    connection: AsyncConnection[TupleRow], malformed: Sequence[MalformedEvent]
) -> Sequence[TupleRow]:
    """Quarantine malformed events up to the limit.

    Returns, for new events by account and vendor, how many were stored and how many were not.
    """
    if not malformed:
        return ()
    rows = [{**asdict(event), "body": event.body.hex(), "error": event.error[:MAX_ERROR_LENGTH]} for event in malformed]
    async with connection.transaction():
        await connection.execute(LOCK_MALFORMED)
        cursor = await connection.execute(STORE_MALFORMED, [orjson.dumps(rows).decode()])
        return await cursor.fetchall()


async def request_overflow(
    connection: AsyncConnection[TupleRow], account_id: int, category: str, correlation: str
) -> None:
    """Request a run (`category`: one of `OVERFLOW_CATEGORIES`) in place of this minute's dropped notifications."""
    params = {"account": account_id, "category": category, "correlation": correlation}
    await connection.execute(REQUEST_OVERFLOW, params)


@dataclass(frozen=True)
class CopperSender:
    """The account of a Copper webhook path, its encrypted credential, and the custom fields that Patina writes."""

    account_id: int
    encrypted_payload: bytes
    own_fields: frozenset[int]


async def copper_sender(connection: AsyncConnection[TupleRow], token_hash: bytes) -> CopperSender | None:
    """Who a Copper webhook path belongs to, or None."""
    row = await (await connection.execute(CREDENTIAL, (token_hash,))).fetchone()
    return CopperSender(row[0], bytes(row[1]), frozenset(row[2])) if row else None


@dataclass(frozen=True)
class LeasedEvent:
    """An event that is leased by one worker."""

    id: int
    category: str
    event_type: str
    resource_id: str
    occurred_at: datetime | None
    correlation_id: str
    attempts: int


@dataclass(frozen=True)
class QuarantinedEvent:
    """A permanently failed event with its last error."""

    id: int
    vendor: str
    organisation_id: int
    category: str
    event_type: str
    resource_id: str
    received_at: datetime
    attempts: int
    error: str | None
    body_bytes: int | None

    @property
    def is_replayable(self) -> bool:
        """Whether it names something that can be fetched again."""
        return self.category != MALFORMED


@dataclass(frozen=True)
class EventSummary:
    """An event's state and category, which decide what may be done with it."""

    state: EventState
    category: str

    @property
    def is_failed(self) -> bool:
        """Whether it is in quarantine."""
        return self.state == EventState.FAILED

    @property
    def is_replayable(self) -> bool:
        """Whether it can be replayed: an unreadable event names nothing to fetch."""
        return self.is_failed and self.category != MALFORMED


@dataclass(frozen=True)
class Lease:
    """A worker's lease of some events of one source."""

    id: UUID
    source: SyncSource
    events: tuple[LeasedEvent, ...]


class LeaseLostError(Exception):
    """The lease expired and another worker took over: the caller must roll back."""


# The oldest events and all others of the same resources, because one fetch serves them all. The window bounds how many
# events are searched for them. Events that another worker is leasing are skipped.
# `IS TRUE` keeps the planner from turning `IN` into a join: it expects one candidate, and right after a flood, before
# PostgreSQL has analyzed the inbox, it chose a nested loop of 100 million comparisons (20 s). A subquery is hashed.
LEASE = text("""
    WITH candidate AS MATERIALIZED (
        SELECT id, category, resource_id FROM inbox
        WHERE account_id = :account AND vendor = :vendor AND organisation_id = :organisation
          AND state IN ('pending', 'leased') AND not_before <= now()
          AND (state = 'pending' OR leased_until < now()) AND category = ANY(:categories)
        ORDER BY id LIMIT :window),
    locked AS (
        SELECT id FROM inbox
        WHERE account_id = :account AND state IN ('pending', 'leased')
          AND (state = 'pending' OR leased_until < now())
          AND id = ANY(ARRAY(SELECT id FROM candidate
                             WHERE ((category, resource_id) IN (
                                 SELECT category, resource_id FROM candidate ORDER BY id LIMIT :limit)) IS TRUE
                             ORDER BY id LIMIT :max_events))
        FOR UPDATE SKIP LOCKED)
    UPDATE inbox SET state = 'leased', lease_id = :lease_id, attempts = attempts + 1,
                     leased_until = now() + make_interval(secs => :seconds)
    WHERE account_id = :account AND id = ANY(ARRAY(SELECT id FROM locked))
    RETURNING id, category, event_type, resource_id, occurred_at, correlation_id, attempts
""")
PENDING_BURST = text("""
    SELECT count(*), extract(epoch FROM clock_timestamp() - max(received_at))
    FROM (SELECT received_at FROM inbox
          WHERE account_id = :account AND vendor = :vendor AND organisation_id = :organisation
            AND state = 'pending' AND not_before <= now()
          ORDER BY id DESC LIMIT :limit) newest
""")
# Events that request a catch-up are never leased: the transaction that starts the catch-up completes them.
CATCH_UP_REQUESTS = """account_id = :account AND vendor = :vendor AND organisation_id = :organisation
          AND state = 'pending' AND category <> ALL(:categories)
          AND (CAST(:category AS text) IS NULL OR category = :category)"""
HAS_CATCH_UP_REQUESTS = text(f"SELECT EXISTS (SELECT FROM inbox WHERE {CATCH_UP_REQUESTS} AND not_before <= now())")
# An event that stands for a minute's notifications is kept until the minute ends, because more may still arrive.
COMPLETE_CATCH_UP_REQUESTS = text(f"""
    UPDATE inbox SET state = 'done', finished_at = now(), error = NULL
    WHERE {CATCH_UP_REQUESTS} AND (vendor = 'xero' OR not_before <= now())
""")
DEFER_CATCH_UP_REQUESTS = text(f"""
    UPDATE inbox SET not_before = now() + make_interval(secs => :seconds)
    WHERE {CATCH_UP_REQUESTS} AND not_before <= now()
""")
# After a reconnection everything is due now, except events that stand for a minute that has not ended.
RESUME = text(f"""
    UPDATE inbox SET not_before = now()
    WHERE account_id = :account AND vendor = :vendor AND organisation_id = :organisation AND state = 'pending'
      AND not_before > now() AND category NOT IN {OVERFLOW_CATEGORIES}
""")
DELETE_EXPIRED = text("""
    DELETE FROM inbox WHERE (account_id, id) IN (
        (SELECT account_id, id FROM inbox
         WHERE received_at < now() - make_interval(days => :days) AND finished_at < now() - make_interval(days => :days)
           AND state IN ('done', 'ignored', 'dismissed')
         LIMIT :limit)
        UNION ALL
        (SELECT account_id, id FROM inbox
         WHERE state = 'failed' AND received_at < now() - make_interval(days => :quarantine_days)
         LIMIT :limit))
""")
COMPLETE = text("""
    UPDATE inbox SET state = 'done', finished_at = now(), error = NULL
    WHERE account_id = :account AND id = ANY(:ids) AND lease_id = :lease_id AND state = 'leased'
""")
# An error costs an attempt; a delay that the vendor asked for does not.
REQUEUE = text("""
    UPDATE inbox
    SET state = CASE WHEN :count_attempt AND attempts >= :max_attempts THEN 'failed' ELSE 'pending' END,
        attempts = attempts - CASE WHEN :count_attempt THEN 0 ELSE 1 END,
        lease_id = NULL, leased_until = NULL, error = :error,
        not_before = now() + make_interval(secs => :delay)
    WHERE account_id = :account AND id = ANY(:ids) AND lease_id = :lease_id AND state = 'leased'
    RETURNING state
""")
# Not an attempt: the vendor was not called.
RELEASE_LEASE = text("""
    UPDATE inbox SET state = 'pending', attempts = attempts - 1, lease_id = NULL, leased_until = NULL
    WHERE account_id = :account AND lease_id = :lease_id AND state = 'leased' AND id = ANY(:ids)
""")
# Events that a transaction is completing at this moment need no renewal, and are not waited for.
RENEW_LEASE = text("""
    UPDATE inbox SET leased_until = now() + make_interval(secs => :seconds)
    WHERE account_id = :account AND id = ANY(ARRAY(
        SELECT id FROM inbox
        WHERE account_id = :account AND id = ANY(:ids) AND lease_id = :lease_id AND state = 'leased'
        FOR UPDATE SKIP LOCKED))
""")
HAS_PENDING = text("""
    SELECT EXISTS (SELECT FROM inbox
        WHERE account_id = :account AND vendor = :vendor AND organisation_id = :organisation
          AND state = 'pending' AND not_before <= now())
""")
PENDING_SOURCES = text("""
    SELECT DISTINCT account_id, organisation_id FROM inbox
    WHERE state IN ('pending', 'leased') AND not_before <= now()
      AND (state = 'pending' OR leased_until < now())
""")
OLDEST_PENDING = text("""
    SELECT extract(epoch FROM now() - min(received_at)) FROM inbox
    WHERE account_id = :account AND state IN ('pending', 'leased')
""")
COUNT_UNFINISHED = text("""
    SELECT count(*) FROM inbox WHERE state IN ('pending', 'leased')
      AND (CAST(:account AS bigint) IS NULL OR account_id = :account)
""")
# An unreadable event names nothing to fetch: it can be dismissed but not replayed.
QUARANTINED = text("""
    SELECT id, vendor, organisation_id, category, event_type, resource_id, received_at, attempts, error, length(body)
    FROM inbox
    WHERE account_id = :account AND state = 'failed' ORDER BY id DESC LIMIT :limit
""")
EVENT = text("""
    SELECT id, vendor, organisation_id, category, event_type, resource_id, occurred_at, received_at, state, attempts,
           not_before, finished_at, correlation_id, error, length(body) AS body_bytes
    FROM inbox WHERE account_id = :account AND id = :id
""")
BODY = text("SELECT body FROM inbox WHERE account_id = :account AND id = :id")
STATES = text("""
    SELECT id, state, category FROM inbox WHERE account_id = :account AND id = ANY(:ids) ORDER BY id FOR UPDATE
""")
REPLAY = text(f"""
    UPDATE inbox SET state = 'pending', attempts = 0, not_before = now(), error = NULL, finished_at = NULL
    WHERE account_id = :account AND state = 'failed' AND category <> '{MALFORMED}' AND (:all_events OR id = ANY(:ids))
    RETURNING organisation_id
""")
DISMISS = text("""
    UPDATE inbox SET state = 'dismissed', finished_at = now(), body = NULL
    WHERE account_id = :account AND state = 'failed' AND (:all_events OR id = ANY(:ids))
""")
# Two scans of small partial indexes, however many finished events are kept.
BACKLOGS = text("""
    SELECT account_id, sum(pending), max(oldest), sum(failed)
    FROM (SELECT account_id, count(*) AS pending, extract(epoch FROM now() - min(received_at)) AS oldest, 0 AS failed
          FROM inbox WHERE state IN ('pending', 'leased') GROUP BY account_id
          UNION ALL
          SELECT account_id, 0, NULL, count(*) FROM inbox WHERE state = 'failed' GROUP BY account_id) counts
    GROUP BY account_id
""")
LAST_RECEIVED = text("SELECT received_at FROM inbox WHERE account_id = :account ORDER BY id DESC LIMIT 1")
QUARANTINED_COUNT = text("SELECT count(*) FROM inbox WHERE state = 'failed' AND account_id = :account")


def _source_params(source: SyncSource) -> dict[str, Any]:
    return {
        "account": source.account_id,
        "organisation": source.organisation_id,
        "vendor": source.vendor,
    }


def _fetched_categories(source: SyncSource) -> tuple[str, ...]:
    """The categories that are fetched by id."""
    return COPPER_CATEGORIES if source.is_copper else XERO_CATEGORIES


def lease(session: Session, source: SyncSource, seconds: float, limit: int = LEASE_LIMIT) -> Lease | None:
    """Lease the oldest `limit` pending events of `source`, and further ones of their resources, for `seconds`.

    None if nothing is pending, or another worker is leasing it.
    """
    lease_id = uuid4()
    params = {
        **_source_params(source),
        "categories": list(_fetched_categories(source)),
        "lease_id": lease_id,
        "seconds": seconds,
        "limit": limit,
        "max_events": max(limit, MAX_LEASE_EVENTS),
        "window": max(limit, MAX_LEASE_WINDOW),
    }
    rows = session.execute(LEASE, params).all()
    if not rows:
        return None
    events = sorted((LeasedEvent(*row) for row in rows), key=lambda event: event.id)
    return Lease(lease_id, source, tuple(events))


def pending_burst(session: Session, source: SyncSource, limit: int) -> tuple[int, float]:
    """The number of pending events of `source`, counted up to `limit`, and the age of the newest in seconds."""
    count, age = session.execute(PENDING_BURST, {**_source_params(source), "limit": limit}).one()
    return int(count), float(age or 0)


def _request_params(source: SyncSource, category: str | None) -> dict[str, Any]:
    return {**_source_params(source), "categories": list(_fetched_categories(source)), "category": category}


def has_catch_up_requests(session: Session, source: SyncSource, category: str | None = None) -> bool:
    """Whether an event of `source`, of `category` or (None) of any, requests a catch-up now."""
    return bool(session.execute(HAS_CATCH_UP_REQUESTS, _request_params(source, category)).scalar_one())


def complete_catch_up_requests(session: Session, source: SyncSource, category: str | None = None) -> int:
    """Mark all events done that request a catch-up of `source`; return how many.

    For the transaction that starts the catch-up, which fetches later than any of them arrived.
    """
    return execute_rowcount(session, COMPLETE_CATCH_UP_REQUESTS, _request_params(source, category))


def defer_catch_up_requests(session: Session, source: SyncSource, seconds: float, category: str | None = None) -> None:
    """Defer the events that request a catch-up of `source` by some seconds."""
    session.execute(DEFER_CATCH_UP_REQUESTS, {**_request_params(source, category), "seconds": seconds})


def resume(session: Session, source: SyncSource) -> None:
    """Make deferred events due now."""
    session.execute(RESUME, _source_params(source))


def delete_expired(session: Session, days: int, quarantine_days: int, limit: int) -> int:
    """Delete events that ended more than `days` ago, and quarantined ones received more than `quarantine_days` ago.

    Up to `limit` of either; returns how many were deleted.
    """
    return execute_rowcount(session, DELETE_EXPIRED, {"days": days, "quarantine_days": quarantine_days, "limit": limit})


def complete(session: Session, lease: Lease, ids: Sequence[int]) -> None:
    """Mark events of a lease done; raises `LeaseLostError` if some of them were no longer leased."""
    params = {"account": lease.source.account_id, "ids": list(ids), "lease_id": lease.id}
    count = execute_rowcount(session, COMPLETE, params)
    if count < len(ids):
        raise LeaseLostError(f"{len(ids) - count} of {len(ids)} events were taken over by another worker")


def requeue(
    session: Session,
    lease: Lease,
    ids: Sequence[int],
    *,
    error: str,
    delay: float,
    max_attempts: int,
    count_attempt: bool,
) -> int:
    """Requeue events for `delay` seconds, or quarantine them after `max_attempts`; return how many were quarantined.

    `count_attempt` is False if the vendor asked us to wait, because then nothing is wrong with the events.
    """
    params = {
        "account": lease.source.account_id,
        "ids": list(ids),
        "lease_id": lease.id,
        "error": error[:MAX_ERROR_LENGTH],
        "delay": delay,
        "max_attempts": max_attempts,
        "count_attempt": count_attempt,
    }
    return [row.state for row in session.execute(REQUEUE, params)].count(EventState.FAILED)


def release_lease(session: Session, lease: Lease) -> None:
    """Return what is left of a lease unchanged, for the next worker."""
    session.execute(RELEASE_LEASE, _lease_params(lease))


def renew_lease(session: Session, lease: Lease, seconds: float) -> bool:
    """Keep what is left of a lease for `seconds` from now; False if nothing of it is left."""
    return execute_rowcount(session, RENEW_LEASE, {**_lease_params(lease), "seconds": seconds}) > 0


def _lease_params(lease: Lease) -> dict[str, Any]:
    ids = [event.id for event in lease.events]
    return {"account": lease.source.account_id, "lease_id": lease.id, "ids": ids}


def has_pending(session: Session, source: SyncSource) -> bool:
    """Whether an event of `source` is due."""
    return bool(session.execute(HAS_PENDING, _source_params(source)).scalar_one())


def pending_sources(session: Session) -> set[SyncSource]:
    """All sources with events that a worker could lease now."""
    return {SyncSource(*row) for row in session.execute(PENDING_SOURCES)}


def count_unfinished(session: Session, account_id: int | None = None) -> int:
    """The number of unfinished events of one account or (None) of all."""
    return int(session.execute(COUNT_UNFINISHED, {"account": account_id}).scalar_one())


def oldest_pending_seconds(session: Session, account_id: int) -> float | None:
    """The age in seconds of the account's oldest unfinished event; None if there is none."""
    age = session.execute(OLDEST_PENDING, {"account": account_id}).scalar_one()
    return float(age) if age is not None else None


def list_quarantined(session: Session, account_id: int, limit: int) -> list[QuarantinedEvent]:
    """The account's quarantined events, latest first."""
    return [QuarantinedEvent(*row) for row in session.execute(QUARANTINED, {"account": account_id, "limit": limit})]


def get_event(session: Session, account_id: int, event_id: int) -> dict[str, Any] | None:
    """All fields of one event except the body; None if there is no such event."""
    row = session.execute(EVENT, {"account": account_id, "id": event_id}).mappings().one_or_none()
    return dict(row) if row else None


def get_body(session: Session, account_id: int, event_id: int) -> bytes | None:
    """The body of an unreadable event; None if none is stored."""
    body: bytes | None = session.execute(BODY, {"account": account_id, "id": event_id}).scalar_one_or_none()
    return bytes(body) if body is not None else None


def get_summaries(session: Session, account_id: int, ids: Sequence[int]) -> dict[int, EventSummary]:
    """The state of each of the account's events of `ids`, locked until the transaction ends."""
    rows = session.execute(STATES, {"account": account_id, "ids": list(ids)})
    return {row.id: EventSummary(EventState(row.state), row.category) for row in rows}


def replay(session: Session, account_id: int, ids: Sequence[int] | None) -> tuple[int, set[SyncSource]]:
    """Requeue quarantined events (None: all); return the count, and the sources to wake after the commit."""
    params = {"account": account_id, "ids": list(ids or ()), "all_events": ids is None}
    organisation_ids = list(session.execute(REPLAY, params).scalars())
    return len(organisation_ids), {SyncSource(account_id, organisation_id) for organisation_id in organisation_ids}


def dismiss(session: Session, account_id: int, ids: Sequence[int] | None) -> int:
    """Dismiss quarantined events (None: all); return the count."""
    params = {"account": account_id, "ids": list(ids or ()), "all_events": ids is None}
    return execute_rowcount(session, DISMISS, params)


@dataclass(frozen=True)
class Backlog:
    """An account's unfinished events: the number pending, the age of the oldest in seconds, the number quarantined."""

    pending: int
    oldest_seconds: float
    quarantined: int


def backlogs(session: Session) -> dict[int, Backlog]:
    """The backlog of every account that has one."""
    return {row[0]: Backlog(int(row[1]), float(row[2] or 0), int(row[3])) for row in session.execute(BACKLOGS)}


def last_received(session: Session, account_id: int) -> datetime | None:
    """When the account's latest event was received; None if none is stored."""
    received_at: datetime | None = session.execute(LAST_RECEIVED, {"account": account_id}).scalar_one_or_none()
    return received_at


def quarantined_count(session: Session, account_id: int) -> int:
    """The number of the account's quarantined events."""
    return int(session.execute(QUARANTINED_COUNT, {"account": account_id}).scalar_one())
