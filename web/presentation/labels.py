"""Labels for codes: invoice statuses as Xero names them, audit log actions, and so on."""

from __future__ import annotations

STATUS_LABELS = {
    "DRAFT": "Draft",
    "SUBMITTED": "Awaiting approval",
    "AUTHORISED": "Awaiting payment",
    "PAID": "Paid",
    "VOIDED": "Voided",
    "OVERDUE": "Overdue",
}


def status(code: str) -> str:
    """The label of a status as Xero shows it; an unknown status is shown as is."""
    return STATUS_LABELS.get(code, code.capitalize())


def overdue(days: int) -> str:
    """How long an invoice has been overdue; '' if it is not."""
    if not days:
        return ""
    return "1 day overdue" if days == 1 else f"{days:,} days overdue"


def unmatched_reason(record_type: str, has_address: bool) -> str:
    """Why a record matches no contact, in a few words."""
    if record_type in {"company", "opportunity"}:
        return "none of its people matches a Xero contact"
    return "no Xero contact has this email address" if has_address else "no email address"


ACTION_LABELS = {
    "account.disconnected": "Account disconnected",
    "admin.added": "Admin added",
    "admin.removed": "Admin removed",
    "admin.signed_in": "Admin signed in",
    "sign_in.failed": "Sign-in failed",
    "contact.linked": "Contact linked",
    "contact.unlinked": "Contact unlinked",
    "copper.connected": "Copper connected",
    "events.dismissed": "Events dismissed",
    "events.replayed": "Events retried",
    "invitation.made": "Set-up code created",
    "invitation.revoked": "Set-up code revoked",
    "key.created": "API key created",
    "key.revoked": "API key revoked",
    "organisation.connected": "Organisation connected",
    "organisation.removed": "Organisation removed",
    "rows.exported": "Data exported",
    "session.confirmation_refused": "Confirmation refused",
    "session.confirmed": "Identity confirmed",
    "session.ended": "Session ended",
    "session.signed_out": "Signed out",
    "sessions.ended": "Sessions ended",
    "settings.changed": "Settings changed",
    "viewer.signed_in": "Viewer signed in",
}


def action(code: str) -> str:
    """The label of an audit log action; an unknown action is shown as is."""
    return ACTION_LABELS.get(code, code.replace(".", " ").replace("_", " ").capitalize())
