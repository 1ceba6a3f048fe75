"""Cells of a CSV file are text in every spreadsheet, whatever its separator."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.presentation.spreadsheets import escape_cell

SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"
BLANKS = " \t\n\r\v\f\x00\x1f\x85\xa0\u00ad\u200b\u2028\u2060\u3000\ufeff"
SEPARATORS = re.compile("[;\t\n\r\v\f\x85\u2028\u2029]")
texts = st.text(st.one_of(st.sampled_from(SIGNS + BLANKS + ";'\"a1"), st.characters(exclude_categories=["Cs"])))


@pytest.mark.parametrize(
    "text",
    [
        "=1",
        "\n=1",
        "\v=1",
        " =1",
        "\xa0=1",
        "\ufeff=1",
        "\u200b=1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff20a",
        "\t@a",
        "\r-1",
    ],
)
def test_a_formula_is_text_whatever_precedes_it(text: str) -> None:
    assert escape_cell(text).lstrip(BLANKS).startswith("'")


def test_a_formula_after_another_separator_is_text() -> None:
    assert escape_cell("Acme;=1+cmd|' /C calc'!A0") == "Acme;'=1+cmd|' /C calc'!A0"
    assert escape_cell("Acme\t =1") == "Acme\t' =1"
    assert escape_cell("Acme\n\uff1d1") == "Acme\n'\uff1d1"


def test_plain_text_and_other_values_are_unchanged() -> None:
    for text in ("", "Acme; Sons", "ann@acme.test bob@acme.test", "A-1", "1+1", " spaced ", "'quoted'"):
        assert escape_cell(text) == text
    assert escape_cell(12) == 12
    assert escape_cell(None) is None


@given(texts)
def test_no_part_of_any_text_starts_with_a_formula_character(text: str) -> None:
    written = escape_cell(text)
    for part in SEPARATORS.split(written):
        assert not part.lstrip(BLANKS).startswith(tuple(SIGNS)), ascii(written)
    assert re.sub("'", "", written) == re.sub("'", "", text), "nothing but the mark is added"
