"""Events: accepted once, leased, finished with the rows they led to, quarantined when they always fail.

What an authentic sender sent and nobody could read is quarantined at once, as an event of kind `malformed`, as far as
an account has room for it. Xero's events of a category that is not fetched by id wait for a catch-up of their
organisation, which finishes them; so does what stands for notifications of Copper's that were too many to keep. What
concerns nobody here, and no type that is followed, is not kept.
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
from sqlmodel import Session

from store.database import touched
from store.tenancy import HOLD_ACCOUNT

NOBODY = 0
LEASE_LIMIT = 1_000
LEASE_MOST, LEASE_WINDOW = 10_000, 100_000
ERROR_LENGTH = 500

MALFORMED = "malformed"
MAX_MALFORMED_KEPT = 100
"""How many an account (0: the installation) may have in quarantine; more are counted."""

# What is fetched by id. Any other category of Xero's says that something changed in the organisation, and asks for
# a catch-up; any other type of Copper's is ignored. Whatever the event, it means "changed".
XERO_KINDS = ("INVOICE", "CONTACT")
COPPER_KINDS = ("lead", "person", "company", "opportunity")
# The events that Copper is asked to tell of.
COPPER_EVENTS = ("new", "update", "delete")
# What stands in the inbox for Copper's notifications beyond the limit: everything that changed is to be fetched, or
# (where some told of deletions, which no catch-up sees) everything there is.
CATCH_UP, RECONCILIATION = "catch_up", "reconciliation"
OVERFLOW_KINDS = (CATCH_UP, RECONCILIATION)


@dataclass(slots=True)
class NewEvent:
    """One event as a receiver understood it, before anybody looked up whose it is.

    `dedupe_key` is the hexadecimal SHA-256 of what makes it the same event.
    """

    tenant: str
    kind: str
    event: str
    resource_id: str
    occurred_at: datetime | None
    dedupe_key: str
    correlation: str


@dataclass(frozen=True, slots=True)
class MalformedEvent:
    """An event, an id or a whole body of an authentic request that nobody could read.

    It is `account_id`'s, or (None) of whoever has the `tenant`. `error` says where it failed, never what stood there;
    `body` is for a person to see, and holds no secret. `dedupe_key` is hexadecimal.
    """

    account_id: int | None
    source: str
    tenant: str
    resource_id: str
    dedupe_key: str
    body: bytes
    error: str
    correlation: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one webhook of Xero's brought; `first` and `last` are its sequence numbers, 0 where it has none."""

    events: Sequence[NewEvent]
    first: int = 0
    last: int = 0
    malformed: Sequence[MalformedEvent] = ()

    @property
    def size(self) -> int:
        """How many rows it takes at least."""
        return len(self.events) + len(self.malformed)


@dataclass(frozen=True)
class Source:
    """Where waiting events belong: an organisation of an account, or (organisation 0) its Copper."""

    account_id: int
    organisation_id: int

    @property
    def is_copper(self) -> bool:
        """Whether this is the account's Copper side."""
        return self.organisation_id == 0

    @property
    def vendor(self) -> str:
        """`copper` or `xero`."""
        return "copper" if self.is_copper else "xero"


# Xero's eventDateUtc is the change's own millisecond and a fetch always begins later than that, so an
# event with the same key says nothing that the first one did not: it is dropped.
ACCEPT_XERO = """
    WITH delivery AS (
        INSERT INTO xero_delivery (first_sequence, last_sequence)
        SELECT first, last FROM json_to_recordset(%(deliveries)s::json) AS d(first bigint, last bigint)
        WHERE first > 0 AND last >= first ORDER BY 1, 2
        ON CONFLICT DO NOTHING),
    given AS (
        SELECT * FROM json_to_recordset(%(events)s::json)
             AS e(tenant text, kind text, event text, resource_id text, occurred_at timestamptz, dedupe_key text,
                  correlation text)),
    held AS (
        SELECT o.account_id, o.id, o.tenant_id::text AS tenant
        FROM xero_organisation o JOIN account a ON a.id = o.account_id AND a.closed_at IS NULL
        WHERE o.tenant_id::text IN (SELECT lower(tenant) FROM given) AND o.status <> 'dropped'
        FOR KEY SHARE OF a),
    event AS MATERIALIZED (
        SELECT e.*, o.account_id, o.id AS organisation_id
        FROM given e LEFT JOIN held o ON o.tenant = lower(e.tenant)),
    accepted AS (
        INSERT INTO inbox (account_id, source, organisation_id, tenant, kind, event, resource_id, occurred_at,
                           dedupe_key, correlation_id)
        SELECT account_id, 'xero', organisation_id, tenant, kind, event, resource_id, occurred_at,
               decode(dedupe_key, 'hex'), correlation
        FROM event WHERE organisation_id IS NOT NULL
        ORDER BY 1, dedupe_key
        ON CONFLICT (account_id, dedupe_key) DO NOTHING
        RETURNING account_id, organisation_id)
    SELECT account_id, organisation_id, count(*) FROM accepted GROUP BY 1, 2
    UNION ALL
    SELECT 0, 0, count(*) FROM event WHERE organisation_id IS NULL
"""

# Copper's timestamps may be whole seconds, so two changes can look alike, and the second may come after
# the first was fetched: a known key is opened again instead of dropped. It costs one fetch at most.
ACCEPT_COPPER = f"""
    WITH held AS ({HOLD_ACCOUNT.format(account="%(account)s")}),
    accepted AS (
        INSERT INTO inbox AS known (account_id, source, tenant, kind, event, resource_id, occurred_at, dedupe_key,
                                    correlation_id)
        SELECT held.id, 'copper', e.tenant, e.kind, e.event, e.resource_id, e.occurred_at,
               decode(e.dedupe_key, 'hex'), e.correlation
        FROM json_to_recordset(%(events)s::json)
             AS e(tenant text, kind text, event text, resource_id text, occurred_at timestamptz, dedupe_key text,
                  correlation text),
             held
        ORDER BY e.dedupe_key
        ON CONFLICT (account_id, dedupe_key) DO UPDATE
        SET state = 'pending', attempts = 0, not_before = now(), lease_id = NULL, leased_until = NULL,
            finished_at = NULL, error = NULL
        WHERE known.state IN ('leased', 'done', 'failed', 'dismissed')
        RETURNING account_id, organisation_id)
    SELECT account_id, organisation_id, count(*) FROM accepted GROUP BY 1, 2
"""

# One at a time, so that two together do not keep more than an account has room for: they are rare.
LOCK_MALFORMED = "SELECT pg_advisory_xact_lock(hashtext('patina malformed'))"
KEEP_MALFORMED = f"""
    WITH malformed AS MATERIALIZED (
        SELECT m.*, coalesce(m.account_id, o.account_id, {NOBODY}) AS owner_id, coalesce(o.id, 0) AS organisation_id
        FROM json_to_recordset(%s::json)
             AS m(account_id bigint, source text, tenant text, resource_id text, dedupe_key text, body text, error text,
                  correlation text)
        LEFT JOIN xero_organisation o
            ON m.account_id IS NULL AND o.tenant_id::text = lower(m.tenant) AND o.status <> 'dropped'),
    held AS (
        SELECT id FROM account WHERE id IN (SELECT owner_id FROM malformed) AND closed_at IS NULL FOR KEY SHARE),
    new AS (
        SELECT m.*, row_number() OVER (PARTITION BY owner_id ORDER BY dedupe_key) AS place
        FROM malformed m
        WHERE (m.owner_id = {NOBODY} OR m.owner_id IN (SELECT id FROM held))
          AND NOT EXISTS (SELECT FROM inbox known WHERE known.account_id = m.owner_id
                          AND known.dedupe_key = decode(m.dedupe_key, 'hex'))),
    room AS (
        SELECT owner_id, {MAX_MALFORMED_KEPT} - (
            SELECT count(*) FROM inbox kept
            WHERE kept.account_id = o.owner_id AND kept.state = 'failed' AND kept.kind = '{MALFORMED}') AS rows
        FROM (SELECT DISTINCT owner_id FROM new) o),
    kept AS (
        INSERT INTO inbox (account_id, source, organisation_id, tenant, kind, event, resource_id, dedupe_key,
                           correlation_id, state, error, body)
        SELECT owner_id, source, organisation_id, tenant, '{MALFORMED}', '', resource_id, decode(dedupe_key, 'hex'),
               correlation, 'failed', error, decode(body, 'hex')
        FROM new JOIN room USING (owner_id) WHERE place <= room.rows
        ORDER BY owner_id, dedupe_key
        ON CONFLICT (account_id, dedupe_key) DO NOTHING
        RETURNING 1)
    SELECT owner_id, source, count(*) FILTER (WHERE place <= rows), count(*) FILTER (WHERE place > rows)
    FROM new JOIN room USING (owner_id) GROUP BY 1, 2
"""
# Due when the minute is over: until then a web process may drop notifications without another look.
REQUEST_OVERFLOW = """
    INSERT INTO inbox AS known (account_id, source, tenant, kind, event, resource_id, dedupe_key, correlation_id,
                                not_before)
    SELECT a.id, 'copper', '', %(kind)s, '', '',
           sha256(convert_to(concat_ws(' ', 'overflow', %(kind)s::text, minute), 'UTF8')), %(correlation)s,
           minute + interval '1 minute'
    FROM account a, date_trunc('minute', now()) AS minute
    WHERE a.id = %(account)s AND a.closed_at IS NULL FOR KEY SHARE OF a
    ON CONFLICT (account_id, dedupe_key) DO UPDATE
    SET state = 'pending', not_before = EXCLUDED.not_before, finished_at = NULL
    WHERE known.state <> 'pending'
"""

CREDENTIAL = "SELECT account_id, sealed FROM copper_credential WHERE webhook_token_hash = %s"


def _as_json(events: Sequence[NewEvent]) -> str:
    unique = {event.dedupe_key: event for event in events}
    return orjson.dumps(list(unique.values())).decode()


@dataclass(frozen=True)
class Dropped:
    """Malformed events that were not kept, as an account (0: the installation) has enough of them."""

    account_id: int
    source: str
    events: int


@dataclass(frozen=True)
class Accepted:
    """What became of some deliveries' events: whom to wake, rows kept, ignored and malformed, events known already.

    An event of an organisation that two accounts have is kept twice. `dropped` is what there was no room for.
    """

    sources: frozenset[Source]
    kept: int
    ignored: int
    repeated: int
    malformed: int
    dropped: tuple[Dropped, ...] = ()

    @property
    def outcomes(self) -> tuple[int, int, int, int]:
        """The numbers in the order of the metric's outcomes: kept, ignored, repeated, malformed."""
        return self.kept, self.ignored, self.repeated, self.malformed


def _accepted(events: Sequence[NewEvent], rows: Sequence[TupleRow], malformed: Sequence[TupleRow]) -> Accepted:
    kept = {Source(row[0], row[1]): row[2] for row in rows if row[0] != NOBODY}
    ignored = sum(row[2] for row in rows if row[0] == NOBODY)
    total = sum(kept.values())
    return Accepted(
        frozenset(kept),
        total,
        ignored,
        max(len(events) - total - ignored, 0),
        sum(row[2] for row in malformed),
        tuple(Dropped(row[0], row[1], row[3]) for row in malformed if row[3]),
    )


async def accept_xero(connection: AsyncConnection[TupleRow], deliveries: Sequence[Delivery]) -> Accepted:
    """Commit Xero's events, one row for each account that has the tenant, and the numbers of their deliveries.

    What could not be read goes first: a delivery counts as received only when all of it is kept.
    """
    malformed = await _keep_malformed(connection, [each for delivery in deliveries for each in delivery.malformed])
    events = [event for delivery in deliveries for event in delivery.events]
    numbers = [{"first": delivery.first, "last": delivery.last} for delivery in deliveries]
    chosen = {"events": _as_json(events), "deliveries": orjson.dumps(numbers).decode()}
    cursor = await connection.execute(ACCEPT_XERO, chosen)
    return _accepted(events, await cursor.fetchall(), malformed)


async def accept_copper(
    connection: AsyncConnection[TupleRow],
    account_id: int,
    events: Sequence[NewEvent],
    malformed: Sequence[MalformedEvent] = (),
) -> Accepted:
    """Commit one account's Copper events."""
    kept = await _keep_malformed(connection, malformed)
    chosen = {"account": account_id, "events": _as_json(events)}
    cursor = await connection.execute(ACCEPT_COPPER, chosen)
    return _accepted(events, await cursor.fetchall(), kept)


async def _keep_malformed(
    connection: AsyncConnection[TupleRow], malformed: Sequence[MalformedEvent]
) -> Sequence[TupleRow]:
    """Quarantine what nobody could read, as far as there is room; returns what is new of it, by account and vendor:
    how many were kept, and how many were not."""
    if not malformed:
        return ()
    rows = [{**asdict(each), "body": each.body.hex(), "error": each.error[:ERROR_LENGTH]} for each in malformed]
    async with connection.transaction():
        await connection.execute(LOCK_MALFORMED)
        cursor = await connection.execute(KEEP_MALFORMED, [orjson.dumps(rows).decode()])
        return await cursor.fetchall()


async def request_overflow(connection: AsyncConnection[TupleRow], account_id: int, kind: str, correlation: str) -> None:
    """Have everything fetched (`kind`: one of `OVERFLOW_KINDS`) that notifications of this minute may tell of."""
    params = {"account": account_id, "kind": kind, "correlation": correlation}
    await connection.execute(REQUEST_OVERFLOW, params)


async def copper_credential(connection: AsyncConnection[TupleRow], token_hash: bytes) -> tuple[int, bytes] | None:
    """The account whose webhook path this is and its sealed credential, or None."""
    row = await (await connection.execute(CREDENTIAL, (token_hash,))).fetchone()
    return (row[0], bytes(row[1])) if row else None


@dataclass(frozen=True)
class LeasedEvent:
    """An event in the hands of one worker."""

    id: int
    kind: str
    event: str
    resource_id: str
    occurred_at: datetime | None
    correlation_id: str
    attempts: int


@dataclass(frozen=True)
class QuarantinedEvent:
    """An event that always failed, with its last error."""

    id: int
    source: str
    organisation_id: int
    kind: str
    event: str
    resource_id: str
    received_at: datetime
    attempts: int
    error: str | None
    body_bytes: int | None

    @property
    def replayable(self) -> bool:
        """Whether it names something that can be fetched again."""
        return self.kind != MALFORMED


@dataclass(frozen=True)
class EventState:
    """What may be done with an event."""

    state: str
    kind: str

    @property
    def failed(self) -> bool:
        """Whether it waits for a person."""
        return self.state == "failed"

    @property
    def retryable(self) -> bool:
        """Whether it can be applied again: what could not be read names nothing to fetch."""
        return self.failed and self.kind != MALFORMED


@dataclass(frozen=True)
class Lease:
    """A worker's hold on some events of one source, until `seconds` after it was taken."""

    id: UUID
    source: Source
    events: tuple[LeasedEvent, ...]


class LeaseLostError(Exception):
    """The lease ran out and another worker took over: whoever sees this must roll back."""


# The oldest events, and all others of the same resources: one fetch answers for them all. The window bounds what is
# looked through for them. Events that another worker is just taking are skipped: whoever gets none looks again.
LEASE = text("""
    WITH waiting AS MATERIALIZED (
        SELECT id, kind, resource_id FROM inbox
        WHERE account_id = :account AND source = :source AND organisation_id = :organisation
          AND state IN ('pending', 'leased') AND not_before <= now()
          AND (state = 'pending' OR leased_until < now()) AND kind = ANY(:kinds)
        ORDER BY id LIMIT :window),
    chosen AS (
        SELECT DISTINCT kind, resource_id FROM (
            SELECT kind, resource_id FROM waiting ORDER BY id LIMIT :limit) AS oldest),
    taken AS (
        SELECT id FROM inbox
        WHERE account_id = :account AND state IN ('pending', 'leased')
          AND (state = 'pending' OR leased_until < now())
          AND id = ANY(ARRAY(SELECT id FROM waiting JOIN chosen USING (kind, resource_id) ORDER BY id LIMIT :most))
        FOR UPDATE SKIP LOCKED)
    UPDATE inbox SET state = 'leased', lease_id = :lease, attempts = attempts + 1,
                     leased_until = now() + make_interval(secs => :seconds)
    WHERE account_id = :account AND id = ANY(ARRAY(SELECT id FROM taken))
    RETURNING id, kind, event, resource_id, occurred_at, correlation_id, attempts
""")
BURST = text("""
    SELECT count(*), extract(epoch FROM clock_timestamp() - max(received_at))
    FROM (SELECT received_at FROM inbox
          WHERE account_id = :account AND source = :source AND organisation_id = :organisation
            AND state = 'pending' AND not_before <= now()
          ORDER BY id DESC LIMIT :limit) newest
""")
# Events that ask for a catch-up are never leased: the transaction that begins it finishes them.
REQUESTS = """account_id = :account AND source = :source AND organisation_id = :organisation
          AND state = 'pending' AND kind <> ALL(:kinds) AND (CAST(:only AS text) IS NULL OR kind = :only)"""
REQUESTS_CATCH_UP = text(f"SELECT EXISTS (SELECT FROM inbox WHERE {REQUESTS} AND not_before <= now())")
# What stands for a minute's notifications waits for its end: until then it stands for some that are still to come.
FINISH_REQUESTS = text(f"""
    UPDATE inbox SET state = 'done', finished_at = now(), error = NULL
    WHERE {REQUESTS} AND (source = 'xero' OR not_before <= now())
""")
DEFER_REQUESTS = text(f"""
    UPDATE inbox SET not_before = now() + make_interval(secs => :seconds) WHERE {REQUESTS} AND not_before <= now()
""")
# After a reconnection nothing has to wait for its next turn, but for what stands for a minute that is not over.
RESUME = text(f"""
    UPDATE inbox SET not_before = now()
    WHERE account_id = :account AND source = :source AND organisation_id = :organisation AND state = 'pending'
      AND not_before > now() AND kind NOT IN {OVERFLOW_KINDS}
""")
FORGET = text("""
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
FINISH = text("""
    UPDATE inbox SET state = 'done', finished_at = now(), error = NULL
    WHERE account_id = :account AND id = ANY(:ids) AND lease_id = :lease AND state = 'leased'
""")
# A try that ends in an error costs an attempt; one put off because the vendor said "later" does not.
RELEASE = text("""
    UPDATE inbox
    SET state = CASE WHEN NOT :free AND attempts >= :most THEN 'failed' ELSE 'pending' END,
        attempts = attempts - CASE WHEN :free THEN 1 ELSE 0 END,
        lease_id = NULL, leased_until = NULL, error = :error,
        not_before = now() + make_interval(secs => :delay)
    WHERE account_id = :account AND id = ANY(:ids) AND lease_id = :lease AND state = 'leased'
    RETURNING state
""")
# Not a try: nothing was asked of the vendor.
LET_GO = text("""
    UPDATE inbox SET state = 'pending', attempts = attempts - 1, lease_id = NULL, leased_until = NULL
    WHERE account_id = :account AND lease_id = :lease AND state = 'leased' AND id = ANY(:ids)
""")
WAITS = text("""
    SELECT EXISTS (SELECT FROM inbox
        WHERE account_id = :account AND source = :source AND organisation_id = :organisation
          AND state = 'pending' AND not_before <= now())
""")
WAITING = text("""
    SELECT DISTINCT account_id, organisation_id FROM inbox
    WHERE state IN ('pending', 'leased') AND not_before <= now()
      AND (state = 'pending' OR leased_until < now())
""")
OLDEST = text("""
    SELECT extract(epoch FROM now() - min(received_at)) FROM inbox
    WHERE account_id = :account AND state IN ('pending', 'leased')
""")
OPEN = text("""
    SELECT count(*) FROM inbox WHERE state IN ('pending', 'leased')
      AND (CAST(:account AS bigint) IS NULL OR account_id = :account)
""")
# What nobody could read has no ids to look up: it can be dismissed, not replayed.
LISTED = text("""
    SELECT id, source, organisation_id, kind, event, resource_id, received_at, attempts, error, length(body)
    FROM inbox
    WHERE account_id = :account AND state = 'failed' ORDER BY id DESC LIMIT :limit
""")
SHOWN = text("""
    SELECT id, source, organisation_id, kind, event, resource_id, occurred_at, received_at, state, attempts,
           not_before, finished_at, correlation_id, error, length(body) AS body_bytes
    FROM inbox WHERE account_id = :account AND id = :id
""")
BODY = text("SELECT body FROM inbox WHERE account_id = :account AND id = :id")
STATES = text("""
    SELECT id, state, kind FROM inbox WHERE account_id = :account AND id = ANY(:ids) ORDER BY id FOR UPDATE
""")
REPLAY = text(f"""
    UPDATE inbox SET state = 'pending', attempts = 0, not_before = now(), error = NULL, finished_at = NULL
    WHERE account_id = :account AND state = 'failed' AND kind <> '{MALFORMED}' AND (:everything OR id = ANY(:ids))
    RETURNING organisation_id
""")
DISMISS = text("""
    UPDATE inbox SET state = 'dismissed', finished_at = now(), body = NULL
    WHERE account_id = :account AND state = 'failed' AND (:everything OR id = ANY(:ids))
""")
# Two looks into small partial indexes, however many finished events are kept.
BACKLOG = text("""
    SELECT account_id, sum(waiting), max(oldest), sum(failed)
    FROM (SELECT account_id, count(*) AS waiting, extract(epoch FROM now() - min(received_at)) AS oldest, 0 AS failed
          FROM inbox WHERE state IN ('pending', 'leased') GROUP BY account_id
          UNION ALL
          SELECT account_id, 0, NULL, count(*) FROM inbox WHERE state = 'failed' GROUP BY account_id) counted
    GROUP BY account_id
""")
LAST = text("SELECT received_at FROM inbox WHERE account_id = :account ORDER BY id DESC LIMIT 1")
QUARANTINED_BY_ACCOUNT = text("SELECT account_id, count(*) FROM inbox WHERE state = 'failed' GROUP BY 1 ORDER BY 1")
QUARANTINED = text("SELECT count(*) FROM inbox WHERE state = 'failed' AND account_id = :account")


def _place(source: Source) -> dict[str, Any]:
    return {
        "account": source.account_id,
        "organisation": source.organisation_id,
        "source": source.vendor,
    }


def _kinds(source: Source) -> tuple[str, ...]:
    """What is fetched by id."""
    return COPPER_KINDS if source.is_copper else XERO_KINDS


def lease(session: Session, source: Source, seconds: float, limit: int = LEASE_LIMIT) -> Lease | None:
    """Take the oldest `limit` waiting events of `source`, and further ones of their resources, for `seconds`.

    None when nothing waits, or another worker is just taking it.
    """
    token = uuid4()
    bounds = {"limit": limit, "most": max(limit, LEASE_MOST), "window": max(limit, LEASE_WINDOW)}
    chosen = {**_place(source), "kinds": list(_kinds(source)), "lease": token, "seconds": seconds, **bounds}
    rows = session.execute(LEASE, chosen).all()
    if not rows:
        return None
    return Lease(token, source, tuple(sorted((LeasedEvent(*row) for row in rows), key=lambda e: e.id)))


def burst(session: Session, source: Source, limit: int) -> tuple[int, float]:
    """How many events of `source` wait, counted up to `limit`, and how many seconds ago the newest came."""
    count, ago = session.execute(BURST, {**_place(source), "limit": limit}).one()
    return int(count), float(ago or 0)


def _requests(source: Source, only: str | None) -> dict[str, Any]:
    return {**_place(source), "kinds": list(_kinds(source)), "only": only}


def requests_catch_up(session: Session, source: Source, only: str | None = None) -> bool:
    """Whether an event of `source`, of the kind `only` or of any, asks for a catch-up now."""
    return bool(session.execute(REQUESTS_CATCH_UP, _requests(source, only)).scalar_one())


def finish_requests(session: Session, source: Source, only: str | None = None) -> int:
    """Mark every event done that asks for a catch-up of `source`; returns how many.

    For the transaction that begins the catch-up: it fetches later than any of them came.
    """
    return touched(session, FINISH_REQUESTS, _requests(source, only))


def defer_requests(session: Session, source: Source, seconds: float, only: str | None = None) -> None:
    """Have the events that ask for a catch-up of `source` wait for some seconds."""
    session.execute(DEFER_REQUESTS, {**_requests(source, only), "seconds": seconds})


def resume(session: Session, source: Source) -> None:
    """Let what was put off for later be taken now."""
    session.execute(RESUME, _place(source))


def forget(session: Session, days: int, quarantine_days: int, limit: int) -> int:
    """Delete events that ended more than `days` ago, and those that nobody took out of quarantine for so long.

    Up to `limit` of either; returns how many went.
    """
    return touched(session, FORGET, {"days": days, "quarantine_days": quarantine_days, "limit": limit})


def finish(session: Session, held: Lease, ids: Sequence[int]) -> None:
    """Mark events of a lease done; raises `LeaseLostError` when not all of them were ours any more."""
    chosen = {"account": held.source.account_id, "ids": list(ids), "lease": held.id}
    done = touched(session, FINISH, chosen)
    if done < len(ids):
        raise LeaseLostError(f"{len(ids) - done} of {len(ids)} events were taken over by another worker")


def release(
    session: Session,
    held: Lease,
    ids: Sequence[int],
    *,
    error: str,
    delay: float,
    most: int,
    free: bool,
) -> int:
    """Put events back for `delay` seconds, or into quarantine after `most` tries; returns how many went there.

    `free` does not count the try (the vendor asked us to wait, nothing is wrong with the event).
    """
    chosen = {
        "account": held.source.account_id,
        "ids": list(ids),
        "lease": held.id,
        "error": error[:ERROR_LENGTH],
        "delay": delay,
        "most": most,
        "free": free,
    }
    return [row.state for row in session.execute(RELEASE, chosen)].count("failed")


def let_go(session: Session, held: Lease) -> None:
    """Put what is left of a lease back as it came, for whoever's turn is next."""
    chosen = {"account": held.source.account_id, "lease": held.id, "ids": [event.id for event in held.events]}
    session.execute(LET_GO, chosen)


def waits(session: Session, source: Source) -> bool:
    """Whether an event of `source` could be taken now."""
    return bool(session.execute(WAITS, _place(source)).scalar_one())


def waiting(session: Session) -> set[Source]:
    """Every source with events that a worker could take now."""
    return {Source(*row) for row in session.execute(WAITING)}


def open_count(session: Session, account_id: int | None = None) -> int:
    """How many events are not finished, of one account or of all."""
    return int(session.execute(OPEN, {"account": account_id}).scalar_one())


def oldest_waiting(session: Session, account_id: int) -> float | None:
    """Seconds that the account's oldest unfinished event has waited; None when none waits."""
    ago = session.execute(OLDEST, {"account": account_id}).scalar_one()
    return float(ago) if ago is not None else None


def quarantined(session: Session, account_id: int, limit: int) -> list[QuarantinedEvent]:
    """The account's events that wait for a person, the latest first."""
    return [QuarantinedEvent(*row) for row in session.execute(LISTED, {"account": account_id, "limit": limit})]


def shown(session: Session, account_id: int, event_id: int) -> dict[str, Any] | None:
    """One event with all that is known of it, apart from the body that nobody could read; None when there is none."""
    row = session.execute(SHOWN, {"account": account_id, "id": event_id}).mappings().one_or_none()
    return dict(row) if row else None


def body(session: Session, account_id: int, event_id: int) -> bytes | None:
    """The body of an event that nobody could read, for the eyes of an operator; None when none is kept."""
    kept: bytes | None = session.execute(BODY, {"account": account_id, "id": event_id}).scalar_one_or_none()
    return bytes(kept) if kept is not None else None


def states(session: Session, account_id: int, ids: Sequence[int]) -> dict[int, EventState]:
    """The state of each of the account's events of `ids`; it stays so until the transaction ends."""
    rows = session.execute(STATES, {"account": account_id, "ids": list(ids)})
    return {row.id: EventState(row.state, row.kind) for row in rows}


def replay(session: Session, account_id: int, ids: Sequence[int] | None) -> tuple[int, set[Source]]:
    """Have quarantined events (None: all) applied again; returns how many, and whom to wake after the commit."""
    chosen = {"account": account_id, "ids": list(ids or ()), "everything": ids is None}
    again = list(session.execute(REPLAY, chosen).scalars())
    return len(again), {Source(account_id, organisation_id) for organisation_id in again}


def dismiss(session: Session, account_id: int, ids: Sequence[int] | None) -> int:
    """Let quarantined events (None: all) be; returns how many."""
    chosen = {"account": account_id, "ids": list(ids or ()), "everything": ids is None}
    return touched(session, DISMISS, chosen)


@dataclass(frozen=True)
class Backlog:
    """An account's events that are not applied: how many wait, the oldest for how many seconds, how many failed."""

    waiting: int
    oldest_seconds: float
    quarantined: int


def backlogs(session: Session) -> dict[int, Backlog]:
    """The backlog of every account that has one."""
    return {row[0]: Backlog(int(row[1]), float(row[2] or 0), int(row[3])) for row in session.execute(BACKLOG)}


def last_received(session: Session, account_id: int) -> datetime | None:
    """When the account's latest event came; None when none is kept."""
    at: datetime | None = session.execute(LAST, {"account": account_id}).scalar_one_or_none()
    return at


def quarantined_count(session: Session, account_id: int) -> int:
    """How many of the account's events wait for a person."""
    return int(session.execute(QUARANTINED, {"account": account_id}).scalar_one())


def quarantined_by_account(session: Session) -> dict[int, int]:
    """How many events wait for a person, by account; 0 is the installation, whose are of no account."""
    return {row[0]: row[1] for row in session.execute(QUARANTINED_BY_ACCOUNT)}
