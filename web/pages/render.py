"""Pages by Jinja2: everything that is filled in is escaped, and nothing that is missing passes for empty."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from store.secrets import fresh_token
from web import browser, findings, locales
from web.browser import Browser
from web.problems import TITLES, problem
from worker.addresses import visible
from worker.overview import bytes_in_words, drift_words

HERE = Path(__file__).resolve().parent.parent
STATIC = HERE / "static"
TIME = Markup('<time datetime="{machine}"{title}>{words}</time>')
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
        action=findings.action,
    )
    made.globals.update(asset=lambda name: f"/static/{asset_name(name)}", locales=locales)
    return made


@lru_cache(maxsize=20)
def asset_name(name: str) -> str:
    """A static file's name with its content's hash in it: it may be kept for ever."""
    path = STATIC / name
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}{path.suffix}"


@lru_cache(maxsize=1)
def assets() -> dict[str, Path]:
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
    return "a moment ago"


def seconds(value: float | None) -> str:
    """A stretch of time in words: as fine as it matters."""
    if value is None:
        return "no time known"
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
    return render(request.state.browser, template, status=status, **values)


def render(who: Browser, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page."""
    return who.dress(HTMLResponse(text(template, session=who.session, csrf=who.csrf(), **values), status))


def text(template: str, **values: Any) -> str:
    """A template, filled in."""
    return _environment().get_template(template).render(**values)


def go(request: Request, path: str) -> Response:
    """Send the browser on to one of our own pages."""
    answer: Response = request.state.browser.dress(RedirectResponse(path, 303))
    return answer


def trouble(request: Request, status: int, detail: str, retry_after: int | None = None) -> Response:
    """An error as a page for people, and as a problem document for clients of the API."""
    if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/v1/"):
        return problem(status, detail, retry_after)
    who = getattr(request.state, "browser", None) or Browser(fresh_token(), is_new=False, token=None, session=None)
    answer = render(who, "message.html", status=status, title=TITLES.get(status, "Error"), said=detail, link=None)
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def sign_in_first(request: Request, _: Exception) -> Response:
    """Nobody is signed in: to the page that does it."""
    return go(request, "/connect")
