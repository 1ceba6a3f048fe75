"""What is wrong with an account, in words for its admins: the button that helps stands beside them."""

from __future__ import annotations

from worker.health import Code, Finding

KINDS = {
    "backfill": "import",
    "catch_up": "catch-up",
    "reconciliation": "reconciliation",
    "dry_run": "dry run",
}


def sentence(finding: Finding) -> str:
    """One finding as a sentence."""
    name = finding.subject
    match finding.code:
        case Code.COPPER_NOT_CONNECTED | Code.XERO_NOT_CONNECTED:
            vendor = "Xero" if finding.code is Code.XERO_NOT_CONNECTED else "Copper"
            return f"{vendor} isn't connected."
        case Code.COPPER_KEY_REJECTED:
            return "Copper rejected the API key. Replace it to resume syncing."
        case Code.XERO_DISCONNECTED:
            return f"{name} is disconnected. Reconnect it to resume syncing."
        case Code.NOT_IMPORTED:
            return f"Nothing has been imported from {name} yet."
        case Code.OUT_OF_DATE:
            return f"{name or 'This account'} isn't up to date."
        case Code.RUN_FAILED:
            return f"The {KINDS[finding.run_kind or 'backfill']} of {name} failed ({finding.detail})."
        case Code.EVENTS_QUARANTINED:
            return "1 event failed." if finding.count == 1 else f"{finding.count:,} events failed."
        case Code.PROCESS_DOWN:
            return f"Patina's {name} process isn't running. Ask whoever runs Patina to start it."


def action(finding: Finding) -> tuple[str, str] | None:
    """The button that helps: its words and where it leads; None where an admin can do nothing here."""
    match finding.code:
        case Code.COPPER_NOT_CONNECTED | Code.COPPER_KEY_REJECTED:
            return ("Replace the API key", "/settings")
        case Code.XERO_NOT_CONNECTED:
            return ("Connect Xero", "/connect/xero")
        case Code.XERO_DISCONNECTED:
            return ("Reconnect", "/connect/xero")
        case Code.NOT_IMPORTED:
            return ("Start the import", "/settings?first=1")
        case Code.EVENTS_QUARANTINED:
            return ("Review", "/status#quarantine")
        case _:
            return None
