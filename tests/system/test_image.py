"""An image contains the program, and no secrets from the working copy."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECRET_FILES = (
    *("patina.env", "docs/deploy/patina.env", ".env", "store/.env", "web/production.env", "worker/.env.local"),
    *("patina.dump", "store/backup.dump", "web/dump.sql", "runtime/dump.sql.gz", ".patina/encryption.key"),
    *("server.pem", "web/tls.key", "runtime/id.p12", "notes.txt", ".git/config", "worker/debug.log", "web/.netrc"),
    *("store/private/.env", "sandbox/state.key"),
)


def rules() -> list[tuple[bool, re.Pattern[str]]]:
    """The patterns of .dockerignore, and whether each is an exception."""
    lines = (line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines())
    return [
        (line.startswith("!"), _pattern(line.removeprefix("!"))) for line in lines if line and not line.startswith("#")
    ]


def _pattern(line: str) -> re.Pattern[str]:
    """Translate a pattern like an image builder: `**` is any number of folders, `*` and `?` stay within one."""
    parts = []
    for segment in line.strip("/").split("/"):
        parts.append(
            "(?:[^/]+/)*" if segment == "**" else fnmatch.translate(segment)[4:-3].replace(".*", "[^/]*") + "/"
        )
    return re.compile("".join(parts).rstrip("/") + r"(?:/.*)?")


def is_in_context(path: PurePosixPath) -> bool:
    """Whether a file is sent to the builder: the last pattern that matches it or one of its folders decides."""
    is_in = True
    for takes_in, pattern in rules():
        if pattern.fullmatch(str(path)):
            is_in = takes_in
    return is_in


def context(root: Path) -> set[str]:
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path) for path in files if is_in_context(PurePosixPath(path.as_posix()))}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of the project, with files that people leave in one."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    if listing.returncode:
        pytest.skip("needs the project's history")
    for name in (*listing.stdout.split("\n"), *SECRET_FILES):
        if name and not name.startswith(("docs/images", "tests", "bench")):
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file() and name not in SECRET_FILES:
                shutil.copyfile(ROOT / name, target)
            else:
                target.write_text("a secret")
    return tmp_path


def test_no_secret_is_sent_to_the_builder(checkout: Path) -> None:
    context_files = context(checkout)
    assert {
        "cli/root.py",
        "requirements.lock",
        "store/models/accounts.py",
        "web/static/panel.js",
        "alembic/env.py",
    } <= context_files
    assert context_files.isdisjoint(SECRET_FILES)
    assert {path for path in context_files if (checkout / path).read_bytes() == b"a secret"} == set()


def test_the_image_copies_named_folders_that_are_all_in_the_context(checkout: Path) -> None:
    lines = (ROOT / "docs" / "deploy" / "Containerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert "." not in copied
    context_files = context(checkout)
    for path_ in copied:
        assert any(path == path_ or path.startswith(f"{path_}/") for path in context_files), path_
    needed = {
        path for path in context_files if not any(path == source or path.startswith(f"{source}/") for source in copied)
    }
    assert needed == set(), "what is sent and not copied"


def test_git_ignores_the_same_secrets() -> None:
    for path in SECRET_FILES:
        if path.endswith((".txt", ".log", ".netrc")) or path.startswith(".git/"):
            continue
        completed = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, timeout=30, check=False)
        assert completed.returncode == 0, path
