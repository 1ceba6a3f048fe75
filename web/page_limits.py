"""Pages of people who are signed in: so many a minute, so many at once, by session and by account."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request

from runtime.settings import settings
from web import browser
from web.concurrency import BusyError, Capacity
from web.windows import Windows

STATIC = "/static/"
# Files are bounded by other means (`web.exports`), and what is the same for everybody costs nothing.
WITHOUT_PLACE = ("/export/", STATIC)


class PageRates:
    """How many pages each session and each account asked for in this minute, in this web process."""

    def __init__(self) -> None:
        self._counts = Windows(60)

    def count(self, kind: str, name: str | int) -> None:
        """Count a page; raises `BusyError` beyond `PAGE_MINUTE_LIMIT`."""
        if self._counts.hit(f"{kind} {name}") > settings().page_minute_limit:
            raise BusyError(own_share=True, retry_after=self._counts.ends_in())


async def count_session(request: Request) -> None:
    """Count a page of a browser that is signed in, before anything is looked up; a dependency of every page."""
    token = browser.session_token(request)
    if token is not None and not request.url.path.startswith(STATIC):
        request.app.state.page_rates.count("session", token)


async def take_place(request: Request) -> AsyncIterator[None]:
    """Hold one of the account's places until the page is made; a dependency of every page."""
    session = request.state.browser.session
    if session is None or request.url.path.startswith(WITHOUT_PLACE):
        yield
        return
    request.app.state.page_rates.count("account", session.account_id)
    capacity: Capacity = request.app.state.capacity
    async with capacity.pages.place(session.account_id):
        yield
