"""Xero's OAuth flow for the command line: the browser is redirected to a port of this host (RFC 8252, loopback)."""

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

from worker.vendors.errors import VendorError
from worker.vendors.http import timeouts
from worker.vendors.xero import oauth

CONSENT_SECONDS = 600.0
# Without a browser, the redirect follows within the authorisation request.
AUTO_CONSENT_SECONDS = 5.0


class _CallbackServer(HTTPServer):
    callback_query: dict[str, str] | None = None


class _CallbackHandler(BaseHTTPRequestHandler):
    server: _CallbackServer
    timeout = 10

    def do_GET(self) -> None:
        """Take the code and the state from the query."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        is_callback = urlsplit(self.path).path == "/callback" and "state" in query
        if is_callback:
            self.server.callback_query = query
        body = b"Done. You can close this page and go back to the terminal." if is_callback else b"Nothing here."
        self.send_response(200 if is_callback else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the path contains the authorisation code."""


def authorise(port: int, *, auto: bool, echo: Callable[[str], None]) -> dict[str, Any]:
    """A token set: by a person's browser, or (`auto`) from a Xero that grants consent at once.

    Raises `VendorError` if consent is refused, is not given within ten minutes, or the callback's state is wrong.
    """
    with _CallbackServer(("127.0.0.1", port), _CallbackHandler) as server:
        request = oauth.begin(f"http://127.0.0.1:{server.server_port}/callback")
        seconds = AUTO_CONSENT_SECONDS if auto else CONSENT_SECONDS
        thread = threading.Thread(target=_wait_for_callback, args=(server, seconds), daemon=True)
        thread.start()
        if auto:
            with requests.Session() as http:
                http.trust_env = False
                http.get(request.url, timeout=timeouts())
        else:
            echo(f"Open this address in a browser and allow access:\n\n  {request.url}\n")
        thread.join(seconds + 2)
        query = server.callback_query
    if query is None and auto:
        raise VendorError("Xero didn't grant access by itself: run `patina connect` without --auto")
    if query is None:
        raise VendorError("Nobody came back from Xero within ten minutes: run `patina connect` again")
    if not hmac.compare_digest(query["state"], request.state):
        raise VendorError("Xero's callback has a different state than was sent: run `patina connect` again")
    if "code" not in query:
        raise VendorError(f"Consent was not given in Xero ({query.get('error', 'no reason given')[:100]})")
    return oauth.exchange_code(request, query["code"])


def _wait_for_callback(server: _CallbackServer, seconds: float) -> None:
    server.timeout = 1
    deadline = time.monotonic() + seconds
    while server.callback_query is None and time.monotonic() < deadline:
        server.handle_request()
