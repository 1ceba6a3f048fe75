"""What is wrong with an account, in words for its admins: the button that helps stands beside them."""

from __future__ import annotations

from web.words import counted
from worker.health import Code, Finding

KINDS = {
    "backfill": "import",
    "catch_up": "catch-up",
    "reconciliation": "reconciliation",
    "dry_run": "dry run",
}


SENTENCES = {
    Code.COPPER_NOT_CONNECTED: "Copper isn't connected.",
    Code.XERO_NOT_CONNECTED: "Xero isn't connected.",
    Code.COPPER_KEY_REJECTED: "Copper rejected the API key. Replace it to resume syncing.",
    Code.XERO_DISCONNECTED: "{subject} is disconnected. Reconnect it to resume syncing.",
    Code.PERMISSION_MISSING: "{subject} lacks the permission {detail}. Reconnect it and allow this to sync its {noun}.",
    Code.ENDPOINT_REFUSED: "Copper refuses {detail} to this API key: its plan or its owner's role doesn't include it.",
    Code.NOT_IMPORTED: "Nothing has been imported from {subject} yet.",
    Code.OUT_OF_DATE: "{subject} isn't up to date.",
    Code.RUN_FAILED: "The {run} of {subject} failed ({detail}).",
    Code.EVENTS_QUARANTINED: "{count} failed.",
    Code.PROCESS_DOWN: "Patina's {subject} process isn't running. Ask whoever runs Patina to start it.",
}


def sentence(finding: Finding) -> str:
    """One finding as a sentence."""
    return SENTENCES[finding.code].format(
        subject=finding.subject or "This account",
        detail=finding.detail,
        noun=finding.noun,
        run=KINDS[finding.run_kind or "backfill"],
        count=counted(finding.count, "event"),
    )
