"""The client address of a request, and the network by which it is counted.

Anybody can send X-Forwarded-For, so it is evaluated only if it comes from one of TRUSTED_PROXIES.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from prometheus_client import Counter
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.settings import Network, settings
from services import proxy_watch
from store.db.crypto import pseudonym

Address = IPv4Address | IPv6Address
HEADER = b"x-forwarded-for"
MAX_HOPS = 20
MAX_HEADER_BYTES = 2_000
IPV6_PREFIX = 64
UNKNOWN = "unknown"
# Requested by health checks and scrapers, whose addresses are not those of clients.
INTERNAL_PATHS = ("/healthz", "/readyz", "/metrics")
UNTRUSTED_FORWARDED = Counter(
    "patina_forwarded_headers_rejected", "requests whose X-Forwarded-For came from no trusted proxy"
)


class ProxyWatch:
    """Statistics of client addresses for `patina doctor`; written every few seconds."""

    def __init__(self) -> None:
        self._requests, self._untrusted, self._origins = 0, 0, set[str]()

    def record(self, address: str, *, is_untrusted: bool) -> None:
        """Count a request from an address."""
        self._requests += 1
        self._untrusted += is_untrusted
        if len(self._origins) < proxy_watch.MAX_ORIGINS:
            self._origins.add(_origin_of(address))

    def flush(self) -> None:
        """Write the counts since the last flush."""
        counts = (self._requests, self._untrusted, self._origins)
        self._requests, self._untrusted, self._origins = 0, 0, set()
        if counts[0]:
            proxy_watch.record(*counts)


WATCH = ProxyWatch()


class ClientAddressMiddleware:
    """Replaces the proxy's address in the scope by the client's, for all later middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            _set_client(scope)
        await self.app(scope, receive, send)


def _set_client(scope: Scope) -> None:
    address, forwarded = scope["client"][0] if scope.get("client") else UNKNOWN, _forwarded(scope)
    is_untrusted = bool(forwarded) and not is_trusted(address, settings().trusted_proxy_networks)
    if is_untrusted:
        UNTRUSTED_FORWARDED.inc()
    elif forwarded:
        address = forwarded_client(address, forwarded, settings().trusted_proxy_networks)
        scope["client"] = (address, 0)
    if not scope["path"].startswith(INTERNAL_PATHS):
        WATCH.record(address, is_untrusted=is_untrusted)


def _forwarded(scope: Scope) -> str:
    """The X-Forwarded-For headers as one list, of which only the end is kept."""
    values = [value for name, value in scope["headers"] if name == HEADER]
    return b",".join(values)[-MAX_HEADER_BYTES:].decode("latin-1") if values else ""


def forwarded_client(peer: str, forwarded: str, proxies: tuple[Network, ...]) -> str:
    """The address of the client behind our proxies; `peer` itself if it is no trusted proxy.

    Each proxy appends the address of its own peer, so the list is read from the right, up to the first address that is
    no trusted proxy. Anything before that, or invalid, may be forged.
    """
    client = peer
    for hop in reversed(forwarded.split(",")[-MAX_HOPS:]):
        if not is_trusted(client, proxies):
            break
        address = _parse(hop)
        if address is None:
            break
        client = str(address)
    return client


@lru_cache(maxsize=1_000)
def is_trusted(address: str, proxies: tuple[Network, ...]) -> bool:
    """Whether an address belongs to one of the trusted proxies."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in proxies)


def _parse(text: str) -> Address | None:
    """Parse an address as proxies write it; a port and a zone are ignored."""
    host = text.strip().strip('"')
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def address_of(connection: HTTPConnection) -> str:
    """The client's address; `UNKNOWN` if there is none (a Unix socket)."""
    return connection.client.host if connection.client else UNKNOWN


@lru_cache(maxsize=10_000)
def network_of(address: str) -> str:
    """The network by which an address is counted: for IPv6 the /64, because one subscriber has all of it."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, IPV6_PREFIX), strict=False))
    return str(parsed) if parsed else UNKNOWN


@lru_cache(maxsize=10_000)
def _origin_of(address: str) -> str:
    """The pseudonym of the network for a private or loopback address; one value for the whole internet."""
    parsed = _parse(address)
    return label_of(network_of(address)) if parsed is None or parsed.is_private else proxy_watch.INTERNET


@lru_cache(maxsize=10_000)
def label_of(network: str) -> str:
    """The pseudonym of a network in logs and shared storage, because an address is personal data."""
    return pseudonym("address", network)[:16]


def client_label(connection: HTTPConnection) -> str:
    """The pseudonym of the client's network."""
    return label_of(network_of(address_of(connection)))
