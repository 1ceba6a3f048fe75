"""What goes into an image: the program, and no secret that somebody left beside it."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
DECOYS = (
    *("patina.env", "docs/deploy/patina.env", ".env", "store/.env", "web/production.env", "worker/.env.local"),
    *("patina.dump", "store/backup.dump", "web/dump.sql", "runtime/dump.sql.gz", ".patina/encryption.key"),
    *("server.pem", "web/tls.key", "runtime/id.p12", "notes.txt", ".git/config", "worker/debug.log", "web/.netrc"),
    *("store/private/.env", "sandbox/state.key"),
)


def rules() -> list[tuple[bool, re.Pattern[str]]]:
    """The lines of .dockerignore: whether each takes a path back in, and which paths it means."""
    lines = (line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines())
    return [
        (line.startswith("!"), _pattern(line.removeprefix("!"))) for line in lines if line and not line.startswith("#")
    ]


def _pattern(line: str) -> re.Pattern[str]:
    """As an image builder reads it: `**` is any number of folders, `*` and `?` stay within one."""
    parts = []
    for segment in line.strip("/").split("/"):
        parts.append(
            "(?:[^/]+/)*" if segment == "**" else fnmatch.translate(segment)[4:-3].replace(".*", "[^/]*") + "/"
        )
    return re.compile("".join(parts).rstrip("/") + r"(?:/.*)?")


def is_in_context(path: PurePosixPath) -> bool:
    """Whether a file is sent to the builder: the last line that means it, or a folder of it, decides."""
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
    """A copy of what the project's history holds, with what people leave in one."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    if listed.returncode:
        pytest.skip("needs the project's history")
    for name in (*listed.stdout.split("\n"), *DECOYS):
        if name and not name.startswith(("docs/images", "tests", "bench")):
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file() and name not in DECOYS:
                shutil.copyfile(ROOT / name, target)
            else:
                target.write_text("a secret")
    return tmp_path


def test_no_secret_is_sent_to_the_builder(checkout: Path) -> None:
    sent = context(checkout)
    assert {"cli.py", "requirements.lock", "store/models.py", "web/static/panel.js", "alembic/env.py"} <= sent
    assert sent.isdisjoint(DECOYS)
    assert {path for path in sent if (checkout / path).read_bytes() == b"a secret"} == set()


def test_the_image_copies_named_folders_that_are_all_in_the_context(checkout: Path) -> None:
    lines = (ROOT / "docs" / "deploy" / "Containerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert "." not in copied
    sent = context(checkout)
    for word in copied:
        assert any(path == word or path.startswith(f"{word}/") for path in sent), word
    known = {path for path in sent if not any(path == word or path.startswith(f"{word}/") for word in copied)}
    assert known == set(), "what is sent and not copied"


def test_git_takes_no_secret_either() -> None:
    for path in DECOYS:
        if path.endswith((".txt", ".log", ".netrc")) or path.startswith(".git/"):
            continue
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, timeout=30, check=False)
        assert done.returncode == 0, path
