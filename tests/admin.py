"""An admin's browser without pictures: cookies, forms with their hidden fields, redirects followed by hand."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx

from tests.serving import http_client

CSRF = re.compile(r'name="csrf" value="([^"]*)"')


class AdminBrowser:
    """Opens pages of the web process and sends their forms as they are."""

    def __init__(self, web: httpx.Client) -> None:
        self.http = http_client(web.base_url, headers={"accept": "text/html"})
        self.page: httpx.Response | None = None

    def open(self, path: str) -> httpx.Response:
        """Open a page, following redirects within Patina and to the sandbox."""
        self.page = self.http.get(path, follow_redirects=True)
        return self.page

    def csrf(self) -> str:
        assert self.page is not None
        found = CSRF.search(self.page.text)
        assert found, self.page.text
        return unescape(found[1])

    def send(
        self, path: str, form: dict[str, Any] | None = None, *, follow: bool = True, **values: Any
    ) -> httpx.Response:
        """Send a form of the page that is open."""
        sent = {"csrf": self.csrf(), **(form or {}), **values}
        answer = self.http.post(path, data=sent, follow_redirects=follow)
        if follow:
            self.page = answer
        return answer

    def find(self, wanted: str) -> httpx.Response:
        """Search for records, as the form does."""
        self.open("/records")
        return self.send("/records", q=wanted)

    def sign_in(self, key: str, email: str) -> httpx.Response:
        self.open("/connect")
        return self.send("/connect", key=key, email=email)
