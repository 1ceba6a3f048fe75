"""Account settings: which records show invoices, how many, and to whom."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import CreditResource, InvoiceColumn, InvoiceStatus, RecordType

SELECT = text("""
    SELECT name, record_types, invoice_limit, bill_record_types, shown_credits, credit_record_types, hidden_statuses,
           shown_columns, visible_to_teams, opportunities_show_pinned_only, match_email_domain
    FROM account WHERE id = :account
""")
# Two changes at the same time must see each other, because what a change causes depends on what was before.
LOCK = text("SELECT id FROM account WHERE id = :account FOR NO KEY UPDATE")
UPDATE = text("""
    UPDATE account SET record_types = :record_types, invoice_limit = :invoice_limit,
                       bill_record_types = :bill_record_types, shown_credits = :shown_credits,
                       credit_record_types = :credit_record_types, hidden_statuses = :hidden_statuses,
                       shown_columns = :shown_columns, visible_to_teams = :visible_to_teams,
                       opportunities_show_pinned_only = :opportunities_show_pinned_only
    WHERE id = :account
""")
HIDEABLE_STATUSES = (InvoiceStatus.DRAFT, InvoiceStatus.SUBMITTED, InvoiceStatus.PAID, InvoiceStatus.VOIDED)
"""What awaits payment is always shown."""
DEFAULT_COLUMNS = (
    *(InvoiceColumn.NUMBER, InvoiceColumn.STATUS, InvoiceColumn.ISSUER, InvoiceColumn.DUE_DATE, InvoiceColumn.TOTAL),
    InvoiceColumn.BALANCE,
)


@dataclass(frozen=True)
class AccountSettings:
    """An account's settings. `visible_to_teams` None means everyone; `invoice_limit` is 1 to 50 invoices.

    Bills and credits show on records of `bill_record_types` and `credit_record_types`. `shown_columns` are in the order
    in which they show; the number is always the first. `opportunities_show_pinned_only`: an opportunity has the
    invoices that are pinned to it, and no others. `match_email_domain`: a company also shows invoices of contacts with
    an address at its email domain.
    """

    name: str
    record_types: tuple[str, ...]
    invoice_limit: int
    visible_to_teams: tuple[int, ...] | None = None
    bill_record_types: tuple[RecordType, ...] = ()
    shown_credits: tuple[CreditResource, ...] = (CreditResource.CREDIT_NOTES,)
    credit_record_types: tuple[RecordType, ...] = tuple(RecordType)
    hidden_statuses: tuple[InvoiceStatus, ...] = ()
    shown_columns: tuple[InvoiceColumn, ...] = DEFAULT_COLUMNS
    opportunities_show_pinned_only: bool = False
    match_email_domain: bool = False


def get(session: Session, account_id: int) -> AccountSettings:
    """The account's settings."""
    row = session.execute(SELECT, {"account": account_id}).one()
    return AccountSettings(
        name=row.name,
        record_types=tuple(row.record_types),
        invoice_limit=row.invoice_limit,
        visible_to_teams=tuple(row.visible_to_teams) if row.visible_to_teams is not None else None,
        bill_record_types=tuple(map(RecordType, row.bill_record_types)),
        shown_credits=tuple(map(CreditResource, row.shown_credits)),
        credit_record_types=tuple(map(RecordType, row.credit_record_types)),
        hidden_statuses=tuple(map(InvoiceStatus, row.hidden_statuses)),
        shown_columns=tuple(map(InvoiceColumn, row.shown_columns)),
        opportunities_show_pinned_only=row.opportunities_show_pinned_only,
        match_email_domain=row.match_email_domain,
    )


def get_for_update(session: Session, account_id: int) -> AccountSettings:
    """The account's settings, which nobody else changes until the transaction ends."""
    session.execute(LOCK, {"account": account_id})
    return get(session, account_id)


def update(session: Session, account_id: int, account_settings: AccountSettings) -> None:
    """Change the account's settings with effect from the next read. The name belongs to Copper and is not changed.

    Whether opportunities show pinned invoices only has effect once they are projected: the caller queues them.
    `match_email_domain` is changed by `store.read_model.email_domains`, because the projection must follow it.
    """
    teams = account_settings.visible_to_teams
    params = {
        "account": account_id,
        "record_types": list(account_settings.record_types),
        "invoice_limit": account_settings.invoice_limit,
        "bill_record_types": [record_type.value for record_type in account_settings.bill_record_types],
        "shown_credits": [resource.value for resource in account_settings.shown_credits],
        "credit_record_types": [record_type.value for record_type in account_settings.credit_record_types],
        "hidden_statuses": [status.value for status in account_settings.hidden_statuses],
        "shown_columns": [shown_column.value for shown_column in account_settings.shown_columns],
        "visible_to_teams": list(teams) if teams is not None else None,
        "opportunities_show_pinned_only": account_settings.opportunities_show_pinned_only,
    }
    session.execute(UPDATE, params)
