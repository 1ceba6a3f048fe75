"""The panel: its page, the records it shows, and signing in to it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
from collections.abc import AsyncIterator, Coroutine
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from runtime.numbers import whole_number
from runtime.settings import settings
from store.accounts import oauth_state
from store.accounts.oauth_state import NO_ACCOUNT, OAuthStateError
from store.db.crypto import digest
from store.db.database import transaction
from store.db.enums import RecordType
from store.db.read_replica import read_transaction
from store.read_model import match_reports, online_invoices
from web.admin import render
from web.admin.connect import require_copper_app
from web.admin.panel_confirmation import PANEL
from web.api.recent_views import relations_refresh
from web.api.record_paths import RecordId
from web.auth import browser, rate_limits
from web.middleware import refusals
from web.middleware.client_address import client_label
from web.middleware.refusals import RefusalReason
from web.panel import long_polls
from web.panel.authorization import (
    PanelAccessDeniedError,
    Viewer,
    authenticate_panel,
    authorize_viewer,
    bearer_key,
    viewer_identifier,
    viewer_quota,
)
from web.panel.long_polls import PollQuota
from web.panel.record_views import RenderedView, ViewKey
from web.presentation import locales
from web.presentation.customer_links import get_customer_link
from web.presentation.filter_params import RecordFilters
from web.presentation.problems import ProblemError, delay_refusal, problem
from web.state import web_state
from worker.vendors.copper import oauth as copper_oauth

router = APIRouter(include_in_schema=False)
# Not for the record routes, which panels poll: those are authorised by the panel key, and need no browser cookies.
LOAD_BROWSER = [Depends(render.load_browser)]
CHALLENGE = r"^[A-Za-z0-9_-]{43}$"
MAX_WAIT_SECONDS = 20.0
RECORD_PATH = "/panel/records/{record_type}/{record_id}"
CurrentViewer = Annotated[Viewer, Depends(authorize_viewer)]


async def access_denied_response(request: Request, error: Exception) -> Response:
    """Say in the panel why access is denied, and offer to sign in where that may help."""
    assert isinstance(error, PanelAccessDeniedError)
    if error.status != 503:
        refusals.set_reason(request.scope, RefusalReason.PANEL)
    if error.is_delayed:
        await delay_refusal(request)
    can_sign_in = error.sign_in and bool(settings().copper_client_id)
    html = render.render_template("panel_denied.html", message=error.message, sign_in=can_sign_in)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return HTMLResponse(html, error.status, headers)


@router.get("/panel", dependencies=LOAD_BROWSER)
def panel(request: Request) -> Response:
    """The page that Copper embeds. It contains no data: its script loads the record that Copper names.

    Script and styles are part of it, so that a record is shown after two round trips. An unchanged page is not sent
    again.
    """
    origins = settings().panel_frame_ancestors
    if request.query_params.get("origin", "") not in origins:
        message = "This page only works inside Copper. Add its URL there as an embedded app."
        return render.render_message(request, "Open this in Copper", message, status=403)
    html, etag = _panel_page(origins, has_token=bool(bearer_key(request)))
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match", "").removeprefix("W/") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(html, headers=headers)


@lru_cache(maxsize=8)
def _panel_page(origins: tuple[str, ...], *, has_token: bool) -> tuple[str, str]:
    """The page and its entity tag, which only depend on the settings and on whether the URL has a token."""
    html = render.render_template("panel.html", origins=origins, has_token=has_token)
    return html, f'"{hashlib.sha256(html.encode()).hexdigest()[:32]}"'


class LongPollRejection(BaseRoute):
    """Matches long polls beyond a limit and rejects them after a pause, without the cost of FastAPI's own routes.

    Whoever opens thousands of panels sends mostly these; the pause slows them down.
    """

    path = RECORD_PATH
    _pattern = re.compile(RECORD_PATH.format(record_type="[a-z]+", record_id="[0-9]{1,18}"))

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "GET" or not self._pattern.fullmatch(scope["path"]):
            return Match.NONE, {}
        request = Request(scope)
        seconds = _wait_seconds(request)
        if not seconds or web_state(request).long_polls.has_room(_quotas(request)):
            return Match.NONE, {}
        return Match.FULL, {"route": self, "path_params": {"seconds": seconds}}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = min(scope["path_params"]["seconds"], long_polls.MAX_REJECTION_DELAY_SECONDS)
        await web_state(Request(scope)).capacity.tarpit.delay(seconds)
        refusals.set_reason(scope, RefusalReason.RATE)
        await problem(429, long_polls.TOO_MANY_MESSAGE, long_polls.RETRY_AFTER_SECONDS)(scope, receive, send)


async def long_poll_slot(request: Request) -> AsyncIterator[float]:
    """How many seconds the request may wait; raises `BusyError` beyond a limit, before anything is looked up."""
    seconds = _wait_seconds(request)
    if not seconds:
        yield 0.0
        return
    async with web_state(request).long_polls.slot(*_quotas(request)):
        yield seconds


def _quotas(request: Request) -> tuple[PollQuota, PollQuota]:
    return PollQuota.for_scope("key", digest(bearer_key(request))), viewer_quota(request)


@router.get(RECORD_PATH)
async def record(
    request: Request,
    seconds: Annotated[float, Depends(long_poll_slot, scope="function")],
    viewer: CurrentViewer,
    record_type: RecordType,
    record_id: RecordId,
    filters: RecordFilters,
) -> Response:
    """A record's invoices as HTML for the panel; 304 while the entity tag is that of `If-None-Match`.

    `Prefer: wait=20` (RFC 7240) makes it a long poll: the answer waits for a change, for that many seconds at most.
    """
    state = web_state(request)
    locale = str(locales.negotiate(request))
    key = ViewKey(viewer.account_id, record_type, record_id, filters.to_filter(), filters.limit, locale)
    etag = request.headers.get("if-none-match", "").strip('"')
    if seconds:
        with state.long_polls.charge(PollQuota.for_scope("account", viewer.account_id)):
            view = await _until_disconnect(request, state.record_views.wait_for_change(key, etag, seconds))
    else:
        view = await state.record_views.get(key)
    if view is None:
        return Response(status_code=304)
    state.key_usage.record(digest(viewer.key))
    headers = {"ETag": f'"{view.etag}"', "X-Last-Synced-At": view.synced_at}
    background: BackgroundTask | None = relations_refresh(state.recent_views, viewer.account_id, record_type, record_id)
    if view.etag == etag:
        return Response(status_code=304, headers=headers, background=background)
    return HTMLResponse(view.html_for(etag), 200, headers, background=background)


async def _until_disconnect(request: Request, wait: Coroutine[Any, Any, RenderedView]) -> RenderedView | None:
    """The result of `wait`; None as soon as the client disconnects, so that a closed panel frees its slot."""
    waiting, disconnect = asyncio.create_task(wait), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({waiting, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        return await waiting if waiting.done() else None
    finally:
        waiting.cancel()
        disconnect.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _wait_seconds(request: Request) -> float:
    """The seconds of `Prefer: wait=…`, within bounds; 0 without one."""
    name, _, value = request.headers.get("prefer", "").partition("=")
    seconds = whole_number(value.strip()) if name.strip() == "wait" else None
    # Jitter: panels that started together must not all end, and poll again, together.
    return min(float(seconds or 0), MAX_WAIT_SECONDS) * random.uniform(0.8, 1)


@router.get(f"{RECORD_PATH}/invoices/{{invoice_id}}/match")
async def match_details(
    request: Request, viewer: CurrentViewer, record_type: RecordType, record_id: RecordId, invoice_id: UUID
) -> Response:
    """Why an invoice is shown on a record."""
    account_id, capacity = viewer.account_id, web_state(request).capacity
    return await capacity.panel.run(account_id, _match_details, account_id, record_type, record_id, invoice_id)


def _match_details(account_id: int, record_type: RecordType, record_id: int, invoice_id: UUID) -> Response:
    with read_transaction(account_id) as session:
        match = match_reports.explain_invoice(session, account_id, record_type, record_id, invoice_id)
        invoice = online_invoices.find(session, account_id, record_type, record_id, invoice_id)
    if match is None:
        raise ProblemError(404, "This invoice is no longer on this record.")
    link_path = ""
    if invoice and invoice.has_page:
        link_path = f"/records/{record_type.value}/{record_id}/invoices/{invoice_id}/customer-link"
    html = render.render_template(
        "_match_details.html",
        reasons=match.reasons,
        pin=match.pin,
        record_type=record_type,
        link_path=link_path,
        in_panel=True,
    )
    return HTMLResponse(html)


@router.post(f"{RECORD_PATH}/invoices/{{invoice_id}}/customer-link")
async def create_customer_link(
    request: Request, viewer: CurrentViewer, record_type: RecordType, record_id: RecordId, invoice_id: UUID
) -> Response:
    """The link with which a customer sees an invoice, as JSON."""
    name = f"{viewer.key} {viewer_identifier(request)}"
    url = await get_customer_link(request, viewer.account_id, name, record_type, record_id, invoice_id)
    return JSONResponse({"url": url})


# Signing in. The panel is a frame with partitioned cookies (CHIPS), so a session cookie that our sign-in window gets
# does not reach it. Instead, once the user has entered the number that the panel shows, the window gets a one-time code
# and passes it to the panel that opened it, by `postMessage` to our own origin. The code works only with that panel's
# secret, as with PKCE.


@router.get("/panel/signin", dependencies=LOAD_BROWSER)
def sign_in(request: Request, challenge: Annotated[str, Query(pattern=CHALLENGE)]) -> Response:
    """Redirect the sign-in window that the panel opened to Copper."""
    require_copper_app()
    rate_limits.limit_viewer_sign_in(request)
    url, state = copper_oauth.begin(f"{settings().public_url}/callback/copper")
    with transaction() as session:
        oauth_state.save(session, NO_ACCOUNT, state, PANEL, request.state.browser.name, {"challenge": challenge})
    response: Response = request.state.browser.set_cookies(RedirectResponse(url, 303))
    return response


@router.get("/panel/signed-in", dependencies=LOAD_BROWSER)
def signed_in(request: Request) -> Response:
    """The sign-in window's last page: its script passes the code, which is in the URL's fragment, to the panel."""
    return HTMLResponse(render.render_template("panel_signed_in.html"))


class CodeExchange(BaseModel):
    """What the panel exchanges for a session: the window's code, and the secret whose hash opened the window."""

    code: str = Field(min_length=8, max_length=64)
    secret: str = Field(min_length=43, max_length=43)


@router.post("/panel/session")
async def exchange_code(request: Request) -> Response:
    """Sign the panel in."""
    try:
        exchange = CodeExchange.model_validate(orjson.loads(await request.body()))
    except (ValidationError, ValueError):
        raise ProblemError(400, "Send the code and the secret.") from None
    await run_in_threadpool(rate_limits.limit_viewer_sign_in, request)
    panel = await authenticate_panel(request)
    return await run_in_threadpool(_exchange_code, request, exchange, panel.account_id)


def _exchange_code(request: Request, exchange: CodeExchange, account_id: int) -> Response:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(exchange.secret.encode()).digest()).decode().rstrip("=")
    with transaction() as session:
        sign_in_state = oauth_state.consume(session, account_id, exchange.code.strip().upper(), challenge)
    try:
        values = sign_in_state.verify(PANEL)
    except OAuthStateError:
        raise ProblemError(403, "This code is invalid or has expired. Sign in again.") from None
    response = Response(status_code=204)
    detail = f"to the panel, {_networks(values['window'], client_label(request))}"
    browser.start_panel_session(request, response, account_id, values["user"], values["name"], detail)
    return response


def _networks(window: str, panel: str) -> str:
    """For the audit log: the networks of sign-in window and panel, as pseudonyms; one if they are the same."""
    return f"from {panel}" if window == panel else f"window at {window}, panel at {panel}"
