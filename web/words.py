"""Xero's own words for what its API calls by code."""

from __future__ import annotations

STATUS = {
    "DRAFT": "Draft",
    "SUBMITTED": "Awaiting approval",
    "AUTHORISED": "Awaiting payment",
    "PAID": "Paid",
    "VOIDED": "Voided",
}


def status(code: str) -> str:
    """A status as Xero's users know it; one that Xero may add later is shown as it came."""
    return STATUS.get(code, code.capitalize())
