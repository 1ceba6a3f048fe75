"""Values that a process computes once: by one thread, and never again from what was replaced."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from runtime.process_values import once_per_process

SECONDS = 10


def test_several_threads_get_the_same_value() -> None:
    computed = []
    together = threading.Barrier(4)

    @once_per_process
    def value() -> object:
        computed.append(object())
        return computed[-1]

    def get() -> object:
        together.wait(SECONDS)
        return value()

    with ThreadPoolExecutor(4) as executor:
        values = {id(future.result(SECONDS)) for future in [executor.submit(get) for _ in range(4)]}
    assert len(values) == len(computed) == 1


def test_what_was_computed_from_replaced_values_is_not_kept() -> None:
    source = ["old"]
    has_read, may_return = threading.Event(), threading.Event()

    @once_per_process
    def value() -> str:
        current = source[0]
        has_read.set()
        may_return.wait(SECONDS)
        return current

    with ThreadPoolExecutor(2) as executor:
        first = executor.submit(value)
        assert has_read.wait(SECONDS)
        source[0] = "new"
        cleared = executor.submit(value.clear)
        assert not wait([cleared], timeout=0.2).done, "it would not clear what is still being computed"
        may_return.set()
        assert first.result(SECONDS) == cleared.result(SECONDS) == "old"
        assert value() == "new"


def test_clearing_returns_the_value_even_if_it_is_none() -> None:
    computed = []

    @once_per_process
    def value() -> None:
        computed.append(1)

    assert value.clear() is None
    for _ in range(2):
        value()
    assert len(computed) == 1
    value.clear()
    value()
    assert len(computed) == 2


def test_an_error_is_raised_and_the_value_is_computed_again() -> None:
    errors = [ValueError("not yet")]

    @once_per_process
    def value() -> str:
        if errors:
            raise errors.pop()
        return "computed"

    with pytest.raises(ValueError, match="not yet"):
        value()
    assert value() == "computed"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_that_is_forked_during_a_computation_computes_its_own() -> None:
    is_computing, may_return = threading.Event(), threading.Event()

    @once_per_process
    def value() -> int:
        is_computing.set()
        may_return.wait(SECONDS)
        return os.getpid()

    thread = threading.Thread(target=value)
    thread.start()
    assert is_computing.wait(SECONDS)
    child = os.fork()
    if child == 0:
        may_return.set()
        os._exit(0 if value() == os.getpid() else 1)
    may_return.set()
    thread.join(SECONDS)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
