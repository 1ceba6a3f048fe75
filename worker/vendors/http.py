"""HTTP for both vendors' clients: bounded, budgeted and metered calls, and reading the responses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import structlog
import tenacity
from requests.adapters import HTTPAdapter
from typing_extensions import override

from runtime import metrics, tracing
from runtime.numbers import whole_number
from runtime.process_values import once_per_process
from runtime.settings import settings
from worker.vendors.errors import BudgetExhaustedError, NotFoundError, TransientError, VendorError
from worker.vendors.parsing import parse_decimal
from worker.vendors.rate_limit.budget import Budget, Priority, RateLimitHeaders

log = structlog.get_logger()
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
MAX_INTEGER_DIGITS = 100
MAX_ATTEMPTS = 4
MAX_RETRY_WAIT = 2.0
DEFAULT_RATE_LIMIT_WAIT = 10.0
MAX_RETRY_AFTER = 86_400.0
MAX_HEADER_NUMBER = 999_999_999
NOT_MODIFIED = 304
TRANSIENT_STATUSES = {429, 500, 502, 503, 504}
# Connecting an account makes a dozen calls in a row. A person who waits longer than this for them leaves.
INTERACTIVE_SECONDS = 20.0
TIMEOUT_MESSAGE = "it takes too long to respond"
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class VendorAdapter(HTTPAdapter):
    """Connections to vendors. Neither vendor redirects, so no redirect is followed: it would carry the key along."""

    @override
    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().send(request, *args, **kwargs)
        if 300 <= response.status_code < 400 and response.status_code != NOT_MODIFIED:
            response.close()
            raise VendorError(f"returned {response.status_code}, a redirect, which is not followed")
        return response


@once_per_process
def shared_adapter() -> HTTPAdapter:
    """One connection pool for all threads of a process."""
    return VendorAdapter(pool_connections=8, pool_maxsize=32, max_retries=0)


def configure_session(http: requests.Session) -> requests.Session:
    """Make a session use the process's connections and request compressed responses.

    The environment is not trusted: a `.netrc` would replace the key, proxy variables would send it elsewhere.
    """
    http.mount("https://", shared_adapter())
    http.mount("http://", shared_adapter())
    http.trust_env = False
    http.headers.update({"Accept": "application/json", "Accept-Encoding": "gzip"})
    return http


@contextmanager
def interactive() -> Iterator[None]:
    """A person waits for the calls of this context: short timeouts, one attempt each, and 20 s for all of them."""
    token = _deadline.set(time.monotonic() + INTERACTIVE_SECONDS)
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def no_calls() -> Iterator[None]:
    """Fail every call of this context with a `TransientError` before it is sent: there is no capacity for one."""
    token = _deadline.set(0.0)
    try:
        yield
    finally:
        _deadline.reset(token)


def _seconds_left() -> float | None:
    """Seconds until the deadline; None without one. Raises `TransientError` if it has passed."""
    deadline = _deadline.get()
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TransientError(TIMEOUT_MESSAGE)
    return seconds


def _is_past_deadline() -> bool:
    deadline = _deadline.get()
    return deadline is not None and time.monotonic() >= deadline


@dataclass(frozen=True)
class CallContext:
    """The budget that a call is taken from, and its priority. `counts_bytes` is False where Xero does not bill them.

    `is_metered` is False for an account that was closed: its usage has been erased.
    """

    budget: Budget
    priority: Priority
    counts_bytes: bool = True
    is_metered: bool = True


@dataclass
class CallCounter:
    """Counts calls, every attempt of them, while it is unknown whose budget they belong to."""

    calls: int = field(default=0)


def call(send: Callable[[], requests.Response], context: CallContext | CallCounter | None = None) -> requests.Response:
    """Send one request and read its response completely; raises the error that the response stands for.

    Broken connections, timeouts, truncated responses and transient statuses are tried up to 4 times with jitter, as
    long as the vendor asks to wait no more than 2 s. Longer waits, and waits for a budget, are handled by the job. In
    an `interactive` context there is one attempt. Every attempt is taken from the budget and metered, or counted by a
    counter. Without a context (Xero's identity service, which has no known limits) nothing is counted.
    """
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_retryable),
        stop=tenacity.stop_after_attempt(MAX_ATTEMPTS if _seconds_left() is None else 1),
        wait=_wait,
        reraise=True,
    ):
        with attempt:
            if isinstance(context, CallContext):
                return _send_budgeted(send, context)
            if context is not None:
                context.calls += 1
            return _send(send)
    raise AssertionError("tenacity ends by returning or raising")


def _is_retryable(error: BaseException) -> bool:
    if isinstance(error, BudgetExhaustedError):
        return False
    return isinstance(error, TransientError) and (error.retry_after or 0) <= MAX_RETRY_WAIT


_jitter = tenacity.wait_random_exponential(multiplier=0.2, max=2)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    retry_after = error.retry_after if isinstance(error, TransientError) else None
    return _jitter(state) + (retry_after or 0)


def _send_budgeted(send: Callable[[], requests.Response], context: CallContext) -> requests.Response:
    """One attempt within the budget, which the response's rate-limit headers then correct."""
    budget = context.budget
    token = budget.acquire(context.priority)
    responses: list[requests.Response] = []
    began = time.monotonic()

    def send_and_keep() -> requests.Response:
        responses.append(send())
        return responses[0]

    vendor = "xero" if budget.tenant_id else "copper"
    try:
        with tracing.span("vendor.call", attributes={"vendor": vendor, "priority": context.priority.value}):
            return _send(send_and_keep)
    finally:
        response = responses[0] if responses else None
        budget.release(token, _rate_limit_headers(response) if response is not None else RateLimitHeaders())
        status = response.status_code if response is not None else 0
        outcome = "ok" if 200 <= status < 400 else "rate_limited" if status == 429 else "error"
        metrics.VENDOR_REQUEST_DURATION.labels(vendor, outcome).observe(time.monotonic() - began)
        if context.is_metered:
            compressed, uncompressed = _body_sizes(response if context.counts_bytes else None)
            budget.record_usage(
                context.priority,
                failed=outcome != "ok",
                rate_limited=outcome == "rate_limited",
                bytes_compressed=compressed,
                bytes_uncompressed=uncompressed,
            )


def _body_sizes(response: requests.Response | None) -> tuple[int, int]:
    """Bytes of the body as sent, and uncompressed (0 if it was not read completely)."""
    if response is None:
        return 0, 0
    # `content` would read the rest of a body that was abandoned.
    return response.raw.tell(), len(response._content) if isinstance(response._content, bytes) else 0


def _rate_limit_headers(response: requests.Response) -> RateLimitHeaders:
    """Read the rate-limit headers (Xero docs: OAuth 2.0 API limits). Copper sends none, only status 429."""
    return RateLimitHeaders(
        minute_remaining=_number_header(response, "X-MinLimit-Remaining"),
        day_remaining=_number_header(response, "X-DayLimit-Remaining"),
        app_minute_remaining=_number_header(response, "X-AppMinLimit-Remaining"),
        retry_after=_retry_after(response) if response.status_code == 429 else None,
        blocks_app=_rate_limit_problem(response) == "appminute",
    )


def _rate_limit_problem(response: requests.Response) -> str:
    return response.headers.get("X-Rate-Limit-Problem", "")


def _number_header(response: requests.Response, name: str) -> int | None:
    return whole_number(response.headers.get(name, ""), maximum=MAX_HEADER_NUMBER)


def _send(send: Callable[[], requests.Response]) -> requests.Response:
    try:
        response = send()
        _read_body(response)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise TransientError(f"the connection failed ({type(error).__name__})") from None
    except requests.exceptions.ContentDecodingError:
        raise TransientError("the response could not be decompressed") from None
    except requests.RequestException as error:
        # The error's text may contain a complete header.
        raise VendorError(f"the request could not be sent ({type(error).__name__})") from None
    if response.status_code in TRANSIENT_STATUSES:
        message = f"returned {response.status_code} {_rate_limit_problem(response)}".rstrip()
        raise TransientError(message, _retry_after(response), ambiguous=response.status_code == 500)
    if response.status_code == 404:
        raise NotFoundError("returned 404")
    return response


def _read_body(response: requests.Response) -> None:
    """Read the body (`stream=True` left it unread) up to a bound, so that no response exhausts the memory.

    A body that trickles in is abandoned at the deadline.
    """
    chunks, size = [], 0
    for chunk in response.iter_content(256 * 1024):
        chunks.append(chunk)
        size += len(chunk)
        if _is_past_deadline():
            response.close()
            raise TransientError(TIMEOUT_MESSAGE)
        if size > MAX_RESPONSE_BYTES:
            response.close()
            raise VendorError(f"the response was larger than {MAX_RESPONSE_BYTES} bytes")
    response._content = b"".join(chunks)


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the vendor asks to wait, a day at most; 10 for a 429 without `Retry-After` (Copper's).

    A 429 for too many concurrent calls (`concurrent`) passes in a moment, so it needs no wait.
    """
    seconds = _parse_retry_after(response.headers.get("Retry-After", ""), server_time(response))
    if seconds is not None:
        return min(max(seconds, 0.0), MAX_RETRY_AFTER)
    is_concurrency_limit = _rate_limit_problem(response) == "concurrent"
    return DEFAULT_RATE_LIMIT_WAIT if response.status_code == 429 and not is_concurrency_limit else None


def _parse_retry_after(header: str, vendor_now: datetime | None) -> float | None:
    """A `Retry-After` header in seconds, given as seconds or as a date (RFC 9110); None if it is neither.

    A date goes by the vendor's clock, not by this host's, which may be wrong.
    """
    with suppress(ValueError):
        number = parse_decimal(header)
        return float(number) if number is not None else None
    with suppress(TypeError, ValueError):
        instant = parsedate_to_datetime(header)
        return (instant - (vendor_now or datetime.now(UTC))).total_seconds() if instant.tzinfo else None
    return None


def server_time(response: requests.Response) -> datetime | None:
    """The vendor's clock at the response: the `Date` header, in whole seconds."""
    try:
        instant = parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def timeouts() -> tuple[float, float]:
    """The connect and read timeouts in seconds, as `requests` takes them."""
    seconds, config = _seconds_left(), settings()
    if seconds is None:
        return config.connect_timeout, config.read_timeout
    return min(config.interactive_connect_timeout, seconds), min(config.interactive_read_timeout, seconds)


def parse_json(response: requests.Response) -> Any:
    """The body as JSON, with all digits of its numbers; raises `TransientError` if it is not JSON.

    Invalid UTF-8, control characters in strings and numbers of any length only affect the value that contains them.
    """
    body = response.content.decode(json.detect_encoding(response.content), "replace")
    try:
        return json.loads(body, parse_float=Decimal, strict=False)
    except (ValueError, ArithmeticError, RecursionError):
        pass
    try:
        return json.loads(body, parse_float=_exact_decimal, parse_int=_exact_integer, strict=False)
    except (ValueError, RecursionError):
        raise TransientError("the response was not JSON") from None


def _exact_decimal(digits: str) -> Decimal | str:
    """A number as Decimal, straight from its digits; one out of range stays text, for its reader to reject."""
    try:
        return Decimal(digits)
    except ArithmeticError:
        return digits


def _exact_integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else digits
