"""The terminal's words: what is wrong and which command helps, times, and numbers with their nouns."""

from __future__ import annotations

from datetime import UTC, datetime

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


def problem(finding: Finding) -> str:
    """What is wrong."""
    name = finding.subject
    match finding.code:
        case Code.COPPER_NOT_CONNECTED:
            return "Copper isn't connected"
        case Code.XERO_NOT_CONNECTED:
            return "Xero isn't connected"
        case Code.COPPER_KEY_REJECTED:
            return "Copper rejected the API key"
        case Code.XERO_DISCONNECTED:
            return f"{name} is disconnected from Xero"
        case Code.NOT_IMPORTED:
            return f"nothing has been imported from {name} yet"
        case Code.OUT_OF_DATE:
            return f"{name or 'this account'} was last synced {moment(finding.since)}"
        case Code.RUN_FAILED:
            return f"the {RUN_KINDS[finding.run_kind or 'backfill']} of {name} failed at {finding.detail}"
        case Code.EVENTS_QUARANTINED:
            return f"{counted(finding.count, 'event')} failed"
        case Code.PROCESS_DOWN:
            return f"the {name} process isn't running"


def hint(finding: Finding) -> str:
    """The command that helps; '' where none does by itself."""
    match finding.code:
        case Code.COPPER_NOT_CONNECTED | Code.XERO_NOT_CONNECTED | Code.XERO_DISCONNECTED:
            return "run `patina connect`"
        case Code.COPPER_KEY_REJECTED:
            return "run `patina connect` with a new one"
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


def moment(at: datetime | None) -> str:
    """A time in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else "never"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
