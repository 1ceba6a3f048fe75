"""Limits on the size, the lines and the number of request headers, with and without a proxy."""

from __future__ import annotations

import json
import socket

import pytest

from runtime import logs
from runtime.settings import override_settings
from tests.support.refusals import refused
from tests.support.serving import wait_until
from tests.support.world import World
from web.middleware.refusals import RefusalReason


def lines(output: str, event: str) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in entries if line["event"] == event]


def raw(world: World, *pieces: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", world.web.base_url.port or 0), timeout=30) as line:
        response = b""
        try:
            for piece in pieces:
                line.sendall(piece)
            while chunk := line.recv(65_536):
                response += chunk
        except ConnectionError:
            return response
        return response


START = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"


LARGE_HEADS: tuple[list[bytes], ...] = (
    [START + b"x: " + b"y" * 70_000 + b"\r\n\r\n"],
    [START, *[b"x: " + b"y" * 1_000 + b"\r\n"] * 90],
    [START, b"x: ", *[b"y" * 30_000] * 4],
    [b"GET /", *[b"y" * 30_000] * 4],
    [START + b"x: y\r\n" * 101 + b"\r\n"],
    [START, *[b"x: y\r\n"] * 20_000],
)


def test_too_large_request_headers_are_431(world: World) -> None:
    """The response may be lost if the client is still sending."""
    for number, pieces in enumerate(LARGE_HEADS):
        before = refused(RefusalReason.SIZE)
        response = raw(world, *pieces)
        assert response.startswith(b"HTTP/1.1 431 ") or not response, (number, response)
        assert b"nosniff" in response or not response
        wait_until(
            lambda before=before: refused(RefusalReason.SIZE) > before, description=f"the refusal of head {number}"
        )


def test_headers_of_64_kib_in_ninety_lines_are_served(world: World) -> None:
    head = START + b"".join(b"x-%d: %s\r\n" % (number, b"y" * 690) for number in range(88)) + b"\r\n"
    assert 60_000 < len(head) < 65_000
    assert raw(world, head).startswith(b"HTTP/1.1 200 ")
    assert raw(world, head[:20_000], head[20_000:]).startswith(b"HTTP/1.1 200 ")


def test_headers_after_a_large_body_on_the_same_connection_are_served(world: World) -> None:
    body = b"x" * 200_000
    post = b"POST /webhooks/xero HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    response = raw(world, post + body + START[:20], START[20:] + b"\r\n")
    assert response.startswith(b"HTTP/1.1 401 ")
    assert b"HTTP/1.1 200 " in response


def test_an_invalid_request_gets_security_headers_and_one_line_in_the_log(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    override_settings({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    logs.configure("web")
    before = refused(RefusalReason.INPUT)
    capfd.readouterr()
    for _ in range(20):
        response = raw(world, b"NONSENSE\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 400 ")
        assert b"default-src 'none'" in response
    assert refused(RefusalReason.INPUT) == before + 20
    assert len(lines(capfd.readouterr().err, "request.refused")) <= 1


def test_connections_beyond_the_limit_are_answered_503_with_retry_after(world: World) -> None:
    override_settings({"WEB_MAX_CONNECTIONS": "10"})
    port = world.web.base_url.port or 0
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(10)]
    try:
        wait_until(lambda: raw(world, START + b"\r\n").startswith(b"HTTP/1.1 503 "))
        assert b"retry-after: 5" in raw(world, START + b"\r\n")
    finally:
        for line in sockets:
            line.close()
    wait_until(lambda: raw(world, START + b"\r\n").startswith(b"HTTP/1.1 200 "))
