"""Where a request comes from: the address of the client itself, and the network that it is counted by.

A proxy names the client in X-Forwarded-For, and so may anybody else: only what TRUSTED_PROXIES has is believed.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from prometheus_client import Counter
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.settings import Network, settings
from store.secrets import pseudonym
from worker import proxy_watch

Address = IPv4Address | IPv6Address
HEADER = b"x-forwarded-for"
MAX_HOPS = 20
MAX_HEADER = 2_000
IPV6_PREFIX = 64
UNKNOWN = "unknown"
# Asked for by what stands beside the process, which says nothing of where clients come from.
NEIGHBOURS = ("/healthz", "/readyz", "/metrics")
DISBELIEVED = Counter("patina_forwarded_disbelieved", "requests whose X-Forwarded-For came from no trusted proxy")


class Watch:
    """Where requests come from, as far as `patina doctor` asks; noted every few seconds."""

    def __init__(self) -> None:
        self._requests, self._disbelieved, self._places = 0, 0, set[str]()

    def saw(self, address: str, *, is_disbelieved: bool) -> None:
        """A request came from an address."""
        self._requests += 1
        self._disbelieved += is_disbelieved
        if len(self._places) < proxy_watch.MOST_PLACES:
            self._places.add(_place_of(address))

    def note(self) -> None:
        """Write down what was seen since the last time."""
        seen = (self._requests, self._disbelieved, self._places)
        self._requests, self._disbelieved, self._places = 0, 0, set()
        if seen[0]:
            proxy_watch.note(*seen)


WATCH = Watch()


class ClientAddress:
    """Puts the client's own address in the place of the proxy's, for all that comes after."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            _find_client(scope)
        await self.app(scope, receive, send)


def _find_client(scope: Scope) -> None:
    address, forwarded = scope["client"][0] if scope.get("client") else UNKNOWN, _forwarded(scope)
    is_disbelieved = bool(forwarded) and not is_trusted(address, settings().proxy_networks)
    if is_disbelieved:
        DISBELIEVED.inc()
    elif forwarded:
        address = forwarded_client(address, forwarded, settings().proxy_networks)
        scope["client"] = (address, 0)
    if not scope["path"].startswith(NEIGHBOURS):
        WATCH.saw(address, is_disbelieved=is_disbelieved)


def _forwarded(scope: Scope) -> str:
    """The last of what the X-Forwarded-For headers say, as one list."""
    values = [value for name, value in scope["headers"] if name == HEADER]
    return b",".join(values)[-MAX_HEADER:].decode("latin-1") if values else ""


def forwarded_client(peer: str, forwarded: str, proxies: tuple[Network, ...]) -> str:
    """The address that the nearest proxy of ours was asked from, if `peer` is one.

    Each proxy appends whom it was asked by, so the list is read from the right: up to the first address that is no
    proxy of ours. What stands before that, or makes no sense, may be anybody's invention.
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
    """Whether an address is one of our proxies'."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in proxies)


def _parse(text: str) -> Address | None:
    """An address as proxies write it: with a port or a zone sometimes, which do not count."""
    word = text.strip().strip('"')
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        address = ip_address(word.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def address_of(connection: HTTPConnection) -> str:
    """The client's address; a fixed word where there is none (a unix socket)."""
    return connection.client.host if connection.client else UNKNOWN


@lru_cache(maxsize=10_000)
def network_of(address: str) -> str:
    """What an address is counted by: an IPv6 one by its /64, all of which one subscriber has; IPv4 by itself."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, IPV6_PREFIX), strict=False))
    return str(parsed) if parsed else UNKNOWN


@lru_cache(maxsize=10_000)
def _place_of(address: str) -> str:
    """The network of an address that is private or of this machine, as a pseudonym; all others are one place."""
    parsed = _parse(address)
    return label_of(network_of(address)) if parsed is None or parsed.is_private else proxy_watch.INTERNET


@lru_cache(maxsize=10_000)
def label_of(network: str) -> str:
    """What a network is called where it leaves the process: an address is personal data, so it stays unreadable."""
    return pseudonym("address", network)[:16]


def client_label(connection: HTTPConnection) -> str:
    """The client's network as it may leave the process."""
    return label_of(network_of(address_of(connection)))
