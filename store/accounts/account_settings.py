"""Account settings: which records show invoices, how many, and to whom."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import CreditResource

SELECT = text("""
    SELECT name, record_types, invoice_limit, show_bills, shown_credits, visible_to_teams FROM account
    WHERE id = :account
""")
UPDATE = text("""
    UPDATE account SET record_types = :record_types, invoice_limit = :invoice_limit, show_bills = :show_bills,
                       shown_credits = :shown_credits, visible_to_teams = :visible_to_teams
    WHERE id = :account
""")


@dataclass(frozen=True)
class AccountSettings:
    """An account's settings. `visible_to_teams` None means everyone; `invoice_limit` is 1 to 50 invoices."""

    name: str
    record_types: tuple[str, ...]
    invoice_limit: int
    show_bills: bool
    visible_to_teams: tuple[int, ...] | None
    shown_credits: tuple[CreditResource, ...] = (CreditResource.CREDIT_NOTES,)


def get(session: Session, account_id: int) -> AccountSettings:
    """The account's settings."""
    row = session.execute(SELECT, {"account": account_id}).one()
    return AccountSettings(
        name=row.name,
        record_types=tuple(row.record_types),
        invoice_limit=row.invoice_limit,
        show_bills=row.show_bills,
        shown_credits=tuple(CreditResource(resource) for resource in row.shown_credits),
        visible_to_teams=tuple(row.visible_to_teams) if row.visible_to_teams is not None else None,
    )


def update(session: Session, account_id: int, account_settings: AccountSettings) -> None:
    """Change the account's settings with effect from the next read. The name belongs to Copper and is not changed."""
    teams = account_settings.visible_to_teams
    params = {
        "account": account_id,
        "record_types": list(account_settings.record_types),
        "invoice_limit": account_settings.invoice_limit,
        "show_bills": account_settings.show_bills,
        "shown_credits": [resource.value for resource in account_settings.shown_credits],
        "visible_to_teams": list(teams) if teams is not None else None,
    }
    session.execute(UPDATE, params)
