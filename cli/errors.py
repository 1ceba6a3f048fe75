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


def describe_error(error: Exception) -> str | None:
    """The message for a known error; None for an unexpected one.

    The classes are imported here, so that a command only imports what it needs.
    """
    from runtime.embedded import EmbeddedServiceError
    from runtime.settings import SettingsError

    # Checked first, because the imports below may need valid settings.
    if isinstance(error, (SettingsError, EmbeddedServiceError)):
        return str(error)
    from alembic.util.exc import CommandError

    from store.db.crypto import DecryptionError
    from store.db.database import describe_failure
    from store.db.roles import RolesError
    from worker.vendors.errors import NotConnectedError, VendorError

    if description := describe_failure(error):
        return description
    if isinstance(error, CommandError):
        return f"migrate: {error}"
    known = (DemoError, RolesError, DecryptionError, NotConnectedError, VendorError, LookupError, OSError)
    return str(error) if isinstance(error, known) and not isinstance(error, (KeyError, IndexError)) else None
