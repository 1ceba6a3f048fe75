"""Renders pages with Jinja2: values are escaped, and undefined variables raise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Annotated, Any, NamedTuple, cast

from fastapi import Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runtime.numbers import MAX_ID, count_noun
from services.account_status import describe_drift, format_bytes
from store.db.crypto import generate_token
from store.db.database import UNAVAILABLE_ERRORS
from web.admin.forms import EMPTY_FORM
from web.auth import browser
from web.auth.browser import Browser
from web.middleware.security_headers import SecurityHeadersMiddleware
from web.presentation import findings, labels, locales
from web.presentation.problems import FAILED_MESSAGE, TITLES, UNAVAILABLE_MESSAGE, describe_validation_errors, problem
from worker.vendors.addresses import escape_invisible

WEB_FOLDER = FilePath(__file__).resolve().parent.parent
STATIC_FOLDER = WEB_FOLDER / "static"
TIME_ELEMENT = Markup('<time datetime="{iso}"{title}>{text}</time>')
Id = Annotated[int, Path(ge=1, le=MAX_ID)]
"""The id of a row, in a path; at most PostgreSQL's largest bigint."""
PAGE_TITLES = {
    400: "Invalid request",
    403: "Not allowed",
    404: "Page not found",
    405: "Page not found",
    409: "Not possible",
}
PAGE_MESSAGES = {"Not Found": "This page doesn't exist.", "Method Not Allowed": "This page doesn't exist."}
PARAMETER_MESSAGES = {
    "record_id": '"{value}" isn\'t a Copper ID.',
    "record_type": '"{value}" isn\'t a record type. Choose lead, person, company or opportunity.',
    "type": '"{value}" isn\'t a record type. Choose lead, person, company or opportunity.',
    "invoice_id": '"{value}" isn\'t an invoice ID.',
    "format": '"{value}" isn\'t a file format. Choose csv or jsonl.',
    "sort": '"{value}" isn\'t an amount to sort by. Choose one on the page.',
    "owner": '"{value}" isn\'t the ID of a Copper user.',
    "after": "This page is no longer there. Start with the first page.",
    "currency": '"{value}" isn\'t a currency code.',
    "limit": '"{value}" isn\'t a number of invoices that can be shown.',
    "status": '"{value}" isn\'t an invoice status.',
    "invoice_type": '"{value}" isn\'t a type of invoice.',
    "organisation": '"{value}" isn\'t the ID of an organisation.',
    "matched": 'Choose "yes" or "no", not "{value}".',
    "order": 'Sort by "created", "due" or "balance", not by "{value}".',
    "search": "This search is no longer valid. Search again.",
}
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(WEB_FOLDER / "templates"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        timestamp=timestamp_element,
        age=age_element,
        day=day_element,
        age_text=format_age,
        duration=format_duration,
        number=lambda value: f"{value:,}",
        bytes=format_bytes,
        drift=describe_drift,
        escape_invisible=escape_invisible,
        finding=findings.finding_message,
        count_noun=count_noun,
        count_by_type=labels.count_by_type,
        row_name=labels.row_name,
        row_status=labels.row_status,
    )
    environment.globals.update(
        asset=lambda name: f"/static/{asset_name(name)}", inline=_inline, locales=locales, EMPTY_FORM=EMPTY_FORM
    )
    return environment


def _inline(name: str) -> Markup:
    """A static file's content, for inline code; the page's policy allows it by its hash."""
    return Markup((STATIC_FOLDER / name).read_text(encoding="utf-8"))


@lru_cache(maxsize=20)
def asset_name(name: str) -> str:
    """A static file's name with the hash of its content, so that it can be cached for ever."""
    path = STATIC_FOLDER / name
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}{path.suffix}"


@lru_cache(maxsize=1)
def assets() -> dict[str, FilePath]:
    """All static files, by the names under which they are served."""
    return {asset_name(path.name): path for path in STATIC_FOLDER.iterdir() if path.suffix in MEDIA_TYPES}


def format_timestamp(at: datetime | None) -> str:
    """A date and time in UTC; "never" for None."""
    return at.astimezone(UTC).strftime("%d %b %Y, %H:%M:%S UTC") if at else "never"


def timestamp_element(at: datetime | None) -> Markup | str:
    """A `time` element with the date and time in UTC; "never" for None."""
    return TIME_ELEMENT.format(iso=_iso(at), title="", text=format_timestamp(at)) if at else "never"


def day_element(at: datetime) -> Markup:
    """A `time` element with the day in UTC, such as "3 Nov"; the full time is its title."""
    text = locales.format_short_date(at.astimezone(UTC).date(), datetime.now(UTC).date(), locales.DEFAULT)
    return TIME_ELEMENT.format(iso=_iso(at), title=Markup(' title="{}"').format(format_timestamp(at)), text=text)


def age_element(at: datetime | None) -> Markup | str:
    """A `time` element that says how long ago something was, with the full time as its title; "never" for None."""
    title = Markup(' title="{}"').format(format_timestamp(at))
    return TIME_ELEMENT.format(iso=_iso(at), title=title, text=format_age(at)) if at else "never"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def format_age(at: datetime | None) -> str:
    """How long ago something was, such as "2 hours ago"; "never" for None."""
    if at is None:
        return "never"
    seconds = max((datetime.now(UTC) - at).total_seconds(), 0)
    for unit_seconds, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= unit_seconds:
            return f"{count_noun(int(seconds // unit_seconds), unit)} ago"
    return "just now"


def format_duration(seconds: float | None) -> str:
    """A duration with as much precision as matters at its size; "not known" for None."""
    if seconds is None:
        return "not known"
    if seconds < 1:
        return f"{max(seconds, 0.01):.2g} s"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7_200 else f"{seconds / 3_600:.0f} hours"


class PageLink(NamedTuple):
    """A link to one of our own pages."""

    path: str
    label: str


def load_browser(request: Request) -> None:
    """Load the browser and its session; a dependency of every page."""
    request.state.browser = browser.from_request(request)


def render_page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Render a page for the request's browser."""
    return render_page_for(request.state.browser, template, status=status, path=request.scope["path"], **values)


def render_page_for(viewer: Browser, template: str, *, status: int = 200, path: str = "", **values: Any) -> Response:
    """Render a page for a browser; the navigation marks `path` as the current page."""
    common = {
        "browser_session": viewer.session,
        "csrf": viewer.csrf(),
        "notice": viewer.notice,
        "path": path,
        "is_refused": status == 422,
    }
    response = viewer.set_cookies(HTMLResponse(render_template(template, **common, **values), status))
    if viewer.notice:
        browser.clear_notice(response)
    return response


def render_message(
    request: Request, title: str, message: str, *, status: int = 200, link: PageLink | None = None
) -> Response:
    """Render a page that is one message, with a link on from it."""
    return render_page(request, "message.html", status=status, title=title, message=message, link=link)


def render_template(template: str, **values: Any) -> str:
    """Render a template to HTML."""
    return _environment().get_template(template).render(**values)


def redirect(request: Request, path: str, *, notice: str = "") -> Response:
    """Redirect to one of our own pages, which shows `notice` once."""
    response: Response = request.state.browser.set_cookies(RedirectResponse(path, 303))
    if notice:
        browser.set_notice(response, notice)
    return response


def error_response(request: Request, status: int, detail: str, retry_after: int | None = None) -> Response:
    """An error: a page for people, a problem document for API clients."""
    if not wants_html(request):
        return problem(status, detail, retry_after)
    viewer = _browser_of(request, status)
    response = render_page_for(
        viewer,
        "message.html",
        status=status,
        path=request.scope["path"],
        title=PAGE_TITLES.get(status, TITLES.get(status, "Error")),
        message=PAGE_MESSAGES.get(detail, detail),
        link=_link_back(viewer, status),
    )
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def timeout_response(request: Request) -> Response:
    """The answer when a page takes too long because a service does not respond."""
    return error_response(request, 503, UNAVAILABLE_MESSAGE)


def server_error_response(request: Request, _: Exception) -> Response:
    """The answer to an unhandled exception; sets the security headers itself, because no middleware sees it."""
    path = request.scope["path"]
    # The server closes the connection after such an error; without the header, a client may reuse it.
    close_header = {"Connection": "close"}
    if path.startswith("/webhooks/"):
        return Response(status_code=500, headers=close_header)
    response = error_response(request, 500, FAILED_MESSAGE)
    start: dict[str, Any] = {"type": "http.response.start", "status": 500, "headers": response.raw_headers}
    SecurityHeadersMiddleware(request.app).add_headers(start, path)
    response.raw_headers = start["headers"]
    response.headers.update(close_header)
    return response


def _browser_of(request: Request, status: int) -> Browser:
    """The browser to which an error is shown; unknown paths have no route, so nothing has loaded it yet."""
    if (loaded := getattr(request.state, "browser", None)) is not None:
        return cast(Browser, loaded)
    if status in {404, 405}:
        with suppress(*UNAVAILABLE_ERRORS):
            return browser.from_request(request)
    return Browser(generate_token(), is_new=False, token=None, session=None)


def _link_back(viewer: Browser, status: int) -> PageLink | None:
    if status in {500, 503}:
        return None
    if viewer.session is None:
        return PageLink("/connect", "Sign in")
    return PageLink("/status", "Go to Status") if viewer.session.is_admin else PageLink("/viewer", "Go back")


def invalid_parameters_response(request: Request, errors: Sequence[Any]) -> Response:
    """The answer to an invalid parameter: in plain words on a page, by parameter name for API clients."""
    if not wants_html(request):
        return problem(400, describe_validation_errors(errors))
    location, name = errors[0]["loc"][0], str(errors[0]["loc"][-1])
    value = str(errors[0].get("input", ""))[:40]
    message = PARAMETER_MESSAGES.get(name, '"{value}" isn\'t valid here.').format(value=value)
    return error_response(request, 404 if location == "path" else 422, message)


def wants_html(request: Request) -> bool:
    """Whether the client is a browser that shows a page, and not an API client."""
    return "text/html" in request.headers.get("accept", "") and not request.scope["path"].startswith("/v1/")


def redirect_to_sign_in(request: Request, _: Exception) -> Response:
    """The answer when nobody is signed in: a redirect to the sign-in page."""
    return redirect(request, "/connect")


def account_closed_response(request: Request, error: Exception) -> Response:
    """The answer when the account was disconnected during the request: its sessions and keys have ended."""
    return redirect_to_sign_in(request, error) if wants_html(request) else problem(401, "This account is disconnected.")
