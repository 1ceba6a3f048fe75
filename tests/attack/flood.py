"""The flood of a hostile tenant, in its own process: `python tests/attack/flood.py` with an `Order` as JSON.

It is run by its path, and imports nothing of the project, so that it is at work at once.
Everything is bounded by the order's seconds. Whoever is refused pauses for three seconds, as a flood does that wants to
get through; the last line of the output counts the responses by status.
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
RESPONSE_SECONDS = 30.0
MAX_CONCURRENT_CONNECTS = 100
HOSTILE_ADDRESS = "127.8.0.1"
LOWEST_PRIORITY = 19
CSRF = re.compile(r'name="csrf" value="([^"]*)"')
Headers = dict[str, str]


@dataclass(frozen=True)
class Order:
    """What to send: the number of concurrent requests of each type, for `seconds`.

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
    """A connection for sequential requests."""

    def __init__(self, url: str, address: str) -> None:
        self._host = urlsplit(url).hostname or ""
        self._port = urlsplit(url).port or 80
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, path: str, headers: Headers, body: bytes = b"") -> asyncio.StreamReader:
        """Send a request without reading the response."""
        if self._writer is None or self._writer.is_closing():
            opening = asyncio.open_connection(self._host, self._port, local_addr=(self._address, 0))
            self._reader, self._writer = await asyncio.wait_for(opening, RESPONSE_SECONDS)
        assert self._reader is not None
        assert self._writer is not None
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"content-length: {len(body)}")
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self._writer.drain()
        return self._reader

    async def read_response(self, reader: asyncio.StreamReader) -> tuple[int, Headers, bytes]:
        """Read the next response completely."""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), RESPONSE_SECONDS)
        first, *header_lines = head.decode("latin-1").strip().split("\r\n")
        response_headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in header_lines)
        }
        if "content-length" in response_headers:
            text = await asyncio.wait_for(reader.readexactly(int(response_headers["content-length"])), RESPONSE_SECONDS)
        elif first.split()[1] in {"204", "304"}:
            text = b""
        else:
            text = await asyncio.wait_for(reader.read(), RESPONSE_SECONDS)
            self.close()
        return int(first.split()[1]), response_headers, text

    async def ask(self, method: str, path: str, headers: Headers, body: bytes = b"") -> tuple[int, Headers, bytes]:
        """Send a request and read its response completely."""
        return await self.read_response(await self.send(method, path, headers, body))

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Flood:
    """Executes an order."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.until = time.monotonic() + order.seconds
        self.counts: Counter[str] = Counter()
        self.connecting = asyncio.Semaphore(MAX_CONCURRENT_CONNECTS)
        self.tag = ""

    async def run(self) -> None:
        """Run all requests concurrently, and end in time."""
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
            self.counts[f"{name} {status or 'none'}"] += 1
            if status not in {200, 303, 304}:
                line.close()
                await asyncio.sleep(PAUSE_SECONDS)

    async def _learn_tag(self) -> None:
        """Fetch the record's ETag once, so that every connection can long poll for the next change."""
        line = Line(self.order.url, HOSTILE_ADDRESS)
        with suppress(OSError, EOFError, TimeoutError):
            _, response_headers, _text = await line.ask("GET", self.order.panel_path, self.order.panel_headers)
            self.tag = response_headers.get("etag", "")
        line.close()

    async def _hold(self, line: Line, _: int) -> int:
        """Long poll the record, like an open panel."""
        headers = {**self.order.panel_headers, "prefer": "wait=20", "if-none-match": self.tag}
        async with self.connecting:
            reader = await line.send("GET", self.order.panel_path, headers)
        status, response_headers, _text = await line.read_response(reader)
        self.tag = response_headers.get("etag", self.tag)
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
        """Start a download without reading it; start again when the server ends it."""
        line = Line(self.order.url, HOSTILE_ADDRESS)
        while time.monotonic() < self.until:
            with suppress(OSError, EOFError, TimeoutError):
                reader = await line.send("GET", self.order.export_path, self._closing())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), RESPONSE_SECONDS)
                status = head.split()[1].decode()
                self.counts[f"unread {status}"] += 1
                if status == "200":
                    await asyncio.sleep(max(0.0, self.until - time.monotonic()))
            line.close()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _sign_in(self, line: Line, number: int) -> int:
        """Try to sign in with an invalid key, as an anonymous visitor."""
        _, response_headers, text = await line.ask("GET", "/connect", {"accept": "text/html"})
        match = CSRF.search(text.decode(errors="replace"))
        form = {"csrf": match[1] if match else "", "key": f"made-up-{number}", "email": f"user{number}@stranger.test"}
        cookie = response_headers.get("set-cookie", "").partition(";")[0]
        headers = {"cookie": cookie, "content-type": "application/x-www-form-urlencoded"}
        status, _headers, _text = await line.ask("POST", "/connect", headers, urlencode(form).encode())
        return status

    async def _made_up_keys(self) -> None:
        """Request a record with a different invalid key each time, at a fixed rate."""
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
                        status, _headers, _text = await line.read_response(reader)
                        self.counts[f"key {status}"] += 1

        await asyncio.gather(*(send(number) for number in range(len(lines))))


@contextmanager
def flooding(order: Order) -> Iterator[subprocess.Popen[bytes]]:
    """Run a flood process until the block ends."""
    arguments = [sys.executable, __file__, json.dumps(asdict(order))]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def carry_out(order: Order) -> dict[str, int]:
    """Execute an order to its end; returns the number of responses by request type and status."""
    with flooding(order) as process:
        output, _ = process.communicate(timeout=order.seconds + 60)
    counted: dict[str, int] = json.loads(output.decode().strip().splitlines()[-1])
    return counted


def yield_processors() -> None:
    """Use only idle processor time, because a real attacker has their own machines."""
    os.nice(LOWEST_PRIORITY)
    # With autogroup scheduling, a process's priority only counts within its session.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(LOWEST_PRIORITY))


def main() -> int:
    """Execute the order given on the command line."""
    yield_processors()
    flood = Flood(Order(**json.loads(sys.argv[1])))
    asyncio.run(flood.run())
    print(json.dumps(flood.counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
