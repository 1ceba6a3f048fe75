"""Pages by Jinja2: everything that is filled in is escaped, and nothing that is missing passes for empty."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Annotated, Any, cast

from fastapi import Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runtime.numbers import MAX_ID
from store.database import UNAVAILABLE
from store.secrets import fresh_token
from web import browser, findings, locales, words
from web.browser import Browser
from web.forms import EMPTY
from web.problems import FAILED_TEXT, TITLES, UNAVAILABLE_TEXT, in_api_words, problem
from web.security import SecurityHeaders
from worker.addresses import visible
from worker.overview import bytes_in_words, drift_words

HERE = FilePath(__file__).resolve().parent.parent
STATIC = HERE / "static"
TIME = Markup('<time datetime="{machine}"{title}>{words}</time>')
Id = Annotated[int, Path(ge=1, le=MAX_ID)]
"""An id of ours in an address, as far as PostgreSQL's bigint goes."""
PAGE_TITLES = {400: "Invalid request", 403: "Not allowed", 404: "Page not found", 405: "Page not found"}
PAGE_TEXTS = {"Not Found": "This page doesn't exist.", "Method Not Allowed": "This page doesn't exist."}
PARAMETERS = {
    "record_id": '"{given}" isn\'t a Copper ID.',
    "kind": '"{given}" isn\'t a record type. Choose lead, person, company or opportunity.',
    "type": '"{given}" isn\'t a record type. Choose lead, person, company or opportunity.',
    "invoice_id": '"{given}" isn\'t an invoice ID.',
    "form": '"{given}" isn\'t a file format. Choose csv or jsonl.',
    "sort": 'Sort by "open" or "overdue", not by "{given}".',
    "currency": '"{given}" isn\'t a currency code.',
    "limit": '"{given}" isn\'t a number of invoices that can be shown.',
    "status": '"{given}" isn\'t an invoice status.',
    "search": "This search is no longer valid. Search again.",
}
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        moment=moment,
        ago=ago,
        age=age,
        time=full_time,
        number=lambda value: f"{value:,}",
        seconds=seconds,
        bytes=bytes_in_words,
        drift=drift_words,
        visible=visible,
        finding=findings.sentence,
        counted=words.counted,
    )
    made.globals.update(asset=lambda name: f"/static/{asset_name(name)}", locales=locales, EMPTY=EMPTY)
    return made


@lru_cache(maxsize=20)
def asset_name(name: str) -> str:
    """A static file's name with its content's hash in it: it may be kept for ever."""
    path = STATIC / name
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}{path.suffix}"


@lru_cache(maxsize=1)
def assets() -> dict[str, FilePath]:
    """Every static file by the name that it is served under."""
    return {asset_name(path.name): path for path in STATIC.iterdir() if path.suffix in KINDS}


def moment(at: datetime | None) -> str:
    """A time in full, with its zone: UTC."""
    return at.astimezone(UTC).strftime("%d %b %Y, %H:%M:%S UTC") if at else "never"


def full_time(at: datetime | None) -> Markup | str:
    """A time in full, for people and machines."""
    return TIME.format(machine=_iso(at), title="", words=moment(at)) if at else "never"


def age(at: datetime | None) -> Markup | str:
    """How long ago something was, for people; the time itself is in the title, and for machines."""
    title = Markup(' title="{}"').format(moment(at))
    return TIME.format(machine=_iso(at), title=title, words=ago(at)) if at else "never"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def ago(at: datetime | None) -> str:
    """How long ago something was, in words."""
    if at is None:
        return "never"
    seconds = max((datetime.now(UTC) - at).total_seconds(), 0)
    for size, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    return "just now"


def seconds(value: float | None) -> str:
    """A stretch of time in words: as fine as it matters."""
    if value is None:
        return "not known"
    if value < 1:
        return f"{max(value, 0.01):.2g} s"
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} minutes" if value < 7_200 else f"{value / 3_600:.0f} hours"


def meet(request: Request) -> None:
    """Find out which browser this is, before anything else."""
    request.state.browser = browser.of(request)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for the request's browser."""
    return render(request.state.browser, template, status=status, path=request.scope["path"], **values)


def render(who: Browser, template: str, *, status: int = 200, path: str = "", **values: Any) -> Response:
    """A page; `path` is its address, which the navigation marks as the current one."""
    known = {"session": who.session, "csrf": who.csrf(), "notice": who.notice, "path": path}
    answer = who.dress(HTMLResponse(text(template, **known, is_refused=status == 422, **values), status))
    if who.notice:
        browser.forget_notice(answer)
    return answer


def text(template: str, **values: Any) -> str:
    """A template, filled in."""
    return _environment().get_template(template).render(**values)


def go(request: Request, path: str, *, notice: str = "") -> Response:
    """Send the browser on to one of our own pages, which says `notice`."""
    answer: Response = request.state.browser.dress(RedirectResponse(path, 303))
    if notice:
        browser.leave_notice(answer, notice)
    return answer


def trouble(request: Request, status: int, detail: str, retry_after: int | None = None) -> Response:
    """An error as a page for people, and as a problem document for clients of the API."""
    if not wants_page(request):
        return problem(status, detail, retry_after)
    who = _browser(request, status)
    title, said = PAGE_TITLES.get(status, TITLES.get(status, "Error")), PAGE_TEXTS.get(detail, detail)
    path, link = request.scope["path"], _way_back(who, status)
    answer = render(who, "message.html", status=status, path=path, title=title, said=said, link=link)
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def too_late(request: Request) -> Response:
    """A page took too long: what it waits for does not answer."""
    return trouble(request, 503, UNAVAILABLE_TEXT)


def failed(request: Request, _: Exception) -> Response:
    """A fault of ours. This is answered outside of every middleware, so it brings its own headers."""
    path = request.scope["path"]
    # The server closes the connection once the fault is logged; who is not told may send the next request on it.
    closing = {"Connection": "close"}
    if path.startswith("/webhooks/"):
        return Response(status_code=500, headers=closing)
    answer = trouble(request, 500, FAILED_TEXT)
    start: dict[str, Any] = {"type": "http.response.start", "status": 500, "headers": answer.raw_headers}
    SecurityHeaders(request.app).dress(start, path)
    answer.raw_headers = start["headers"]
    answer.headers.update(closing)
    return answer


def _browser(request: Request, status: int) -> Browser:
    """The browser that an error is shown to. An address that no page has was met by nobody yet."""
    if (known := getattr(request.state, "browser", None)) is not None:
        return cast(Browser, known)
    if status in {404, 405}:
        with suppress(*UNAVAILABLE):
            return browser.of(request)
    return Browser(fresh_token(), is_new=False, token=None, session=None)


def _way_back(who: Browser, status: int) -> tuple[str, str] | None:
    if status in {500, 503}:
        return None
    if who.session is None:
        return ("/connect", "Sign in")
    return ("/status", "Go to Status") if who.session.is_admin else ("/viewer", "Go back")


def malformed(request: Request, errors: Sequence[Any]) -> Response:
    """A parameter that makes no sense: in plain words on a page, by its name for clients of the API."""
    if not wants_page(request):
        return problem(400, in_api_words(errors))
    where, name = errors[0]["loc"][0], str(errors[0]["loc"][-1])
    given = str(errors[0].get("input", ""))[:40]
    said = PARAMETERS.get(name, '"{given}" isn\'t valid here.').format(given=given)
    return trouble(request, 404 if where == "path" else 422, said)


def wants_page(request: Request) -> bool:
    """Whether an error is read by a person."""
    return "text/html" in request.headers.get("accept", "") and not request.scope["path"].startswith("/v1/")


def sign_in_first(request: Request, _: Exception) -> Response:
    """Nobody is signed in: to the page that does it."""
    return go(request, "/connect")


def account_closed(request: Request, error: Exception) -> Response:
    """The account was disconnected while it was looked at: its sessions and keys have ended."""
    return sign_in_first(request, error) if wants_page(request) else problem(401, "This account is disconnected.")
