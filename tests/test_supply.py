"""What the project is made of: pinned with hashes, no addresses, licences listed and fit for closed work."""

from __future__ import annotations

import re
import subprocess
import sys

from tests import audit, inventory, sbom
from tests.licences import REFUSED, ROOT, locked


def test_the_lock_pins_everything_with_hashes_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_every_licence_is_listed_and_none_forbids_closed_work() -> None:
    page = (ROOT / "docs" / "licences.md").read_text().partition("## Programs")[0]
    rows = re.findall(r"^\| (\S+) \| (.+) \|$", page, re.MULTILINE)
    listed = dict(rows)
    assert set(locked()) <= set(listed), "run `make licences`"
    for name, licence in listed.items():
        assert licence != "UNKNOWN", name
        assert not REFUSED.search(licence), f"{name}: {licence}"


def test_programs_within_packages_are_listed_with_the_version_that_they_give() -> None:
    page = (ROOT / "docs" / "licences.md").read_text().partition("## Programs")[2]
    for program in inventory.programs():
        row = f"| {program.name} | {program.version} | {program.licence} | {program.package} |"
        assert row in page, "run `make licences`"
        assert not REFUSED.search(program.licence)
        assert program.package in locked()


def test_the_bill_of_materials_holds_every_package_and_both_programs() -> None:
    made = sbom.bill()
    versions = {component["name"]: component["version"] for component in made["components"]}
    assert {re.sub(r"[-_.]+", "-", name.lower()) for name in locked()} <= {
        re.sub(r"[-_.]+", "-", name.lower()) for name in versions
    }
    assert {program.name: versions[program.name] for program in inventory.programs()} == {
        program.name: program.version for program in inventory.programs()
    }
    assert str(ROOT) not in str(made)


def test_an_audit_that_nobody_answers_does_not_pass_for_one() -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "PATH": ""}
    for options, code in (((), audit.NOT_AUDITED), (("--may-be-offline",), 0)):
        words = [sys.executable, "-m", "tests.audit", *options]
        done = subprocess.run(words, cwd=ROOT, env=nowhere, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stderr
        assert done.stdout.splitlines()[-1].startswith("NOT AUDITED")
        for program in inventory.programs():
            assert f"{program.name} {program.version}" in done.stdout
