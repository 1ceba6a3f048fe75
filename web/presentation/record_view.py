"""The view of a record, for the panel and the pages: its balances, its invoices, or why there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from babel import Locale

from store.accounts import account_settings, accounts, xero_organisations
from store.accounts.account_settings import AccountSettings
from store.db.database import Role, Session, account_transaction
from store.db.enums import RecordType, RunState
from store.db.read_replica import read_transaction
from store.read_model import balances, base_totals, match_reports, record_invoices
from store.read_model.balances import Balance
from store.read_model.base_totals import BaseTotal
from store.read_model.match_reports import MirrorRecord, Reason
from store.read_model.record_invoices import Facet, InvoiceFilter
from store.sync import runs
from web.presentation import ageing, labels, locales
from web.presentation.ageing import AgeingBar, PaymentView
from web.presentation.base_totals import base_total_texts
from web.presentation.invoice_filters import (
    FilterView,
    TileView,
    build_filters,
    build_tiles,
    effective_filter,
    to_query,
)
from web.presentation.invoice_rows import ColumnView, InvoiceRowView, build_row, column_views, fit_in_table
from worker.vendors.sync_types import RunKind

MAX_ROWS = 1_000
ROWS_PER_STEP = 200
MAX_COMPARED_ADDRESSES = 3
WITH_EMAIL = {RecordType.LEAD, RecordType.PERSON}


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

    `base_totals` say what is outstanding in the organisations' base currencies, if it is not in one of these already.
    `count` is the number of invoices, `filtered_count` of those that the filter selects. `has_table` says whether the
    columns fit beside each other. `more_query` lists more rows (None: all are shown), `next_row_count` is how many
    more. `fewer_query` lists as many as initially (None: not more are shown). `summary` is for screen readers.
    """

    record_type: RecordType
    id: int
    name: str
    tiles: tuple[TileView, ...]
    ageing: tuple[AgeingBar, ...]
    payments: PaymentView | None
    base_totals: tuple[str, ...]
    columns: tuple[ColumnView, ...]
    has_table: bool
    invoices: tuple[InvoiceRowView, ...]
    count: int
    filters: FilterView
    filtered_count: int
    more_query: str | None
    next_row_count: int
    fewer_query: str | None
    summary: str
    empty_state: EmptyState | None
    warning: str | None
    synced_at: datetime | None = field(compare=False)

    @property
    def etag(self) -> str:
        """A hash of everything visible, for the `ETag` header."""
        return hashlib.sha256(repr(replace(self, synced_at=None)).encode()).hexdigest()[:32]

    @property
    def path(self) -> str:
        """The path of the record's page."""
        return f"/records/{self.record_type.value}/{self.id}"


NOTHING_PINNED = EmptyState(
    "No invoice is pinned to this opportunity.",
    "An admin can pin invoices in Patina: find the opportunity under Records, or the invoice under Invoices.",
)


def build_record_view(
    account_id: int,
    record_type: RecordType,
    record_id: int,
    locale: Locale,
    *,
    selected: InvoiceFilter = InvoiceFilter(),
    limit: int | None = None,
    from_primary: bool = False,
) -> RecordView:
    """Read a record with up to `limit` invoices (None: the account's setting) of those that a filter selects.

    A standby may serve it, unless somebody who has just changed something is to see that: `from_primary`.
    """
    source = account_transaction(account_id, Role.READS) if from_primary else read_transaction(account_id)
    with source as session:
        config = account_settings.get(session, account_id)
        row_limit = min(limit or config.invoice_limit, MAX_ROWS)
        facets = record_invoices.count_by_facet(session, account_id, record_type, record_id)
        selected = effective_filter(selected, facets)
        invoices = record_invoices.list_invoices(
            session, account_id, record_type, record_id, selected=selected, limit=row_limit
        )
        record = match_reports.find_record(session, account_id, record_type, record_id)
        record_balances = balances.list_for_record(session, account_id, record_type, record_id)
        payment_history = balances.payment_history(session, account_id, record_type, record_id)
        totals = _read_base_totals(session, account_id, record_type, record_id, record_balances)
        disconnected = xero_organisations.list_needing_reauth(session, account_id)
        synced_at = accounts.get_synced_at(session, account_id)
        empty_state = None
        if not facets:
            empty_state = _empty_state(session, account_id, config, record_type, record_id, record)
        elif not invoices:
            empty_state = EmptyState("No invoices match these filters.", "")
    filtered_count = invoices[0].matches if invoices else 0
    next_limit = (
        min(filtered_count, row_limit + ROWS_PER_STEP, MAX_ROWS)
        if len(invoices) < filtered_count and row_limit < MAX_ROWS
        else None
    )
    name = record.name if record else ""
    return RecordView(
        record_type=record_type,
        id=record_id,
        name=name,
        tiles=build_tiles(record_balances, selected, locale),
        ageing=ageing.build_bars(record_balances, locale),
        payments=ageing.build_payment_view(payment_history, locale),
        base_totals=base_total_texts(totals, locale),
        columns=column_views(config.shown_columns),
        has_table=fit_in_table(config.shown_columns),
        invoices=tuple(build_row(invoice, config.shown_columns, locale) for invoice in invoices),
        count=sum(facet.invoices for facet in facets),
        filters=build_filters(selected, facets, locale),
        filtered_count=filtered_count,
        more_query=to_query(selected, limit=next_limit) if next_limit else None,
        next_row_count=(next_limit or len(invoices)) - len(invoices),
        fewer_query=to_query(selected) if len(invoices) > config.invoice_limit else None,
        summary=_summary(name, facets, record_balances, locale),
        empty_state=empty_state,
        warning=_disconnected_warning(disconnected.values()),
        synced_at=synced_at,
    )


def _read_base_totals(
    session: Session, account_id: int, record_type: RecordType, record_id: int, record_balances: Sequence[Balance]
) -> list[BaseTotal]:
    """The totals in base currencies; nothing is read for a record that owes nothing."""
    if not any(balance.open and not balance.is_purchase for balance in record_balances):
        return []
    return base_totals.list_for_record(session, account_id, record_type, record_id)


def _summary(name: str, facets: Sequence[Facet], record_balances: Sequence[Balance], locale: Locale) -> str:
    """The contents in a few words: "Lakeside Design: 11 invoices, 1 credit, NZD 6,026.61 outstanding"."""
    credits = sum(facet.invoices for facet in facets if labels.is_credit(facet.type))
    parts = [_count_of(sum(facet.invoices for facet in facets) - credits, "invoice", locale)]
    parts += [_count_of(credits, "credit", locale)] if credits else []
    parts += [
        f"{locales.format_amount(balance.open, balance.currency, locale)} outstanding"
        for balance in record_balances
        if balance.open and not balance.is_purchase
    ]
    summary = ", ".join(parts)
    return f"{name}: {summary}" if name else summary


def _count_of(count: int, noun: str, locale: Locale) -> str:
    number = locales.format_number(count, locale) if count else "no"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


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
    if record_type is RecordType.OPPORTUNITY and config.opportunities_show_pinned_only:
        return NOTHING_PINNED
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
