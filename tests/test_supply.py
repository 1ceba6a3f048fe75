"""What the project is made of: pinned with hashes, no addresses, licences listed and fit for closed work."""

from __future__ import annotations

import re

from tests.licences import REFUSED, ROOT, locked


def test_the_lock_pins_everything_with_hashes_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_every_licence_is_listed_and_none_forbids_closed_work() -> None:
    rows = re.findall(r"^\| (\S+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    listed = dict(rows)
    assert set(locked()) <= set(listed), "run `make licences`"
    for name, licence in listed.items():
        assert licence != "UNKNOWN", name
        assert not REFUSED.search(licence), f"{name}: {licence}"
