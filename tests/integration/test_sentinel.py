"""Redis behind Sentinels: the clients find the primary, and the new one after a failure."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from runtime.redis_client import create_async_client, is_available, server_info, shared_client
from runtime.servers import valkey_program
from runtime.settings import override_settings
from tests.chaos import free_port
from tests.support.processes import Processes, terminate
from tests.support.serving import wait_until
from worker.jobs.broker import broker

PASSWORD = "of-this-test-alone"


@dataclass
class Sentinels:
    """A primary, its replica and a Sentinel."""

    primary: subprocess.Popen[bytes]
    replica_port: int
    processes: Processes = field(default_factory=list)


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(valkey_program()), *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """Servers that need a password, and a Sentinel that needs none, in use by this process."""
    primary_port, replica_port, sentinel_port = free_port(), free_port(), free_port()
    common = ["--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD, "--masterauth", PASSWORD]
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {sentinel_port}\n"
        f"sentinel monitor invoices 127.0.0.1 {primary_port} 1\n"
        f"sentinel auth-pass invoices {PASSWORD}\n"
        "sentinel down-after-milliseconds invoices 1000\nsentinel failover-timeout invoices 5000\n"
    )
    primary = start(tmp_path, "--port", str(primary_port), *common)
    replica = start(tmp_path, "--port", str(replica_port), *common, "--replicaof", "127.0.0.1", str(primary_port))
    running = Sentinels(primary, replica_port, [primary, replica, start(tmp_path, str(config), "--sentinel")])
    override_settings({"REDIS_URL": f"redis+sentinel://:{PASSWORD}@127.0.0.1:1,127.0.0.1:{sentinel_port}/invoices/2"})
    shared_client.clear()
    broker.clear()

    def is_replicated() -> bool:
        with redis.Redis(port=primary_port, password=PASSWORD) as client:
            return bool(client.info("replication")["connected_slaves"])

    def sees_the_replica() -> bool:
        with redis.Redis(port=sentinel_port) as client:
            return any(port == replica_port for port in (each["port"] for each in client.sentinel_slaves("invoices")))

    def is_ready() -> bool:
        try:
            return is_replicated() and sees_the_replica()
        except redis.RedisError:
            return False

    wait_until(is_ready, description="the replica and the Sentinel")
    yield running
    terminate(running.processes)
    broker.clear()


def port_in_use() -> int:
    return int(shared_client().info("server")["tcp_port"])


def test_the_new_primary_is_used_after_the_old_one_has_died(sentinels: Sentinels) -> None:
    assert is_available()
    assert server_info().name in {"Redis", "Valkey"}
    shared_client().set("before", "1")
    assert shared_client().connection_pool.connection_kwargs["db"] == 2
    assert port_in_use() != sentinels.replica_port
    wait_until(lambda: bool(shared_client().wait(1, 100)))

    sentinels.primary.kill()
    wait_until(is_available, seconds=30, description="the new primary")
    assert port_in_use() == sentinels.replica_port
    assert shared_client().get("before") == b"1"
    shared_client().set("after", "1")


def test_subscriptions_and_messages_go_to_the_primary(sentinels: Sentinels) -> None:
    async def receive() -> bytes:
        client = create_async_client()
        async with client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe("changes")
            await subscription.get_message(timeout=5)
            shared_client().publish("changes", "7")
            async with asyncio.timeout(10):
                while (message := await subscription.get_message(timeout=1)) is None:
                    pass
        await client.aclose()
        return bytes(message["data"])

    assert asyncio.run(receive()) == b"7"
    broker().get_actor("run_cleanup").send()
    queue = f"{broker().namespace}:background"
    assert shared_client().llen(queue) == 1
