"""The view of a record, for the panel and the pages: its balances, its invoices, or why there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from babel import Locale

from store.accounts import account_settings, accounts, xero_organisations
from store.accounts.account_settings import AccountSettings
from store.db.database import Role, Session, account_transaction
from store.db.enums import RecordType, RunState
from store.read_model import balances, invoice_queries, match_reports
from store.read_model.balances import Balance
from store.read_model.invoice_queries import InvoiceListItem
from store.read_model.match_reports import MirrorRecord, Reason
from store.sync import runs
from web.presentation import labels, links, locales
from worker.vendors.sync_types import RunKind

MAX_ROWS = 1_000
ROWS_PER_STEP = 200
MAX_COMPARED_ADDRESSES = 3
WITH_EMAIL = {RecordType.LEAD, RecordType.PERSON}
CREDIT = "CREDIT"
STATUS_ORDER = ("OVERDUE", "AUTHORISED", "SUBMITTED", "DRAFT", "PAID", "VOIDED", CREDIT)


@dataclass(frozen=True)
class BalanceView:
    """The outstanding amount in one currency, its overdue part, and what is left of credits, formatted ('' if none)."""

    is_bills: bool
    open: str
    overdue: str
    credit: str


@dataclass(frozen=True)
class InvoiceRowView:
    """One invoice or credit, formatted. A credit's amounts are negative.

    `css_class` colours the row, `status_full` is the status in full words, `type` is '' for a sales invoice.
    """

    id: UUID
    number: str
    url: str
    status: str
    status_full: str
    css_class: str
    type: str
    issuer: str
    due: str
    due_full: str
    total: str
    balance: str
    is_settled: bool
    currency: str


@dataclass(frozen=True)
class EmptyState:
    """Why there are no invoices, and what to do about it.

    `possible_matches` are the names of contacts with invoices whose address is similar, or at the same domain. Their
    addresses are not shown, because the viewer may not see those people.
    """

    reason: str
    help: str
    possible_matches: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordView:
    """A record with its invoices. `etag` changes with everything visible except the time of the last sync.

    `count` is the number of invoices, `filtered_count` of those with the selected status. `next_limit` is the limit
    that shows more rows (None: all are shown), `next_row_count` the number of rows that it adds. `can_show_fewer` says
    whether more rows are shown than the account shows initially. `summary` is for screen readers.
    """

    record_type: RecordType
    id: int
    name: str
    balances: tuple[BalanceView, ...]
    invoices: tuple[InvoiceRowView, ...]
    count: int
    filters: tuple[tuple[str, str], ...]
    status: str
    filtered_count: int
    next_limit: int | None
    next_row_count: int
    can_show_fewer: bool
    summary: str
    empty_state: EmptyState | None
    warning: str | None
    synced_at: datetime | None = field(compare=False)

    @property
    def etag(self) -> str:
        """A hash of everything visible, for the `ETag` header."""
        visible = (
            *(self.record_type, self.id, self.name, self.balances, self.invoices, self.count, self.filters),
            *(self.status, self.next_limit, self.can_show_fewer, self.empty_state, self.warning),
        )
        return hashlib.sha256(repr(visible).encode()).hexdigest()[:32]

    @property
    def path(self) -> str:
        """The path of the record's page."""
        return f"/records/{self.record_type.value}/{self.id}"


def build_record_view(
    account_id: int,
    record_type: RecordType,
    record_id: int,
    locale: Locale,
    *,
    status: str = "",
    limit: int | None = None,
) -> RecordView:
    """Read a record with up to `limit` invoices (None: the account's setting) of `status` ('': all)."""
    with account_transaction(account_id, Role.READS) as session:
        config = account_settings.get(session, account_id)
        row_limit = min(limit or config.invoice_limit, MAX_ROWS)
        invoices = invoice_queries.list_invoices(
            session, account_id, record_type, record_id, status=status, limit=row_limit
        )
        counts = invoice_queries.count_by_status(session, account_id, record_type, record_id)
        record = match_reports.find_record(session, account_id, record_type, record_id)
        record_balances = balances.list_for_record(session, account_id, record_type, record_id)
        disconnected = xero_organisations.list_needing_reauth(session, account_id)
        synced_at = accounts.get_synced_at(session, account_id)
        count = sum(counts.values())
        empty_state = None
        if not count:
            empty_state = _empty_state(session, account_id, config, record_type, record_id, record)
        elif not invoices:
            empty_state = EmptyState("No invoices with this status.", "Choose another status, or All.")
    filtered_count = counts.get(status, 0) if status else count
    balance_views = tuple(_balance_view(balance, locale) for balance in record_balances)
    next_limit = (
        min(filtered_count, row_limit + ROWS_PER_STEP, MAX_ROWS)
        if len(invoices) < filtered_count and row_limit < MAX_ROWS
        else None
    )
    return RecordView(
        record_type=record_type,
        id=record_id,
        name=record.name if record else "",
        balances=balance_views,
        invoices=tuple(_invoice_row(invoice, locale) for invoice in invoices),
        count=count,
        filters=tuple(_filters(counts, count, locale)),
        status=status,
        filtered_count=filtered_count,
        next_limit=next_limit,
        next_row_count=(next_limit or len(invoices)) - len(invoices),
        can_show_fewer=len(invoices) > config.invoice_limit,
        summary=_summary(record.name if record else "", counts, balance_views, locale),
        empty_state=empty_state,
        warning=_disconnected_warning(disconnected.values()),
        synced_at=synced_at,
    )


def _balance_view(balance: Balance, locale: Locale) -> BalanceView:
    return BalanceView(
        balance.is_purchase,
        *(_amount(value, balance.currency, locale) for value in (balance.open, balance.overdue, balance.credit)),
    )


def _amount(value: Decimal, currency: str, locale: Locale) -> str:
    return f"{currency} {locales.format_money(value, currency, locale)}".strip() if value else ""


def _summary(name: str, counts: Mapping[str, int], balance_views: Sequence[BalanceView], locale: Locale) -> str:
    """The contents in a few words: "Lakeside Design: 11 invoices, 1 credit, NZD 6,026.61 outstanding"."""
    credits = counts.get(CREDIT, 0)
    parts = [_count_of(sum(counts.values()) - credits, "invoice", locale)]
    parts += [_count_of(credits, "credit", locale)] if credits else []
    parts += [f"{balance.open} outstanding" for balance in balance_views if balance.open and not balance.is_bills]
    summary = ", ".join(parts)
    return f"{name}: {summary}" if name else summary


def _count_of(count: int, noun: str, locale: Locale) -> str:
    number = locales.format_number(count, locale) if count else "no"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def _filters(counts: dict[str, int], count: int, locale: Locale) -> list[tuple[str, str]]:
    codes = [code for code in STATUS_ORDER if code in counts]
    codes += sorted(set(counts) - set(STATUS_ORDER))
    options = [(code, f"{labels.status(code)} ({locales.format_number(counts[code], locale)})") for code in codes]
    return [("", f"All ({locales.format_number(count, locale)})"), *options] if len(options) > 1 else []


def _invoice_row(invoice: InvoiceListItem, locale: Locale) -> InvoiceRowView:
    overdue_days, status = invoice.overdue_days, labels.row_status(invoice.type, invoice.status)
    is_credit, is_draft = labels.is_credit(invoice.type), invoice.status == "DRAFT"
    name = labels.row_name(invoice.type, invoice.number) if invoice.number or not is_draft else "Draft (no number)"
    type_label, sign = labels.type_label(invoice.type), -1 if is_credit else 1
    return InvoiceRowView(
        id=invoice.invoice_id,
        number=name,
        url=links.invoice(invoice.type, invoice.invoice_id, invoice.short_code),
        status=f"Overdue {locales.format_number(overdue_days, locale)} d" if overdue_days else status,
        status_full=labels.overdue(overdue_days).capitalize() or status,
        css_class="overdue" if overdue_days else _css_class(invoice.status, is_credit=is_credit),
        type=type_label if type_label.capitalize() != name else "",
        issuer=invoice.issuer,
        due=locales.format_short_date(invoice.due_date, invoice.today, locale) if invoice.due_date else "",
        due_full=locales.format_full_date(invoice.due_date, locale) if invoice.due_date else "",
        total=_optional_amount(invoice.total, sign, invoice.currency, locale),
        balance=_optional_amount(invoice.balance, sign, invoice.currency, locale),
        is_settled=invoice.balance == 0,
        currency=invoice.currency or "",
    )


def _css_class(status: str, *, is_credit: bool) -> str:
    return CREDIT.lower() if is_credit and status == "AUTHORISED" else status.lower()


def _optional_amount(value: Decimal | None, sign: int, currency: str | None, locale: Locale) -> str:
    return "" if value is None else locales.format_money(sign * value if value else value, currency, locale)


def _disconnected_warning(names: Collection[str]) -> str | None:
    if not names:
        return None
    return (
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} disconnected from Xero, so "
        f"{'its' if len(names) == 1 else 'their'} invoices may be out of date. "
        f"An admin can reconnect {'it' if len(names) == 1 else 'them'} in Settings."
    )


def _empty_state(
    session: Session,
    account_id: int,
    config: AccountSettings,
    record_type: RecordType,
    record_id: int,
    record: MirrorRecord | None,
) -> EmptyState:
    """The first reason that applies: a setting, an incomplete sync, or a missing match."""
    if record_type.value not in config.record_types:
        return EmptyState(
            f"Invoices are turned off for {record_type.plural}.", "An admin can turn them on in Settings."
        )
    if not xero_organisations.list_connected(session, account_id):
        return EmptyState("Xero isn't connected yet.", "An admin can connect it in Settings.")
    if any(run.kind == RunKind.BACKFILL and run.state == RunState.RUNNING for run in runs.latest(session, account_id)):
        return EmptyState("Importing from Xero and Copper.", "Invoices appear here as they are imported.")
    if record is None:
        return EmptyState(f"This {record_type.value} hasn't synced yet.", "New records usually appear within a minute.")
    if record.is_deleted:
        return EmptyState(f"This {record_type.value} was deleted in Copper.", "Its invoices are still in Xero.")
    reasons = match_reports.list_reasons(session, account_id, record_type, record_id)
    names = () if any(reason.contact_id for reason in reasons) else _possible_matches(session, account_id, reasons)
    return replace(_unmatched_state(record_type, reasons), possible_matches=names)


def _possible_matches(session: Session, account_id: int, reasons: Sequence[Reason]) -> tuple[str, ...]:
    """The names of contacts that may be meant; only the first few addresses are compared, so that this stays cheap."""
    emails = sorted({reason.email for reason in reasons if reason.email})[:MAX_COMPARED_ADDRESSES]
    near_matches = match_reports.find_near_matches(session, account_id, emails, []) if emails else []
    contacts = {
        (match.organisation_id, match.contact_id): match.contact_name or "Unnamed contact"
        for match in near_matches
        if match.invoices
    }
    return tuple(contacts.values())


def _unmatched_state(record_type: RecordType, reasons: Sequence[Reason]) -> EmptyState:
    """Why a synced record has no invoices: it has no email address, no contact, or its contacts have no invoices."""
    emails = sorted({reason.email for reason in reasons if reason.email})
    names = sorted({reason.contact_name or "A contact" for reason in reasons if reason.contact_id})
    if names:
        contacts = _first_three(names, " and ")
        have = "has" if len(names) == 1 else "have"
        return EmptyState(f"{contacts} {have} no invoices in Xero yet.", "New invoices appear here automatically.")
    if emails:
        return _no_contact_state(record_type, emails)
    if record_type in WITH_EMAIL:
        return EmptyState(
            f"This {record_type.value} has no email address, so no invoices can be matched.",
            f"Add the contact's Xero email address to this {record_type.value}.",
        )
    return EmptyState(
        f"None of this {record_type.value}'s people has an email address, so no invoices can be matched.",
        f"Invoices are matched by people's email addresses, not by {record_type.value} name. "
        "Add a person with the email address used in Xero.",
    )


def _no_contact_state(record_type: RecordType, emails: Sequence[str]) -> EmptyState:
    is_single = len(emails) == 1
    subject = "the email address" if is_single else f"any of these {len(emails)} email addresses:"
    target = f"this {record_type.value}" if record_type in WITH_EMAIL else "one of its people"
    return EmptyState(
        f"No Xero contact has {subject} {_first_three(emails, ', ')}.",
        f"Add {'this email address' if is_single else 'one of these email addresses'} to the contact in Xero, "
        f"or add the contact's Xero email address to {target}.",
    )


def _first_three(names: Sequence[str], separator: str) -> str:
    """The first three names, and how many more there are."""
    return separator.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
