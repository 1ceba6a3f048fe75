"""The command line's wording of what is wrong with an account, and which command fixes it."""

from __future__ import annotations

from cli.formatting import to_the_second
from runtime.numbers import count_noun
from services.health import Finding, FindingCode
from worker.vendors.xero import scopes

RUN_LABELS = {
    "backfill": "backfill",
    "catch_up": "catch-up",
    "reconciliation": "reconciliation",
    "dry_run": "dry run",
}
PROBLEMS = {
    FindingCode.COPPER_NOT_CONNECTED: "Copper isn't connected",
    FindingCode.XERO_NOT_CONNECTED: "Xero isn't connected",
    FindingCode.COPPER_KEY_REJECTED: "Copper rejected the API key",
    FindingCode.XERO_DISCONNECTED: "{subject} is disconnected from Xero",
    FindingCode.PERMISSION_MISSING: "{subject} lacks the permission {detail}, so its {noun} aren't updated",
    FindingCode.ENDPOINT_REFUSED: "Copper refuses {detail} to this API key: its plan or its owner's role doesn't"
    " include it",
    FindingCode.FIELDS_NOT_WRITTEN: "fields in Copper aren't written: {detail}",
    FindingCode.NOT_IMPORTED: "nothing has been imported from {subject} yet",
    FindingCode.OUT_OF_DATE: "{subject} was last synced {since}",
    FindingCode.RUN_FAILED: "the {run} of {subject} failed at {detail}",
    FindingCode.EVENTS_QUARANTINED: "{count} failed",
    FindingCode.PROCESS_DOWN: "the {subject} process isn't running",
}


def describe_finding(finding: Finding) -> str:
    """The problem, and how to fix it."""
    return ": ".join(filter(None, (describe_problem(finding), get_hint(finding))))


def describe_problem(finding: Finding) -> str:
    """What is wrong, as a clause."""
    return PROBLEMS[finding.code].format(
        subject=finding.subject or "this account",
        detail=finding.detail,
        noun=finding.resource,
        run=RUN_LABELS[finding.run_kind or "backfill"],
        since=to_the_second(finding.since),
        count=count_noun(finding.count, "event"),
    )


def get_hint(finding: Finding) -> str:
    """The command that fixes it; '' if no command does."""
    match finding.code:
        case FindingCode.COPPER_NOT_CONNECTED | FindingCode.XERO_NOT_CONNECTED | FindingCode.XERO_DISCONNECTED:
            return "run `patina connect`"
        case FindingCode.COPPER_KEY_REJECTED:
            return "run `patina connect` with a new one"
        case FindingCode.PERMISSION_MISSING:
            condition = "" if scopes.is_requested(finding.detail) else "add it to XERO_SCOPES, "
            return f"{condition}reconnect Xero with `patina connect` and allow it"
        case FindingCode.NOT_IMPORTED:
            return "run `patina backfill`"
        case FindingCode.FIELDS_NOT_WRITTEN:
            return "an admin can try again in Settings, Fields in Copper"
        case FindingCode.EVENTS_QUARANTINED:
            return "see `patina inbox list`"
        case FindingCode.PROCESS_DOWN:
            return f"start `patina {finding.subject}`"
        case _:
            return ""
