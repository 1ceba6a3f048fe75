"""The problems of an account as sentences for its admins, who find the matching button next to them."""

from __future__ import annotations

from runtime.numbers import count_noun
from services.health import Finding, FindingCode
from worker.vendors.xero import scopes

RUN_LABELS = {
    "backfill": "import",
    "catch_up": "catch-up",
    "reconciliation": "reconciliation",
    "dry_run": "dry run",
}


MESSAGES = {
    FindingCode.COPPER_NOT_CONNECTED: "Copper isn't connected.",
    FindingCode.XERO_NOT_CONNECTED: "Xero isn't connected.",
    FindingCode.COPPER_KEY_REJECTED: "Copper rejected the API key. Replace it to resume syncing.",
    FindingCode.XERO_DISCONNECTED: "{subject} is disconnected. Reconnect it to resume syncing.",
    FindingCode.PERMISSION_MISSING: (
        "{subject} lacks the permission {detail}. Reconnect it and allow this to sync its {noun}."
    ),
    FindingCode.ENDPOINT_REFUSED: (
        "Copper refuses {detail} to this API key: its plan or its owner's role doesn't include it."
    ),
    FindingCode.FIELDS_NOT_WRITTEN: "Fields in Copper aren't being written. {detail}",
    FindingCode.NOT_IMPORTED: "Nothing has been imported from {subject} yet.",
    FindingCode.OUT_OF_DATE: "{subject} isn't up to date.",
    FindingCode.RUN_FAILED: "The {run} of {subject} failed ({detail}).",
    FindingCode.EVENTS_QUARANTINED: "{count} failed.",
    FindingCode.PROCESS_DOWN: "Patina's {subject} process isn't running. Ask whoever runs Patina to start it.",
}
NOT_REQUESTED = (
    "{subject} lacks the permission {detail}, so its {noun} aren't synced. Ask whoever runs Patina to add it to"
    " XERO_SCOPES, then reconnect."
)


def finding_message(finding: Finding) -> str:
    """A finding as a sentence."""
    message = MESSAGES[finding.code]
    if finding.code is FindingCode.PERMISSION_MISSING and not scopes.is_requested(finding.detail):
        message = NOT_REQUESTED
    return message.format(
        subject=finding.subject or "This account",
        detail=finding.detail,
        noun=finding.resource,
        run=RUN_LABELS[finding.run_kind or "backfill"],
        count=count_noun(finding.count, "event"),
    )
