"""Errors of the command line: known ones end with one line and exit code 1, wrong usage with exit code 2."""

from __future__ import annotations

from typing import NoReturn

import typer


class DemoError(Exception):
    """The demo cannot continue; the message says why."""


def fail(message: str) -> NoReturn:
    """Print a message to standard error and exit with 1."""
    typer.echo(message, err=True)
    raise SystemExit(1)


def usage_error(message: str, option: str | None = None) -> NoReturn:
    """Report wrong usage of an option or argument, with exit code 2."""
    raise typer.BadParameter(message, param_hint=option)
