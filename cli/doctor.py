"""`patina doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

import typer

from cli.checks import CheckResult, run_checks
from cli.options import JsonOption
from runtime import logs
from runtime.numbers import count_noun
from runtime.settings import SettingsError

app = typer.Typer(add_completion=False)


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """Check the installation (settings, services, connections) and suggest fixes.

    Exits with 1 if a check failed.
    """
    with suppress(SettingsError):
        logs.configure("doctor", for_command=True)
    results = run_checks()
    if json_:
        typer.echo(json.dumps([result.to_json() for result in results]))
    else:
        for line in _format_results(results):
            typer.echo(line)
    raise SystemExit(0 if all(result.ok for result in results) else 1)


def _format_results(results: Sequence[CheckResult]) -> Iterator[str]:
    """One line per check, and the hint below a failed one; the last line is the verdict."""
    for result in results:
        yield f"{'OK  ' if result.ok else 'FAIL'}  {result.name}: {result.detail}"
        if not result.ok and result.hint:
            yield f"      {result.hint}"
    failed = sum(not result.ok for result in results)
    yield f"doctor {'failed' if failed else 'ok'}: {count_noun(len(results), 'check')}, {failed} failed"
