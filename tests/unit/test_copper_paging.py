"""Where the next page of a Copper search starts: no record is skipped, whatever is deleted between two pages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from worker.vendors.copper import stages
from worker.vendors.copper.client import RecordPage
from worker.vendors.copper.schemas import CopperRecord

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SECOND = 1_793_000_000
Listing = list[tuple[int, int]]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PAGE_SIZE", 3)


def search(listing: Listing, cursor: dict[str, object]) -> RecordPage:
    """The page of a listing of (id, second created) that a cursor asks for."""
    created_from, number = cursor.get("created_from"), cursor.get("page", 1)
    assert isinstance(number, int)
    matching = [row for row in listing if not isinstance(created_from, int) or row[1] >= created_from]
    rows = matching[3 * (number - 1) : 3 * number]
    items = [CopperRecord.model_validate({"id": record_id, "date_created": second}) for record_id, second in rows]
    return RecordPage(items, NOW, total=len(matching), received_count=len(rows), vendor_time=NOW)


def read(listing: Listing, deleted_after: dict[int, list[int]]) -> set[int]:
    """Read all pages; after the n-th page some records are deleted. Returns the ids on all pages."""
    seen: set[int] = set()
    cursor: dict[str, object] | None = {}
    for count in range(1, 40):
        assert cursor is not None
        page = search(listing, cursor)
        seen |= {record.id for record in page.items}
        cursor = stages._next_cursor(cursor, page)
        if cursor is None:
            return seen
        listing = [row for row in listing if row[0] not in deleted_after.get(count, [])]
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("seconds", [[0] * 8, [0] * 5 + [1] * 3, [0, 0, 0, 0, 1, 2, 2, 2], list(range(8))])
@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_deletion_between_two_pages_hides_no_other_record(seconds: list[int], after: int, count: int) -> None:
    listing = [(number, SECOND + second) for number, second in enumerate(seconds, 1)]
    deleted = list(range(1, count + 1))
    assert read(listing, {after: deleted}) >= {number for number, _ in listing} - set(deleted)
