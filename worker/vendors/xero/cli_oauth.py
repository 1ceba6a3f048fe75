"""Xero's OAuth flow for the command line: the browser is redirected to a port of this host (RFC 8252, loopback)."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from typing_extensions import override

from worker.vendors.errors import TransientError, VendorError
from worker.vendors.http import timeouts
from worker.vendors.xero import oauth

CONSENT_SECONDS = 600.0
POLL_SECONDS = 0.2


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
        if auto:
            with ThreadPoolExecutor(1) as executor:
                response = executor.submit(_request_consent, request.url)
                # The redirect follows within the request, so nothing comes after its response.
                _wait_for_callback(server, lambda: not response.done())
                response.result()
        else:
            echo(f"Open this address in a browser and allow access:\n\n  {request.url}\n")
            deadline = time.monotonic() + CONSENT_SECONDS
            _wait_for_callback(server, lambda: time.monotonic() < deadline)
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


def _request_consent(url: str) -> None:
    """Request consent like a browser, without one."""
    with requests.Session() as http:
        http.trust_env = False
        try:
            http.get(url, timeout=timeouts())
        except requests.RequestException as error:
            # Without its text, which contains the address, and this the client's ID.
            raise TransientError(f"Xero can't be reached ({type(error).__name__})") from None


def _wait_for_callback(server: _CallbackServer, is_expected: Callable[[], bool]) -> None:
    server.timeout = POLL_SECONDS
    while server.callback_query is None and is_expected():
        server.handle_request()
