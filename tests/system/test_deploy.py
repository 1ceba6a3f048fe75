"""The commands and files of docs/deploy.md exist and match the Procfile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from runtime.settings import Settings
from store.db.database import transaction
from tests.support import databases

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


def test_the_compose_file_runs_the_processes_of_the_procfile() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert {name: services[name]["command"] for name in PROCFILE} == PROCFILE
    for name in PROCFILE:
        assert {name_.lower() for name_ in services[name]["environment"]} <= set(Settings.model_fields)
    grace = {name: services[name]["stop_grace_period"] for name in PROCFILE}
    assert set(grace.values()) == {"35s"}, "longer than the 25 s in which a process drains"


def compose() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def test_every_container_has_minimal_privileges() -> None:
    for name, service in compose().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("cap_add"), name
        assert not service.get("privileged"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in service["tmpfs"], name
        assert name == "release" or service["healthcheck"]["test"], name
        ports = service.get("ports", [])
        assert all(port.startswith("127.0.0.1:") for port in ports), name
        assert name == "web" or not ports, f"{name} is reached from the other containers alone"
    for name in ("postgres", "redis"):
        assert compose()[name]["user"] == name, "nobody is root"
    assert "USER patina" in (DEPLOY / "Containerfile").read_text()


def test_the_containers_database_role_is_not_a_superuser(database: str) -> None:
    postgres = compose()["postgres"]
    assert "POSTGRES_USER" not in postgres["environment"], "the image makes that one a superuser"
    assert "./patina-role.sh:/docker-entrypoint-initdb.d/patina-role.sh:ro" in postgres["volumes"]
    script = (DEPLOY / "patina-role.sh").read_text()
    subprocess.run(["sh", "-n", str(DEPLOY / "patina-role.sh")], check=True, timeout=10)
    (statement,) = re.findall(r"CREATE ROLE patina .*;", script)
    role = f"compose_{os.getpid()}"
    databases.execute_as_superuser(statement.replace(" patina ", f" {role} ").replace(":'password'", "'x'"))
    try:
        with transaction() as session:
            privileges = text(
                "SELECT rolsuper, rolbypassrls, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = :role"
            )
            assert tuple(session.execute(privileges, {"role": role}).one()) == (False, False, False, True)
    finally:
        databases.execute_as_superuser(f"DROP ROLE {role}")


def test_redis_has_a_password_persistence_and_no_eviction() -> None:
    redis = compose()["redis"]
    command = " ".join(redis["command"])
    for option in ("requirepass", "--appendonly yes", "--maxmemory-policy noeviction"):
        assert option in command
    assert "--requirepass" not in command, "a command line is no place for a password"
    address = compose()["web"]["environment"]["REDIS_URL"]
    assert address.startswith("redis://:${REDIS_PASSWORD:?}@")


def test_the_settings_named_in_the_guide_exist() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    block = guide.partition("```ini\n")[2].partition("```")[0]
    names = [line.partition("=")[0] for line in block.splitlines() if not line.startswith("#")]
    assert len(names) > 8
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_exported_units_pass_systemd_analyze_verify(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "honcho"), "export", "-e", "/dev/null", "-a", "patina", "-u", "root"]
    command += ["-c", "release=0,web=2,worker=1,scheduler=1", "-p", "8600", "-t", str(DEPLOY / "systemd")]
    subprocess.run([*command, "systemd", str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=30)
    units = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sum(name.endswith(".service") for name in units) == 4
    for number, port in (("1", "8700"), ("2", "8701")):
        assert f"Environment=PORT={port}\n" in units[f"patina-web-{number}.service"]
        assert f"ExecStart={ROOT}/.venv/bin/patina web\n" in units[f"patina-web-{number}.service"]
    if not (ROOT / ".venv" / "bin" / "patina").exists() or shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, and the environment of `make`")
    completed = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert str(tmp_path) not in completed.stderr, completed.stderr


SQL = re.compile(r"```sql\n(.*?)```|`((?:SELECT|UPDATE|DELETE|INSERT)[^`]*)`", re.DOTALL)
NAMED = re.compile(r"(?:FROM|JOIN|UPDATE|INTO|_table\()\s*'?([a-z_]+)'?")
CREATED = re.compile(r"(?:RENAME TO|CREATE TABLE) (\w+)")
NOT_TABLES = {"public", "information_schema", "generate_series"}
QUOTED = re.compile(r"'([a-z_]+)'(?=[,)])")


def test_every_table_named_in_the_documentation_exists(database: str) -> None:
    with transaction() as session:
        columns = session.execute(text("SELECT table_name, column_name FROM information_schema.columns")).all()
    tables, columns_known = {row[0] for row in columns}, {row[1] for row in columns}
    documented = set()
    for page in (ROOT / "docs").glob("*.md"):
        created = set(CREATED.findall(page.read_text()))
        for match in SQL.finditer(page.read_text()):
            statement = match[1] or match[2]
            named = {*NAMED.findall(statement), *QUOTED.findall(statement)}
            for name in named - columns_known - NOT_TABLES:
                assert name in tables | created, f"{page.name} names the table {name}, which does not exist"
                documented.add(name)
    assert {"xero_invoice", "inbox", "account"} <= documented
