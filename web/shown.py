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
from store.database import Role, Session, bound
from store.matching import KnownRecord, Reason
from store.models import RecordType
from store.reads import ShownInvoice
from web import links, locales, words
from worker.steps import Kind

LARGEST = 1_000
STEP = 200
OWN_EMAIL = {RecordType.LEAD, RecordType.PERSON}
STATUSES = ("OVERDUE", "AUTHORISED", "SUBMITTED", "DRAFT", "PAID", "VOIDED")


@dataclass(frozen=True)
class SumView:
    """What is outstanding in one currency, and the overdue part ('' where none is), as it is written."""

    is_bills: bool
    open: str
    overdue: str


@dataclass(frozen=True)
class InvoiceView:
    """One invoice as it is written; `state` is the class that colours it, `status_full` says it in whole words."""

    id: UUID
    number: str
    url: str
    status: str
    status_full: str
    state: str
    is_bill: bool
    issuer: str
    due: str
    due_full: str
    total: str
    balance: str
    owes: bool
    currency: str


@dataclass(frozen=True)
class Empty:
    """Why nothing is shown, and what would help."""

    why: str
    help: str


@dataclass(frozen=True)
class RecordView:
    """A record as it is shown. `tag` changes with whatever a reader can see, except the time of the last sync.

    `more` is the limit that shows the next rows (None: all are shown), `step` how many rows that adds; `can_show_fewer`
    says whether there are more rows than the account shows initially; `summary` is what a screen reader announces.
    """

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
    step: int
    can_show_fewer: bool
    summary: str
    empty: Empty | None
    trouble: str | None
    synced_at: datetime | None = field(compare=False)

    @property
    def tag(self) -> str:
        """For `ETag`: what a reader sees, in one word."""
        seen = (self.kind, self.id, self.name, self.sums, self.rows, self.count, self.filters, self.status, self.more)
        parts = (*seen, self.can_show_fewer, self.empty, self.trouble)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    @property
    def path(self) -> str:
        """The record's own page."""
        return f"/records/{self.kind.value}/{self.id}"


def look(
    account_id: int, kind: RecordType, record_id: int, locale: Locale, *, status: str = "", limit: int | None = None
) -> RecordView:
    """Look at a record: `limit` invoices (None: as many as the account shows at first), of `status` or all ('')."""
    with bound(account_id, Role.READS) as session:
        choices = accounts.choices(session, account_id)
        wanted = min(limit or choices.shown, LARGEST)
        rows = reads.shown(session, account_id, kind, record_id, status=status, limit=wanted)
        counts = reads.counted(session, account_id, kind, record_id)
        known = matching.record(session, account_id, kind, record_id)
        owed = balances.of_record(session, account_id, kind, record_id)
        lost = accounts.lost_organisations(session, account_id)
        synced_at = accounts.synced_at(session, account_id)
        count = sum(counts.values())
        empty = None
        if not count:
            empty = _empty(session, account_id, choices, kind, record_id, known)
        elif not rows:
            empty = Empty("No invoices with this status.", "Choose another status, or All.")
    found = counts.get(status, 0) if status else count
    sums = tuple(_sums(owed, choices, kind, locale))
    more = min(found, wanted + STEP, LARGEST) if len(rows) < found and wanted < LARGEST else None
    return RecordView(
        kind=kind,
        id=record_id,
        name=known.name if known else "",
        sums=sums,
        rows=tuple(_row(one, locale) for one in rows),
        count=count,
        filters=tuple(_filters(counts, count, locale)),
        status=status,
        found=found,
        more=more,
        step=(more or len(rows)) - len(rows),
        can_show_fewer=len(rows) > choices.shown,
        summary=_summary(known.name if known else "", count, sums, locale),
        empty=empty,
        trouble=_trouble(lost.values()),
        synced_at=synced_at,
    )


def _sums(owed: Sequence[Balance], choices: Choices, kind: RecordType, locale: Locale) -> list[SumView]:
    if kind.value not in choices.record_types:
        return []
    return [
        SumView(
            one.type == balances.BILLS,
            _sum(one.open, one.currency, locale),
            _sum(one.overdue, one.currency, locale) if one.overdue else "",
        )
        for one in owed
        if one.type != balances.BILLS or choices.show_bills
    ]


def _sum(value: Decimal, currency: str, locale: Locale) -> str:
    return f"{currency} {locales.money(value, currency, locale)}".strip()


def _summary(name: str, count: int, sums: Sequence[SumView], locale: Locale) -> str:
    """What was loaded, in a few words: "Lakeside Design: 11 invoices, NZD 6,026.61 outstanding"."""
    invoices = {0: "no invoices", 1: "1 invoice"}.get(count, f"{locales.count(count, locale)} invoices")
    said = ", ".join([invoices, *(f"{one.open} outstanding" for one in sums if not one.is_bills)])
    return f"{name}: {said}" if name else said


def _filters(counts: dict[str, int], count: int, locale: Locale) -> list[tuple[str, str]]:
    known = [name for name in STATUSES if name in counts]
    known += sorted(set(counts) - set(STATUSES))
    named = [(name, f"{words.status(name)} ({locales.count(counts[name], locale)})") for name in known]
    return [("", f"All ({locales.count(count, locale)})"), *named] if len(named) > 1 else []


def _row(one: ShownInvoice, locale: Locale) -> InvoiceView:
    late, status = one.overdue_days, words.status(one.status)
    return InvoiceView(
        id=one.invoice_id,
        number=one.number or ("Draft (no number)" if one.status == "DRAFT" else "(no number)"),
        url=links.invoice(one.type, one.invoice_id, one.short_code),
        status=f"Overdue {locales.count(late, locale)} d" if late else status,
        status_full=words.overdue(late).capitalize() or status,
        state="overdue" if late else one.status.lower(),
        is_bill=one.type == balances.BILLS,
        issuer=one.issuer,
        due=locales.day(one.due_date, one.today, locale) if one.due_date else "",
        due_full=locales.full_day(one.due_date, locale) if one.due_date else "",
        total=locales.money(one.total, one.currency, locale),
        balance=locales.money(one.balance, one.currency, locale),
        owes=bool(one.balance),
        currency=one.currency or "",
    )


def _trouble(lost: Collection[str]) -> str | None:
    if not lost:
        return None
    return (
        f"{' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} disconnected from Xero, so "
        f"{'its' if len(lost) == 1 else 'their'} invoices may be out of date. "
        f"An admin can reconnect {'it' if len(lost) == 1 else 'them'} in Settings."
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
        return Empty(f"Invoices are turned off for {kind.plural}.", "An admin can turn them on in Settings.")
    if not accounts.organisations(session, account_id):
        return Empty("Xero isn't connected yet.", "An admin can connect it in Settings.")
    if any(run.kind == Kind.BACKFILL and run.state == "running" for run in runs.latest(session, account_id)):
        return Empty("Importing from Xero and Copper.", "Invoices appear here as they are imported.")
    if known is None:
        return Empty(f"This {kind.value} hasn't synced yet.", "New records usually appear within a minute.")
    if known.gone:
        return Empty(f"This {kind.value} was deleted in Copper.", "Its invoices are still in Xero.")
    return _unmatched(kind, matching.reasons(session, account_id, kind, record_id))


def _unmatched(kind: RecordType, reasons: Sequence[Reason]) -> Empty:
    """Why a record that has synced has no invoices: nobody's address, no contact, or no invoices."""
    emails = sorted({reason.email for reason in reasons if reason.email})
    names = sorted({reason.contact_name or "A contact" for reason in reasons if reason.contact_id})
    if names:
        few = _few(names, " and ")
        have = "has" if len(names) == 1 else "have"
        return Empty(f"{few} {have} no invoices in Xero yet.", "New invoices appear here automatically.")
    if emails:
        return _without_contact(kind, emails)
    if kind in OWN_EMAIL:
        return Empty(
            f"This {kind.value} has no email address, so no invoices can be matched.",
            f"Add the contact's Xero email address to this {kind.value}.",
        )
    return Empty(
        f"None of this {kind.value}'s people has an email address, so no invoices can be matched.",
        f"Invoices are matched by people's email addresses, not by {kind.value} name. "
        "Add a person with the email address used in Xero.",
    )


def _without_contact(kind: RecordType, emails: Sequence[str]) -> Empty:
    one = len(emails) == 1
    these = "the email address" if one else f"any of these {len(emails)} email addresses:"
    target = f"this {kind.value}" if kind in OWN_EMAIL else "one of its people"
    return Empty(
        f"No Xero contact has {these} {_few(emails, ', ')}.",
        f"Add {'this' if one else 'one of these'} email address{'' if one else 'es'} to the contact in Xero, "
        f"or add the contact's Xero email address to {target}.",
    )


def _few(names: Sequence[str], glue: str) -> str:
    """The first three names, and how many more there are."""
    return glue.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
