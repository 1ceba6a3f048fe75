"""Where PostgreSQL and Redis are: their settings, or the servers that the command line starts where these are unset."""

from __future__ import annotations

from collections.abc import Callable

from runtime.settings import SettingsError, describe, settings

ServerStarter = Callable[[str], str]
_start_server: ServerStarter | None = None


def start_missing_servers_with(start: ServerStarter) -> None:
    """Let `start` provide the URL of a server ("postgres" or "redis") whose setting is empty.

    It is only used with EMBEDDED_SERVICES. Commands and tests give `runtime.embedded.use`.
    """
    global _start_server
    _start_server = start


def database_url() -> str:
    """DATABASE_URL, or the URL of the embedded PostgreSQL, which is started if necessary.

    Raises `SettingsError` when neither is configured: no process falls back to an empty database by itself.
    """
    return settings().database_url or _embedded_url("postgres", "database_url")


def redis_url() -> str:
    """REDIS_URL, or the URL of the embedded Redis; otherwise like `database_url`."""
    return settings().redis_url or _embedded_url("redis", "redis_url")


def _embedded_url(server_name: str, setting: str) -> str:
    if not settings().embedded_services or _start_server is None:
        variable = setting.upper()
        raise SettingsError(
            f"{variable} is not set: {describe(setting)}. To try Patina out on this machine, add --embedded:"
            " `patina --embedded status`."
        )
    return _start_server(server_name)
