"""What `patina status` tells: one sentence first, then the figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from terminal.times import to_the_second
from terminal.words import RUN_KINDS, counted, finding_text, problem
from worker import overview
from worker.health import Finding
from worker.overview import AccountOverview, SourceOverview, bytes_in_words, drift_words

WIDTH = 80
LABEL_WIDTH = 24
ATTENTION = "  Needs attention: "


def account_overviews(account_id: int | None) -> tuple[list[AccountOverview], float]:
    """The overviews of one account or of all, and the gigabytes that all of them have left this month."""
    known = overview.everything()
    chosen = [account for account in known if account_id in {None, account.id}]
    return chosen, overview.allowance_left(known)


def are_well(accounts: Sequence[AccountOverview]) -> bool:
    """Whether nothing needs attention, neither of the accounts nor of what belongs to none."""
    return not overview.unclaimed_events() and all(account.is_well for account in accounts)


def as_data(accounts: Sequence[AccountOverview], egress_left: float) -> dict[str, Any]:
    """Accounts for machines."""
    failed = overview.unclaimed_events()
    return {
        "at": datetime.now(UTC).isoformat(),
        "egress_allowance_left_gb": round(egress_left, 6),
        "installation": {"well": not failed, "events_quarantined": failed},
        "accounts": [_data(account) for account in accounts],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code.value,
        "source": finding.source_id,
        "subject": finding.subject,
        "text": finding_text(finding),
    }


def _data(one: AccountOverview) -> dict[str, Any]:
    return {
        "account": one.id,
        "name": one.name,
        "well": one.is_well,
        "findings": [_finding(finding) for finding in one.findings],
        "notes": [_finding(finding) for finding in one.notes],
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
        "dropped_events": [vars(dropped) for dropped in one.dropped],
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


def show(accounts: Sequence[AccountOverview], egress_left: float) -> None:
    """Print it for a person."""
    console = Console(highlight=False, soft_wrap=True)
    if not accounts:
        console.print("No account is connected yet: run `patina connect`.", markup=False)
    for account in accounts:
        _show_account(console, account)
    if accounts:
        console.print(f"Xero egress left this month, all accounts: {egress_left:,.3f} GB")
    if failed := overview.unclaimed_events():
        said = (
            f"Needs attention: {counted(failed, 'failed event')} of no account: see `patina inbox list --installation`"
        )
        console.print(Text(said, style="red"))


def _show_account(console: Console, account: AccountOverview) -> None:
    console.print(Text.assemble((account.name, "bold"), f" (account {account.id})"))
    if account.is_well:
        console.print(Text("  OK", style="green"))
    for number, finding in enumerate(account.findings):
        label = ATTENTION if not number else " " * len(ATTENTION)
        lines = textwrap.wrap(finding_text(finding), WIDTH - len(ATTENTION), break_long_words=False)
        console.print(Text(label + ("\n" + " " * len(ATTENTION)).join(lines), style="red"))
    for finding in account.notes:
        console.print(Text(f"  Note: {problem(finding)}"))
    for label, value in _figures(account):
        console.print(Text(f"  {label:<{LABEL_WIDTH}} {value}"))


def _figures(account: AccountOverview) -> list[tuple[str, str]]:
    reconciled = any(run.kind == "reconciliation" and run.state == "done" for run in account.runs)
    return [
        ("Copper records", f"{account.records:,} ({account.showing:,} with invoices)"),
        ("Invoices", f"{account.invoices:,} (on {counted(account.rows, 'record row')})"),
        ("Events waiting", f"{account.events_waiting:,}"),
        ("Last synced", to_the_second(account.synced_at)),
        ("Last event", to_the_second(account.last_event_at)),
        ("Sync latency (24 h)", _latency(account)),
        *[
            (f"Last {RUN_KINDS[kind]}", to_the_second(_last_end(account, kind)))
            for kind in ("catch_up", "reconciliation")
        ],
        ("Differences found", drift_words(account.drift) if reconciled else "not reconciled yet"),
        *[("Unreadable, 7 days", sentence) for sentence in account.unreadable_summary],
        *[("Not kept, 7 days", sentence) for sentence in account.dropped_summary],
        *[(f"{source.name[:17]}: calls", _calls(account, source)) for source in account.sources],
        *[(f"{source.name[:13]}: time zone", _time_zone(source)) for source in account.sources if source.time_zone],
        (
            "Xero egress, this month",
            f"{bytes_in_words(account.egress_wire)} sent, {bytes_in_words(account.egress_plain)} uncompressed",
        ),
    ]


def _last_end(account: AccountOverview, kind: str) -> datetime | None:
    ended = [run.finished_at for run in account.runs if run.kind == kind and run.state == "done" and run.finished_at]
    return max(ended, default=None)


def _latency(account: AccountOverview) -> str:
    if account.median is None or account.slowest is None:
        return "no event"
    return f"p50 {account.median:.2g} s, p99 {account.slowest:.2g} s, {counted(account.events_day, 'event')}"


def _time_zone(source: SourceOverview) -> str:
    if source.unknown_time_zone:
        return f"UTC, because {source.unknown_time_zone} (Xero's name for it) is unknown"
    return source.time_zone or ""


def _calls(account: AccountOverview, source: SourceOverview) -> str:
    spent = sum(usage.calls for usage in account.metered if usage.organisation_id == source.organisation_id)
    left = [
        f"{number:,} {window}"
        for window, number in (("this minute", source.minute_left), ("today", source.day_left))
        if number is not None
    ]
    return f"{spent:,} this month" + (f"; left: {', '.join(left)}" if left else "")
