"""What the two vendors' clients share: bounded calls, and the errors a job can act upon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

import requests
import structlog
import tenacity
from pydantic import BaseModel, ValidationError
from requests.adapters import HTTPAdapter

from runtime.settings import settings

log = structlog.get_logger()
ANSWER_LIMIT = 64 * 1024 * 1024
TRIES = 4
LONGEST_WAIT = 5.0
PASSING_STATUSES = {429, 500, 502, 503, 504}
Wire = TypeVar("Wire", bound=BaseModel)


class VendorError(Exception):
    """A vendor refused or failed; `retry_after` in seconds where waiting helps, None where it does not."""

    def __init__(self, said: str, retry_after: float | None = None) -> None:
        super().__init__(said)
        self.retry_after = retry_after


class PassingError(VendorError):
    """A failure that goes away: an overload, a broken connection, a limit."""


class ReconnectNeededError(VendorError):
    """The grant or key is gone: only an admin can help."""


class NotThereError(VendorError):
    """The vendor has no such record (404)."""


@lru_cache(maxsize=1)
def shared_adapter() -> HTTPAdapter:
    """One pool of connections for all threads of a process."""
    return HTTPAdapter(pool_connections=8, pool_maxsize=32, max_retries=0)


def prepare(session: requests.Session) -> requests.Session:
    """Let a session use the process's connections, and ask for compressed answers."""
    session.mount("https://", shared_adapter())
    session.mount("http://", shared_adapter())
    session.trust_env = False
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "gzip"})
    return session


def call(send: Callable[[], requests.Response]) -> requests.Response:
    """One request, its answer read in full; raises the error that the answer means.

    Broken connections, time-outs, half answers and passing statuses are tried up to 4 times with jitter
    as long as the vendor asks for no more than 5 s; longer waits are the job's to arrange.
    """
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception(_worth_another_try),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=_wait,
        reraise=True,
    ):
        with attempt:
            return _once(send)
    raise AssertionError("tenacity ends by returning or raising")


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, PassingError) and (error.retry_after or 0) <= LONGEST_WAIT


_jitter = tenacity.wait_random_exponential(multiplier=0.2, max=2)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, PassingError) else None
    return _jitter(state) + (asked or 0)


def _once(send: Callable[[], requests.Response]) -> requests.Response:
    try:
        answer = send()
        _read(answer)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise PassingError(f"the connection failed ({type(error).__name__})") from None
    except requests.exceptions.ContentDecodingError:
        raise PassingError("the answer could not be decompressed") from None
    if answer.status_code in PASSING_STATUSES:
        problem = answer.headers.get("X-Rate-Limit-Problem", "")
        raise PassingError(f"answered {answer.status_code} {problem}".rstrip(), _retry_after(answer))
    if answer.status_code == 404:
        raise NotThereError("answered 404")
    return answer


def _read(answer: requests.Response) -> None:
    """Read the body (`stream=True` left it unread) up to a bound, so that no answer fills the memory."""
    parts, size = [], 0
    for part in answer.iter_content(256 * 1024):
        parts.append(part)
        size += len(part)
        if size > ANSWER_LIMIT:
            answer.close()
            raise VendorError(f"the answer was larger than {ANSWER_LIMIT} bytes")
    answer._content = b"".join(parts)


def _retry_after(answer: requests.Response) -> float | None:
    try:
        return min(max(float(answer.headers["Retry-After"]), 0.0), 86_400.0)
    except (KeyError, ValueError):
        return None


def timeouts() -> tuple[float, float]:
    """Seconds to connect and seconds to wait for bytes, as `requests` takes them."""
    return settings().connect_timeout, settings().read_timeout


def json_of(answer: requests.Response) -> Any:
    """The body as JSON, its numbers as Decimal straight from the text; raises `PassingError` on half JSON."""
    try:
        return json.loads(answer.content, parse_float=Decimal)
    except ValueError:
        raise PassingError("the answer was not JSON") from None


def parse(model: type[Wire], raw: Iterable[Any], key: str) -> tuple[list[Wire], dict[str, str]]:
    """Items that fit `model`, and for those that do not: their id and what is wrong with them."""
    good: list[Wire] = []
    bad: dict[str, str] = {}
    for item in raw:
        try:
            good.append(model.model_validate(item))
        except (ValidationError, ValueError, TypeError) as error:
            name = str(item.get(key, "?")) if isinstance(item, dict) else "?"
            fields = (
                ", ".join(str(part["loc"][0]) for part in error.errors() if part["loc"])
                if isinstance(error, ValidationError)
                else type(error).__name__
            )
            bad[name.lower()] = f"could not be read: {fields}"
    return good, bad
