"""What a request's head may be: bounded in size, lines and number, whatever stands before the web process."""

from __future__ import annotations

import json
import socket

import pytest
from prometheus_client import REGISTRY

from runtime import logs
from runtime.settings import override
from tests.serving import wait_until
from tests.world import World
from web.refusals import Reason


def refused(reason: Reason) -> float:
    return REGISTRY.get_sample_value("patina_refused_total", {"reason": reason.value}) or 0.0


def lines(said: str, event: str) -> list[dict[str, object]]:
    read = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [line for line in read if line["event"] == event]


def raw(world: World, *pieces: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", world.web.base_url.port or 0), timeout=30) as line:
        answer = b""
        try:
            for piece in pieces:
                line.sendall(piece)
            while got := line.recv(65_536):
                answer += got
        except ConnectionError:
            return answer
        return answer


START = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"


LARGE_HEADS: tuple[list[bytes], ...] = (
    [START + b"x: " + b"y" * 70_000 + b"\r\n\r\n"],
    [START, *[b"x: " + b"y" * 1_000 + b"\r\n"] * 90],
    [START, b"x: ", *[b"y" * 30_000] * 4],
    [b"GET /", *[b"y" * 30_000] * 4],
    [START + b"x: y\r\n" * 101 + b"\r\n"],
    [START, *[b"x: y\r\n"] * 20_000],
)


def test_a_head_that_is_too_large_is_431(world: World) -> None:
    """The answer may be lost where the sender went on sending."""
    for number, pieces in enumerate(LARGE_HEADS):
        before = refused(Reason.SIZE)
        answer = raw(world, *pieces)
        assert answer.startswith(b"HTTP/1.1 431 ") or not answer, (number, answer)
        assert b"nosniff" in answer or not answer
        wait_until(lambda before=before: refused(Reason.SIZE) > before, what=f"the refusal of head {number}")


def test_a_head_of_64_kib_in_ninety_lines_is_served(world: World) -> None:
    head = START + b"".join(b"x-%d: %s\r\n" % (number, b"y" * 690) for number in range(88)) + b"\r\n"
    assert 60_000 < len(head) < 65_000
    assert raw(world, head).startswith(b"HTTP/1.1 200 ")
    assert raw(world, head[:20_000], head[20_000:]).startswith(b"HTTP/1.1 200 ")


def test_a_head_after_a_large_body_on_one_connection_is_served(world: World) -> None:
    body = b"x" * 200_000
    post = b"POST /webhooks/xero HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = raw(world, post + body + START[:20], START[20:] + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"HTTP/1.1 200 " in answer


def test_nonsense_is_answered_with_guards_and_one_line_in_the_log(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    override({"LOG_FORMAT": "json", "LOG_LEVEL": "info"})
    logs.configure("web")
    before = refused(Reason.INPUT)
    capfd.readouterr()
    for _ in range(20):
        answer = raw(world, b"NONSENSE\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"default-src 'none'" in answer
    assert refused(Reason.INPUT) == before + 20
    assert len(lines(capfd.readouterr().err, "request.refused")) <= 1


def test_more_connections_than_the_process_serves_are_told_to_come_back(world: World) -> None:
    override({"WEB_CONNECTIONS": "10"})
    port = world.web.base_url.port or 0
    held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(10)]
    try:
        wait_until(lambda: raw(world, START + b"\r\n").startswith(b"HTTP/1.1 503 "))
        assert b"retry-after: 5" in raw(world, START + b"\r\n")
    finally:
        for line in held:
            line.close()
    wait_until(lambda: raw(world, START + b"\r\n").startswith(b"HTTP/1.1 200 "))
