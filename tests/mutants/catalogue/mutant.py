"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One break: in `path`, `before` (which occurs exactly once) becomes `after`; `tests` are pytest's node ids."""

    name: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]


def mutant(name: str, path: str, before: str, after: str, *tests: str) -> Mutant:
    """A mutant whose tests are named from the folder `tests` on."""
    return Mutant(name, path, before, after, tuple(f"tests/{test}" for test in tests))
