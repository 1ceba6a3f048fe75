"""Dependencies are pinned with hashes, and their licenses are listed and permit proprietary use."""

from __future__ import annotations

import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest

from scripts import audit, inventory, sbom
from scripts.licenses import FORBIDDEN, ROOT, list_locked_packages

# Folders that are no part of the project: what is installed, and what runs leave.
INSTALLED = {".venv", ".patina", "node_modules", ".git"}


def test_the_lock_pins_everything_with_hashes_and_contains_no_url() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


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


def test_every_license_is_listed_and_none_forbids_proprietary_use() -> None:
    page = (ROOT / "docs" / "licenses.md").read_text().partition("## Programs")[0]
    rows = re.findall(r"^\| (\S+) \| (.+) \|$", page, re.MULTILINE)
    licenses = dict(rows)
    assert set(list_locked_packages()) <= set(licenses), "run `make licenses`"
    for name, license in licenses.items():
        assert license != "UNKNOWN", name
        assert not FORBIDDEN.search(license), f"{name}: {license}"


def test_bundled_programs_are_listed_with_their_actual_version() -> None:
    page = (ROOT / "docs" / "licenses.md").read_text().partition("## Programs")[2]
    for program in inventory.list_programs():
        row = f"| {program.name} | {program.version} | {program.license} | {program.package} |"
        assert row in page, "run `make licenses`"
        assert not FORBIDDEN.search(program.license)
        assert program.package in list_locked_packages()


def test_the_bill_of_materials_contains_every_package_and_both_programs() -> None:
    bill = sbom.build_sbom()
    versions = {component["name"]: component["version"] for component in bill["components"]}
    assert {re.sub(r"[-_.]+", "-", name.lower()) for name in list_locked_packages()} <= {
        re.sub(r"[-_.]+", "-", name.lower()) for name in versions
    }
    assert {program.name: versions[program.name] for program in inventory.list_programs()} == {
        program.name: program.version for program in inventory.list_programs()
    }
    assert str(ROOT) not in str(bill)
    for change in ({"url": "https://not a url/"}, {"unknown": "property"}):
        altered = deepcopy(bill)
        next(part for part in altered["components"] if "externalReferences" in part)["externalReferences"][0] |= change
        with pytest.raises(ValueError, match="not valid"):
            sbom.validate(altered)


def test_an_audit_without_a_response_does_not_pass() -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "PATH": ""}
    for options, code in (((), audit.NOT_AUDITED), (("--may-be-offline",), 0)):
        command = [sys.executable, "-m", "scripts.audit", *options]
        completed = subprocess.run(
            command, cwd=ROOT, env=nowhere, capture_output=True, text=True, timeout=120, check=False
        )
        assert completed.returncode == code, completed.stderr
        assert completed.stdout.splitlines()[-1].startswith("NOT AUDITED")
        for program in inventory.list_programs():
            assert f"{program.name} {program.version}" in completed.stdout
