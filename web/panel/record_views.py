"""Renders records for panels: once for all panels that show the same view, off the event loop, in fair turn."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from babel import Locale

from store.db.enums import RecordType
from store.read_model.record_invoices import InvoiceFilter
from web.admin import render
from web.middleware.concurrency import MAX_COOLDOWN_SECONDS, BusyError, FairLimiter
from web.presentation import record_view

# A watched record is rendered at most twice a second, however often it changes and however many panels watch it.
MIN_REFRESH_INTERVAL = 0.5
# An answer costs the event loop about half a millisecond: it serves other requests between batches.
ANSWERS_PER_BATCH = 2
BATCH_PAUSE_SECONDS = 0.02


class ViewKey(NamedTuple):
    """All that decides what a view shows: equal keys give equal views."""

    account_id: int
    record_type: RecordType
    record_id: int
    selected: InvoiceFilter
    limit: int | None
    locale: str


ROW = re.compile(r'<tr role="row" id="(row-[0-9a-f-]+)".*?</tr>', re.DOTALL)


@dataclass(frozen=True)
class RenderedView:
    """A record as a panel shows it: its entity tag, the HTML, and when it was last synced ('': not yet).

    `changes` is the HTML for a panel that shows the view `changes_since` (an entity tag): rows that are the same in
    both are empty elements with the attribute `data-unchanged`.
    """

    etag: str
    html: str
    synced_at: str
    changes_since: str = ""
    changes: str = ""

    def with_changes(self, before: RenderedView) -> RenderedView:
        """This view with its changes since an earlier one."""
        rows_before = {match[1]: match[0] for match in ROW.finditer(before.html)}

        def shorten(match: re.Match[str]) -> str:
            return f'<tr id="{match[1]}" data-unchanged></tr>' if rows_before.get(match[1]) == match[0] else match[0]

        return replace(self, changes_since=before.etag, changes=ROW.sub(shorten, self.html))

    def html_for(self, etag: str) -> str:
        """The HTML for a panel that shows the view with this entity tag ('': none)."""
        return self.changes if etag and etag == self.changes_since else self.html


def render_view(key: ViewKey) -> RenderedView:
    """Read a record and render it."""
    locale = Locale.parse(key.locale)
    record = record_view.build_record_view(
        key.account_id, key.record_type, key.record_id, locale, selected=key.selected, limit=key.limit
    )
    html = render.render_template("record_part.html", record=record, locale=locale, in_panel=True)
    return RenderedView(record.etag, html, record.synced_at.isoformat() if record.synced_at else "")


class Waiter(NamedTuple):
    """The entity tag that a waiting panel has, and since when it waits, by the event loop's clock."""

    etag: str
    since: float


@dataclass
class WatchedRecord:
    """A record that panels wait for, with its latest view and when rendering of that view began."""

    task: asyncio.Task[None] | None = None
    waiters: dict[asyncio.Future[RenderedView], Waiter] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    latest: RenderedView | None = None
    rendered_at: float = 0.0

    def is_current(self, etag: str, since: float) -> bool:
        """Whether the latest view has this entity tag and began to be rendered after `since`."""
        return self.latest is not None and self.latest.etag == etag and self.rendered_at > since


@dataclass
class WatchedAccount:
    """The watched records of one account; those that changed are rendered one after the other."""

    records: dict[ViewKey, WatchedRecord] = field(default_factory=dict)
    render_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RecordViews:
    """The record views of one web process; concurrent requests for the same view share one rendering."""

    def __init__(self, limiter: FairLimiter) -> None:
        self._limiter = limiter
        self._pending: dict[ViewKey, asyncio.Task[RenderedView]] = {}
        self._watched: dict[int, WatchedAccount] = {}
        self._is_closed = False

    async def get(self, key: ViewKey) -> RenderedView:
        """The current view: rendering starts after this call, and is shared with every call made before it starts.

        Raises `BusyError` if too many views of the account are being rendered.
        """
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(self._render_shared(key))
            task.add_done_callback(_retrieve_exception)
        return await asyncio.shield(task)

    async def _render_shared(self, key: ViewKey) -> RenderedView:
        try:
            async with self._limiter.slot(key.account_id):
                # Later calls must not share this rendering: it may read too early for them.
                del self._pending[key]
                return await self._limiter.run_in_thread(render_view, key)
        except BusyError:
            del self._pending[key]
            raise

    async def wait_for_change(self, key: ViewKey, etag: str, seconds: float) -> RenderedView:
        """The view once its entity tag differs from `etag`; the latest view after `seconds`.

        All panels that watch a record share one rendering of each change.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RenderedView] = loop.create_future()
        record = self._watch(key, future, etag)
        try:
            if not record.is_current(etag, loop.time() - MIN_REFRESH_INTERVAL):
                record.changed.set()
            if not self._is_closed:
                await asyncio.wait([future], timeout=seconds)
            if future.done() and not future.cancelled():
                return future.result()
            return record.latest or await self.get(key)
        finally:
            self._unwatch(key, record, future)

    def _watch(self, key: ViewKey, future: asyncio.Future[RenderedView], etag: str) -> WatchedRecord:
        account = self._watched.setdefault(key.account_id, WatchedAccount())
        record = account.records.get(key)
        if record is None:
            record = account.records[key] = WatchedRecord()
            record.task = asyncio.create_task(self._refresh_on_change(key, account, record))
        record.waiters[future] = Waiter(etag, asyncio.get_running_loop().time())
        return record

    def _unwatch(self, key: ViewKey, record: WatchedRecord, future: asyncio.Future[RenderedView]) -> None:
        del record.waiters[future]
        if future.done() and not future.cancelled():
            future.exception()
        if not record.waiters:
            # A panel that was answered usually polls again at once.
            asyncio.get_running_loop().call_later(MIN_REFRESH_INTERVAL, self._remove_unwatched, key, record)

    def _remove_unwatched(self, key: ViewKey, record: WatchedRecord) -> None:
        account = self._watched.get(key.account_id)
        if record.waiters or account is None or account.records.get(key) is not record:
            return
        assert record.task is not None
        record.task.cancel()
        del account.records[key]
        if not account.records:
            del self._watched[key.account_id]

    async def _refresh_on_change(self, key: ViewKey, account: WatchedAccount, record: WatchedRecord) -> None:
        """Render the view whenever the account's rows change, and answer the waiters whose view is out of date."""
        loop = asyncio.get_running_loop()
        while True:
            await record.changed.wait()
            async with account.render_lock:
                record.changed.clear()
                started_at = loop.time()
                await self._refresh(key, record, started_at)
                # One account's panels use at most half of a thread's time, however many records they show.
                await asyncio.sleep(min(loop.time() - started_at, MAX_COOLDOWN_SECONDS))
            await asyncio.sleep(max(started_at + MIN_REFRESH_INTERVAL - loop.time(), 0))

    async def _refresh(self, key: ViewKey, record: WatchedRecord, started_at: float) -> None:
        try:
            view = await self.get(key)
        except BusyError:
            record.changed.set()
        except Exception as error:
            # Waiters get the error, whatever it is, and the next change is rendered all the same.
            await _answer_waiters(record, error, started_at)
        else:
            before = record.latest
            if before is not None and before.etag != view.etag:
                view = await asyncio.to_thread(view.with_changes, before)
            record.latest, record.rendered_at = view, started_at
            await _answer_waiters(record, view, started_at)

    def notify(self, account_id: int) -> None:
        """Refresh the watched records of an account, because its rows changed."""
        account = self._watched.get(account_id)
        for record in account.records.values() if account is not None else ():
            record.changed.set()

    def close(self) -> None:
        """Answer all waiters with the view that they have; from now on nothing waits."""
        self._is_closed = True
        for account in self._watched.values():
            for record in account.records.values():
                for future in record.waiters:
                    future.cancel()


async def _answer_waiters(record: WatchedRecord, outcome: RenderedView | Exception, started_at: float) -> None:
    """Answer the waiters to whom the outcome is new, a few at a time; the others go on waiting.

    A waiter that came after rendering began may have a newer view, and waits for the next rendering.
    """
    etag = outcome.etag if isinstance(outcome, RenderedView) else None
    outdated = iter(
        [future for future, waiter in record.waiters.items() if waiter.etag != etag and waiter.since <= started_at]
    )
    while batch := list(islice(outdated, ANSWERS_PER_BATCH)):
        for future in batch:
            if future.done():
                continue
            if isinstance(outcome, RenderedView):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)
        await asyncio.sleep(BATCH_PAUSE_SECONDS)


def _retrieve_exception(task: asyncio.Task[RenderedView]) -> None:
    """Retrieve the exception of a rendering that nobody awaits any more, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
