"""`patina links`: links between Xero contacts and Copper records, many at a time."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.errors import fail
from cli.options import AccountOption, resolve_account
from runtime.numbers import count_noun
from services import link_import
from services.link_import import COLUMNS, ImportOutcome, LinkFileError
from store.accounts.audit import COMMAND_LINE
from store.read_model.contact_links import LinkStatus

app = typer.Typer(
    name="links",
    help="Import and export links between contacts and records.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command("import")
def import_links(
    file: Annotated[
        Path,
        typer.Argument(
            help=f"CSV file with the columns {', '.join(COLUMNS)}.", metavar="FILE.csv", exists=True, dir_okay=False
        ),
    ],
    apply: Annotated[bool, typer.Option("--apply", help="Make the links; without it, only list them.", metavar="")] = (
        False
    ),
    account: AccountOption = None,
) -> None:
    """Link Xero contacts to Copper records. A row with an error changes nothing, and the exit code is then 1."""
    account_id = resolve_account(account)
    try:
        rows = link_import.read_rows(account_id, file.read_bytes())
    except LinkFileError as error:
        fail(f"{file}: {error}. Nothing was linked.")
    batches = link_import.apply(account_id, rows, actor=COMMAND_LINE) if apply else link_import.check(account_id, rows)
    counts: Counter[str] = Counter()
    with _progress() as progress:
        task = progress.add_task("links", total=len(rows))
        for outcomes in batches:
            for outcome in outcomes:
                typer.echo(_format_outcome(outcome, is_applied=apply), err=bool(outcome.error))
                counts["error" if outcome.error else str(outcome.status)] += 1
            progress.advance(task, len(outcomes))
    summary = _summarise(counts, is_applied=apply)
    if counts["error"]:
        fail(summary)
    typer.echo(summary)


def _progress() -> Progress:
    """A bar on standard error, if that is a terminal."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _format_outcome(outcome: ImportOutcome, *, is_applied: bool) -> str:
    if outcome.error:
        return f"line {outcome.line}: {outcome.error}"
    if outcome.status is LinkStatus.ALREADY_LINKED:
        return f"line {outcome.line}: already linked: {outcome.description}"
    return f"line {outcome.line}: {'linked' if is_applied else 'would link'} {outcome.description}"


def _summarise(counts: Counter[str], *, is_applied: bool) -> str:
    """The last line: what was done, or would be."""
    linked, known, errors = counts[LinkStatus.LINKED], counts[LinkStatus.ALREADY_LINKED], counts["error"]
    result = "failed" if errors else "ok"
    failed = f", {count_noun(errors, 'error')}" if errors else ""
    if is_applied:
        return f"links import {result}: {linked:,} linked, {known:,} already linked{failed}"
    hint = ". Nothing was changed; add --apply to link them" if linked else ". Nothing was changed"
    return f"links dry run {result}: {linked:,} to link, {known:,} already linked{failed}{hint}"


@app.command("export")
def export_links(account: AccountOption = None) -> None:
    """Print all links as CSV, as `patina links import` reads them."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(link_import.export(resolve_account(account)))
