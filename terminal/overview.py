"""What `patina status` tells: one sentence first, then the figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from terminal.times import to_the_second
from worker import overview
from worker.overview import AccountOverview, SourceOverview, bytes_in_words, drift_words

KIND_WORDS = {
    "backfill": "backfill",
    "catch_up": "catch-up",
    "reconciliation": "reconciliation",
    "dry_run": "dry run",
}


def everything() -> dict[str, Any]:
    """Every account, in data."""
    known, installation = overview.everything(), overview.installation()
    return {
        "at": datetime.now(UTC).isoformat(),
        "egress_allowance_left_gb": round(overview.allowance_left(known), 6),
        "installation": {
            "well": not installation.wrong,
            "wrong": list(installation.wrong),
            "events_quarantined": installation.events_quarantined,
        },
        "accounts": [_data(one) for one in known],
    }


def _data(one: AccountOverview) -> dict[str, Any]:
    return {
        "account": one.id,
        "name": one.name,
        "well": not one.wrong,
        "wrong": list(one.wrong),
        "notes": list(one.notes),
        "organisations": [source.name for source in one.sources if source.organisation_id],
        "records": one.records,
        "invoices": one.invoices,
        "records_showing_invoices": one.showing,
        "rows": one.rows,
        "events_waiting": one.events_waiting,
        "oldest_waiting_seconds": one.oldest_waiting,
        "events_quarantined": one.events_quarantined,
        "synced_at": one.synced_at.isoformat() if one.synced_at else None,
        "last_event_at": one.last_event_at.isoformat() if one.last_event_at else None,
        "freshness_day": {"events": one.events_day, "p50_seconds": one.median, "p99_seconds": one.slowest},
        "egress_month_bytes": {"wire": one.egress_wire, "plain": one.egress_plain},
        "calls_month": [vars(metered) for metered in one.metered],
        "sources": [vars(source) for source in one.sources],
        "drift": one.drift,
        "unreadable_fields": [vars(field) for field in one.unreadable],
        "runs": [
            {
                "organisation": run.organisation_id,
                "kind": run.kind,
                "state": run.state,
                "stage": run.stage,
                "started_at": run.started_at.isoformat(),
                "finished_at": run.finished_at.isoformat() if run.finished_at else None,
                "drift": run.drift,
            }
            for run in one.runs
        ],
    }


def show() -> bool:
    """Print it for a person; returns whether all is well."""
    console = Console()
    known = overview.everything()
    if not known:
        console.print("No account is connected yet: run `patina connect`.")
    for one in known:
        _show_account(console, one)
    if known:
        left = overview.allowance_left(known)
        console.print(f"Xero egress left this month, all accounts: {left:,.3f} GB")
    wrong = overview.installation().wrong
    for finding in wrong:
        console.print(f"Installation: {finding}", markup=False, soft_wrap=True)
    return not wrong and all(not one.wrong for one in known)


def _show_account(console: Console, one: AccountOverview) -> None:
    console.print(f"[bold]{one.name}[/bold] (account {one.id})")
    console.print(f"  {'All well.' if not one.wrong else 'Not well: ' + '; '.join(one.wrong)}")
    for note in one.notes:
        console.print(f"  Note: {note}.", markup=False)
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("Copper records", f"{one.records:,}, {one.showing:,} show invoices")
    table.add_row("Invoices", f"{one.invoices:,}, in {one.rows:,} rows")
    table.add_row("Events waiting", f"{one.events_waiting:,}")
    table.add_row("Up to date as of", to_the_second(one.synced_at))
    table.add_row("Last event", to_the_second(one.last_event_at))
    table.add_row("Event to visible, 24 h", _freshness(one))
    for kind in ("catch_up", "reconciliation"):
        ended = [run.finished_at for run in one.runs if run.kind == kind and run.state == "done" and run.finished_at]
        table.add_row(f"Last {KIND_WORDS[kind]}", to_the_second(max(ended, default=None)))
    reconciled = any(run.kind == "reconciliation" and run.state == "done" for run in one.runs)
    table.add_row("Drift found by it", drift_words(one.drift) if reconciled else "not reconciled yet")
    for sentence in one.unreadable_summary:
        table.add_row("Unreadable fields, 7 days", sentence)
    for source in one.sources:
        table.add_row(f"{source.name[:24]}: calls", _calls(one, source))
        if source.time_zone:
            table.add_row(f"{source.name[:24]}: time zone", _time_zone(source))
    table.add_row(
        "Xero egress, this month",
        f"{bytes_in_words(one.egress_wire)} sent, {bytes_in_words(one.egress_plain)} uncompressed",
    )
    console.print(table)


def _freshness(one: AccountOverview) -> str:
    if one.median is None or one.slowest is None:
        return "no event"
    return f"p50 {one.median:.2g} s, p99 {one.slowest:.2g} s, {one.events_day:,} events"


def _time_zone(source: SourceOverview) -> str:
    if source.unknown_time_zone:
        return f"UTC, because {source.unknown_time_zone} (Xero's name for it) is unknown"
    return source.time_zone or ""


def _calls(one: AccountOverview, source: SourceOverview) -> str:
    spent = sum(metered.calls for metered in one.metered if metered.organisation_id == source.organisation_id)
    left = [
        f"{number:,} left of the {window}"
        for window, number in (("minute", source.minute_left), ("day", source.day_left))
        if number is not None
    ]
    return ", ".join([f"{spent:,} this month", *left])
