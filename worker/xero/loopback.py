"""The OAuth dance from a terminal: a person's browser comes back to a port of this machine."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from typing_extensions import override

from worker.errors import VendorError
from worker.vendor import timeouts
from worker.xero import oauth

WAIT_SECONDS = 600.0
# Whoever consents at once has come back when the request is over.
AUTO_SECONDS = 5.0


class _Callback(HTTPServer):
    answer: dict[str, str] | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Callback
    timeout = 10

    def do_GET(self) -> None:
        """Take code and state from the query, once."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        known = urlsplit(self.path).path == "/callback" and "state" in query
        if known:
            self.server.answer = query
        said = b"Done. You can close this page and go back to the terminal." if known else b"Nothing here."
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Codes stand in the path, so that nothing of it is logged."""


def authorise(port: int, *, auto: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """A token set: by a person's browser, or (`auto`) from a Xero that consents at once.

    Raises `VendorError` when consent is refused, does not come within ten minutes, or comes back with
    another state than the one that was sent.
    """
    with _Callback(("127.0.0.1", port), _Handler) as server:
        held = oauth.begin(f"http://127.0.0.1:{server.server_port}/callback")
        seconds = AUTO_SECONDS if auto else WAIT_SECONDS
        thread = threading.Thread(target=_serve, args=(server, seconds), daemon=True)
        thread.start()
        if auto:
            with requests.Session() as browser:
                browser.trust_env = False
                browser.get(held.url, timeout=timeouts())
        else:
            say(f"Open this address in a browser and allow access:\n\n  {held.url}\n")
        thread.join(seconds + 2)
        answer = server.answer
    if answer is None and auto:
        raise VendorError("Xero didn't grant access by itself: run `patina connect` without --auto")
    if answer is None:
        raise VendorError("Nobody came back from Xero within ten minutes: run `patina connect` again")
    if not hmac.compare_digest(answer["state"], held.state):
        raise VendorError("Xero came back with another state than was sent: run `patina connect` again")
    if "code" not in answer:
        raise VendorError(f"Xero gave no consent ({answer.get('error', 'no reason given')[:100]})")
    return oauth.exchange(held, answer["code"])


def _serve(server: _Callback, seconds: float) -> None:
    server.timeout = 1
    until = time.monotonic() + seconds
    while server.answer is None and time.monotonic() < until:
        server.handle_request()
