"""The cluster: its hosts, their services, and which host currently has which role."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import redis
from cryptography.fernet import Fernet

from runtime import redis_client
from runtime.settings import override_settings
from sandbox import server
from store.db.database import dispose_engine
from store.db.migrations import migrate
from tests.chaos import free_port
from tests.failover import configuration, programs
from tests.failover.machine import Machine, Service, Supervisor, make_folder, write_file
from tests.support import hosts
from tests.support.load import QUICK_RECOVERY
from tests.support.recovery import eventually
from tests.support.world import Sandbox, World

NET = "10.77.0"
DATA, WEB, WORKERS = ("data1", "data2", "data3"), ("web1", "web2"), ("worker1", "worker2")
# The vendors, and the load balancer, which is never the one to fail.
EDGE = "edge"
FOLDER_PREFIX = "patina-failover-"
# A file system in memory, and how much of it a cluster may need.
MEMORY_FOLDER, MIN_MEMORY_BYTES = Path("/dev/shm"), 3 * 2**30
START_SECONDS = 120.0
# A path of each backend of the load balancer, which checks the web processes for each of them.
PATH_PER_BACKEND = ("/healthz", "/v1/people/1/invoices", "/webhooks/xero")
HEALTHY_SECONDS = 120.0
REQUEST_SECONDS = 2.0
# Each faster than the default, so that a round takes seconds. What a failover depends on has its documented value.
QUICK = {
    **QUICK_RECOVERY,
    "WORKER_PROCESSES": "1",
    "LOG_LEVEL": "info",
}


@dataclass(frozen=True)
class Roles:
    """Which data host does what; empty if none does."""

    leader: str
    synchronous_standby: str
    standby: str
    redis_primary: str


class Cluster:
    """A running cluster. Everything it needs is in `folder`."""

    def __init__(self, network_hosts: dict[str, hosts.Host], folder: Path, ttl: int) -> None:
        self.folder, self.ttl = folder, ttl
        self.hosts = network_hosts
        self.addresses = {name: host.address for name, host in network_hosts.items()}
        self.passwords = configuration.passwords()
        self.url = f"https://{self.addresses[EDGE]}"
        # Vendors must use https unless they are on the same host: each host forwards this port to the edge.
        self.vendors_port = free_port()
        self.sandbox_url = f"http://127.0.0.1:{self.vendors_port}"
        self.secrets = {"ENCRYPTION_KEYS": Fernet.generate_key().decode(), **server.environment(self.sandbox_url)}
        self.machines = {name: Machine(host, make_folder(folder / name), ()) for name, host in network_hosts.items()}
        self._http = httpx.Client(timeout=REQUEST_SECONDS, trust_env=False)

    def variables(self, host: str) -> dict[str, str]:
        """The values of cluster.vars on a host."""
        postgresql = programs.postgresql_folder()
        assert postgresql
        return {
            "HOST": host,
            "ADDRESS": self.addresses[host],
            **{name.upper(): self.addresses[name] for name in (*DATA, *WEB)},
            "BALANCERS": self.addresses[EDGE],
            "NETWORK": f"{NET}.0/24",
            "PUBLIC_URL": self.url,
            "CERTIFICATE": str(self.folder / EDGE / "patina.pem"),
            "STATE": str(self.folder / host),
            "FILES": str(self.folder),
            "POSTGRESQL": str(postgresql),
            "PATRONI_TTL": str(self.ttl),
            **self.passwords,
        }

    def prepare(self) -> None:
        """Write the configuration of every host."""
        # The scripts of the documentation, where PostgreSQL's user may read them.
        script = shutil.copy(configuration.file_path("create-database.sh"), self.folder)
        Path(script).chmod(0o755)
        certificate, key = configuration.certificate(self.addresses[EDGE])
        write_file(self.folder / EDGE / "patina.pem", certificate + key)
        write_file(self.folder / "ca.pem", certificate)
        for name in DATA:
            self._prepare_data(name)
        for name in (*WEB, *WORKERS):
            self._prepare_patina(name)
        edge = self._fill_in(EDGE, "haproxy-web.cfg")
        vendors = [sys.executable, "-m", "tests.failover.vendors", self.addresses[EDGE], str(self.vendors_port)]
        trust = {"SSL_CERT_FILE": self._ca_file}
        self._set_services(EDGE, _haproxy(edge), Service("vendors", vendors, trust))

    def _set_services(self, name: str, *services: Service) -> None:
        self.machines[name].services = {service.name: service for service in services}

    def _fill_in(self, host: str, file_name: str, user: str = "root", addition: str = "") -> Path:
        text = configuration.fill_in(file_name, self.variables(host)) + addition
        return write_file(self.folder / host / file_name, text, user)

    def _prepare_data(self, name: str) -> None:
        folder = self.folder / name
        for service, user in (("etcd", "etcd"), ("postgresql", "postgres"), ("redis", "redis")):
            make_folder(folder / service, user)
        patroni = self._fill_in(name, "patroni.yml", "postgres")
        replica = "" if name == DATA[0] else f"replicaof {self.addresses[DATA[0]]} 6379\n"
        redis_conf = write_file(
            folder / "redis" / "redis.conf",
            configuration.fill_in("redis.conf", self.variables(name)) + replica,
            "redis",
        )
        sentinel = write_file(
            folder / "redis" / "sentinel.conf", configuration.fill_in("sentinel.conf", self.variables(name)), "redis"
        )
        etcd = configuration.parse_environment(configuration.fill_in("etcd.vars", self.variables(name)))
        password = {"PATINA_PASSWORD": self.passwords["PATINA_PASSWORD"]}
        self._set_services(
            name,
            Service("etcd", [programs.program("etcd")], etcd, "etcd"),
            Service("patroni", [programs.program("patroni"), str(patroni)], password, "postgres"),
            Service("redis", [programs.program("redis-server"), str(redis_conf)], {}, "redis"),
            Service("sentinel", [programs.program("redis-sentinel"), str(sentinel)], {}, "redis"),
        )

    def _prepare_patina(self, name: str) -> None:
        haproxy = self._fill_in(name, "haproxy-data.cfg", addition=self._vendors())
        environment = {**self.patina_environment(name), "PYTHONDONTWRITEBYTECODE": "1"}
        commands = ("web",) if name in WEB else ("worker", "scheduler")
        processes = [Service(command, [sys.executable, "-m", "cli", command], environment) for command in commands]
        self._set_services(name, _haproxy(haproxy), *processes)

    def patina_environment(self, name: str) -> dict[str, str]:
        """The settings of Patina on a host: the documented ones, the sandbox's and the quick ones."""
        text = configuration.fill_in("patina.vars", self.variables(name))
        return {**configuration.parse_environment(text), **self.secrets, **QUICK}

    def _vendors(self) -> str:
        """The address of the vendors, in HAProxy of each host."""
        vendors = f"{self.addresses[EDGE]}:{self.vendors_port}"
        return f"\nlisten vendors\n    bind 127.0.0.1:{self.vendors_port}\n    server edge {vendors} no-check\n"

    def start(self) -> None:
        """Start everything; returns when the cluster is healthy and the schema is migrated."""
        hosts.relay(("127.0.0.1", self.vendors_port), (self.addresses[EDGE], self.vendors_port))
        for name in (EDGE, *DATA):
            self.machines[name].switch_on()
        eventually(self._databases_are_healthy, START_SECONDS, "a leader and two standbys of PostgreSQL")
        eventually(self._redis_is_healthy, START_SECONDS, "a primary and two replicas of Redis")
        self.use_settings()
        migrate()
        for name in (*WEB, *WORKERS):
            self.machines[name].switch_on()
        eventually(self.is_web_ready, START_SECONDS, "both web processes")
        eventually(self._is_reachable, START_SECONDS, "the load balancer, which checks the web processes itself")

    def use_settings(self) -> None:
        """Let this process use the cluster: PostgreSQL's primary by all addresses, Redis's by asking the Sentinels."""
        data = ",".join(self.addresses[name] for name in DATA)
        address = f"postgresql://patina:{self.passwords['PATINA_PASSWORD']}@{data}/patina"
        environment = {**self.patina_environment(EDGE), "SSL_CERT_FILE": self._ca_file}
        environment["DATABASE_URL"] = f"{address}?target_session_attrs=read-write&connect_timeout=2"
        environment["READ_DATABASE_URL"] = ""
        override_settings(environment)
        dispose_engine()
        redis_client.shared_client.clear()
        redis_client.lua_script.cache_clear()

    def open_account(self) -> World:
        """Connect an account of the sandbox."""
        sandbox = Sandbox(self.sandbox_url)
        sandbox.control("PUT", "clock", json={"speed": 100})
        web = httpx.Client(base_url=self.url, timeout=5, trust_env=False, verify=self._ca_file)
        world = World(sandbox, web, workers=True)
        world.enable_xero_webhook()
        return world.open(name="Failover")

    # State

    def members(self) -> list[dict[str, Any]]:
        """The members as Patroni reports them; raises `httpx.HTTPError` if no data host responds."""
        for name in DATA:
            with suppress(httpx.HTTPError):
                response = self._http.get(f"http://{self.addresses[name]}:8008/cluster")
                members: list[dict[str, Any]] = response.json()["members"]
                return members
        raise httpx.ConnectError("no data host responds")

    def roles(self) -> Roles:
        """Which data host does what, once the cluster is healthy."""
        names = {member["role"]: member["name"] for member in self.members()}
        return Roles(
            names.get("leader", ""), names.get("sync_standby", ""), names.get("replica", ""), self._redis_primary()
        )

    def _redis_primary(self) -> str:
        """The Redis that a majority of the sentinels calls the primary; empty if there is none."""
        votes = [self._sentinel_vote(name) for name in DATA]
        return next((name for name in DATA if votes.count(self.addresses[name]) > len(DATA) // 2), "")

    def _sentinel_vote(self, name: str) -> str:
        client = redis.Redis(self.addresses[name], 26379, socket_timeout=REQUEST_SECONDS)
        try:
            reply = client.sentinel_get_master_addr_by_name("patina")
            return redis_client.as_text(reply[0]) if isinstance(reply, tuple) else ""
        except redis.RedisError:
            return ""
        finally:
            client.close()

    def _databases_are_healthy(self) -> bool:
        roles = sorted((member["role"], member["state"]) for member in self.members())
        running = {"running", "streaming"}
        return [role for role, state in roles if state in running] == ["leader", "replica", "sync_standby"]

    def _redis_is_healthy(self) -> bool:
        primary = self._redis_primary()
        if not primary:
            return False
        with redis.Redis(
            self.addresses[primary],
            password=self.passwords["REDIS_PASSWORD"],
            socket_timeout=REQUEST_SECONDS,
        ) as client:
            replication = client.info("replication")
        return replication["role"] == "master" and int(replication["connected_slaves"]) == len(DATA) - 1

    def is_web_ready(self) -> bool:
        """Whether both web processes are ready, and reach Redis."""
        urls = [f"http://{self.addresses[name]}:8700/readyz" for name in WEB]
        return all("redis: reached" in self._http.get(url).text for url in urls)

    @property
    def _ca_file(self) -> str:
        """The certificate that signed the load balancer's."""
        return str(self.folder / "ca.pem")

    def _is_reachable(self) -> bool:
        """Whether each backend of the load balancer forwards requests; 503 is the balancer's own response."""
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False, verify=self._ca_file) as client:
            return all(client.get(path).status_code != 503 for path in PATH_PER_BACKEND)

    def wait_until_healthy(self) -> None:
        """Wait until every host has its role again, so that the next fault is the only one."""
        eventually(self._databases_are_healthy, HEALTHY_SECONDS, "a leader and two standbys of PostgreSQL")
        eventually(self._redis_is_healthy, HEALTHY_SECONDS, "a primary and two replicas of Redis")
        eventually(self.is_web_ready, HEALTHY_SECONDS, "both web processes")

    def wait_for_standbys(self) -> None:
        """Wait until the standbys, which serve the reads, show everything that the leader has committed by now."""
        with psycopg.connect(self.superuser_url(self.roles().leader), autocommit=True) as connection:
            (position,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or ("0/0",)

            def have_replayed() -> bool:
                statement = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= %s"
                return connection.execute(statement, (position,)).fetchone() == (len(DATA) - 1,)

            eventually(have_replayed, HEALTHY_SECONDS, "standbys that are up to date")

    def change_patroni(self, **settings: Any) -> None:
        """Change Patroni's dynamic settings, as `patronictl edit-config` does."""
        response = self._http.patch(
            f"http://{self.addresses[self.roles().leader]}:8008/config",
            json=settings,
            auth=("patroni", self.passwords["PATRONI_PASSWORD"]),
        )
        response.raise_for_status()

    def superuser_url(self, name: str) -> str:
        """The address of the database `postgres` of a data host, for libpq."""
        password = self.passwords["SUPERUSER_PASSWORD"]
        return f"postgresql://postgres:{password}@{self.addresses[name]}/postgres?connect_timeout=2"


def _haproxy(config: Path) -> Service:
    return Service("haproxy", [programs.program("haproxy"), "-db", "-f", str(config)])


def _has_memory() -> bool:
    return MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free > MIN_MEMORY_BYTES


def _remove_leftovers() -> None:
    """Remove the folders of killed runs."""
    parents = (Path(tempfile.gettempdir()), MEMORY_FOLDER)
    for folder in (folder for parent in parents for folder in parent.glob(f"{FOLDER_PREFIX}*")):
        pid = folder.name.removeprefix(FOLDER_PREFIX)
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(*, ttl: int, in_memory: bool = False, keep_logs: bool = False) -> Iterator[Cluster]:
    """A cluster until the block ends, with Patroni's `ttl` in seconds.

    `in_memory` keeps all data in memory if there is enough: faster, but commits cost nothing. Removes everything
    then, and what an earlier, killed run left behind.
    """
    _remove_leftovers()
    with hosts.network(EDGE, *DATA, *WEB, *WORKERS, net=NET) as network_hosts:
        parent = MEMORY_FOLDER if in_memory and _has_memory() else Path(tempfile.gettempdir())
        folder = make_folder(parent / f"{FOLDER_PREFIX}{os.getpid()}")
        cluster = Cluster(network_hosts, folder, ttl)
        cluster.prepare()
        machines = list(cluster.machines.values())
        supervisor = Supervisor(machines)
        try:
            cluster.start()
            yield cluster
        finally:
            supervisor.close()
            dispose_engine()
            with ThreadPoolExecutor(len(machines)) as executor:
                list(executor.map(Machine.switch_off, machines))
            if keep_logs:
                _keep_logs(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _keep_logs(folder: Path) -> None:
    """Copy the logs of all services to `.patina/failover`."""
    target = Path(".patina") / "failover" / time.strftime("%H%M%S")
    for log in folder.glob("*/*.log"):
        (target / log.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(log, target / log.parent.name)
