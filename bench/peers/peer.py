"""What all peers need: the database's address in their form, and an error for one that cannot be measured."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, quote, urlsplit

from store.db.database import conninfo

SUPERUSER = "postgres"


class PeerUnavailableError(Exception):
    """The peer cannot be measured here; the message says why."""


def is_installed(name: str, install: Callable[[], None]) -> bool:
    """Install a peer; False, with a printed reason, if it cannot be installed here."""
    try:
        install()
    except PeerUnavailableError as error:
        print(f"  left out: the comparison with {name}, because {error}", flush=True)
        return False
    return True


def database_url(user: str = "") -> str:
    """The database URL as node-postgres and psycopg2 read it, by default with our own user.

    The directory of the socket is a query parameter. Some peers refuse a URL without a password.
    """
    parts = urlsplit(conninfo())
    named = {name: values[0] for name, values in parse_qs(parts.query).items()}
    host, port = named.get("host", parts.hostname or ""), named.get("port", parts.port or 5432)
    credentials = f"{user or parts.username or SUPERUSER}:{parts.password or 'none'}"
    return f"postgresql://{credentials}@localhost:{port}{parts.path}?host={quote(str(host), safe='')}"
