"""Xero's own words for what its API calls by code, and how late something is."""

from __future__ import annotations

STATUS = {
    "DRAFT": "Draft",
    "SUBMITTED": "Awaiting approval",
    "AUTHORISED": "Awaiting payment",
    "PAID": "Paid",
    "VOIDED": "Voided",
    "OVERDUE": "Overdue",
}


def status(code: str) -> str:
    """A status as Xero's users know it; one that Xero may add later is shown as it came."""
    return STATUS.get(code, code.capitalize())


def overdue(days: int) -> str:
    """How late an invoice is, in words; '' where it is not overdue."""
    if not days:
        return ""
    return "1 day overdue" if days == 1 else f"{days:,} days overdue"


def unmatched(record_type: str, has_address: bool) -> str:
    """Why a record matches nothing, in a few words."""
    if record_type in {"company", "opportunity"}:
        return "none of its people matches a Xero contact"
    return "no Xero contact has this email address" if has_address else "no email address"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 invoice", "2 invoices"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


ACTIONS = {
    "account.disconnected": "Account disconnected",
    "admin.named": "Admin added",
    "admin.removed": "Admin removed",
    "admin.signed_in": "Admin signed in",
    "sign_in.failed": "Sign-in failed",
    "contact.linked": "Contact linked",
    "contact.unlinked": "Contact unlinked",
    "copper.connected": "Copper connected",
    "events.dismissed": "Events dismissed",
    "events.replayed": "Events retried",
    "invitation.made": "Set-up code made",
    "invitation.revoked": "Set-up code revoked",
    "key.made": "API key created",
    "key.revoked": "API key revoked",
    "organisation.connected": "Organisation connected",
    "organisation.dropped": "Organisation removed",
    "rows.exported": "Data exported",
    "session.confirmation_refused": "Confirmation refused",
    "session.confirmed": "Confirmed again",
    "session.ended": "Session ended",
    "session.signed_out": "Signed out",
    "sessions.ended": "Sessions ended",
    "settings.changed": "Settings changed",
    "viewer.signed_in": "Viewer signed in",
}


def action(code: str) -> str:
    """An action of the audit log as it is read; one that is not known here reads as it was written."""
    return ACTIONS.get(code, code.replace(".", " ").replace("_", " ").capitalize())
