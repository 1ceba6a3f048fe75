"""`dlt`: REST APIs into PostgreSQL, with its declarative REST API source and its Postgres destination."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from bench.peak_memory import PeakMemory
from bench.peers.peer import PeerUnavailableError, database_url
from runtime.settings import settings
from store.db.database import conninfo

HERE = Path(__file__).resolve().parent
LOCK = HERE / "dlt.lock"
ENVIRONMENT = HERE.parents[1] / ".patina" / "peers" / "dlt"
INSTALL_SECONDS, RUN_SECONDS = 600, 600
DATASET = "dlt_backfill"
FILE_FORMAT = "csv"
# As dlt's documentation recommends (reference/performance): a process for each core, files that are rotated so that
# they are normalised and loaded in parallel, and larger buffers. Compression would only cost time.
CONFIGURATION = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "EXTRACT__WORKERS": "8",
    "EXTRACT__DATA_WRITER__FILE_MAX_ITEMS": "20000",
    "NORMALIZE__WORKERS": "2",
    "NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS": "20000",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "20000",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "LOAD__WORKERS": "4",
}


@dataclass(frozen=True)
class Load:
    """One run of dlt: its seconds, the rows by table, and its largest process's peak in MiB."""

    seconds: float
    rows: dict[str, int]
    memory: float


def install() -> None:
    """Install the locked packages, unless they are installed; raises `PeerUnavailableError` if that fails."""
    stamp = ENVIRONMENT / "installed.lock"
    if stamp.exists() and stamp.read_bytes() == LOCK.read_bytes():
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [*pip, "--require-hashes", "-r", str(LOCK)],
    ):
        completed = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if completed.returncode:
            raise PeerUnavailableError(f"pip could not install dlt: {completed.stderr.strip()[-200:]}")
    shutil.copyfile(LOCK, stamp)


def version() -> str:
    """The locked version of dlt."""
    return next(
        line.split()[0].removeprefix("dlt==") for line in LOCK.read_text().splitlines() if line.startswith("dlt==")
    )


def load(xero_headers: dict[str, str], copper_headers: dict[str, str], disposition: str) -> Load:
    """Load everything into the current database; the headers authorise calls to the vendors.

    `disposition` is `append` or `merge`.
    """
    with tempfile.TemporaryDirectory() as folder:
        process_environment = {
            **os.environ,
            **CONFIGURATION,
            "XERO_HEADERS": json.dumps(xero_headers),
            "COPPER_HEADERS": json.dumps(copper_headers),
            "DESTINATION__POSTGRES__CREDENTIALS": database_url(),
            "DLT_DATA_DIR": folder,
        }
        config = settings()
        command = [str(ENVIRONMENT / "bin" / "python"), str(HERE / "dlt_pipeline.py")]
        command += [config.xero_api_url, config.copper_api_url, FILE_FORMAT, folder, disposition]
        with (
            subprocess.Popen(
                command, cwd=folder, env=process_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process,
            PeakMemory(process.pid) as peak,
        ):
            try:
                output, errors = process.communicate(timeout=RUN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise PeerUnavailableError(f"dlt took longer than {RUN_SECONDS} s") from None
        if process.returncode:
            raise PeerUnavailableError(f"dlt failed: {errors.strip()[-500:]}")
    result = json.loads(output.splitlines()[-1])
    return Load(result["seconds"], _count_rows(), peak.mebibytes)


def _count_rows() -> dict[str, int]:
    """The rows of each of dlt's tables."""
    with psycopg.connect(conninfo(), connect_timeout=5) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (DATASET,)
        ).fetchall()
        counts = {}
        for (name,) in names:
            statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(DATASET, name))
            row = connection.execute(statement).fetchone()
            counts[name] = row[0] if row else 0
    return counts
