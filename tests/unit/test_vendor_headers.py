"""Parsing of the vendors' Retry-After headers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests

from worker.vendors.http import DEFAULT_RATE_LIMIT_WAIT, MAX_RETRY_AFTER, _retry_after


def response(status: int, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        (" 3 ", 3.0),
        ("-4", 0.0),
        ("1e9", MAX_RETRY_AFTER),
        ("99999999999", MAX_RETRY_AFTER),
        *[(odd, DEFAULT_RATE_LIMIT_WAIT) for odd in ("", "nan", "inf", "-inf", "²", "٣", "soon", "1_0", "0x10")],
    ],
)
def test_an_invalid_retry_after_is_ignored(header: str, seconds: float) -> None:
    assert _retry_after(response(429, Retry_After=header)) == seconds
    assert _retry_after(response(503, Retry_After=header)) == (None if seconds == DEFAULT_RATE_LIMIT_WAIT else seconds)


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    wait = _retry_after(response(503, Retry_After=in_a_minute))
    assert wait is not None
    assert 50 < wait <= 60
    assert _retry_after(response(503, Retry_After="Mon, 02 Jan 2006 15:04:05 GMT")) == 0.0


def test_a_date_goes_by_the_vendor_s_clock() -> None:
    """The host's clock is years behind the vendor's."""
    headers = {"Date": "Mon, 02 Jan 2040 15:04:05 GMT", "Retry_After": "Mon, 02 Jan 2040 15:04:35 GMT"}
    assert _retry_after(response(503, **headers)) == 30.0


def test_a_concurrency_limit_needs_no_long_wait() -> None:
    assert _retry_after(response(429, X_Rate_Limit_Problem="concurrent")) is None
