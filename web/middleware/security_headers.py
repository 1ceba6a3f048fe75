"""Security headers of all responses: content security policy, framing, referrer, caching, HSTS."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.settings import settings

SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
STATIC_FOLDER = Path(__file__).resolve().parent.parent / "static"
HSTS_SECONDS = 31_536_000
# For a 503 that does not set Retry-After itself.
RETRY_SECONDS = 5
DOCS = "/docs"
PANEL = "/panel"
COPY_PAGES = re.compile(r"/keys/new|/setup/panel|/records/.+/customer-link")
SEARCH_PAGES = "/contacts/"
# The pages of the viewers' sign-in window, which must keep its reference to the panel that opened it.
SIGN_IN_WINDOW = ("/callback/copper", "/signin/copper/finish", "/signin/copper/confirm")


def page_policy() -> str:
    """No scripts, our own styles, forms to ourselves and to the vendors' sign-in pages, no framing."""
    targets = " ".join(settings().sign_in_origins)
    return (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self' {targets}"
    )


def copy_page_policy() -> str:
    """As `page_policy`, with our own script, which copies a secret."""
    return f"{page_policy()}; script-src 'self'"


def search_page_policy() -> str:
    """As `page_policy`, with our own script, which lists records while somebody types."""
    return f"{copy_page_policy()}; connect-src 'self'"


def panel_policy(scripts: str = "'self'", styles: str = "'self'") -> str:
    """Our own scripts and styles, connections to ourselves only, framing by Copper."""
    frames = " ".join(settings().panel_frame_ancestors)
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src 'self' data:; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
    )


@lru_cache(maxsize=2)
def inline_source(name: str) -> str:
    """A static file as the source of inline code in a policy."""
    return _hash_source((STATIC_FOLDER / name).read_text(encoding="utf-8"))


def _hash_source(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def docs_policy(page: str) -> str:
    """For the API documentation: its own scripts, inline ones by their hashes."""
    scripts = " ".join(_hash_source(script) for script in SCRIPT.findall(page))
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    )


def _policy_of(path: str, *, in_panel: bool) -> str:
    if path == PANEL:
        return panel_policy(inline_source("panel.js"), inline_source("patina.css"))
    if in_panel:
        return panel_policy()
    if path.startswith(SEARCH_PAGES):
        return search_page_policy()
    return copy_page_policy() if COPY_PAGES.fullmatch(path) else page_policy()


class SecurityHeadersMiddleware:
    """Adds the headers to every response except those to webhooks, which no browser reads."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith("/webhooks/"):
            await self.app(scope, receive, send)
            return
        deferred: list[Message] = []

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.add_headers(message, scope["path"])
                if scope["path"] == DOCS:
                    deferred.append(message)
                    return
            elif deferred:
                start = deferred.pop()
                MutableHeaders(scope=start)["Content-Security-Policy"] = docs_policy(message.get("body", b"").decode())
                await send(start)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def add_headers(self, start: Message, path: str) -> None:
        """Add the headers to the start message of the response to a request for `path`."""
        in_panel = path == PANEL or path.startswith(f"{PANEL}/")
        headers = {
            "content-security-policy": _policy_of(path, in_panel=in_panel),
            "x-content-type-options": "nosniff",
            # The panel's URL contains its token.
            "referrer-policy": "no-referrer" if in_panel else "same-origin",
        }
        if not in_panel and path not in SIGN_IN_WINDOW:
            headers["cross-origin-opener-policy"] = "same-origin"
        if settings().is_https:
            headers["strict-transport-security"] = f"max-age={HSTS_SECONDS}; includeSubDomains"
        defaults = {"cache-control": "no-store"}
        if start["status"] == 503:
            defaults["retry-after"] = str(RETRY_SECONDS)
        _set_headers(start, headers, defaults)


def _set_headers(start: Message, headers: dict[str, str], defaults: dict[str, str]) -> None:
    """Set `headers` whatever the response says, and those of `defaults` that it lacks.

    All at once, because Starlette's own headers go through all of them for each.
    """
    own = [(name, value) for name, value in start["headers"] if name.decode("latin-1") not in headers]
    names = {name for name, _ in own}
    added = {**headers, **{name: value for name, value in defaults.items() if name.encode("latin-1") not in names}}
    start["headers"] = [*own, *((name.encode("latin-1"), value.encode("latin-1")) for name, value in added.items())]
