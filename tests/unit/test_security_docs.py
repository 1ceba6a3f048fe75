"""docs/security.md and docs/asvs.md: every test that they name exists, and every requirement is covered."""

from __future__ import annotations

import re

from scripts.licenses import ROOT
from tests.attack.catalogue import ATTACKS

SECURITY, STANDARD = ROOT / "docs" / "security.md", ROOT / "docs" / "asvs.md"
# The number of requirements of levels 1 and 2 in each section of OWASP ASVS 5.0.0, by chapter; 0 if it has none.
ITEMS = {
    1: (2, 9, 11, 3, 2),
    2: (3, 3, 4, 1),
    3: (0, 2, 4, 6, 5, 0, 2),
    4: (3, 1, 2, 4),
    5: (1, 3, 2, 3),
    6: (3, 12, 4, 4, 5, 3, 0, 4),
    7: (3, 4, 2, 5, 2, 2),
    8: (2, 3, 1, 1),
    9: (3, 4),
    10: (2, 2, 4, 11, 5, 2, 3),
    11: (2, 3, 3, 4, 1, 1),
    12: (3, 2, 4),
    13: (1, 5, 2, 5),
    14: (2, 4, 3),
    15: (3, 3, 7),
    16: (1, 5, 4, 3, 3),
    17: (1, 4, 2),
}
ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \| ([^|]+) \| (yes|no|n/a) \| ([^|]+) \|$", re.MULTILINE)


def names_in(text: str) -> set[str]:
    return set(re.findall(r"`(test_[a-z0-9_]+…?)`", text))


def test_every_test_named_in_the_security_docs_exists() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    functions = {name for source in sources.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    attacks = {attack.name for attack in ATTACKS}
    for page in (SECURITY, STANDARD):
        text = page.read_text()
        for name in names_in(text):
            is_known = name in functions or (
                name.endswith("…") and any(function.startswith(name[:-1]) for function in functions)
            )
            assert is_known, f"{page.name} names {name}, which does not exist"
        for name in re.findall(r"`tests/([\w/]+\.py)`", text):
            assert (ROOT / "tests" / name).exists(), f"{page.name} names tests/{name}, which does not exist"
        for name in re.findall(r"`([a-z_]+)` in `make attack`", text):
            assert name in attacks, f"{page.name} names the attack {name}, which does not exist"
    assert len(names_in(SECURITY.read_text())) > 20


def test_every_attack_is_documented() -> None:
    text = SECURITY.read_text()
    for attack in ATTACKS:
        assert f"`{attack.name}`" in text, f"security.md does not tell what stops {attack.name}"


def test_every_requirement_of_the_standard_has_one_answer_with_a_reason() -> None:
    rows = ROW.findall(STANDARD.read_text())
    items = [
        f"{chapter}.{section}.{item}"
        for chapter, sections in ITEMS.items()
        for section, count in enumerate(sections, 1)
        for item in range(1, count + 1)
    ]
    # 3.2.1 follows 3.1, which has no requirement of these levels; no number is skipped within a section.
    assert [number for number, *_ in rows] == items
    assert len(items) == 253
    assert not [number for number, _, _, reason in rows if len(reason) < 2]


def test_every_link_in_the_docs_has_a_target() -> None:
    for page in (SECURITY, STANDARD):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name) if name else page
            assert path.exists(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{page.name} links to {target}"
