"""What every answer of ours carries, so that a browser lets nothing in that we did not write."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.settings import settings

SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
YEAR = 31_536_000
# For an answer that says that something is away, and not for how long.
RETRY_SECONDS = 5
DOCS = "/docs"
PANEL = "/panel"
COPYING = ("/keys/new", "/setup/panel")
# The window that signs a viewer in comes by these pages, and must keep in touch with the panel that opened it.
WINDOW = ("/callback/copper", "/signin/copper/finish", "/signin/copper/confirm")


def policy() -> str:
    """No script at all, our own styles, forms to ourselves and to the two sign-in pages, framed by nobody."""
    targets = " ".join(settings().sign_in_origins)
    return (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self' {targets}"
    )


def copying_policy() -> str:
    """The pages that show a secret once have a script of ours that copies it."""
    return f"{policy()}; script-src 'self'"


def panel_policy() -> str:
    """Our own script and styles, answers from here alone, and framed by Copper."""
    frames = " ".join(settings().framing_origins)
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
    )


def docs_policy(page: str) -> str:
    """The API's description runs its own script, from here: what stands in the page is allowed by its hash."""
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    )


class SecurityHeaders:
    """Adds them to every answer but the receivers', which only machines read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith("/webhooks/"):
            await self.app(scope, receive, send)
            return
        held: list[Message] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.dress(message, scope["path"])
                if scope["path"] == DOCS:
                    held.append(message)
                    return
            elif held:
                start = held.pop()
                MutableHeaders(scope=start)["Content-Security-Policy"] = docs_policy(message.get("body", b"").decode())
                await send(start)
            await send(message)

        await self.app(scope, receive, guarded)

    def dress(self, start: Message, path: str) -> None:
        """Add the headers to the beginning of the answer to a request for `path`."""
        in_panel = path == PANEL or path.startswith(f"{PANEL}/")
        headers = MutableHeaders(scope=start)
        if in_panel:
            headers["Content-Security-Policy"] = panel_policy()
        else:
            headers["Content-Security-Policy"] = copying_policy() if path in COPYING else policy()
        headers["X-Content-Type-Options"] = "nosniff"
        # The panel's address has its token in it.
        headers["Referrer-Policy"] = "no-referrer" if in_panel else "same-origin"
        if not in_panel and path not in WINDOW:
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers.setdefault("Cache-Control", "no-store")
        if start["status"] == 503:
            headers.setdefault("Retry-After", str(RETRY_SECONDS))
        if settings().is_https:
            headers["Strict-Transport-Security"] = f"max-age={YEAR}; includeSubDomains"
