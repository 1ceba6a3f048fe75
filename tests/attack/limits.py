"""Attacks on request limits: headers, sign-ins, proxies, logs of refusals."""

from __future__ import annotations

import hashlib
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from runtime.redis_client import shared_client as redis_client
from runtime.settings import Settings, settings
from tests.attack.evidence import Evidence
from tests.attack.site import Site, Visitor, events, new_address
from tests.chaos import ROOT
from tests.support.serving import wait_until

HEAD_BYTES, STEP_BYTES = 4 * 1024 * 1024, 64 * 1024
HEADER_SECONDS = 20.0
ATTEMPTS = 14
READY_CALLS, MOST_READY_MILLISECONDS = 100, 4.0
DEPLOY = ROOT / "docs" / "deploy"


def _connect(site: Site) -> socket.socket:
    parts = urlsplit(site.url)
    line = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5)
    line.sendall(b"GET /healthz HTTP/1.1\r\nHost: patina\r\n")
    return line


def endless_headers_are_refused(site: Site) -> Evidence:
    """Send endless request headers to the web process: one of megabytes, many headers, and a slow one."""
    evidence = Evidence()
    slow = _connect(site)
    started = time.monotonic()
    for name, piece in (("one header", b"a" * STEP_BYTES), ("many headers", b"X-A: b\r\n" * (STEP_BYTES // 8))):
        sent_bytes = _bytes_taken(site, piece, b"X-A: " if name == "one header" else b"")
        evidence.expect(sent_bytes < HEAD_BYTES, f"a head of {name} was taken up to {sent_bytes // 1024} KiB")
    slow.settimeout(max(0.1, HEADER_SECONDS - (time.monotonic() - started)))
    try:
        slow.recv(1_000)
        evidence.expect(True, f"an unfinished head was ended after {time.monotonic() - started:.0f} s")
    except TimeoutError:
        evidence.expect(False, f"an unfinished head is kept after {HEADER_SECONDS:.0f} s")
    finally:
        slow.close()
    return evidence


def _bytes_taken(site: Site, piece: bytes, first: bytes) -> int:
    """The bytes of a header that are accepted before the connection ends or is answered."""
    sent_bytes = 0
    with _connect(site) as line:
        try:
            line.sendall(first)
            while sent_bytes < HEAD_BYTES:
                line.sendall(piece)
                sent_bytes += len(piece)
                line.settimeout(0.02)
                try:
                    line.recv(1_000)
                    return sent_bytes
                except TimeoutError:
                    line.settimeout(5)
        except OSError:
            pass
    return sent_bytes


def _try(site: Site, forwarded: str = "", *, address: str = "", email: str = "nobody@stranger.test") -> int:
    """Sign in with a wrong key; returns the status."""
    visitor = Visitor(site, address)
    if forwarded:
        visitor.http.headers["x-forwarded-for"] = forwarded
    visitor.open("/connect")
    return visitor.send("/connect", key="wrong", email=email, follow=False).status_code


def wrong_attempts_do_not_lock_out_admins(site: Site) -> Evidence:
    """Use up the sign-in attempts of an address, a network, and an admin's name; forge client addresses."""
    evidence, tenant = Evidence(), site.victim
    is_supported = "trusted_proxies" in Settings.model_fields
    evidence.expect(
        is_supported, "a setting says which proxies are trusted", "no setting says which proxies are trusted"
    )
    for path in (DEPLOY / "compose.yaml", ROOT / "docs" / "deploy.md"):
        is_set = "TRUSTED_PROXIES" in path.read_text()
        evidence.expect(is_set, f"{path.name} sets TRUSTED_PROXIES", f"{path.name} does not set TRUSTED_PROXIES")
    for _ in range(ATTEMPTS):
        last = _try(site, email=tenant.email)
    admin = Visitor(site)
    admin.sign_in(tenant.copper_key, tenant.email)
    status = admin.open("/status").status_code
    inside = "/connect" not in str(admin.page.url if admin.page else "/connect")
    evidence.expect(
        status == 200 and inside, f"after {ATTEMPTS} wrong tries in an admin's name ({last}), the admin: {status}"
    )
    for description, pattern, sender in (
        ("the addresses of one IPv6 /64", "2001:db8:1:2::{}", "127.0.0.1"),
        ("addresses that a client claims for itself", "198.51.100.{}", new_address()),
    ):
        is_counted = _is_counted(site, pattern, sender)
        evidence.expect(
            is_counted, f"{description} count as one", f"{ATTEMPTS} tries from {description} were all taken"
        )
    return evidence


def _is_counted(site: Site, pattern: str, sender: str) -> bool:
    """Whether attempts with ever new forged addresses are refused in the end."""
    statuses = [
        _try(site, pattern.format(number + 1), address=sender, email=f"u{number}@x.test") for number in range(ATTEMPTS)
    ]
    return 429 in statuses


def foreign_host_is_not_echoed(site: Site) -> Evidence:
    """Request redirecting paths with a forged host name, directly and through nginx."""
    evidence = Evidence()
    for url in filter(None, (site.url, site.proxy, site.plain_proxy)):
        with site.client(url=url) as client:
            for path in ("/connect/", "/settings/", "/"):
                try:
                    response = client.get(path, headers={"host": "evil.example"})
                except httpx.TransportError:
                    continue
                target = response.headers.get("location", "")
                if "evil.example" in target:
                    evidence.expect(False, f"{path} redirects to {target}")
    evidence.expect(True, "no redirect names the host that was asked for")
    return evidence


def readiness_is_cheap(site: Site) -> Evidence:
    """Request readiness a hundred times, and through nginx."""
    evidence, process = Evidence(), site.web_process
    assert process is not None
    with site.client() as client:
        client.get("/readyz")
        spent = sum(process.cpu_times()[:2])
        for _ in range(READY_CALLS):
            client.get("/readyz")
        milliseconds = 1_000 * (sum(process.cpu_times()[:2]) - spent) / READY_CALLS
    evidence.expect(milliseconds < MOST_READY_MILLISECONDS, f"a look at /readyz takes {milliseconds:.1f} ms of CPU")
    if site.proxy:
        with site.through_nginx() as client:
            status = client.get("/readyz").status_code
        evidence.expect(status == 404, f"nginx answers /readyz with {status}")
    return evidence


def refusals_are_logged(site: Site) -> Evidence:
    """Cause five types of refusals; each must be logged with path, reason and source."""
    evidence, before = Evidence(), len(site.log())
    refused: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/people/1/invoices", {"headers": {"authorization": "Bearer pat_unknown_key_of_nobody"}}),
        ("POST", "/webhooks/xero", {"content": b"{}", "headers": {"x-xero-signature": "forged"}}),
        ("POST", "/webhooks/copper/no-such-path", {"content": b"{}"}),
        ("GET", "/v1/invoices.csv", {"headers": site.victim.key_headers}),
        ("POST", "/connect", {"data": {"csrf": "forged", "key": "k", "email": "e@x.test"}}),
    ]
    for method, path, headers in refused:
        with site.client() as client:
            client.request(method, path, **headers)
    _try(site)
    expected = ("/v1/", "/webhooks/xero", "/webhooks/copper", "/connect")

    def missing() -> list[str]:
        logged = [line for line in events(site.log()[before:]) if "refused" in str(line.get("event", ""))]
        routes = " ".join(str(line.get("route", "")) for line in logged if line.get("reason") and line.get("address"))
        return [route for route in expected if route not in routes]

    try:
        wait_until(lambda: not missing(), seconds=5, description="lines about refusals")
    except AssertionError:
        evidence.expect(False, f"no line tells of what was refused at {', '.join(missing())}")
    evidence.expect(True, "each refusal left a line with route, reason and address")
    lines = [line for line in site.log()[before:].splitlines() if "127.9." in line]
    evidence.expect(not lines, f"{len(lines)} lines name an address in the clear")
    return evidence


def client_addresses_are_not_reversible(site: Site) -> Evidence:
    """Try to sign in, then search Redis for anything that can be computed from the address alone."""
    evidence, address = Evidence(), new_address()
    _try(site, address=address)
    with site.client(address) as client:
        client.get("/panel/signin", params={"challenge": "c" * 43})
    guesses = {address, *(hashlib.new(name, address.encode()).hexdigest()[:12] for name in ("sha256", "sha1", "md5"))}
    keys = [key.decode(errors="replace") for key in redis_client().scan_iter("*", count=1_000)]
    named = settings().redis_namespace
    guessed = [key for key in keys if any(guess in key for guess in guesses)]
    evidence.expect(
        not guessed, f"{len(guessed)} of {len(keys)} keys of {named} can be computed from the address alone"
    )
    return evidence
