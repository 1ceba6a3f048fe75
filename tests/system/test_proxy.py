"""The documented configuration in a real nginx: Xero's webhook rules hold, and slow clients are timed out."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runtime.settings import override_settings
from tests.chaos import free_port
from tests.integration.test_webhook_endpoints import delivery, event, inbox_rows, sign
from tests.support.processes import Processes, patina, terminate
from tests.support.serving import responds, wait_until
from tests.support.world import World

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
HOST = "patina.example.com"
CONFIGURATION = Path(__file__).resolve().parents[2] / "docs" / "deploy" / "nginx.conf"
needs_nginx = pytest.mark.skipif(NGINX is None, reason="needs nginx (Debian: nginx-light)")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "patina.example.com")])
    command = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "site.pem", folder / "site.key"
    pem.write_bytes(command.public_bytes(serialization.Encoding.PEM))
    unsealed = serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unsealed))
    return pem, secret


@dataclass
class Proxy:
    """nginx with TLS in front of two web processes, of which the second is down until a test starts it."""

    port: int
    plain: int
    second: int
    log: Path
    client: httpx.Client

    def post(self, body: bytes) -> httpx.Response:
        headers = {"x-xero-signature": sign(body), "content-type": "application/json"}
        return self.client.post("/webhooks/xero", content=body, headers=headers)


def run_nginx(folder: Path, first: int, second: int) -> tuple[subprocess.Popen[bytes], int, int]:
    """The documented configuration with this test's ports, paths and certificate."""
    port, plain = free_port(), free_port()
    pem, key = certificate(folder)
    text = CONFIGURATION.read_text()
    for was, now in {
        "    # server 127.0.0.1:8701": "    server 127.0.0.1:8701",
        "127.0.0.1:8700": f"127.0.0.1:{first}",
        "127.0.0.1:8701": f"127.0.0.1:{second}",
        "listen 80 ": f"listen 127.0.0.1:{plain} ",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/ssl/patina.example.com.pem": str(pem),
        "/etc/ssl/patina.example.com.key": str(key),
        "/var/log/nginx/": f"{folder}/",
    }.items():
        assert was in text, f"{was} is not in {CONFIGURATION.name} any more"
        text = text.replace(was, now)
    (folder / "site.conf").write_text(text)
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off; pid {folder}/nginx.pid; error_log {folder}/start.log;\n"
        f"events {{ worker_connections 512; }}\nhttp {{ {places} include {folder}/site.conf; }}\n"
    )
    return subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]), port, plain


@pytest.fixture
def proxy(world: World, tmp_path: Path) -> Iterator[Proxy]:
    """nginx in front of this test's web process."""
    second = free_port()
    override_settings({"ALLOWED_HOSTS": HOST})
    process, port, plain = run_nginx(tmp_path, world.web.base_url.port or 0, second)
    with httpx.Client(
        base_url=f"https://127.0.0.1:{port}", verify=False, timeout=10, trust_env=False, headers={"host": HOST}
    ) as client:

        def is_up() -> bool:
            try:
                return client.get("/healthz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_up, description="nginx")
        yield Proxy(port, plain, second, tmp_path / "patina.log", client)
    terminate([process])


@needs_nginx
def test_xeros_webhook_rules_are_met_through_nginx(world: World, proxy: Proxy) -> None:
    before = len(inbox_rows())
    body = delivery(event(world.tenants[0]))
    started = time.monotonic()
    response = proxy.post(body)
    assert time.monotonic() - started < 5
    assert (response.status_code, response.content) == (200, b"")
    assert "set-cookie" not in response.headers
    assert len(inbox_rows()) == before + 1
    wrong = proxy.client.post("/webhooks/xero", content=body, headers={"x-xero-signature": "no"})
    assert (wrong.status_code, wrong.content) == (401, b"")
    large = proxy.post(b"x" * (1024 * 1024 + 1))
    assert large.status_code == 413
    assert len(inbox_rows()) == before + 1


@needs_nginx
def test_an_unavailable_web_process_loses_no_event_and_no_read(
    world: World, proxy: Proxy, processes: Processes
) -> None:
    """The second process is down at first; later the first one hangs."""
    person = world.person("ann@acme.test")
    world.settle()
    headers = {"Authorization": f"Bearer {world.key}"}
    for number in range(20):
        body = delivery(event(world.tenants[0], resourceId=f"11111111-1111-4111-8111-{number:012}"))
        assert proxy.post(body).status_code == 200
        assert proxy.client.get(f"/v1/people/{person}/invoices", headers=headers).status_code == 200
    processes.append(patina("web", environment={"PORT": str(proxy.second)}))
    straight = f"http://127.0.0.1:{proxy.second}/healthz"
    wait_until(lambda: responds(straight), description="the second web process")
    processes[-1].send_signal(19)
    try:
        for number in range(4):
            body = delivery(event(world.tenants[0], resourceId=f"22222222-1111-4111-8111-{number:012}"))
            started = time.monotonic()
            assert proxy.post(body).status_code == 200, "a process that hangs is passed by"
            assert time.monotonic() - started < 5, "in Xero's time"
    finally:
        processes[-1].send_signal(18)


@needs_nginx
def test_no_secret_of_a_path_is_in_the_proxy_logs(proxy: Proxy) -> None:
    proxy.client.post("/webhooks/copper/a-secret-path", json={})
    proxy.client.get("/panel?token=pat_a-secret-token")
    proxy.client.get("/v1/people/1/invoices?after=secret-position")
    wait_until(lambda: proxy.log.read_text().count("\n") >= 4)
    assert "secret" not in proxy.log.read_text()
    assert "/webhooks/copper/-" in proxy.log.read_text()
    for path in ("/metrics", "/readyz"):
        assert proxy.client.get(path).status_code == 404


@needs_nginx
def test_an_unknown_host_gets_no_response_and_secret_paths_no_redirect(proxy: Proxy) -> None:
    for url in (f"https://127.0.0.1:{proxy.port}/connect", f"http://127.0.0.1:{proxy.plain}/connect"):
        with pytest.raises(httpx.RemoteProtocolError):
            proxy.client.get(url, headers={"host": "evil.test"})
    plain = f"http://127.0.0.1:{proxy.plain}"
    for path in ("/v1/people/1/invoices", "/webhooks/xero", "/panel?token=pat_x", "/metrics"):
        assert proxy.client.get(f"{plain}{path}").status_code == 403, path
    response = proxy.client.get(f"{plain}/connect?x=1")
    assert (response.status_code, response.headers["location"]) == (301, f"https://{HOST}/connect?x=1")


def connected(port: int, secure: bool) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=30)
    if not secure:
        return line
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(line)


def ended_after(port: int, secure: bool, opening: bytes) -> tuple[float, bytes]:
    """Send a start, then a byte a second; returns the seconds until the server disconnects, and its response."""
    started = time.monotonic()
    with connected(port, secure) as line:
        line.sendall(opening)
        line.settimeout(1)
        while time.monotonic() - started < 30:
            try:
                line.sendall(b"x")
                return time.monotonic() - started, line.recv(1000)
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - started, b""


PARTIAL_BODY = b"POST /webhooks/xero HTTP/1.1\r\nhost: patina\r\ncontent-length: 1000\r\n\r\n{"
PARTIAL_HEADERS = b"POST /webhooks/xero HTTP/1.1\r\nhost: pati"


def test_a_body_that_never_arrives_is_timed_out_and_blocks_nobody(world: World) -> None:
    port = world.web.base_url.port or 0
    with ThreadPoolExecutor(100) as pool:
        slow = [pool.submit(ended_after, port, False, PARTIAL_BODY) for _ in range(100)]
        time.sleep(0.5)
        body = delivery(event(world.tenants[0]))
        started = time.monotonic()
        headers = {"x-xero-signature": sign(body), "content-type": "application/json"}
        assert world.web.post("/webhooks/xero", content=body, headers=headers).status_code == 200
        assert time.monotonic() - started < 5
        for seconds, response in (future.result() for future in slow):
            assert seconds < 20
            assert response.startswith(b"HTTP/1.1 408"), response


@needs_nginx
def test_slow_request_headers_are_timed_out_by_nginx(proxy: Proxy) -> None:
    seconds, _ = ended_after(proxy.port, True, PARTIAL_HEADERS)
    assert seconds < 15
