"""The terminal's words: what is wrong and which command helps, times, and numbers with their nouns."""

from __future__ import annotations

from terminal.times import to_the_second
from worker.health import Code, Finding

RUN_KINDS = {
    "backfill": "backfill",
    "catch_up": "catch-up",
    "reconciliation": "reconciliation",
    "dry_run": "dry run",
}


def finding_text(finding: Finding) -> str:
    """One finding as a clause, with what helps."""
    return ": ".join(filter(None, (problem(finding), hint(finding))))


PROBLEMS = {
    Code.COPPER_NOT_CONNECTED: "Copper isn't connected",
    Code.XERO_NOT_CONNECTED: "Xero isn't connected",
    Code.COPPER_KEY_REJECTED: "Copper rejected the API key",
    Code.XERO_DISCONNECTED: "{subject} is disconnected from Xero",
    Code.PERMISSION_MISSING: "{subject} lacks the permission {detail}, so its {noun} aren't updated",
    Code.ENDPOINT_REFUSED: "Copper refuses {detail} to this API key: its plan or its owner's role doesn't include it",
    Code.NOT_IMPORTED: "nothing has been imported from {subject} yet",
    Code.OUT_OF_DATE: "{subject} was last synced {since}",
    Code.RUN_FAILED: "the {run} of {subject} failed at {detail}",
    Code.EVENTS_QUARANTINED: "{count} failed",
    Code.PROCESS_DOWN: "the {subject} process isn't running",
}


def problem(finding: Finding) -> str:
    """What is wrong."""
    return PROBLEMS[finding.code].format(
        subject=finding.subject or "this account",
        detail=finding.detail,
        noun=finding.noun,
        run=RUN_KINDS[finding.run_kind or "backfill"],
        since=to_the_second(finding.since),
        count=counted(finding.count, "event"),
    )


def hint(finding: Finding) -> str:
    """The command that helps; '' where none does by itself."""
    match finding.code:
        case Code.COPPER_NOT_CONNECTED | Code.XERO_NOT_CONNECTED | Code.XERO_DISCONNECTED:
            return "run `patina connect`"
        case Code.COPPER_KEY_REJECTED:
            return "run `patina connect` with a new one"
        case Code.PERMISSION_MISSING:
            return "reconnect Xero with `patina connect` and allow it"
        case Code.NOT_IMPORTED:
            return "run `patina backfill`"
        case Code.EVENTS_QUARANTINED:
            return "see `patina inbox list`"
        case Code.PROCESS_DOWN:
            return f"start `patina {finding.subject}`"
        case _:
            return ""


NOUNS = {
    "people": "person",
    "leads": "lead",
    "companies": "company",
    "opportunities": "opportunity",
    "relations": "relation",
    "contacts": "contact",
    "invoices": "invoice",
}


def counted_rows(number: int, plural: str) -> str:
    """A number of rows of a kind that is named in the plural: 1 person, 2 people."""
    return f"{number:,} {NOUNS.get(plural, plural) if number == 1 else plural}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
