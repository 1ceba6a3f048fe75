"""The order of the tests: those that take long start first.

With `--dist worksteal` each test process starts with a slice of the list of tests. A long test at the end of a slice
would still run when the other processes have nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def long_tests_first(tests: Sequence[T], seconds: Callable[[T], float], processes: int) -> list[T]:
    """The tests in slices for this number of processes, each with its share of the long tests first, longest first.

    `seconds` is how long a test takes, 0 if it is not known to be long. The other tests keep their order.
    """
    long = sorted((test for test in tests if seconds(test) > 0), key=seconds, reverse=True)
    others = [test for test in tests if seconds(test) <= 0]
    order: list[T] = []
    for process, size in enumerate(_slice_sizes(len(tests), processes)):
        share = long[process::processes]
        count = max(size - len(share), 0)
        order += [*share, *others[:count]]
        del others[:count]
    return order + others


def _slice_sizes(tests: int, processes: int) -> list[int]:
    """The sizes of the slices that xdist distributes, whose later ones are larger if they cannot be equal."""
    sizes: list[int] = []
    for remaining in range(processes, 0, -1):
        sizes.append((tests - sum(sizes)) // remaining)
    return sizes
