"""HTTP load from one process: connections with one request at a time each, as fast as answered or at a rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.figures import quantile

SECONDS = 3.0
CONNECTIONS = 16


@dataclass
class Load:
    """What was answered: seconds of each request, and how many were not a 200."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.took) / self.seconds

    def at(self, share: float) -> float:
        """Milliseconds within which `share` of the requests were answered."""
        return 1_000 * quantile(self.took, share)


class _Line(asyncio.Protocol):
    """A connection that sends the next request when the last one was answered, and it is time."""

    def __init__(self, requests: Callable[[], bytes], until: float, pause: float, load: Load) -> None:
        self._requests, self._until, self._pause, self._load = requests, until, pause, load
        self._buffer = bytearray()
        self._began = 0.0
        self._due = time.perf_counter()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        if time.perf_counter() >= self._until:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        # At a rate, a request counts from when it was due: a server that is late must not slow its load down.
        self._began = max(self._due, self._began) if self._pause else time.perf_counter()
        self._transport.write(self._requests())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        del self._buffer[: end + 4 + length]
        now = time.perf_counter()
        self._load.took.append(now - self._began)
        self._load.failed += not head.startswith(b"http/1.1 200")
        if not self._pause:
            self._send()
            return
        self._due += self._pause
        asyncio.get_running_loop().call_later(max(self._due - now, 0.0), self._send)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _run(url: str, requests: Callable[[], bytes], seconds: float, rate: float, connections: int) -> Load:
    place, load = urlsplit(url), Load()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    pause = connections / rate if rate else 0.0
    lines: list[_Line] = []
    for number in range(connections):
        _, line = await loop.create_connection(
            lambda: _Line(requests, began + seconds, pause, load), place.hostname or "", place.port or 0
        )
        lines.append(line)
        if pause:
            await asyncio.sleep(pause / connections * (number % 2))
    await asyncio.gather(*(line.done for line in lines))
    load.seconds = time.perf_counter() - began
    return load


def run(
    url: str,
    requests: Callable[[], bytes],
    *,
    seconds: float = SECONDS,
    rate: float = 0.0,
    connections: int = CONNECTIONS,
) -> Load:
    """Put load on `url` for some seconds, at `rate` requests a second (0: as fast as they are answered)."""
    return uvloop.run(_run(url, requests, seconds, rate, connections))


def each(made: Iterator[bytes]) -> Callable[[], bytes]:
    """Requests of an endless iterator, one at a time."""
    return lambda: next(made)


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
