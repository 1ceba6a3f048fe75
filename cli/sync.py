"""Commands that start a sync run and watch it, and `patina rebuild`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.formatting import count_rows
from cli.options import AccountOption, JsonOption, handle_interrupts, resolve_account
from cli.progress import SyncResult, run_and_watch
from runtime import logs
from runtime.numbers import count_noun
from services.account_status import describe_drift
from worker.sync import projector
from worker.vendors.sync_types import RunKind

app = typer.Typer(add_completion=False)


@app.command()
def backfill(account: AccountOption = None, json_: JsonOption = False) -> None:
    """Import everything from Xero and Copper. Ctrl-C stops watching; the run continues."""
    account_id, result = run(RunKind.BACKFILL, account, is_quiet=json_)
    _print_counts("backfill", account_id, result, as_json=json_)


@app.command("catch-up")
def catch_up(account: AccountOption = None, json_: JsonOption = False) -> None:
    """Import what changed in Xero and Copper since the last sync, as the scheduler does regularly."""
    account_id, result = run(RunKind.CATCH_UP, account, is_quiet=json_)
    _print_counts("catch-up", account_id, result, as_json=json_)


@app.command()
def reconcile(
    account: AccountOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report differences without fixing them.", metavar="")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Compare everything with Xero and Copper, report differences and fix them.

    Ctrl-C stops watching; the run continues.
    """
    account_id, result = run(RunKind.DRY_RUN if dry_run else RunKind.RECONCILIATION, account, is_quiet=json_)
    verdict = "dry run ok" if dry_run else "reconciliation ok"
    print_drift(verdict, account_id, result, as_json=json_, is_repaired=not dry_run)


@app.command()
def rebuild(account: AccountOption = None) -> None:
    """Recompute every row of the read model from the mirror."""
    logs.configure("rebuild", for_command=True)
    account_id = resolve_account(account)
    changes = projector.rebuild(account_id)
    typer.echo(f"rebuild ok: {count_noun(changes.written, 'row')} written, {changes.removed:,} removed")


def run(run_kind: RunKind, account: int | None, *, is_quiet: bool, in_process: bool = False) -> tuple[int, SyncResult]:
    """Run a sync of an account and show its progress; returns the account and the result. Ctrl-C exits with 130."""
    logs.configure(run_kind.value, for_command=True)
    handle_interrupts()
    account_id = resolve_account(account)
    try:
        return account_id, run_and_watch(account_id, run_kind, is_quiet=is_quiet, in_process=in_process)
    except KeyboardInterrupt:
        advice = "Run the same command to continue." if in_process else "The run continues in the workers."
        typer.echo(f"Stopped watching. {advice}", err=True)
        raise SystemExit(130) from None


def _print_counts(command: str, account_id: int, result: SyncResult, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"account": account_id, "counts": result.counts}))
        return
    counts = ", ".join(count_rows(number, plural) for plural, number in result.counts.items() if number)
    typer.echo(f"{command} ok: {counts or 'nothing new'}")


def print_drift(verdict: str, account_id: int, result: SyncResult, *, as_json: bool, is_repaired: bool) -> None:
    """Print what a comparison with the vendors found."""
    if as_json:
        payload = {
            "account": account_id,
            "counts": result.counts,
            "drift": result.drift,
            "drift_total": result.drift_total,
        }
        typer.echo(json.dumps(payload))
        return
    suffix = ", fixed" if result.drift_total and is_repaired else ""
    differences = describe_drift(result.drift) if result.drift_total else "no differences"
    typer.echo(f"{verdict}: {differences}{suffix}")
