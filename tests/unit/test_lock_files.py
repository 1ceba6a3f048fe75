"""Lock files hold names, versions and hashes, and no address: any registry or mirror can serve them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Folders that are no part of the project: what is installed, and what runs leave.
INSTALLED = {".venv", ".patina", "node_modules", ".git"}


def lock_files() -> list[Path]:
    files = [*ROOT.rglob("*.lock"), *ROOT.rglob("package-lock.json")]
    return sorted(file for file in files if not INSTALLED.intersection(file.relative_to(ROOT).parts))


@pytest.mark.parametrize("file", lock_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_lock_file_holds_no_address(file: Path) -> None:
    addresses = [line for line in file.read_text().splitlines() if "://" in line]
    assert not addresses


def test_the_lock_files_are_where_the_test_looks() -> None:
    assert ROOT / "requirements.lock" in lock_files()
    assert ROOT / "bench" / "peers" / "postgraphile" / "package-lock.json" in lock_files()
