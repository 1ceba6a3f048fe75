"""The mutants: one deliberate break each, and the tests that must notice it."""

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


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "an older version of an invoice replaces a newer one",
        "store/mirror.py",
        "(old.updated_at, old.fetched_at) END\n        RETURNING invoice_id",
        "('-infinity', old.fetched_at) END\n        RETURNING invoice_id",
        ("tests/test_jobs.py::test_an_older_version_never_replaces_a_newer_one",),
    ),
)
