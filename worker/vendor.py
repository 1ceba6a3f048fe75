"""What the two vendors' clients share: bounded, budgeted, metered calls, and reading their answers."""

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
from functools import lru_cache
from typing import Any

import requests
import structlog
import tenacity
from requests.adapters import HTTPAdapter
from typing_extensions import override

from runtime import tracing
from runtime.numbers import whole_number
from runtime.settings import settings
from worker import instruments
from worker.budget import Budget, Purpose, Told
from worker.errors import BudgetSpentError, NotThereError, PassingError, VendorError
from worker.parsing import decimal_number

log = structlog.get_logger()
ANSWER_LIMIT = 64 * 1024 * 1024
MAX_INTEGER_DIGITS = 100
TRIES = 4
LONGEST_WAIT = 2.0
UNTOLD_WAIT = 10.0
MAX_RETRY_AFTER = 86_400.0
MAX_HEADER = 999_999_999
NOT_MODIFIED = 304
PASSING_STATUSES = {429, 500, 502, 503, 504}
# Connecting an account makes a dozen calls in a row; whoever waits for them leaves after that.
INTERACTIVE_SECONDS = 20.0
TOO_LATE = "it takes too long to answer"
_waits_until: ContextVar[float | None] = ContextVar("waits_until", default=None)


class VendorAdapter(HTTPAdapter):
    """Connections to vendors. No redirect is followed, for none of them sends one: it would take the key along."""

    @override
    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        answer = super().send(request, *args, **more)
        if 300 <= answer.status_code < 400 and answer.status_code != NOT_MODIFIED:
            answer.close()
            raise VendorError(f"answered {answer.status_code}, a redirect, which is not followed")
        return answer


@lru_cache(maxsize=1)
def shared_adapter() -> HTTPAdapter:
    """One pool of connections for all threads of a process."""
    return VendorAdapter(pool_connections=8, pool_maxsize=32, max_retries=0)


def prepare(session: requests.Session) -> requests.Session:
    """Let a session use the process's connections, and ask for compressed answers.

    The environment is not trusted: a `.netrc` would replace the key, a proxy's variables send it elsewhere.
    """
    session.mount("https://", shared_adapter())
    session.mount("http://", shared_adapter())
    session.trust_env = False
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "gzip"})
    return session


@contextmanager
def interactive() -> Iterator[None]:
    """A person waits for the calls of this context: short time-outs, one try each, and 20 s for all together."""
    before = _waits_until.set(time.monotonic() + INTERACTIVE_SECONDS)
    try:
        yield
    finally:
        _waits_until.reset(before)


@contextmanager
def no_calls() -> Iterator[None]:
    """Let every call of this context fail before it is sent, with a `PassingError`: there is no capacity for one."""
    before = _waits_until.set(0.0)
    try:
        yield
    finally:
        _waits_until.reset(before)


def _seconds_left() -> float | None:
    """Seconds that a person still waits; None where nobody does. Raises `PassingError` when they are over."""
    until = _waits_until.get()
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise PassingError(TOO_LATE)
    return left


def _is_too_late() -> bool:
    until = _waits_until.get()
    return until is not None and time.monotonic() >= until


@dataclass(frozen=True)
class Spender:
    """Whose budget a call is taken from, and what for. `egress` is False where Xero does not bill the bytes.

    `metered` is False for an account that was closed: its meters are erased.
    """

    budget: Budget
    purpose: Purpose
    egress: bool = True
    metered: bool = True


@dataclass
class CallTally:
    """Counts calls, each try of them, while nobody knows yet whose budget they belong to."""

    calls: int = field(default=0)


def call(send: Callable[[], requests.Response], counter: Spender | CallTally | None = None) -> requests.Response:
    """One request, its answer read in full; raises the error that the answer means.

    Broken connections, time-outs, half answers and passing statuses are tried up to 4 times with jitter
    as long as the vendor asks for no more than 2 s; longer waits, and those for a budget, are the job's to
    arrange. Where a person waits (`interactive`) there is one try. Every try is taken from the spender's budget and
    metered, or counted by a tally. Without either (Xero's identity service, where no such limits are known) nothing is
    counted.
    """
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception(_worth_another_try),
        stop=tenacity.stop_after_attempt(TRIES if _seconds_left() is None else 1),
        wait=_wait,
        reraise=True,
    ):
        with attempt:
            if isinstance(counter, Spender):
                return _spend(send, counter)
            if counter is not None:
                counter.calls += 1
            return _once(send)
    raise AssertionError("tenacity ends by returning or raising")


def _worth_another_try(error: BaseException) -> bool:
    if isinstance(error, BudgetSpentError):
        return False
    return isinstance(error, PassingError) and (error.retry_after or 0) <= LONGEST_WAIT


_jitter = tenacity.wait_random_exponential(multiplier=0.2, max=2)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, PassingError) else None
    return _jitter(state) + (asked or 0)


def _spend(send: Callable[[], requests.Response], spender: Spender) -> requests.Response:
    """One try within the budget; what its answer says of the limits corrects the budget."""
    token = spender.budget.take(spender.purpose)
    answers: list[requests.Response] = []
    began = time.monotonic()

    def sent() -> requests.Response:
        answers.append(send())
        return answers[0]

    vendor = "xero" if spender.budget.tenant else "copper"
    try:
        with tracing.span("vendor.call", attributes={"vendor": vendor, "purpose": spender.purpose.value}):
            return _once(sent)
    finally:
        answer = answers[0] if answers else None
        spender.budget.settle(token, _told(answer) if answer is not None else Told())
        status = answer.status_code if answer is not None else 0
        wire = answer.raw.tell() if answer is not None and spender.egress else 0
        plain = len(answer._content or b"") if answer is not None and spender.egress and _was_read(answer) else 0
        outcome = "answered" if 200 <= status < 400 else "refused" if status == 429 else "failed"
        instruments.CALLS.labels(vendor, outcome).observe(time.monotonic() - began)
        if spender.metered:
            spender.budget.meter(
                spender.purpose, failed=outcome != "answered", refused=outcome == "refused", wire=wire, plain=plain
            )


def _was_read(answer: requests.Response) -> bool:
    return isinstance(answer._content, bytes)


def _told(answer: requests.Response) -> Told:
    """What the headers say of the limits (Xero docs: OAuth 2.0 API limits). Copper says nothing but 429."""
    return Told(
        minute_left=_number(answer, "X-MinLimit-Remaining"),
        day_left=_number(answer, "X-DayLimit-Remaining"),
        app_left=_number(answer, "X-AppMinLimit-Remaining"),
        wait=_retry_after(answer) if answer.status_code == 429 else None,
        whole_app=_problem(answer) == "appminute",
    )


def _problem(answer: requests.Response) -> str:
    return answer.headers.get("X-Rate-Limit-Problem", "")


def _number(answer: requests.Response, name: str) -> int | None:
    return whole_number(answer.headers.get(name, ""), maximum=MAX_HEADER)


def _once(send: Callable[[], requests.Response]) -> requests.Response:
    try:
        answer = send()
        _read(answer)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise PassingError(f"the connection failed ({type(error).__name__})") from None
    except requests.exceptions.ContentDecodingError:
        raise PassingError("the answer could not be decompressed") from None
    except requests.RequestException as error:
        # Its text may have the whole header in it.
        raise VendorError(f"the request could not be sent ({type(error).__name__})") from None
    if answer.status_code in PASSING_STATUSES:
        said = f"answered {answer.status_code} {_problem(answer)}".rstrip()
        raise PassingError(said, _retry_after(answer), suspect=answer.status_code == 500)
    if answer.status_code == 404:
        raise NotThereError("answered 404")
    return answer


def _read(answer: requests.Response) -> None:
    """Read the body (`stream=True` left it unread) up to a bound, so that no answer fills the memory.

    One that trickles in ends with the time of whoever waits for it.
    """
    parts, size = [], 0
    for part in answer.iter_content(256 * 1024):
        parts.append(part)
        size += len(part)
        if _is_too_late():
            answer.close()
            raise PassingError(TOO_LATE)
        if size > ANSWER_LIMIT:
            answer.close()
            raise VendorError(f"the answer was larger than {ANSWER_LIMIT} bytes")
    answer._content = b"".join(parts)


def _retry_after(answer: requests.Response) -> float | None:
    """Seconds that the vendor asks to wait, a day at most; a limit that names none (Copper's) asks for 10.

    Too many calls at once (`concurrent`) are over in a moment, whatever is said.
    """
    seconds = _seconds_of(answer.headers.get("Retry-After", ""))
    if seconds is not None:
        return min(max(seconds, 0.0), MAX_RETRY_AFTER)
    return UNTOLD_WAIT if answer.status_code == 429 and _problem(answer) != "concurrent" else None


def _seconds_of(header: str) -> float | None:
    """What a `Retry-After` says, as seconds or as a date (RFC 9110); None for what is neither."""
    with suppress(ValueError):
        number = decimal_number(header)
        return float(number) if number is not None else None
    with suppress(TypeError, ValueError):
        moment = parsedate_to_datetime(header)
        return (moment - datetime.now(UTC)).total_seconds() if moment.tzinfo else None
    return None


def vendor_time(answer: requests.Response) -> datetime | None:
    """The vendor's own clock when it answered: the `Date` header, whole seconds."""
    try:
        moment = parsedate_to_datetime(answer.headers.get("Date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def timeouts() -> tuple[float, float]:
    """Seconds to connect and seconds to wait for bytes, as `requests` takes them."""
    left, chosen = _seconds_left(), settings()
    if left is None:
        return chosen.connect_timeout, chosen.read_timeout
    return min(chosen.interactive_connect_timeout, left), min(chosen.interactive_read_timeout, left)


def json_of(answer: requests.Response) -> Any:
    """The body as JSON, its numbers with all their digits; raises `PassingError` on half JSON.

    Bytes that are no UTF-8, control characters in text and numbers of any length cost no more than themselves.
    """
    body = answer.content.decode(json.detect_encoding(answer.content), "replace")
    try:
        return json.loads(body, parse_float=Decimal, strict=False)
    except (ValueError, ArithmeticError, RecursionError):
        pass
    try:
        return json.loads(body, parse_float=_exact, parse_int=_exact_integer, strict=False)
    except (ValueError, RecursionError):
        raise PassingError("the answer was not JSON") from None


def _exact(digits: str) -> Decimal | str:
    """A number as Decimal, straight from its digits; one beyond all bounds stays text, for its reader to refuse."""
    try:
        return Decimal(digits)
    except ArithmeticError:
        return digits


def _exact_integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else digits
