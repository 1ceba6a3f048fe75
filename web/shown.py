"""What people see of a record: its sums, its invoices, and why there are none. The same in the panel and on pages."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from babel import Locale

from store import accounts, balances, matching, reads, runs
from store.accounts import Choices
from store.balances import Balance
from store.database import Session, bound
from store.matching import KnownRecord, Reason
from store.models import RecordType
from store.reads import ShownInvoice
from web import links, locales, words
from worker.steps import Kind

LARGEST = 1_000
STEP = 200
STATUSES = ("OVERDUE", "AUTHORISED", "SUBMITTED", "DRAFT", "PAID", "VOIDED")


@dataclass(frozen=True)
class SumView:
    """What is open in one currency, and the overdue part ('' where none is), as it is written."""

    label: str
    open: str
    overdue: str


@dataclass(frozen=True)
class InvoiceView:
    """One invoice as it is written; `state` is the class that colours it."""

    id: UUID
    number: str
    url: str
    status: str
    state: str
    is_bill: bool
    issuer: str
    due: str
    due_full: str
    overdue: str
    total: str
    balance: str
    currency: str


@dataclass(frozen=True)
class Empty:
    """Why nothing is shown, and what would help."""

    why: str
    help: str


@dataclass(frozen=True)
class RecordView:
    """A record as it is shown. `tag` changes with whatever a reader can see, the time of the last look apart."""

    kind: RecordType
    id: int
    name: str
    sums: tuple[SumView, ...]
    rows: tuple[InvoiceView, ...]
    count: int
    filters: tuple[tuple[str, str], ...]
    status: str
    found: int
    more: int | None
    empty: Empty | None
    trouble: str | None
    synced_at: datetime | None = field(compare=False)

    @property
    def tag(self) -> str:
        """For `ETag`: what a reader sees, in one word."""
        seen = (self.kind, self.id, self.name, self.sums, self.rows, self.count, self.filters, self.status, self.more)
        return hashlib.sha256(repr((*seen, self.empty, self.trouble)).encode()).hexdigest()[:32]

    @property
    def path(self) -> str:
        """The record's own page."""
        return f"/records/{self.kind.value}/{self.id}"


def look(
    account_id: int, kind: RecordType, record_id: int, locale: Locale, *, status: str = "", limit: int | None = None
) -> RecordView:
    """Look at a record: `limit` invoices (None: as many as the account shows at first), of `status` or all ('')."""
    with bound(account_id) as session:
        choices = accounts.choices(session, account_id)
        wanted = min(limit or choices.shown, LARGEST)
        rows = reads.shown(session, account_id, kind, record_id, status=status, limit=wanted)
        counts = reads.counted(session, account_id, kind, record_id)
        known = matching.record(session, account_id, kind, record_id)
        owed = balances.of_record(session, account_id, kind, record_id)
        lost = accounts.lost_organisations(session, account_id)
        synced_at = accounts.synced_at(session, account_id)
        count = sum(number for name, number in counts.items() if name != "OVERDUE")
        empty = None
        if not count:
            empty = _empty(session, account_id, choices, kind, record_id, known)
        elif not rows:
            empty = Empty("No invoice has this status.", "Choose another one, or all.")
    found = counts.get(status, 0) if status else count
    return RecordView(
        kind=kind,
        id=record_id,
        name=known.name if known else "",
        sums=tuple(_sums(owed, choices, kind, locale)),
        rows=tuple(_row(one, locale) for one in rows),
        count=count,
        filters=tuple(_filters(counts, count, locale)),
        status=status,
        found=found,
        more=min(found, wanted + STEP, LARGEST) if len(rows) < found and wanted < LARGEST else None,
        empty=empty,
        trouble=_trouble(lost.values()),
        synced_at=synced_at,
    )


def _sums(owed: Sequence[Balance], choices: Choices, kind: RecordType, locale: Locale) -> list[SumView]:
    if kind.value not in choices.record_types:
        return []
    labels = {balances.SALES: "Open", balances.BILLS: "Bills to pay"}
    return [
        SumView(
            labels.get(one.type, one.type),
            _sum(one.open, one.currency, locale),
            _sum(one.overdue, one.currency, locale) if one.overdue else "",
        )
        for one in owed
        if one.type != balances.BILLS or choices.show_bills
    ]


def _sum(value: Decimal, currency: str, locale: Locale) -> str:
    return f"{currency} {locales.money(value, currency, locale)}".strip()


def _filters(counts: dict[str, int], count: int, locale: Locale) -> list[tuple[str, str]]:
    known = [name for name in STATUSES if name in counts]
    known += sorted(set(counts) - set(STATUSES))
    named = [(name, f"{words.status(name)} ({locales.count(counts[name], locale)})") for name in known]
    return [("", f"All ({locales.count(count, locale)})"), *named] if len(named) > 1 else []


def _row(one: ShownInvoice, locale: Locale) -> InvoiceView:
    return InvoiceView(
        id=one.invoice_id,
        number=one.number or "No number",
        url=links.invoice(one.type, one.invoice_id, one.short_code),
        status=words.status(one.status),
        state="overdue" if one.overdue_days else one.status.lower(),
        is_bill=one.type == balances.BILLS,
        issuer=one.issuer,
        due=locales.day(one.due_date, one.today, locale) if one.due_date else "",
        due_full=locales.full_day(one.due_date, locale) if one.due_date else "",
        overdue=words.overdue(one.overdue_days),
        total=locales.money(one.total, one.currency, locale),
        balance=locales.money(one.balance, one.currency, locale),
        currency=one.currency or "",
    )


def _trouble(lost: Collection[str]) -> str | None:
    if not lost:
        return None
    return (
        f"The connection to {' and '.join(lost)} was ended in Xero: its invoices are as they were last known. "
        "An admin can reconnect it in the settings."
    )


def _empty(
    session: Session,
    account_id: int,
    choices: Choices,
    kind: RecordType,
    record_id: int,
    known: KnownRecord | None,
) -> Empty:
    """The first reason that there is: what is switched off or not fetched yet, then what is missing on the way."""
    if kind.value not in choices.record_types:
        return Empty(f"Invoices are switched off for {kind.plural}.", "An admin can switch them on in the settings.")
    if not accounts.organisations(session, account_id):
        return Empty("Xero is not connected yet.", "An admin connects it in the settings.")
    if any(run.kind == Kind.BACKFILL and run.state == "running" for run in runs.latest(session, account_id)):
        return Empty("Still fetching from Xero and Copper.", "Invoices show here by themselves as they come.")
    if known is None or known.gone:
        said = "was deleted in Copper" if known else "is not known here yet"
        return Empty(f"This {kind.value} {said}.", "A new record is here within a minute.")
    return _unmatched(kind, matching.reasons(session, account_id, kind, record_id))


def _unmatched(kind: RecordType, found: Sequence[Reason]) -> Empty:
    emails = sorted({one.email for one in found if one.email})
    names = sorted({one.contact_name or "a contact" for one in found if one.contact_id})
    own = kind in {RecordType.LEAD, RecordType.PERSON}
    if names:
        few = " and ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return Empty(
            f"{few} {'is' if len(names) == 1 else 'are'} in Xero, but without invoices so far.",
            "The first invoice shows here by itself.",
        )
    if emails:
        which = emails[0] if len(emails) == 1 else f"one of these {len(emails)} addresses"
        more = "" if len(emails) == 1 else f" ({', '.join(emails[:3])}{', …' if len(emails) > 3 else ''})"
        return Empty(
            f"No contact in Xero has {which}{more}.",
            "Give the contact in Xero this address, or the person here the address that Xero has.",
        )
    if own:
        return Empty(
            f"No address on this {kind.value} yet, so no invoice can match.",
            "Add the e-mail address that the contact has in Xero.",
        )
    return Empty(
        f"Nobody on this {kind.value} has an address yet, so no invoice can match.",
        "Invoices match by the addresses of its people, not by its name: add a person with the address from Xero.",
    )
