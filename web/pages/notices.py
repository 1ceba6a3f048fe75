"""What the pages say first: whether Xero is connected, and how the account does, with the button that helps."""

from __future__ import annotations

from dataclasses import dataclass

from store import accounts
from store.accounts import Organisation
from store.database import Session
from worker.overview import AccountOverview

ALL_TYPES_OFF = "No record type is selected, so nobody sees any invoices in Copper."


@dataclass(frozen=True)
class Action:
    """A button: a link, or a form to send (`is_post`)."""

    path: str
    label: str
    is_post: bool = False


@dataclass(frozen=True)
class Notice:
    """A sentence above a page's content, and what helps; `is_error` unless waiting is all that it takes."""

    text: str
    action: Action | None = None
    is_error: bool = True


CONNECT = Notice("Xero isn't connected, so there are no invoices to show.", Action("/connect/xero", "Connect Xero"))
START_IMPORT = Notice("Nothing has been imported from Xero yet.", Action("/progress", "Start import", is_post=True))
IMPORTING = Notice(
    "Importing from Xero and Copper. Figures are incomplete.", Action("/progress", "View progress"), is_error=False
)


def connection(session: Session, account_id: int) -> Notice | None:
    """What to say where there are no invoices because none can have come: Xero is not connected."""
    return None if accounts.organisations(session, account_id) else CONNECT


def health(overview: AccountOverview, organisations: list[Organisation]) -> Notice | None:
    """The one thing that is not well, or None: connected, imported, and nothing wrong."""
    if not organisations:
        return CONNECT
    if overview.wrong:
        return Notice(" ".join(overview.wrong_for_admins), _remedy(overview))
    if any(run.kind == "backfill" and run.state == "running" for run in overview.runs):
        return IMPORTING
    if any(source.seen_to is None for source in overview.sources):
        return START_IMPORT
    return None


def _remedy(overview: AccountOverview) -> Action | None:
    if "Copper" in overview.lost:
        return Action("/settings#copper-key", "Replace the API key")
    if overview.lost:
        return Action("/connect/xero", "Reconnect")
    return Action("/status#quarantine", "View") if overview.events_quarantined else None
