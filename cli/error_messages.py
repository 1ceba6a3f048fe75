"""The messages of known errors, which end a command with one line instead of a traceback."""

from __future__ import annotations

from alembic.util.exc import CommandError

from cli.errors import DemoError
from runtime.embedded import EmbeddedServiceError
from runtime.settings import SettingsError
from store.db.crypto import DecryptionError
from store.db.database import describe_failure
from store.db.roles import RolesError
from worker.vendors.errors import NotConnectedError, VendorError

KNOWN_ERRORS = (
    SettingsError,
    EmbeddedServiceError,
    DemoError,
    RolesError,
    DecryptionError,
    NotConnectedError,
    VendorError,
    LookupError,
    OSError,
)


def describe_error(error: Exception) -> str | None:
    """The message for a known error; None for an unexpected one."""
    if description := describe_failure(error):
        return description
    if isinstance(error, CommandError):
        return f"migrate: {error}"
    is_known = isinstance(error, KNOWN_ERRORS) and not isinstance(error, (KeyError, IndexError))
    return str(error) if is_known else None
