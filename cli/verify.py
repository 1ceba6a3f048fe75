"""`patina verify`: compares the read model with a rebuild, once no change is waiting to be projected."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from cli.options import AccountOption, JsonOption, resolve_account
from cli.sync import print_drift, run
from runtime.numbers import count_noun
from store.db.database import transaction
from store.read_model import field_values
from store.read_model.projection import Comparison
from worker.sync.renormalisation import count_stale
from worker.vendors.sync_types import RunKind

app = typer.Typer(add_completion=False)
MAX_WAIT_SECONDS = 10.0
POLL_SECONDS = 0.2


@app.command()
def verify(
    account: AccountOption = None,
    against_source: Annotated[
        bool,
        typer.Option("--against-source", help="Compare with Xero and Copper instead (uses API calls).", metavar=""),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Compare the read model with a rebuild, and email addresses with their originals.

    Exits with 1 if they differ.
    """
    if against_source:
        account_id, result = run(RunKind.DRY_RUN, account, is_quiet=json_, in_process=True)
        verdict = "verify failed" if result.drift_total else "verify ok"
        print_drift(verdict, account_id, result, as_json=json_, is_repaired=False)
        raise SystemExit(1 if result.drift_total else 0)
    account_id = resolve_account(account)
    comparison = wait_and_compare(account_id)
    stale_addresses = count_stale(account_id)
    if json_:
        payload = {
            "account": account_id,
            "missing": comparison.missing,
            "stale": comparison.stale,
            "extra": comparison.extra,
            "balances": comparison.balances,
            "fields": comparison.fields,
            "pending_changes": comparison.marks,
            "stale_addresses": stale_addresses,
            "examples": comparison.examples,
        }
        typer.echo(json.dumps(payload))
    else:
        for line in format_comparison(comparison, stale_addresses):
            typer.echo(line)
    raise SystemExit(0 if comparison.is_clean and not stale_addresses else 1)


def wait_and_compare(account_id: int) -> Comparison:
    """The comparison, repeated for up to 10 s while changes are waiting to be projected."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while True:
        with transaction() as session:
            comparison = field_values.compare(session, account_id)
        if comparison.is_clean or not comparison.marks or time.monotonic() > deadline:
            return comparison
        # A worker projects the pending changes, and comparing is the only way to know that it has.
        time.sleep(POLL_SECONDS)


def format_comparison(comparison: Comparison, stale_addresses: int = 0) -> Iterator[str]:
    """Examples, then the counts; the last line is the verdict."""
    if stale_addresses:
        addresses = count_noun(stale_addresses, "email address is", "email addresses are")
        yield f"{addresses} stored in an outdated normal form: run `patina reconcile`"
    for difference, examples in sorted(comparison.examples.items()):
        for example in examples:
            yield f"{difference}: {example}"
    if comparison.marks and not comparison.is_clean:
        yield f"{count_noun(comparison.marks, 'change')} not projected yet: is `patina worker` running?"
    suffix = f", {count_noun(comparison.balances, 'wrong balance')}" if comparison.balances else ""
    if comparison.fields:
        suffix += f", {count_noun(comparison.fields, 'record')} with wrong field values"
    if stale_addresses:
        suffix += f", {count_noun(stale_addresses, 'stale email address', 'stale email addresses')}"
    verdict = "ok" if comparison.is_clean and not stale_addresses else "failed"
    yield f"verify {verdict}: {comparison.missing} missing, {comparison.stale} stale, {comparison.extra} extra{suffix}"
