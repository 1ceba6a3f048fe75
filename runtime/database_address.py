"""Where a PostgreSQL is, in any form that libpq accepts, read once for SQLAlchemy and psycopg.

A form is a URL or pairs such as `host=a,b dbname=patina`. Either may name several hosts, what they have to be
(`target_session_attrs`), and a service of a service file.
"""

from __future__ import annotations

import os
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

URL_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
SERVICE_FILE = ".pg_service.conf"


class DatabaseAddressError(ValueError):
    """An address that libpq could not use. The message never contains the address, because that has a password."""


def to_libpq(address: str) -> str:
    """The address without SQLAlchemy's name of a driver."""
    scheme, separator, rest = address.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}" if separator else address


def parse(address: str) -> dict[str, Any]:
    """The connection parameters that an address gives, with those of its service filled in.

    psycopg tries the hosts itself, so it has to know them: libpq alone would not limit the time that each one takes.
    Raises `DatabaseAddressError` for an address that libpq cannot read, or a service that no file defines.
    """
    scheme, separator, _ = address.partition("://")
    if separator and "=" not in scheme and scheme not in URL_SCHEMES:
        raise DatabaseAddressError("must start with postgresql://")
    if not separator and "=" not in address:
        raise DatabaseAddressError(
            "must start with postgresql://, or consist of pairs such as host=db.internal dbname=patina"
        )
    try:
        parameters = conninfo_to_dict(to_libpq(address))
    except psycopg.Error:
        # libpq's own message repeats the address, with its password.
        raise DatabaseAddressError("not an address that PostgreSQL's libpq can read") from None
    service = parameters.pop("service", None)
    return {**_service_parameters(str(service)), **parameters} if service else dict(parameters)


def _service_parameters(service: str) -> dict[str, str]:
    for path in _service_files():
        # No interpolation: a password may contain a percent sign.
        parser = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
        try:
            parser.read(path, "utf-8")
        except (ConfigParserError, UnicodeDecodeError, OSError):
            raise DatabaseAddressError(f"the service file {path} cannot be read") from None
        if parser.has_section(service):
            return dict(parser[service])
    raise DatabaseAddressError(f"no service file defines the service {service!r}")


def _service_files() -> list[Path]:
    """Where libpq looks for services: the user's file, then the system's."""
    home_file = Path(os.environ.get("PGSERVICEFILE") or Path.home() / SERVICE_FILE)
    folder = os.environ.get("PGSYSCONFDIR") or "/etc/postgresql-common"
    return [home_file, Path(folder) / "pg_service.conf"]
