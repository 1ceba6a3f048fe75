"""The programs of the cluster: Debian's packages, which this module finds but never installs."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path

from tests.support import hosts

# The programs and the package of each.
PACKAGES = {
    "patroni": "patroni",
    "etcd": "etcd-server",
    "haproxy": "haproxy",
    "redis-server": "redis-server",
    "redis-sentinel": "redis-sentinel",
    "psql": "postgresql-client",
    "setpriv": "util-linux",
    "ip": "iproute2",
}
# The system users that the packages create.
USERS = {"postgres": "postgresql", "etcd": "etcd-server", "redis": "redis-server", "haproxy": "haproxy"}
POSTGRESQL = Path("/usr/lib/postgresql")
MIN_POSTGRESQL = 15
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def postgresql_folder() -> Path | None:
    """The `bin` folder of the newest PostgreSQL that Debian's packages installed, at least `MIN_POSTGRESQL`."""
    versions = [
        int(folder.name)
        for folder in POSTGRESQL.glob("*")
        if folder.name.isdigit() and (folder / "bin" / "initdb").exists()
    ]
    newest = max(versions, default=0)
    return POSTGRESQL / str(newest) / "bin" if newest >= MIN_POSTGRESQL else None


def program(name: str) -> str:
    """The path of a program that `why_impossible` has checked."""
    path = shutil.which(name, path=PATH)
    assert path, name
    return path


def why_impossible() -> str | None:
    """Why the cluster cannot run on this machine, and how to change that; None if it can."""
    packages = {package for name, package in PACKAGES.items() if shutil.which(name, path=PATH) is None}
    packages |= {package for name, package in USERS.items() if not _has_user(name)}
    if postgresql_folder() is None:
        packages.add("postgresql")
    if packages:
        return f"needs programs that are not installed: apt-get install {' '.join(sorted(packages))}"
    if not hosts.possible():
        return "needs root and network namespaces: run it as root, in a container with --privileged"
    return None


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
