"""The order of the tests: each process starts with its share of the long ones."""

from __future__ import annotations

import pytest

from tests.support.ordering import long_tests_first

SECONDS = {"convergence": 120, "demo": 40, "scale": 50, "browser": 20}


def order(tests: list[str], processes: int) -> list[str]:
    return long_tests_first(tests, lambda test: SECONDS.get(test, 0), processes)


def test_every_process_starts_with_its_share_of_the_long_tests() -> None:
    tests = ["a", "browser", "b", "c", "demo", "d", "scale", "e", "convergence"]
    assert order(tests, 1) == ["convergence", "scale", "demo", "browser", "a", "b", "c", "d", "e"]
    assert order(tests, 2) == ["convergence", "demo", "a", "b", "scale", "browser", "c", "d", "e"]
    assert order(tests, 3) == ["convergence", "browser", "a", "scale", "b", "c", "demo", "d", "e"]


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("tests", [[], ["a"], ["demo"], ["demo", "scale", "convergence"], ["demo", "a", "scale"]])
def test_no_test_is_lost_or_repeated(tests: list[str], processes: int) -> None:
    assert sorted(order(tests, processes)) == sorted(tests)


def test_other_tests_keep_their_order() -> None:
    tests = [str(number) for number in range(100)]
    assert order(tests, 3) == tests
