"""Batches of events: how they are split, what a failure does to them, and how a failing one is bisected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from store.db.database import AccountClosedError
from store.ingest.inbox import LeasedEvent, LeaseLostError, SyncSource
from store.read_model.projection import AccountBusyError
from worker.sync.event_processor import (
    MAX_DELAY_SECONDS,
    Batch,
    BatchOutcome,
    FailureAction,
    apply_in_order,
    backoff_seconds,
    failure_action,
    split_batches,
)
from worker.vendors.connectors import connector_for
from worker.vendors.copper.client import PAGE_SIZE
from worker.vendors.copper.connector import OPPORTUNITIES_PER_BATCH
from worker.vendors.errors import (
    AuthorizationLostError,
    BudgetExhaustedError,
    EndpointRefusedError,
    TransientError,
    UnexpectedResponseError,
)
from worker.vendors.xero.client import IDS_PER_CALL

XERO, COPPER = SyncSource(1, 7), SyncSource(1, 0)


def event(number: int, category: str = "INVOICE", resource_id: str | None = None) -> LeasedEvent:
    return LeasedEvent(number, category, "UPDATE", resource_id or str(number), None, f"delivery-{number}", 1)


def ids(batches: Iterable[Batch]) -> list[list[int]]:
    return [[event.id for event in batch] for batch in batches]


def bisect(poison: set[int], applied: list[list[int]]) -> Callable[[Batch], BatchOutcome]:
    """Apply a batch unless it contains a poison event; return the halves of one that does."""

    def apply(batch: Batch) -> BatchOutcome:
        applied.append([event.id for event in batch])
        if not poison & {event.id for event in batch}:
            return BatchOutcome(len(batch))
        middle = len(batch) // 2
        return BatchOutcome(remaining=(batch[:middle], batch[middle:])) if middle else BatchOutcome()

    return apply


def test_a_poison_event_is_bisected_out_and_all_others_are_completed() -> None:
    applied: list[list[int]] = []
    batch = [event(number) for number in range(8)]
    assert apply_in_order([batch], bisect({5}, applied)) == 7
    assert applied == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]


def test_the_halves_of_a_failing_batch_come_before_the_next_batch() -> None:
    applied: list[list[int]] = []
    batches = [[event(0), event(1)], [event(2), event(3)], [event(4)]]
    assert apply_in_order(batches, bisect({1, 2}, applied)) == 3
    assert applied == [[0, 1], [0], [1], [2, 3], [2], [3], [4]]


@pytest.mark.parametrize("poison", [set(), {0}, {7}, {0, 7}, {2, 3, 4}, set(range(8))])
def test_every_event_but_the_poison_ones_is_completed_whichever_they_are(poison: set[int]) -> None:
    applied: list[list[int]] = []
    assert apply_in_order([[event(number) for number in range(8)]], bisect(poison, applied)) == 8 - len(poison)
    assert {number for batch in applied if len(batch) == 1 for number in batch} >= poison


def test_a_failure_of_the_whole_lease_ends_the_bisection_at_once() -> None:
    applied: list[list[int]] = []
    poisoned = bisect({1}, applied)

    def apply(batch: Batch) -> BatchOutcome:
        if [event.id for event in batch] == [1]:
            raise LeaseLostError
        return poisoned(batch)

    with pytest.raises(LeaseLostError):
        apply_in_order([[event(0), event(1), event(2), event(3)]], apply)
    assert applied == [[0, 1, 2, 3], [0, 1], [0]]


def test_nothing_is_applied_without_batches() -> None:
    assert apply_in_order([], bisect(set(), [])) == 0


@pytest.mark.parametrize(
    ("error", "is_responding", "expected"),
    [
        (LeaseLostError(), True, FailureAction.RAISE),
        (AccountClosedError(), True, FailureAction.RAISE),
        (AccountBusyError(None, None, TimeoutError()), True, FailureAction.RAISE),
        (AuthorizationLostError("revoked"), True, FailureAction.RAISE),
        (EndpointRefusedError("no scope", "Contacts"), True, FailureAction.DEFER),
        (TransientError("overloaded"), True, FailureAction.RAISE),
        (BudgetExhaustedError("no calls left", 3.0), True, FailureAction.RAISE),
        (TransientError("HTTP 500", ambiguous=True), True, FailureAction.BISECT),
        (TransientError("HTTP 500", ambiguous=True), False, FailureAction.RAISE),
        (UnexpectedResponseError("not JSON"), False, FailureAction.BISECT),
        (ValueError("a row that PostgreSQL rejects"), False, FailureAction.BISECT),
    ],
)
def test_a_failure_decides_what_becomes_of_its_batch(
    error: Exception, is_responding: bool, expected: FailureAction
) -> None:
    assert failure_action(error, lambda: is_responding) is expected


def test_the_vendor_is_only_pinged_when_the_request_may_be_the_cause() -> None:
    pings: list[str] = []

    def vendor_responds() -> bool:
        pings.append("ping")
        return True

    for error in (TransientError("timeout"), EndpointRefusedError("no scope", "Contacts"), ValueError()):
        failure_action(error, vendor_responds)
    assert pings == []
    failure_action(TransientError("HTTP 500", ambiguous=True), vendor_responds)
    assert pings == ["ping"]


def test_batches_have_one_category_each_with_contacts_first() -> None:
    events = [event(1), event(2, "CONTACT"), event(3), event(4, "CONTACT")]
    assert ids(split_batches(events, connector_for(XERO).batch_size)) == [[2, 4], [1, 3]]


def test_events_of_one_resource_share_a_batch_however_its_id_is_spelled() -> None:
    events = [event(1, resource_id="ABC"), event(2, resource_id="def"), event(3, resource_id="abc")]
    assert ids(split_batches(events, connector_for(XERO).batch_size)) == [[1, 3, 2]]


@pytest.mark.parametrize(
    ("source", "category", "size"),
    [
        (XERO, "INVOICE", IDS_PER_CALL),
        (COPPER, "person", PAGE_SIZE),
        (COPPER, "opportunity", OPPORTUNITIES_PER_BATCH),
    ],
)
def test_a_batch_has_as_many_resources_as_one_call_can_fetch(source: SyncSource, category: str, size: int) -> None:
    events = [event(number, category) for number in range(size + 1)]
    assert [len(batch) for batch in split_batches(events, connector_for(source).batch_size)] == [size, 1]


@pytest.mark.parametrize(("attempts", "min_delay", "max_delay"), [(1, 2, 6), (2, 4, 12), (5, 32, 96), (40, 900, 900)])
def test_a_failed_event_waits_twice_as_long_after_each_attempt_within_bounds(
    attempts: int, min_delay: float, max_delay: float
) -> None:
    delays = [backoff_seconds(replace(event(1), attempts=attempts)) for _ in range(100)]
    assert min_delay <= min(delays) <= max(delays) <= max_delay <= MAX_DELAY_SECONDS
