"""Parsing of whole numbers from untrusted text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.numbers import MAX_ID, whole_number
from services import access
from tests.support.world import World


@pytest.mark.parametrize(
    "text", ["", " ", "²", "٣", "\uff11", "-1", "+1", "1.0", "1_000", " 1", "1\n", "0x1", "1e3", "½"]
)
def test_only_ascii_digits_form_a_whole_number(text: str) -> None:
    assert whole_number(text) is None


def test_a_whole_number_is_within_its_bounds() -> None:
    assert whole_number("0") == 0
    assert whole_number("007") == 7
    assert whole_number(str(MAX_ID)) == MAX_ID
    assert whole_number(str(MAX_ID + 1)) is None
    assert whole_number("9" * 100_000) is None
    assert (whole_number("4", minimum=5), whole_number("5", minimum=5, maximum=5), whole_number("6", maximum=5)) == (
        None,
        5,
        None,
    )


@given(st.text())
def test_no_input_raises_an_exception(text: str) -> None:
    number = whole_number(text)
    assert number is None or (text.isascii() and int(text) == number)


@pytest.mark.parametrize("wait", ["²", "٣".encode().decode("latin-1"), "9" * 400, "", "-1", "wait"])
def test_an_invalid_prefer_header_is_answered_at_once(world: World, wait: str) -> None:
    key = access.create_key(world.account, "panel", ["panel"])
    person = world.person("ann@acme.test")
    world.settle()
    headers = {b"authorization": f"Bearer {key}".encode(), b"prefer": f"wait={wait}".encode("latin-1")}
    response = world.web.get(f"/panel/records/person/{person}", headers=headers)
    assert response.status_code == 200
