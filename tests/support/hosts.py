"""Simulated hosts: network namespaces on a bridge, each with its own address, which can be cut off and reconnected."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil

from tests.support.processes import ROOT, terminate

NET = "10.77.7"
CONNECT_SECONDS = 1.0
UNUSED_HARDWARE_ADDRESS = "02:00:00:00:00:01"


def possible() -> bool:
    """Whether this user may create network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"probe-{os.getpid()}"
    created = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return created.returncode == 0


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass
class Host:
    """A host: a namespace with an address, and its processes."""

    name: str
    address: str
    wire: str
    hub: str
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs a program on this host; its process is the program's own."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, arguments: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a program on this host."""
        process = subprocess.Popen(
            self.command(arguments),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.running.append(process)
        return process

    def relay(self, port: int, target: str) -> None:
        """Forward this host's `port` to another host, as if it were a vendor's address."""
        self.run([sys.executable, "-m", "tests.support.hosts", str(port), target])

    def cut_off(self) -> None:
        """Disconnect the host silently: packets are dropped in both directions."""
        _ip("netns", "exec", self.hub, "ip", "link", "set", self.wire, "down")

    def heal(self) -> None:
        """Reconnect the host."""
        _ip("netns", "exec", self.hub, "ip", "link", "set", self.wire, "up")

    def separate(self, other: Host) -> None:
        """Drop everything that this host sends to another, silently; the other's packets still arrive."""
        self._ip_neighbour("replace", other, "lladdr", UNUSED_HARDWARE_ADDRESS, "nud", "permanent")

    def rejoin(self, other: Host) -> None:
        """Undo `separate`."""
        self._ip_neighbour("del", other)

    def _ip_neighbour(self, verb: str, other: Host, *options: str) -> None:
        _ip("netns", "exec", self.name, "ip", "neigh", verb, other.address, *options, "dev", "eth0")

    def process_ids(self) -> list[int]:
        """The processes that run on this host."""
        return _process_ids(self.name)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of this host."""
        _signal(self.name, number)


def _process_ids(name: str) -> list[int]:
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [int(pid) for pid in inside.stdout.split()]


def _signal(name: str, number: signal.Signals) -> None:
    for pid in _process_ids(name):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _end(name: str) -> None:
    """Delete a namespace and terminate its processes."""
    _signal(name, signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _forget_leftovers() -> None:
    """Delete the namespaces of killed test runs."""
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    for name in (line.split()[0] for line in listing.stdout.splitlines() if line.startswith("patina-")):
        if not psutil.pid_exists(int(name.split("-")[1])):
            _end(name)


@contextmanager
def _only_one(net: str) -> Iterator[None]:
    """Wait until no other process of this machine has a network with these addresses."""
    lock_file = Path(tempfile.gettempdir()) / f"patina-tests-network-{net}.lock"
    with lock_file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def network(*names: str, net: str = NET) -> Iterator[dict[str, Host]]:
    """Hosts on a bridge; this process has the address `net`.1 on it. One such network at a time on a machine."""
    with _only_one(net):
        yield from _connect(names, net)


def _connect(names: Sequence[str], net: str) -> Iterator[dict[str, Host]]:
    _forget_leftovers()
    mark, hub = os.getpid() % 100_000, f"patina-{os.getpid()}-hub"
    hosts: dict[str, Host] = {}
    _ip("netns", "add", hub)
    try:
        _ip("netns", "exec", hub, "ip", "link", "add", "br0", "type", "bridge")
        _ip("netns", "exec", hub, "ip", "link", "set", "br0", "up")
        _ip("link", "add", f"pa{mark}h", "type", "veth", "peer", "name", "here", "netns", hub)
        _ip("netns", "exec", hub, "ip", "link", "set", "here", "master", "br0", "up")
        _ip("addr", "add", f"{net}.1/24", "dev", f"pa{mark}h")
        _ip("link", "set", f"pa{mark}h", "up")
        for number, name in zip(count(2), names, strict=False):
            host = Host(f"patina-{os.getpid()}-{name}", f"{net}.{number}", f"to{number}", hub)
            hosts[name] = host
            _ip("netns", "add", host.name)
            inside = ("netns", "exec", host.name, "ip")
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", host.wire, "netns", hub)
            _ip("netns", "exec", hub, "ip", "link", "set", host.wire, "master", "br0", "up")
            _ip(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
        yield hosts
    finally:
        # The first host has the shared services, so it stops last.
        hosts_to_stop = list(hosts.values())
        terminate([process for host in hosts_to_stop[1:] for process in host.running])
        terminate([process for host in hosts_to_stop[:1] for process in host.running])
        for name in (*(host.name for host in hosts.values()), hub):
            _end(name)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await source.read(65_536):
            sink.write(part)
            await sink.drain()
    sink.close()


async def _serve(listen: tuple[str, int], targets: Sequence[tuple[str, int]], ready: threading.Event) -> None:
    turns = count()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(turns)
        for number in range(len(targets)):
            host, port = targets[(first + number) % len(targets)]
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    there, reply_writer = await asyncio.open_connection(host, port)
            except OSError:
                continue
            await asyncio.gather(_pump(reader, reply_writer), _pump(there, writer))
            return
        writer.close()

    server = await asyncio.start_server(meet, *listen)
    ready.set()
    async with server:
        await server.serve_forever()


def relay(listen: tuple[str, int], *targets: tuple[str, int]) -> None:
    """Forward connections to the targets in turn, skipping unreachable ones, in a thread of this process."""
    ready = threading.Event()
    threading.Thread(target=lambda: asyncio.run(_serve(listen, targets, ready)), daemon=True).start()
    assert ready.wait(10)


if __name__ == "__main__":
    _host, _, _port = sys.argv[2].partition(":")
    asyncio.run(_serve(("127.0.0.1", int(sys.argv[1])), [(_host, int(_port))], threading.Event()))
