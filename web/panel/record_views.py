"""What panels show of records: looked at once for all who wait for the same, off the event loop, in fair turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from babel import Locale

from store.models import RecordType
from web import shown
from web.concurrency import MAX_REST, BusyError, FairLimiter
from web.pages import render

# Twice a second a record is looked at for those who follow it, however often it changes and however many they are.
BETWEEN_LOOKS = 0.5
# An answer costs the event loop about half a millisecond: between batches of them others have their turn.
ANSWERS_A_BATCH = 10
BETWEEN_BATCHES = 0.01


class ViewKey(NamedTuple):
    """All that decides what is shown: whoever has the same key sees the same."""

    account_id: int
    kind: RecordType
    record_id: int
    status: str
    limit: int | None
    language: str


@dataclass(frozen=True)
class View:
    """A record as a panel shows it: `tag` for `ETag`, the HTML, and when it was last up to date ('': not yet)."""

    tag: str
    html: str
    synced_at: str


def read(key: ViewKey) -> View:
    """Look at a record and write it down."""
    locale = Locale.parse(key.language)
    found = shown.look(key.account_id, key.kind, key.record_id, locale, status=key.status, limit=key.limit)
    html = render.text("record_part.html", record=found, locale=locale, in_panel=True)
    return View(found.tag, html, found.synced_at.isoformat() if found.synced_at else "")


class Waiter(NamedTuple):
    """What somebody who waits for a record knows of it, and since when they wait, by the event loop's clock."""

    tag: str
    since: float


@dataclass
class FollowedRecord:
    """A record that somebody waits for, and the latest look at it, with the time at which that began."""

    task: asyncio.Task[None] | None = None
    waiting: dict[asyncio.Future[View], Waiter] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    latest: View | None = None
    looked_at: float = 0.0

    def agrees_with(self, tag: str, since: float) -> bool:
        """Whether a look that began after `since` found the record as `tag` says."""
        return self.latest is not None and self.latest.tag == tag and self.looked_at > since


@dataclass
class FollowedAccount:
    """The records of an account that are followed. Those that changed are looked at one after the other."""

    records: dict[ViewKey, FollowedRecord] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class RecordViews:
    """The looks of one web process at records, shared by all who ask for the same at the same time."""

    def __init__(self, limiter: FairLimiter) -> None:
        self._limiter = limiter
        self._pending: dict[ViewKey, asyncio.Task[View]] = {}
        self._followed: dict[int, FollowedAccount] = {}
        self._is_closed = False

    async def look(self, key: ViewKey) -> View:
        """The record as it is now: by a look that begins after this call, with all who call before it begins.

        Raises `BusyError` when the account has too many looks at work.
        """
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(self._shared_look(key))
            task.add_done_callback(_note_end)
        return await asyncio.shield(task)

    async def _shared_look(self, key: ViewKey) -> View:
        try:
            async with self._limiter.place(key.account_id):
                # Whoever comes from now on may ask for what this look is too early to see.
                del self._pending[key]
                return await self._limiter.in_thread(read, key)
        except BusyError:
            del self._pending[key]
            raise

    async def follow(self, key: ViewKey, tag: str, seconds: float) -> View:
        """The record as soon as it is no longer as `tag` says; as it was last seen when that takes too long.

        Whoever follows a record does not look at it: they have it looked at, with all others who do.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[View] = loop.create_future()
        followed = self._begin(key, answer, tag)
        try:
            if not followed.agrees_with(tag, loop.time() - BETWEEN_LOOKS):
                followed.changed.set()
            if not self._is_closed:
                await asyncio.wait([answer], timeout=seconds)
            if answer.done() and not answer.cancelled():
                return answer.result()
            return followed.latest or await self.look(key)
        finally:
            self._end(key, followed, answer)

    def _begin(self, key: ViewKey, answer: asyncio.Future[View], tag: str) -> FollowedRecord:
        account = self._followed.setdefault(key.account_id, FollowedAccount())
        followed = account.records.get(key)
        if followed is None:
            followed = account.records[key] = FollowedRecord()
            followed.task = asyncio.create_task(self._keep_looking(key, account, followed))
        followed.waiting[answer] = Waiter(tag, asyncio.get_running_loop().time())
        return followed

    def _end(self, key: ViewKey, followed: FollowedRecord, answer: asyncio.Future[View]) -> None:
        del followed.waiting[answer]
        if answer.done() and not answer.cancelled():
            answer.exception()
        if not followed.waiting:
            # Whoever was answered asks again at once.
            asyncio.get_running_loop().call_later(BETWEEN_LOOKS, self._drop, key, followed)

    def _drop(self, key: ViewKey, followed: FollowedRecord) -> None:
        account = self._followed.get(key.account_id)
        if followed.waiting or account is None or account.records.get(key) is not followed:
            return
        assert followed.task is not None
        followed.task.cancel()
        del account.records[key]
        if not account.records:
            del self._followed[key.account_id]

    async def _keep_looking(self, key: ViewKey, account: FollowedAccount, followed: FollowedRecord) -> None:
        """Look whenever the account's rows changed, and answer those who know the record as it no longer is."""
        loop = asyncio.get_running_loop()
        while True:
            await followed.changed.wait()
            async with account.turn:
                followed.changed.clear()
                began = loop.time()
                await self._look_for_all(key, followed, began)
                # An account's panels take half of a thread's time at most, however many records they show.
                await asyncio.sleep(min(loop.time() - began, MAX_REST))
            await asyncio.sleep(max(began + BETWEEN_LOOKS - loop.time(), 0))

    async def _look_for_all(self, key: ViewKey, followed: FollowedRecord, began: float) -> None:
        try:
            view = await self.look(key)
        except BusyError:
            followed.changed.set()
        except Exception as error:
            # Whoever waits is told, whatever it is; the next change is looked at all the same.
            await _answer(followed, error, began)
        else:
            followed.latest, followed.looked_at = view, began
            await _answer(followed, view, began)

    def notify(self, account_id: int) -> None:
        """The account's rows changed."""
        account = self._followed.get(account_id)
        for followed in account.records.values() if account is not None else ():
            followed.changed.set()

    def close(self) -> None:
        """Let everybody go with what they know, and nobody wait from now on."""
        self._is_closed = True
        for account in self._followed.values():
            for followed in account.records.values():
                for answer in followed.waiting:
                    answer.cancel()


async def _answer(followed: FollowedRecord, outcome: View | Exception, began: float) -> None:
    """Answer those whom the outcome of a look is news for, a few at a time; the others go on waiting, unwoken.

    Whoever came after the look `began` may know better, and waits for the next one.
    """
    known = outcome.tag if isinstance(outcome, View) else None
    due = iter([answer for answer, (tag, since) in followed.waiting.items() if tag != known and since <= began])
    while batch := list(islice(due, ANSWERS_A_BATCH)):
        for answer in batch:
            if answer.done():
                continue
            if isinstance(outcome, View):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)
        await asyncio.sleep(BETWEEN_BATCHES)


def _note_end(look: asyncio.Task[View]) -> None:
    """Whatever became of a look that nobody waits for any more, its error was looked at."""
    if not look.cancelled():
        look.exception()
