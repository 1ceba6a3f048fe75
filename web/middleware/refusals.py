"""Refused requests: a metric counts all of them, and the log has the first of each reason and network per minute."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from enum import StrEnum

import structlog
from prometheus_client import Counter as Metric
from starlette.requests import Request
from starlette.types import Scope

from web.middleware.client_address import address_of, label_of, network_of

log = structlog.get_logger()
SAMPLE_SECONDS = 60.0
MAX_SERIES = 1_000
KEY_SCHEME, KEY_PREFIX = "Bearer pat_", slice(7, 19)
SCOPE_KEY = "patina.refusal"
OTHERS = "others"


class RefusalReason(StrEnum):
    """Why a request was refused."""

    CREDENTIAL = "credential"
    """No API key or token, or an unknown or revoked one."""
    SCOPE = "scope"
    """An API key with another scope."""
    ROLE = "role"
    """A viewer requested a page for admins."""
    FORM = "form"
    """A form from another site, or without a valid CSRF token."""
    RATE = "rate"
    SIGNATURE = "signature"
    """A webhook with an invalid signature, path or secret."""
    SIGN_IN = "sign_in"
    PANEL = "panel"
    """A person without access to the panel."""
    HOST = "host"
    """An unknown host name."""
    INPUT = "input"
    """Text that is not allowed in any parameter, or that the database cannot store."""
    SIZE = "size"
    """A request that is too large or too slow."""
    BUSY = "busy"
    """Too many connections."""


REASON_BY_STATUS = {
    401: RefusalReason.CREDENTIAL,
    403: RefusalReason.ROLE,
    408: RefusalReason.SIZE,
    413: RefusalReason.SIZE,
    429: RefusalReason.RATE,
}
WEBHOOK_PATHS = "/webhooks/"
REFUSED = Metric("patina_requests_refused", "requests that were refused, by reason", ("reason",))
# Prometheus sees no increase in a counter that appears with its first event, so each counter starts at zero.
for _reason in RefusalReason:
    REFUSED.labels(_reason.value)


def set_reason(scope: Scope, reason: RefusalReason) -> None:
    """Set the reason why a request is refused, if its status alone does not tell it."""
    scope[SCOPE_KEY] = reason


def refusal_reason(scope: Scope, status: int) -> RefusalReason | None:
    """Why a request with this response status was refused; None if it was not refused."""
    if (reason := scope.get(SCOPE_KEY)) is not None:
        return RefusalReason(reason)
    if status == 401 and scope["path"].startswith(WEBHOOK_PATHS):
        return RefusalReason.SIGNATURE
    return REASON_BY_STATUS.get(status)


def record(scope: Scope, route: str, status: int) -> None:
    """Count a refused request, and log it if it is the first of its reason and network in a minute."""
    reason = refusal_reason(scope, status)
    if reason is not None:
        request = Request(scope)
        authorization = request.headers.get("authorization", "")
        key = authorization[KEY_PREFIX] if authorization.startswith(KEY_SCHEME) else ""
        SAMPLES.record(reason, address_of(request), route=route, method=scope["method"], status=status, key=key)


class RefusalSampler:
    """Logs the first refusal of each series (reason and network) in a minute, and counts those that it leaves out.

    Beyond 1,000 series at a time, refusals are counted together by reason.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._lock = threading.Lock()
        self._logged_at: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._left_out: Counter[tuple[str, str]] = Counter()

    def record(self, reason: RefusalReason, address: str, **fields: object) -> None:
        """Count a refusal, and log it if it is the first of its series in a minute."""
        REFUSED.labels(reason.value).inc()
        series = (reason.value, network_of(address))
        now = time.monotonic()
        with self._lock:
            logged_at = self._logged_at.get(series)
            is_first = (
                (now - logged_at >= SAMPLE_SECONDS)
                if logged_at is not None
                else len(self._logged_at) < self._max_series
            )
            if not is_first:
                self._left_out[series if logged_at is not None else (reason.value, OTHERS)] += 1
                return
            left_out = self._left_out.pop(series, 0)
            self._logged_at[series] = now
            self._logged_at.move_to_end(series)
        extra = {name: value for name, value in {**fields, "left_out": left_out}.items() if value}
        log.warning("request.refused", reason=series[0], address=label_of(series[1]), **extra)

    def flush(self) -> None:
        """Log how many refusals were left out of series without a new one within a minute, and drop those series."""
        cutoff = time.monotonic() - SAMPLE_SECONDS
        with self._lock:
            expired = []
            while self._logged_at and next(iter(self._logged_at.values())) <= cutoff:
                expired.append(self._logged_at.popitem(last=False)[0])
            left_out = [(series, self._left_out.pop(series, 0)) for series in expired]
            left_out += [(series, self._left_out.pop(series)) for series in list(self._left_out) if series[1] == OTHERS]
        for (reason, network), count in left_out:
            if count:
                address = network if network == OTHERS else label_of(network)
                log.warning("requests.refused", reason=reason, address=address, left_out=count)


SAMPLES = RefusalSampler()
