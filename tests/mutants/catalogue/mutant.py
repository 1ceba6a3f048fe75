"""The definition of a mutant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A defect: in `path`, `before` (which occurs exactly once) is replaced by `after`; `tests` are pytest node ids."""

    name: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]


def mutant(name: str, path: str, before: str, after: str, *tests: str) -> Mutant:
    """Create a mutant; the test paths are relative to the folder `tests`."""
    return Mutant(name, path, before, after, tuple(f"tests/{test}" for test in tests))
