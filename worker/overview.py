"""How every account stands: what it holds, what waits, what it cost, what is wrong. For status and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from runtime.settings import settings
from store import accounts, freshness, inbox, meters, mirror, projection, refusals, runs, unreadable_fields
from store.accounts import AccountSummary, Organisation
from store.database import transaction
from store.drift import added
from store.freshness import Hour, quantile
from store.inbox import NOBODY
from store.meters import Metered
from store.refusals import Refusal
from store.runs import Run
from store.unreadable_fields import UnreadableField
from worker.budget import Budget
from worker.steps import Kind
from worker.xero import scopes

GIGABYTE = 10**9
# What a plan or a role of Copper's may well leave out: the rest works without it.
OPTIONAL = ("leads", "users/search", "webhooks/lead")


@dataclass(frozen=True)
class SourceOverview:
    """A Xero organisation or (organisation 0) the account's Copper, with the calls it has left (None: not known).

    `time_zone` is the one that an organisation's days go by, `unknown_time_zone` Xero's name of one that is unknown.
    `missing` are the permissions (scopes) that Xero says were not granted. Organisations of the same name carry
    their number in it.
    """

    organisation_id: int
    name: str
    minute_left: int | None
    day_left: int | None
    seen_to: datetime | None
    time_zone: str | None = None
    unknown_time_zone: str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccountOverview:
    """One account. `metered` is this month's, `egress_*` the bytes of it that Xero bills, `hours` its last 24.

    `lost` are the organisations (0: Copper) whose connection only an admin can renew; `notes` is what Copper leaves
    out, though nothing is wrong.
    """

    id: int
    name: str
    sources: tuple[SourceOverview, ...]
    records: int
    invoices: int
    showing: int
    rows: int
    events_waiting: int
    oldest_waiting: float | None
    events_quarantined: int
    synced_at: datetime | None
    runs: tuple[Run, ...]
    metered: tuple[Metered, ...]
    lost: tuple[int, ...]
    wrong: tuple[str, ...]
    last_event_at: datetime | None
    hours: tuple[Hour, ...]
    unreadable: tuple[UnreadableField, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unreadable_summary(self) -> list[str]:
        """What could not be read of the vendors' answers in the last 7 days, a sentence for each resource."""
        return unreadable_fields.summary(self.unreadable)

    @property
    def events_day(self) -> int:
        """How many events became visible in the last 24 hours."""
        return sum(hour.events for hour in self.hours)

    @property
    def median(self) -> float | None:
        """Seconds from an event to its rows, half of the day's events; None without any."""
        return quantile(self.hours, 0.5)

    @property
    def slowest(self) -> float | None:
        """The same of 99 in 100 of them."""
        return quantile(self.hours, 0.99)

    @property
    def wrong_for_admins(self) -> tuple[str, ...]:
        """What is wrong in sentences for the settings page, where the button stands beside it."""
        return tuple(f"{one.partition(':')[0]}." for one in self.wrong)

    @property
    def unknown_time_zones(self) -> int:
        """How many organisations go by UTC because Xero's name of their time zone is unknown here."""
        return sum(1 for one in self.sources if one.unknown_time_zone)

    @property
    def lost_count(self) -> int:
        """How many connections an admin must renew: those that are lost, and those that lack a permission."""
        return len({*self.lost, *(one.organisation_id for one in self.sources if one.missing)})

    @property
    def egress_wire(self) -> int:
        """Bytes of this month as sent over the wire."""
        return sum(one.bytes_wire for one in self.metered if one.organisation_id)

    @property
    def egress_plain(self) -> int:
        """Bytes of this month, uncompressed."""
        return sum(one.bytes_plain for one in self.metered if one.organisation_id)

    @property
    def drift(self) -> dict[str, dict[str, int]]:
        """What the latest reconciliation of each source found, by kind, added up."""
        return added(*[run.drift for run in self.runs if run.kind == Kind.RECONCILIATION and run.state == "done"])


@dataclass(frozen=True)
class InstallationOverview:
    """What belongs to no account: bodies and events that could not be read, and name nobody."""

    events_quarantined: int

    @property
    def wrong(self) -> tuple[str, ...]:
        """What needs attention."""
        if not self.events_quarantined:
            return ()
        said = need_attention(self.events_quarantined, " of no account")
        return (f"{said}: run `patina inbox list --installation`",)


def installation() -> InstallationOverview:
    """The installation's overview."""
    with transaction() as session:
        return InstallationOverview(inbox.quarantined_count(session, NOBODY))


def count_events(count: int) -> str:
    """A number of failed events in words."""
    return f"{count} failed event{'' if count == 1 else 's'}"


def need_attention(count: int, whose: str = "") -> str:
    """The same as the beginning of a sentence."""
    return f"{count_events(count)}{whose} need{'s' if count == 1 else ''} attention"


def month_start(now: datetime | None = None) -> datetime:
    """The first moment of this month, UTC: Xero bills by month."""
    return (now or datetime.now(UTC)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def everything() -> list[AccountOverview]:
    """Every account, oldest first."""
    with transaction() as session:
        known = accounts.accounts(session)
    return [of(account) for account in known]


def of(account: AccountSummary) -> AccountOverview:
    """One account's overview."""
    with transaction() as session:
        records, invoices = mirror.count(session, account.id)
        showing, rows = projection.count(session, account.id)
        quarantined = inbox.quarantined_count(session, account.id)
        waiting, oldest = inbox.open_count(session, account.id), inbox.oldest_waiting(session, account.id)
        latest = runs.latest(session, account.id)
        metered = meters.since(session, month_start(), account.id)
        copper = accounts.copper_state(session, account.id)
        lost = accounts.lost_organisations(session, account.id)
        organisations = accounts.organisations(session, account.id)
        last_event_at = inbox.last_received(session, account.id)
        hours = freshness.since(session, account.id, 24)
        unreadable = unreadable_fields.recent(session, account.id)
        refused = [one for one in refusals.of_account(session, account.id, refusals.COPPER) if not one.parameter]
    names = distinct_names(organisations)
    wrong = [f"{names[key]} is disconnected from Xero: reconnect it with `patina connect`" for key in lost]
    wrong += [said for one in organisations for said in _lacking(one, names[one.id])]
    if copper is not None and copper.lost:
        wrong.append("Copper refuses the API key: run `patina connect` with a new one")
    wrong += [_refused(refusal) for refusal in refused if refusal.endpoint not in OPTIONAL]
    wrong += [f"{need_attention(quarantined)}: run `patina inbox list`"] if quarantined else []
    wrong += [_stopped(run) for run in latest if run.state == "failed"]
    sources = [_source(Budget.of_copper(account.id), "Copper", copper.records_seen_to if copper else None)]
    sources += [_organisation(one, names[one.id]) for one in organisations]
    return AccountOverview(
        id=account.id,
        name=account.name,
        sources=tuple(sources),
        records=records,
        invoices=invoices,
        showing=showing,
        rows=rows,
        events_waiting=waiting,
        oldest_waiting=oldest,
        events_quarantined=quarantined,
        synced_at=account.synced_at,
        runs=tuple(latest),
        metered=tuple(metered),
        lost=(*lost, *((refusals.COPPER,) if copper is not None and copper.lost else ())),
        wrong=tuple(wrong),
        last_event_at=last_event_at,
        hours=tuple(hours),
        unreadable=tuple(unreadable),
        notes=tuple(_refused(refusal) for refusal in refused if refusal.endpoint in OPTIONAL),
    )


def distinct_names(organisations: Sequence[Organisation]) -> dict[int, str]:
    """Organisations' names by id; those that share one are told apart by their number."""
    count = Counter(each.name for each in organisations)
    return {
        each.id: each.name if count[each.name] == 1 else f"{each.name} (organisation {each.id})"
        for each in organisations
    }


def permissions(organisation: Organisation) -> tuple[str, ...]:
    """The scopes that an organisation's connection lacks."""
    return tuple(scopes.permission(endpoint) for endpoint in organisation.refused if endpoint in scopes.NEEDED)


def _lacking(organisation: Organisation, name: str) -> list[str]:
    return [
        f"{name} lacks the permission {scopes.permission(endpoint)}, so its {scopes.NOUNS[endpoint]} are not updated:"
        " reconnect Xero with `patina connect` and allow it"
        for endpoint in organisation.refused
        if endpoint in scopes.NEEDED
    ]


def _refused(refusal: Refusal) -> str:
    return f"Copper refuses {refusal.endpoint} to this API key: its plan or its owner's role does not include them"


def _stopped(run: Run) -> str:
    return f"the {run.kind.replace('_', '-')} stopped at {run.stage}: {run.error}"


def _source(budget: Budget, name: str, seen_to: datetime | None) -> SourceOverview:
    minute, day = budget.left() or (None, None)
    return SourceOverview(budget.organisation_id, name, minute, day, seen_to)


def _organisation(organisation: Organisation, name: str) -> SourceOverview:
    unknown = organisation.xero_time_zone if organisation.has_unknown_time_zone else None
    source = _source(Budget.of_xero(organisation), name, organisation.invoices_seen_to)
    return replace(
        source, time_zone=organisation.time_zone, unknown_time_zone=unknown, missing=permissions(organisation)
    )


def allowance_left(accounts_: list[AccountOverview]) -> float:
    """Gigabytes left of the month's egress allowance, which all accounts of the app share; below 0 it costs."""
    return settings().egress_allowance_gb - sum(one.egress_plain for one in accounts_) / GIGABYTE


def drift_words(drift: dict[str, dict[str, int]]) -> str:
    """Drift in words, by kind; `none` where everything was right."""
    said = [
        f"{kind}: " + ", ".join(f"{rows} {name}" for name, rows in found.items() if rows)
        for kind, found in drift.items()
        if any(found.values())
    ]
    return "; ".join(said) or "none"


def bytes_in_words(count: int) -> str:
    """A number of bytes in words."""
    for unit, least in (("GB", GIGABYTE), ("MB", 10**6), ("kB", 10**3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"
