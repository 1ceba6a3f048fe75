"""The mutation check itself: its catalogue is up to date, and only failing tests count as caught."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, judge, run_tests
from tests.mutants.catalogue import MUTANTS
from tests.mutants.catalogue.mutant import Mutant

TESTS = """
import pytest

from product import answer

@pytest.fixture
def broken():
    raise RuntimeError

@pytest.fixture
def careful():
    yield
    assert answer() == 42

def test_that_notices(): assert answer() == 42
def test_that_does_not(): assert answer()
def test_that_breaks(broken): pass
def test_that_notices_during_teardown(careful): pass
@pytest.mark.skip
def test_that_is_skipped(): assert answer() == 42
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one function, and its tests."""
    (tmp_path / ".patina").mkdir()
    (tmp_path / "product.py").write_text("def answer(): return 42\n")
    (tmp_path / "test_product.py").write_text(TESTS)
    return tmp_path


def problem(project: Path, test: str, before: str = "42", after: str = "41") -> str | None:
    return judge(project, Mutant("a break", "product.py", before, after, (f"test_product.py::{test}",))).problem


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("test_that_notices", None),
        ("test_that_notices_during_teardown", None),
        ("test_that_does_not", "was not caught"),
        ("test_that_breaks", "a test failed during set-up"),
        ("test_that_is_skipped", "a test was skipped"),
        ("test_that_is_not_there", "the tests did not run"),
    ],
)
def test_a_mutant_is_only_caught_by_a_failing_test(project: Path, test: str, expected: str | None) -> None:
    assert problem(project, test) == expected
    assert "42" in (project / "product.py").read_text(), "it is taken back"


def test_a_mutant_that_breaks_test_collection_is_not_caught(project: Path) -> None:
    assert problem(project, "test_that_notices", "def answer", "def another") == "a test failed during set-up"


def test_a_mutant_whose_text_is_missing_is_not_caught(project: Path) -> None:
    assert "could not be applied" in str(problem(project, "test_that_notices", before="43"))


def test_tests_that_time_out_catch_nothing(project: Path) -> None:
    (project / "test_product.py").write_text("def test_that_hangs():\n    while True: pass\n")
    assert run_tests(project, ["test_product.py"], 5).problem == "the tests timed out"


def test_every_mutant_has_its_text_its_tests_and_a_unique_name() -> None:
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []
    assert len(MUTANTS) >= 85
    for mutant in MUTANTS:
        product = (ROOT / mutant.path).read_text()
        assert product.count(mutant.before) == 1, mutant.name
        if mutant.path.endswith(".py"):
            ast.parse(product.replace(mutant.before, mutant.after))
        for test in mutant.tests:
            path, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(), test
