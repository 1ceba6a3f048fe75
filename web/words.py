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
        return "nobody on it is known in Xero"
    return "no contact in Xero has its address" if has_address else "no address"
