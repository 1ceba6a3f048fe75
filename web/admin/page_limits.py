"""Limits for the pages of signed-in people: per minute by session and account, and concurrent ones by account."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request

from runtime.settings import settings
from web.auth import browser
from web.auth.fixed_windows import FixedWindowCounter
from web.middleware.concurrency import BusyError
from web.state import web_state

STATIC = "/static/"
# Exports have limits of their own (`web.presentation.exports`), and static files cost nothing.
WITHOUT_SLOT = ("/export/", STATIC)


class PageRates:
    """Counts the pages that each session and each account requested this minute, in this web process."""

    def __init__(self) -> None:
        self._counts = FixedWindowCounter(60)

    def count(self, scope: str, name: str | int) -> None:
        """Count a page; raises `BusyError` beyond `PAGE_REQUESTS_PER_MINUTE`."""
        if self._counts.hit(f"{scope} {name}") > settings().page_requests_per_minute:
            raise BusyError(own_share=True, retry_after=self._counts.seconds_left())


async def limit_session_pages(request: Request) -> None:
    """Count a page by the session cookie, before any query; a dependency of every page."""
    token = browser.session_token(request)
    if token is not None and not request.url.path.startswith(STATIC):
        web_state(request).page_rates.count("session", token)


async def acquire_page_slot(request: Request) -> AsyncIterator[None]:
    """Hold one of the account's slots until the page is rendered; a dependency of every page."""
    browser_session = request.state.browser.session
    if browser_session is None or request.url.path.startswith(WITHOUT_SLOT):
        yield
        return
    web_state(request).page_rates.count("account", browser_session.account_id)
    capacity = web_state(request).capacity
    async with capacity.pages.slot(browser_session.account_id):
        yield
