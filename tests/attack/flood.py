"""What a hostile tenant sends, from a process of its own: `python tests/attack/flood.py` with one `Order` as JSON.

It is run by its path, and imports nothing of the project, so that it is at work at once.
Everything is bounded by the order's seconds. Whoever is refused pauses for three seconds, as a flood does that wants to
get through; the last line of the output counts the answers by status.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

PAUSE_SECONDS = 3.0
ANSWER_SECONDS = 30.0
CONNECTING_AT_ONCE = 100
HOSTILE_ADDRESS = "127.8.0.1"
LOWEST_PRIORITY = 19
CSRF = re.compile(r'name="csrf" value="([^"]*)"')
Headers = dict[str, str]


@dataclass(frozen=True)
class Order:
    """What to send: how many of each at once, until `seconds` are over.

    `panel_path` is held by `held` connections with `panel_headers`; `pages` and `exports` go with `session_headers`,
    of the exports `unread` are never read; `sign_ins` come from as many addresses; `keys` are sent a second,
    `keys_together` in one piece.
    """

    url: str
    seconds: float
    held: int = 0
    panel_path: str = ""
    panel_headers: Headers = field(default_factory=dict)
    pages: int = 0
    page_path: str = "/unmatched"
    exports: int = 0
    unread: int = 0
    export_path: str = "/export/invoices.csv"
    session_headers: Headers = field(default_factory=dict)
    sign_ins: int = 0
    keys: int = 0
    keys_together: int = 1


class Line:
    """One connection that carries one request after another."""

    def __init__(self, url: str, address: str) -> None:
        self._host = urlsplit(url).hostname or ""
        self._port = urlsplit(url).port or 80
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, path: str, headers: Headers, body: bytes = b"") -> asyncio.StreamReader:
        """Send a request; the answer is yet to be read."""
        if self._writer is None or self._writer.is_closing():
            opening = asyncio.open_connection(self._host, self._port, local_addr=(self._address, 0))
            self._reader, self._writer = await asyncio.wait_for(opening, ANSWER_SECONDS)
        assert self._reader is not None
        assert self._writer is not None
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"content-length: {len(body)}")
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self._writer.drain()
        return self._reader

    async def answer(self, reader: asyncio.StreamReader) -> tuple[int, Headers, bytes]:
        """Read all of the next answer."""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_SECONDS)
        first, *rest = head.decode("latin-1").strip().split("\r\n")
        answered = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        if "content-length" in answered:
            text = await asyncio.wait_for(reader.readexactly(int(answered["content-length"])), ANSWER_SECONDS)
        elif first.split()[1] in {"204", "304"}:
            text = b""
        else:
            text = await asyncio.wait_for(reader.read(), ANSWER_SECONDS)
            self.close()
        return int(first.split()[1]), answered, text

    async def ask(self, method: str, path: str, headers: Headers, body: bytes = b"") -> tuple[int, Headers, bytes]:
        """Send a request and read all of its answer."""
        return await self.answer(await self.send(method, path, headers, body))

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Flood:
    """One order, carried out."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.until = time.monotonic() + order.seconds
        self.answers: Counter[str] = Counter()
        self.connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self.tag = ""

    async def run(self) -> None:
        """Do all of it at once, and end in time."""
        order = self.order
        if order.held:
            await self._learn_tag()
        works = [self._again(self._hold, number) for number in range(order.held)]
        works += [self._again(self._page, number) for number in range(order.pages)]
        works += [self._again(self._export, number) for number in range(order.exports - order.unread)]
        works += [self._leave_unread() for _ in range(order.unread)]
        works += [self._again(self._sign_in, number) for number in range(order.sign_ins)]
        works += [self._made_up_keys()] if order.keys else []
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*works, return_exceptions=True), order.seconds)

    async def _again(self, work: Callable[[Line, int], Awaitable[int]], number: int) -> None:
        name = work.__name__.strip("_")
        address = f"127.8.1.{number % 250 + 1}" if work == self._sign_in else HOSTILE_ADDRESS
        line = Line(self.order.url, address)
        while time.monotonic() < self.until:
            status = 0
            with suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                status = await work(line, number)
            self.answers[f"{name} {status or 'none'}"] += 1
            if status not in {200, 303, 304}:
                line.close()
                await asyncio.sleep(PAUSE_SECONDS)

    async def _learn_tag(self) -> None:
        """See once what the record shows, so that every connection can wait for what comes next."""
        line = Line(self.order.url, HOSTILE_ADDRESS)
        with suppress(OSError, EOFError, TimeoutError):
            _, answered, _text = await line.ask("GET", self.order.panel_path, self.order.panel_headers)
            self.tag = answered.get("etag", "")
        line.close()

    async def _hold(self, line: Line, _: int) -> int:
        """Have an answer held back until the record changes, as an open panel does."""
        held = {**self.order.panel_headers, "prefer": "wait=20", "if-none-match": self.tag}
        async with self.connecting:
            reader = await line.send("GET", self.order.panel_path, held)
        status, answered, _text = await line.answer(reader)
        self.tag = answered.get("etag", self.tag)
        return status

    async def _page(self, line: Line, _: int) -> int:
        status, _headers, _text = await line.ask("GET", self.order.page_path, self._closing())
        return status

    async def _export(self, line: Line, _: int) -> int:
        status, _headers, _text = await line.ask("GET", self.order.export_path, self._closing())
        return status

    def _closing(self) -> Headers:
        return {**self.order.session_headers, "connection": "close"}

    async def _leave_unread(self) -> None:
        """Begin a download and read nothing of it; begin again when it was ended."""
        line = Line(self.order.url, HOSTILE_ADDRESS)
        while time.monotonic() < self.until:
            with suppress(OSError, EOFError, TimeoutError):
                reader = await line.send("GET", self.order.export_path, self._closing())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_SECONDS)
                status = head.split()[1].decode()
                self.answers[f"unread {status}"] += 1
                if status == "200":
                    await asyncio.sleep(max(0.0, self.until - time.monotonic()))
            line.close()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _sign_in(self, line: Line, number: int) -> int:
        """Try to sign in with a made-up key, as an anonymous visitor."""
        _, answered, text = await line.ask("GET", "/connect", {"accept": "text/html"})
        found = CSRF.search(text.decode(errors="replace"))
        form = {"csrf": found[1] if found else "", "key": f"made-up-{number}", "email": f"user{number}@stranger.test"}
        cookie = answered.get("set-cookie", "").partition(";")[0]
        headers = {"cookie": cookie, "content-type": "application/x-www-form-urlencoded"}
        status, _headers, _text = await line.ask("POST", "/connect", headers, urlencode(form).encode())
        return status

    async def _made_up_keys(self) -> None:
        """Ask for a record with another key each time, at a rate."""
        lines = [Line(self.order.url, HOSTILE_ADDRESS) for _ in range(16)]
        due = time.monotonic()

        async def send(number: int) -> None:
            nonlocal due
            count, line = 0, lines[number]
            while time.monotonic() < self.until:
                due += self.order.keys_together / self.order.keys
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                with suppress(OSError, EOFError, TimeoutError):
                    for _ in range(self.order.keys_together):
                        count += 1
                        headers = {"authorization": f"Bearer pat_made_up_{number}_{count}"}
                        reader = await line.send("GET", "/v1/people/1/invoices", headers)
                    for _ in range(self.order.keys_together):
                        status, _headers, _text = await line.answer(reader)
                        self.answers[f"key {status}"] += 1

        await asyncio.gather(*(send(number) for number in range(len(lines))))


@contextmanager
def flooding(order: Order) -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries out the order while the block lasts."""
    words = [sys.executable, __file__, json.dumps(asdict(order))]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def carry_out(order: Order) -> dict[str, int]:
    """Carry out an order to its end; returns the answers, counted by what was sent and the status."""
    with flooding(order) as process:
        output, _ = process.communicate(timeout=order.seconds + 60)
    counted: dict[str, int] = json.loads(output.decode().strip().splitlines()[-1])
    return counted


def yield_processors() -> None:
    """Take only the processor time that nobody else wants: a real attacker computes on machines of its own."""
    os.nice(LOWEST_PRIORITY)
    # Where Linux schedules sessions as groups, a process's own priority counts only within its session.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(LOWEST_PRIORITY))


def main() -> int:
    """Carry out the order of the command line."""
    yield_processors()
    flood = Flood(Order(**json.loads(sys.argv[1])))
    asyncio.run(flood.run())
    print(json.dumps(flood.answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
