"""The panel's page, its records, and the way in for viewers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from runtime.numbers import whole_number
from runtime.settings import settings
from store import access, matching
from store.access import ANYBODY, StateError
from store.database import Role, bound, transaction
from store.models import RecordType
from store.secrets import digest
from web import browser, locales, looks, refusals, shown, throttle
from web.client_address import client_label
from web.concurrency import Capacity
from web.invoices import RecordId
from web.pages import render
from web.pages.connect import need_copper_app
from web.pages.panel_confirmation import PANEL
from web.panel import held_requests
from web.panel.held_requests import HeldRequests, Holder
from web.panel.record_views import View, ViewKey
from web.panel.viewers import NoViewerError, Viewer, panel_of, token_of, viewer, viewer_holder
from web.problems import ProblemError, problem
from web.refusals import Reason
from worker.copper import oauth as copper_oauth

router = APIRouter(include_in_schema=False)
# What panels ask for again and again is for whoever has the token; which browser that is, no page needs to know.
MET = [Depends(render.meet)]
CHALLENGE = r"^[A-Za-z0-9_-]{43}$"
LONGEST_WAIT = 20.0
ROUTE = "/panel/records/{kind}/{record_id}"
Looker = Annotated[Viewer, Depends(viewer)]


def no_viewer(request: Request, error: Exception) -> Response:
    """Say what is missing, in the panel's own words."""
    assert isinstance(error, NoViewerError)
    if error.status != 503:
        refusals.mark(request.scope, Reason.PANEL)
    text = render.text(
        "panel_refused.html", said=error.said, sign_in=error.sign_in and bool(settings().copper_client_id)
    )
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return HTMLResponse(text, error.status, headers)


@router.get("/panel", dependencies=MET)
def panel(request: Request) -> Response:
    """The page that Copper embeds. It holds no data: what is shown comes once Copper has said which record."""
    origins = settings().framing_origins
    if request.query_params.get("origin", "") not in origins:
        said = "This page only works inside Copper. Add its URL there as an embedded app."
        return render.page(request, "message.html", status=403, title="Open this in Copper", said=said, link=None)
    return HTMLResponse(render.text("panel.html", origins=origins, has_token=bool(token_of(request))))


class CrowdedRecord(BaseRoute):
    """A request to hold an answer back for which there is no place, without what FastAPI does for all others.

    Whoever opens panels by the thousand asks mostly for this, and is slowed down by it.
    """

    path = ROUTE
    _usual = re.compile(ROUTE.format(kind="[a-z]+", record_id="[0-9]{1,18}"))

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "GET" or not self._usual.fullmatch(scope["path"]):
            return Match.NONE, {}
        request = Request(scope)
        seconds, held = _wait(request), scope["app"].state.held_requests
        if not seconds or held.has_room(_holders(request)):
            return Match.NONE, {}
        return Match.FULL, {"route": self, "path_params": {"seconds": seconds}}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = min(scope["path_params"]["seconds"], held_requests.REFUSED_AFTER_SECONDS)
        await scope["app"].state.capacity.pauses.take(seconds)
        refusals.mark(scope, Reason.RATE)
        await problem(429, held_requests.TOO_MANY, held_requests.RETRY_SECONDS)(scope, receive, send)


async def held_place(request: Request) -> AsyncIterator[float]:
    """Seconds that the answer may be held back; raises `BusyError` when too many are, before anything is looked up."""
    seconds = _wait(request)
    if not seconds:
        yield 0.0
        return
    held: HeldRequests = request.app.state.held_requests
    async with held.place(*_holders(request)):
        yield seconds


def _holders(request: Request) -> tuple[Holder, Holder]:
    return Holder.of("key", digest(token_of(request))), viewer_holder(request)


@router.get(ROUTE)
async def record(
    request: Request,
    seconds: Annotated[float, Depends(held_place, scope="function")],
    who: Looker,
    kind: RecordType,
    record_id: RecordId,
    status: Annotated[str, Query(max_length=20)] = "",
    limit: Annotated[int | None, Query(ge=1, le=shown.LARGEST)] = None,
) -> Response:
    """A record's part of the panel; 304 while it is as `If-None-Match` says.

    `Prefer: wait=20` (RFC 7240) holds the answer back until it changes, for that many seconds at most.
    """
    state = request.app.state
    key = ViewKey(who.account_id, kind, record_id, status, limit, str(locales.of(request)))
    known = request.headers.get("if-none-match", "").strip('"')
    if seconds:
        with state.held_requests.counted(Holder.of("account", who.account_id)):
            view = await _unless_gone(request, state.record_views.follow(key, known, seconds))
    else:
        view = await state.record_views.look(key)
    if view is None:
        return Response(status_code=304)
    state.looks.used(digest(who.token))
    headers = {"ETag": f'"{view.tag}"', "X-Up-To-Date-As-Of": view.synced_at}
    background: BackgroundTask | None = looks.after_reading(state.looks, who.account_id, kind, record_id)
    if view.tag == known:
        return Response(status_code=304, headers=headers, background=background)
    return HTMLResponse(view.html, 200, headers, background=background)


async def _unless_gone(request: Request, follow: Coroutine[Any, Any, View]) -> View | None:
    """What `follow` gives, or None as soon as the client is gone: a panel that was closed holds no place."""
    following, leaving = asyncio.create_task(follow), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({following, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await following if following.done() else None
    finally:
        following.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _wait(request: Request) -> float:
    name, _, value = request.headers.get("prefer", "").partition("=")
    seconds = whole_number(value.strip()) if name.strip() == "wait" else None
    # Not all who began at once are to end at once, and to ask again together.
    return min(float(seconds or 0), LONGEST_WAIT) * random.uniform(0.8, 1)


@router.get("/panel/records/{kind}/{record_id}/invoices/{invoice_id}/why")
async def why(request: Request, who: Looker, kind: RecordType, record_id: RecordId, invoice_id: UUID) -> Response:
    """Match details: why an invoice is on a record."""
    capacity: Capacity = request.app.state.capacity
    return await capacity.panel.run(who.account_id, _why, who.account_id, kind, record_id, invoice_id)


def _why(account_id: int, kind: RecordType, record_id: int, invoice_id: UUID) -> Response:
    with bound(account_id, Role.READS) as session:
        found = matching.why(session, account_id, kind, record_id, invoice_id)
    if found is None:
        raise ProblemError(404, "This invoice is no longer on this record.")
    return HTMLResponse(render.text("why_part.html", reasons=found[1], kind=kind))


# Signing in. The panel lives in a frame whose cookies are kept apart (CHIPS), so that what a window of our own is
# told does not reach it. The window gets a code instead, once it was told the number that the frame shows, and hands
# it to the frame that opened it, and to nobody else: by a message to our own origin. The code works with the secret of
# that frame alone (as PKCE does).


@router.get("/panel/signin", dependencies=MET)
def sign_in(request: Request, challenge: Annotated[str, Query(pattern=CHALLENGE)]) -> Response:
    """Send the window that the panel opened to Copper."""
    need_copper_app()
    throttle.viewer_sign_in(request)
    url, state = copper_oauth.begin(f"{settings().public_url}/callback/copper")
    with transaction() as session:
        access.save_state(session, ANYBODY, state, PANEL, request.state.browser.name, {"challenge": challenge})
    answer: Response = request.state.browser.dress(RedirectResponse(url, 303))
    return answer


@router.get("/panel/signed-in", dependencies=MET)
def signed_in(request: Request) -> Response:
    """The window's last page: its script hands over the code, which stands in the address's fragment."""
    return HTMLResponse(render.text("panel_signed_in.html"))


class HandOver(BaseModel):
    """What the panel redeems: the code that the window got, and the secret whose hash it was opened with."""

    code: str = Field(min_length=8, max_length=64)
    secret: str = Field(min_length=43, max_length=43)


@router.post("/panel/session")
async def redeem(request: Request) -> Response:
    """Sign the panel in."""
    try:
        sent = HandOver.model_validate(orjson.loads(await request.body()))
    except (ValidationError, ValueError):
        raise ProblemError(400, "Send the code and the secret.") from None
    await run_in_threadpool(throttle.viewer_sign_in, request)
    panel = await panel_of(request)
    return await run_in_threadpool(_redeem, request, sent, panel.account_id)


def _redeem(request: Request, sent: HandOver, account_id: int) -> Response:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(sent.secret.encode()).digest()).decode().rstrip("=")
    with transaction() as session:
        taken = access.take_state(session, account_id, sent.code.strip().upper(), challenge)
    try:
        user = taken.checked(PANEL)
    except StateError:
        raise ProblemError(403, "This code is invalid or has expired. Sign in again.") from None
    answer = Response(status_code=204)
    where = _where(user["window"], client_label(request))
    browser.open_panel_session(request, answer, account_id, user["user"], user["name"], f"to the panel, {where}")
    return answer


def _where(window: str, panel: str) -> str:
    """For the audit log: whether the window and the panel were at one address, each as a hash."""
    return f"from {panel}" if window == panel else f"window at {window}, panel at {panel}"
