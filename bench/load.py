"""HTTP load from one process: connections with one request at a time each, at full speed or at a given rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.figures import quantile

SECONDS = 3.0
CONNECTIONS = 16


@dataclass
class Load:
    """The result of a load: the latency of each request in seconds, and how many responses were not a 200."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Responses per second."""
        return len(self.latencies) / self.seconds

    def at(self, share: float) -> float:
        """The latency in milliseconds that `share` of the requests did not exceed."""
        return 1_000 * quantile(self.latencies, share)


class _LoadConnection(asyncio.Protocol):
    """A connection that sends the next request after the response to the previous one, not before it is due."""

    def __init__(self, next_request: Callable[[], bytes], deadline: float, pause: float, load: Load) -> None:
        self._next_request, self._deadline, self._pause, self._load = next_request, deadline, pause, load
        self._buffer = bytearray()
        self._started_at = 0.0
        self._due_at = time.perf_counter()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        if time.perf_counter() >= self._deadline:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        # At a given rate, latency counts from when the request was due, so that a slow server does not reduce the load.
        self._started_at = max(self._due_at, self._started_at) if self._pause else time.perf_counter()
        self._transport.write(self._next_request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        index = head.find(b"content-length:")
        length = int(head[index + 15 :].split(b"\r\n", 1)[0]) if index >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        del self._buffer[: end + 4 + length]
        now = time.perf_counter()
        self._load.latencies.append(now - self._started_at)
        self._load.failed += not head.startswith(b"http/1.1 200")
        if not self._pause:
            self._send()
            return
        self._due_at += self._pause
        asyncio.get_running_loop().call_later(max(self._due_at - now, 0.0), self._send)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _run(
    urls: Sequence[str], next_request: Callable[[], bytes], seconds: float, rate: float, connections: int
) -> Load:
    addresses, load = [urlsplit(url) for url in urls], Load()
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    pause = connections / rate if rate else 0.0
    load_connections: list[_LoadConnection] = []
    for number in range(connections):
        address = addresses[number % len(addresses)]
        _, load_connection = await loop.create_connection(
            lambda: _LoadConnection(next_request, started + seconds, pause, load),
            address.hostname or "",
            address.port or 0,
        )
        load_connections.append(load_connection)
        if pause:
            await asyncio.sleep(pause / connections * (number % 2))
    await asyncio.gather(*(load_connection.done for load_connection in load_connections))
    load.seconds = time.perf_counter() - started
    return load


def run(
    url: str | Sequence[str],
    next_request: Callable[[], bytes],
    *,
    seconds: float = SECONDS,
    rate: float = 0.0,
    connections: int = CONNECTIONS,
) -> Load:
    """Put load on `url` for some seconds, at `rate` requests per second (0: at full speed).

    The connections are spread over several URLs. Raises `AssertionError` if a response is not 200, because a refusal
    would count as a quick response.
    """
    urls = [url] if isinstance(url, str) else url
    load = uvloop.run(_run(urls, next_request, seconds, rate, connections))
    if load.failed:
        raise AssertionError(f"{load.failed} of {len(load.latencies)} requests failed")
    return load


def keep_rate(per_second: float, deadline: float) -> Iterator[int]:
    """Numbers from 0, one each time that one is due at this rate, until a moment of the monotonic clock."""
    started, number = time.monotonic(), 0
    while (due := started + number / per_second) < deadline:
        # Waits until the next one is due: the rate is what is measured at.
        time.sleep(max(due - time.monotonic(), 0))
        yield number
        number += 1


def from_iterator(requests: Iterator[bytes]) -> Callable[[], bytes]:
    """A function that returns the next request of an endless iterator."""
    return lambda: next(requests)


def build_request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """An HTTP/1.1 request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
