"""`patina status`: the state of every account."""

from __future__ import annotations

import json
import textwrap
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cli.findings import RUN_LABELS, describe_finding, describe_problem
from cli.formatting import json_default, to_the_second
from cli.options import JsonOption, resolve_account
from runtime.numbers import count_noun
from services import account_status
from services.account_status import AccountStatus, InstallationStatus, SourceStatus, describe_drift, format_bytes
from services.health import Finding, FindingCode
from store.db.enums import RunState
from store.read_model.field_values import Progress

app = typer.Typer(add_completion=False)
WIDTH = 80
LABEL_WIDTH = 24
ATTENTION = "  Needs attention: "


@app.command()
def status(
    account: Annotated[int | None, typer.Option("--account", help="Show this account only.", metavar="ID")] = None,
    json_: JsonOption = False,
) -> None:
    """Show each account's data, backlog, API usage and problems.

    With more than 20 accounts, only those that need attention, 20 at most. Exits with 1 if anything needs attention.
    """
    if account is not None:
        resolve_account(account)
    installation = account_status.for_installation(account)
    if json_:
        typer.echo(json.dumps(_to_json(installation), default=json_default))
    else:
        _print_installation(installation, lists_one=account is not None)
    raise SystemExit(0 if installation.is_healthy else 1)


def _to_json(installation: InstallationStatus) -> dict[str, Any]:
    failures = installation.events_quarantined
    return {
        "at": datetime.now(UTC).isoformat(),
        "xero_download_allowance_left_gb": round(installation.download_allowance_left, 6),
        "installation": {
            "healthy": not failures,
            "events_quarantined": failures,
            "accounts": installation.account_count,
            "accounts_unchecked": installation.unchecked_count,
            "processes_down": list(installation.processes_down),
        },
        "accounts": [_account_to_json(account) for account in installation.accounts],
    }


def _finding_to_json(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code.value,
        "organisation": finding.organisation_id,
        "subject": finding.subject,
        "message": describe_finding(finding),
    }


def _account_to_json(account: AccountStatus) -> dict[str, Any]:
    return {
        "account": account.id,
        "name": account.name,
        "healthy": account.is_healthy,
        "problems": [_finding_to_json(finding) for finding in account.findings],
        "notes": [_finding_to_json(finding) for finding in account.optional_findings],
        "organisations": [source.name for source in account.sources if source.organisation_id],
        "records": account.records,
        "invoices": account.invoices,
        "records_with_invoices": account.records_with_invoices,
        "rows": account.rows,
        "events_pending": account.events_pending,
        "oldest_pending_seconds": account.oldest_pending_seconds,
        "events_quarantined": account.events_quarantined,
        "synced_at": account.synced_at.isoformat() if account.synced_at else None,
        "last_event_at": account.last_event_at.isoformat() if account.last_event_at else None,
        "latency_24h": {
            "events": account.events_last_day,
            "p50_seconds": account.median_latency,
            "p99_seconds": account.p99_latency,
        },
        "xero_download_bytes": {
            "compressed": account.xero_bytes_compressed,
            "uncompressed": account.xero_bytes_uncompressed,
        },
        "api_usage": [vars(usage) for usage in account.usage],
        "sources": [vars(source) for source in account.sources],
        "drift": account.drift,
        "unreadable_fields": [vars(field) for field in account.unreadable_fields],
        "fields": {
            "records": account.field_progress.records,
            "pending": account.field_progress.pending,
            "refused": account.field_progress.failed,
        }
        if account.field_progress
        else None,
        "dropped_events": [vars(dropped) for dropped in account.dropped_events],
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
            for run in account.runs
        ],
    }


def _print_installation(installation: InstallationStatus, *, lists_one: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not installation.account_count:
        console.print("No account is connected yet: run `patina connect`.", markup=False)
    for account in installation.accounts:
        _print_account(console, account)
    if not lists_one and not installation.is_complete:
        _print_summary(console, installation)
    if installation.account_count:
        allowance_left = installation.download_allowance_left
        excess = f" (exceeded by {-allowance_left:,.3f} GB)" if allowance_left < 0 else ""
        console.print(
            f"Xero download allowance left this month, all accounts: {max(allowance_left, 0):,.3f} GB{excess}"
        )
    if installation.events_quarantined:
        events = count_noun(installation.events_quarantined, "failed event")
        message = f"Needs attention: {events} of no account: see `patina inbox list --installation`"
        console.print(Text(message, style="red"))


def _print_summary(console: Console, installation: InstallationStatus) -> None:
    """What is said of accounts that are not listed, because there are many."""
    listed, unchecked = len(installation.accounts), installation.unchecked_count
    accounts = count_noun(installation.account_count, "account")
    console.print(f"{accounts}, {installation.account_count - listed - unchecked:,} of them without a problem")
    for process in installation.processes_down:
        finding = Finding(FindingCode.PROCESS_DOWN, subject=process)
        console.print(Text(f"Needs attention: {describe_finding(finding)}", style="red"))
    if unchecked:
        message = f"{count_noun(unchecked, 'more account')} may need attention: see `patina status --account ID`"
        console.print(Text(message, style="red"))


def _print_account(console: Console, account: AccountStatus) -> None:
    console.print(Text.assemble((account.name, "bold"), f" (account {account.id})"))
    if account.is_healthy:
        console.print(Text("  OK", style="green"))
    for number, finding in enumerate(account.findings):
        label = ATTENTION if not number else " " * len(ATTENTION)
        lines = textwrap.wrap(describe_finding(finding), WIDTH - len(ATTENTION), break_long_words=False)
        console.print(Text(label + ("\n" + " " * len(ATTENTION)).join(lines), style="red"))
    for finding in account.optional_findings:
        console.print(Text(f"  Note: {describe_problem(finding)}"))
    for label, value in _list_figures(account):
        console.print(Text(f"  {label:<{LABEL_WIDTH}} {value}"))
    for source in account.sources:
        console.print(Text(f"  {source.name}"))
        console.print(Text(f"    {'API calls':<{LABEL_WIDTH - 2}} {_format_calls(account, source)}"))
        if source.time_zone:
            console.print(Text(f"    {'Time zone':<{LABEL_WIDTH - 2}} {_format_time_zone(source)}"))


def _list_figures(account: AccountStatus) -> list[tuple[str, str]]:
    is_reconciled = any(run.kind == "reconciliation" and run.state == RunState.DONE for run in account.runs)
    compressed, uncompressed = map(format_bytes, (account.xero_bytes_compressed, account.xero_bytes_uncompressed))
    return [
        ("Copper records", f"{account.records:,} ({account.records_with_invoices:,} with invoices)"),
        ("Invoices in Xero", f"{account.invoices:,} (listed {count_noun(account.rows, 'time')} on records)"),
        ("Pending events", f"{account.events_pending:,}"),
        ("Last synced", to_the_second(account.synced_at)),
        ("Last event", to_the_second(account.last_event_at)),
        ("Sync latency (24 h)", _format_latency(account)),
        *[
            (f"Last {RUN_LABELS[kind]}", to_the_second(_last_finished_at(account, kind)))
            for kind in ("catch_up", "reconciliation")
        ],
        ("Differences found", describe_drift(account.drift) if is_reconciled else "not reconciled yet"),
        *([("Fields in Copper", _format_fields(account.field_progress))] if account.field_progress else []),
        *[("Unreadable (7 days)", sentence) for sentence in account.unreadable_fields_summary],
        *[("Dropped (7 days)", sentence) for sentence in account.dropped_events_summary],
        ("Xero download (month)", f"{compressed} compressed, {uncompressed} uncompressed"),
    ]


def _format_fields(progress: Progress) -> str:
    return f"{count_noun(progress.records, 'record')}, {progress.pending:,} to write, {progress.failed:,} refused"


def _last_finished_at(account: AccountStatus, kind: str) -> datetime | None:
    times = [
        run.finished_at for run in account.runs if run.kind == kind and run.state == RunState.DONE and run.finished_at
    ]
    return max(times, default=None)


def _format_latency(account: AccountStatus) -> str:
    if account.median_latency is None or account.p99_latency is None:
        return "no events"
    events = count_noun(account.events_last_day, "event")
    return f"p50 {account.median_latency:.2g} s, p99 {account.p99_latency:.2g} s, {events}"


def _format_time_zone(source: SourceStatus) -> str:
    if source.unknown_time_zone:
        return f"UTC, because {source.unknown_time_zone} (Xero's name for it) is unknown"
    return source.time_zone or ""


def _format_calls(account: AccountStatus, source: SourceStatus) -> str:
    calls = sum(usage.calls for usage in account.usage if usage.organisation_id == source.organisation_id)
    left = [
        f"{number:,} {window}"
        for window, number in (("this minute", source.minute_calls_left), ("today", source.day_calls_left))
        if number is not None
    ]
    return f"{calls:,} this month" + (f"; left: {', '.join(left)}" if left else "")
