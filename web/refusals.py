"""What was refused, why, and to whom: a line in the log for the first of a kind, a metric for all of them."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from enum import StrEnum

import structlog
from prometheus_client import Counter as Metric
from starlette.requests import Request
from starlette.types import Scope

from web.client_address import address_of, label_of, network_of

log = structlog.get_logger()
SAMPLE_SECONDS = 60.0
MOST_KINDS = 1_000
KEY_START, KEY_SHOWN = "Bearer pat_", slice(7, 19)
MARK = "patina.refusal"
OTHERS = "others"


class Reason(StrEnum):
    """Why a request was refused."""

    CREDENTIAL = "credential"
    """No API key or token, or one that is unknown or revoked."""
    SCOPE = "scope"
    """An API key with another scope."""
    ROLE = "role"
    """A page for admins, asked for by a viewer."""
    FORM = "form"
    """A form that another site sent, or without its token."""
    RATE = "rate"
    SIGNATURE = "signature"
    """A webhook without a right signature, path or secret."""
    SIGN_IN = "sign_in"
    PANEL = "panel"
    """Somebody who may not look at the panel."""
    HOST = "host"
    """A host name that is not ours."""
    INPUT = "input"
    """Text that no parameter may have, or that the database cannot hold."""
    SIZE = "size"
    """A request that is too large or too slow."""
    BUSY = "busy"
    """More connections than the process serves."""


BY_STATUS = {401: Reason.CREDENTIAL, 403: Reason.ROLE, 408: Reason.SIZE, 413: Reason.SIZE, 429: Reason.RATE}
WEBHOOKS = "/webhooks/"
REFUSED = Metric("patina_refused", "requests that were refused, by reason", ("reason",))
# A counter that appears with its first event has not risen in Prometheus' eyes.
for _reason in Reason:
    REFUSED.labels(_reason.value)


def mark(scope: Scope, reason: Reason) -> None:
    """Say why a request is refused, where its status alone does not."""
    scope[MARK] = reason


def reason_of(scope: Scope, status: int) -> Reason | None:
    """Why a request was refused that is answered with `status`; None for one that was not."""
    if (marked := scope.get(MARK)) is not None:
        return Reason(marked)
    if status == 401 and scope["path"].startswith(WEBHOOKS):
        return Reason.SIGNATURE
    return BY_STATUS.get(status)


def note(scope: Scope, route: str, status: int) -> None:
    """Count a request that was refused, and log it if it is the first of its reason and address in a minute."""
    reason = reason_of(scope, status)
    if reason is not None:
        request = Request(scope)
        authorization = request.headers.get("authorization", "")
        key = authorization[KEY_SHOWN] if authorization.startswith(KEY_START) else ""
        SAMPLES.note(reason, address_of(request), route=route, method=scope["method"], status=status, key=key)


class Samples:
    """Logs the first refusal of each reason and network in a minute, and counts those that it leaves out.

    A thousand kinds are told apart at a time; what comes beyond that is counted together.
    """

    def __init__(self, most: int = MOST_KINDS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._since: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._left_out: Counter[tuple[str, str]] = Counter()

    def note(self, reason: Reason, address: str, **about: object) -> None:
        """Count a refusal, and log it if it is the first in a while."""
        REFUSED.labels(reason.value).inc()
        kind = (reason.value, network_of(address))
        now = time.monotonic()
        with self._lock:
            since = self._since.get(kind)
            is_first = (now - since >= SAMPLE_SECONDS) if since is not None else len(self._since) < self._most
            if not is_first:
                self._left_out[kind if since is not None else (reason.value, OTHERS)] += 1
                return
            left_out = self._left_out.pop(kind, 0)
            self._since[kind] = now
            self._since.move_to_end(kind)
        more = {name: value for name, value in {**about, "left_out": left_out}.items() if value}
        log.warning("request.refused", reason=kind[0], address=label_of(kind[1]), **more)

    def flush(self) -> None:
        """Log how many were left out of kinds that have not come again within a minute, and forget those kinds."""
        before = time.monotonic() - SAMPLE_SECONDS
        with self._lock:
            over = []
            while self._since and next(iter(self._since.values())) <= before:
                over.append(self._since.popitem(last=False)[0])
            left_out = [(kind, self._left_out.pop(kind, 0)) for kind in over]
            left_out += [(kind, self._left_out.pop(kind)) for kind in list(self._left_out) if kind[1] == OTHERS]
        for (reason, network), count in left_out:
            if count:
                address = network if network == OTHERS else label_of(network)
                log.warning("requests.refused", reason=reason, address=address, left_out=count)


SAMPLES = Samples()
