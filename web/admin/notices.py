"""Notices above a page's content: a missing Xero connection or a health problem, with the button that helps."""

from __future__ import annotations

from dataclasses import dataclass

from services.account_status import AccountStatus
from services.health import Finding, FindingCode
from store.accounts import xero_organisations
from store.db.database import Session
from web.presentation import findings
from worker.vendors.sync_types import RunKind

ALL_TYPES_OFF = "No record type is selected, so nobody sees any invoices in Copper."


@dataclass(frozen=True)
class Action:
    """A button: a link, or a form that is posted (`is_post`)."""

    path: str
    label: str
    is_post: bool = False


@dataclass(frozen=True)
class Notice:
    """A notice above a page's content; `is_error` unless the situation resolves itself."""

    text: str
    action: Action | None = None
    is_error: bool = True


CONNECT = Notice("Xero isn't connected, so there are no invoices to show.", Action("/connect/xero", "Connect Xero"))
START_IMPORT = Notice("Nothing has been imported from Xero yet.", Action("/progress", "Start import", is_post=True))
IMPORTING = Notice(
    "Importing from Xero and Copper. Figures are incomplete.", Action("/progress", "View progress"), is_error=False
)


def for_connection(session: Session, account_id: int) -> Notice | None:
    """The notice that Xero is not connected, so that there are no invoices; None if it is."""
    return None if xero_organisations.list_connected(session, account_id) else CONNECT


def for_health(status: AccountStatus) -> Notice | None:
    """The account's health problems with the most useful button, or a running import; None if there is neither."""
    if not any(source.organisation_id for source in status.sources):
        return CONNECT
    if status.findings:
        text = " ".join(findings.finding_message(finding) for finding in status.findings)
        return Notice(text, next(filter(None, map(action_for, status.findings)), None))
    if any(run.kind == RunKind.BACKFILL for run in status.active_runs):
        return IMPORTING
    return None


def action_for(finding: Finding) -> Action | None:
    """The button that helps with a finding; None if an admin can do nothing here."""
    match finding.code:
        case FindingCode.COPPER_NOT_CONNECTED | FindingCode.COPPER_KEY_REJECTED:
            return Action("/settings#copper-key", "Replace the API key")
        case FindingCode.XERO_NOT_CONNECTED:
            return CONNECT.action
        case FindingCode.XERO_DISCONNECTED | FindingCode.PERMISSION_MISSING:
            return Action("/connect/xero", "Reconnect")
        case FindingCode.NOT_IMPORTED:
            return START_IMPORT.action
        case FindingCode.FIELDS_NOT_WRITTEN:
            return Action("/settings/fields", "Review")
        case FindingCode.EVENTS_QUARANTINED:
            return Action("/status#quarantine", "Review")
        case _:
            return None
