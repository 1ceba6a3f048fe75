"""Attacks on the packaging: the embedded servers, the image, the compose file, bundled programs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path, PurePosixPath

import psutil
import yaml

from runtime.servers import SERVERS, Postgres, Redis
from tests.attack.evidence import Evidence
from tests.attack.settings import HOME
from tests.attack.site import Site, is_root, query
from tests.chaos import ROOT
from tests.system.test_image import is_in_context

DEPLOY = ROOT / "docs" / "deploy"
CAPABILITIES = re.compile(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\s*([0-9a-f]+)$", re.MULTILINE)
# Files that an operator may have in a working copy, none of which belongs in an image.
OPERATOR_FILES = (
    "docs/deploy/patina.env",
    "patina.env",
    "store/.env",
    "web/tls.key",
    "runtime/dump.sql",
    ".env",
    "backup/patina.dump",
    "patina.dump",
    "dump.sql",
    ".hypothesis/examples/x",
    ".git/config",
    ".patina/attack/encryption.key",
    "encryption.key",
    "keys/site.key",
)


def embedded_database_grants_no_root(site: Site) -> Evidence:
    """Check the embedded servers' users, capabilities and folders, and the privileges of Patina's database role."""
    evidence = Evidence()
    for name, server_class in SERVERS.items():
        server = server_class(HOME / name)
        process = server.running_process()
        assert process is not None, f"{name} does not run"
        _judge_process(evidence, name, process)
        mode = server.socket_dir.stat().st_mode & 0o777
        evidence.expect(mode == 0o700, f"{name}: the socket's folder has mode {mode:o}")
    attributes = query("SELECT rolsuper, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = current_user")[0]
    evidence.expect(
        not any(attributes), f"Patina's role is superuser, replicates, bypasses policies: {tuple(attributes)}"
    )
    rights = query(
        "SELECT rolname FROM pg_roles WHERE rolname IN ('pg_execute_server_program', 'pg_write_server_files',"
        " 'pg_read_server_files') AND pg_has_role(current_user, oid, 'USAGE')"
    )
    evidence.expect(
        not rights, f"Patina's role is a member of {[name for (name,) in rights] or 'no role of the server'}"
    )
    return evidence


def _judge_process(evidence: Evidence, service: str, process: psutil.Process) -> None:
    if not is_root():
        evidence.expect(True, f"{service} runs as a plain user, as all of this does")
        return
    uid = process.uids().effective
    status = Path(f"/proc/{process.pid}/status").read_text()
    capabilities = [value for value in CAPABILITIES.findall(status) if int(value, 16)]
    evidence.expect(
        uid != 0 and not capabilities, f"{service} runs as user {uid} with {len(capabilities)} sets of capabilities"
    )


def image_contains_no_secret(site: Site) -> Evidence:
    """Find the operator's files that a build would copy into the image."""
    evidence = Evidence()
    sources = _copied((DEPLOY / "Containerfile").read_text())
    for name in OPERATOR_FILES:
        copied = is_in_context(PurePosixPath(name)) and any(
            source in {".", "./"} or name == source or name.startswith(f"{source.rstrip('/')}/") for source in sources
        )
        evidence.expect(not copied, f"{name} {'goes' if copied else 'does not go'} into the image")
    return evidence


def _copied(containerfile: str) -> list[str]:
    """The paths that the Containerfile copies from the build context."""
    copied: list[str] = []
    for line in containerfile.replace("\\\n", " ").splitlines():
        parts = [part for part in line.split() if not part.startswith("--")]
        if parts[:1] in (["COPY"], ["ADD"]):
            copied += [part.removeprefix("./") or "." for part in parts[1:-1]]
    return copied


def bundled_programs_are_listed(site: Site) -> Evidence:
    """Check that the versions of the embedded servers' programs are in the inventory."""
    evidence = Evidence()
    inventory = (ROOT / "docs" / "licenses.md").read_text()
    for command in (
        [str(Redis(HOME / "redis").binary), "--version"],
        [str(Postgres(HOME / "postgres").bin / "postgres"), "--version"],
    ):
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        name, version = re.search(r"Valkey|Redis|PostgreSQL", output), re.search(r"\d+\.\d+(\.\d+)?", output)
        assert name is not None, output
        assert version is not None, output
        is_listed = f"| {name[0]} | {version[0]} |" in inventory
        evidence.expect(is_listed, f"{name[0]} {version[0]} is {'' if is_listed else 'not '}in the inventory")
    return evidence


def compose_grants_least_privilege(site: Site) -> Evidence:
    """Check the compose file from the view of an attacker inside a container."""
    evidence = Evidence()
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    superuser = services["postgres"].get("environment", {}).get("POSTGRES_USER", "postgres")
    user = services["web"]["environment"]["DATABASE_URL"].partition("://")[2].partition(":")[0]
    evidence.expect(user != superuser, f"the application is {user}, the superuser {superuser}")
    redis = str(services["redis"].get("command", ""))
    evidence.expect("requirepass" in redis or "aclfile" in redis, "Redis asks for a password", "Redis asks for none")
    evidence.expect("noeviction" in redis, "a full Redis drops nothing", "a full Redis may drop messages")
    for name in ("web", "worker", "scheduler"):
        service = services[name]
        is_restricted = service.get("read_only") and "ALL" in service.get("cap_drop", [])
        is_restricted = is_restricted and any(
            "no-new-privileges" in option for option in service.get("security_opt", [])
        )
        evidence.expect(
            bool(is_restricted), f"{name} is read-only, without capabilities, and gains none: {bool(is_restricted)}"
        )
    return evidence
