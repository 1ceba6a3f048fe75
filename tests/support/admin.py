"""A minimal browser for an admin: cookies, forms with their hidden fields, and redirects."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx

from tests.support.serving import http_client
from tests.support.world import World

CSRF = re.compile(r'name="csrf" value="([^"]*)"')


class AdminBrowser:
    """Opens pages of the web process and submits their forms."""

    def __init__(self, web: httpx.Client) -> None:
        self.http = http_client(web.base_url, headers={"accept": "text/html"})
        self.page: httpx.Response | None = None

    def open(self, path: str) -> httpx.Response:
        """Open a page, following redirects within Patina and to the sandbox."""
        self.page = self.http.get(path, follow_redirects=True)
        return self.page

    def csrf(self) -> str:
        assert self.page is not None
        match = CSRF.search(self.page.text)
        assert match, self.page.text
        return unescape(match[1])

    def send(
        self, path: str, form: dict[str, Any] | None = None, *, follow: bool = True, **values: Any
    ) -> httpx.Response:
        """Submit a form of the current page."""
        data = {"csrf": self.csrf(), **(form or {}), **values}
        response = self.http.post(path, data=data, follow_redirects=follow)
        if follow:
            self.page = response
        return response

    def find(self, query: str) -> httpx.Response:
        """Search for records with the form."""
        self.open("/records")
        return self.send("/records", q=query)

    def sign_in(self, key: str, email: str) -> httpx.Response:
        self.open("/connect")
        return self.send("/connect", key=key, email=email)


def sign_in(world: World) -> AdminBrowser:
    state = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    browser = AdminBrowser(world.web)
    assert browser.sign_in(state["api_key"], state["email"]).status_code == 200
    return browser
