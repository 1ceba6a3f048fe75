"""What `patina status` tells: one sentence first, then the figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from store import accounts, inbox, mirror, projection, runs
from store.database import transaction


def everything() -> dict[str, Any]:
    """Every account, in data."""
    with transaction() as session:
        known = accounts.accounts(session)
    return {"at": datetime.now(UTC).isoformat(), "accounts": [_one(account) for account in known]}


def _one(account: accounts.AccountSummary) -> dict[str, Any]:
    with transaction() as session:
        organisations = accounts.organisations(session, account.id)
        records, invoices = mirror.count(session, account.id)
        showing, rows = projection.count(session, account.id)
        waiting = inbox.open_count(session, account.id)
        quarantined = inbox.quarantined_count(session, account.id)
        lost = accounts.lost_grants(session, account.id)
        latest = {(run.organisation_id, run.kind): run for run in reversed(runs.recent(session, account.id))}
    failed = [run for run in latest.values() if run.state == "failed"]
    wrong = [f"{name} must be reconnected in Xero: run `patina connect`" for name in lost]
    wrong += [f"{quarantined} events are quarantined"] if quarantined else []
    wrong += [f"the backfill stopped at {run.stage}: {run.error}" for run in failed]
    return {
        "account": account.id,
        "name": account.name,
        "well": not wrong,
        "wrong": wrong,
        "organisations": [one.name for one in organisations],
        "records": records,
        "invoices": invoices,
        "records_showing_invoices": showing,
        "rows": rows,
        "events_waiting": waiting,
        "events_quarantined": quarantined,
        "synced_at": account.synced_at.isoformat() if account.synced_at else None,
        "runs": [
            {"organisation": run.organisation_id, "kind": run.kind, "state": run.state, "stage": run.stage}
            for run in latest.values()
        ],
    }


def show(told: dict[str, Any]) -> None:
    """Print it for a person."""
    console = Console()
    if not told["accounts"]:
        console.print("No account is connected yet: run `patina connect`.")
    for one in told["accounts"]:
        console.print(f"[bold]{one['name']}[/bold] (account {one['account']})")
        console.print(f"  {'All well.' if one['well'] else 'Not well: ' + '; '.join(one['wrong'])}")
        table = Table(show_header=False, box=None, padding=(0, 2))
        table.add_row("Xero organisations", ", ".join(one["organisations"]) or "none")
        table.add_row("Copper records", f"{one['records']:,}, {one['records_showing_invoices']:,} show invoices")
        table.add_row("Invoices", f"{one['invoices']:,}, in {one['rows']:,} rows")
        table.add_row("Events waiting", f"{one['events_waiting']:,}")
        table.add_row("Up to date as of", one["synced_at"] or "never")
        console.print(table)
