"""What the pages say first: whether Xero is connected, and how the account does, with the button that helps."""

from __future__ import annotations

from dataclasses import dataclass

from store import accounts
from store.database import Session
from web import findings
from worker.health import Code, Finding
from worker.overview import AccountOverview
from worker.steps import Kind

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


def health(overview: AccountOverview) -> Notice | None:
    """What is not well, with the button that helps most; or that an import is under way; None when all is well."""
    if not any(source.organisation_id for source in overview.sources):
        return CONNECT
    if overview.findings:
        text = " ".join(findings.sentence(finding) for finding in overview.findings)
        return Notice(text, next(filter(None, map(action, overview.findings)), None))
    if any(run.kind == Kind.BACKFILL for run in overview.running):
        return IMPORTING
    return None


def action(finding: Finding) -> Action | None:
    """The button that helps; None where an admin can do nothing here."""
    match finding.code:
        case Code.COPPER_NOT_CONNECTED | Code.COPPER_KEY_REJECTED:
            return Action("/settings#copper-key", "Replace the API key")
        case Code.XERO_NOT_CONNECTED:
            return CONNECT.action
        case Code.XERO_DISCONNECTED | Code.PERMISSION_MISSING:
            return Action("/connect/xero", "Reconnect")
        case Code.NOT_IMPORTED:
            return START_IMPORT.action
        case Code.EVENTS_QUARANTINED:
            return Action("/status#quarantine", "Review")
        case _:
            return None
