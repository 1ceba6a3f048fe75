"""The demo command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.serving import wait_until

ROOT = Path(__file__).resolve().parents[2]
LAST_LINE = r"demo ok: \d+ records, \d+ invoices, fresh in \d+ ms"


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli", "demo", "--size", "12", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATINA_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_tour(demo: subprocess.Popen[str]) -> list[str]:
    """The lines of a demo until it is up and waits."""
    assert demo.stdout is not None
    lines: list[str] = []
    for line in demo.stdout:
        lines.append(line)
        if "Ctrl-C stops every process" in line:
            return lines
    pytest.fail(f"the demo ended: {''.join(lines)}\n{demo.communicate()[1]}")


def processes_of(home: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("PATINA_HOME") == str(home)
    ]


@pytest.mark.long(seconds=50)
@pytest.mark.timeout(400)
def test_the_demo_shows_four_changes_and_a_second_run_reuses_the_data(tmp_path: Path) -> None:
    records = set()
    for _ in range(2):
        out, error = start(tmp_path, "--once").communicate(timeout=170)
        last = out.strip().splitlines()[-1]
        assert re.fullmatch(LAST_LINE, last), (out, error)
        assert out.count("shown after") == 4
        assert re.search(r"Xero outstanding of [^\n]+ NZD [1-9][\d.]+ +NZD [\d.]+", out), out
        assert "the field in Copper followed after" in out
        records.add(last.split(", fresh")[0])
        wait_until(lambda: not processes_of(tmp_path), description="the end of every process")
    assert len(records) == 1
    verified = subprocess.run(
        [sys.executable, "-m", "cli", "--embedded", "verify"],
        cwd=ROOT,
        env={**os.environ, "PATINA_HOME": str(tmp_path), "DATABASE_URL": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert verified.stdout == "verify ok: 0 missing, 0 stale, 0 extra\n"


def test_demos_that_start_at_the_same_time_use_different_ports(tmp_path: Path) -> None:
    homes = [tmp_path / "first", tmp_path / "second"]
    demos = [start(home) for home in homes]
    addresses = [{line.strip() for line in read_tour(demo) if "/control/state" in line} for demo in demos]
    assert addresses[0] != addresses[1]
    for demo in demos:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=40)
    wait_until(lambda: not any(map(processes_of, homes)), description="the end of every process")


def test_ctrl_c_stops_every_process(tmp_path: Path) -> None:
    demo = start(tmp_path)
    lines = read_tour(demo)
    addresses = [line.strip() for line in lines if "http" in line]
    assert len(addresses) == 4
    assert all(re.fullmatch(r"http://\S+", address) for address in addresses), "each on a line, whole"
    port = urlsplit(addresses[-1]).port
    hint = ".venv/bin/patina sandbox simulate" if port == 8701 else f".venv/bin/patina sandbox --port {port} simulate"
    assert f"  {hint}\n" in lines
    acted = subprocess.run(
        [sys.executable, "-m", "cli", *hint.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "pay-invoice" in acted.stdout
    assert len(processes_of(tmp_path)) > 5
    demo.send_signal(signal.SIGINT)
    out, error = demo.communicate(timeout=40)
    assert "every process has ended" in out, (lines, error)
    wait_until(lambda: not processes_of(tmp_path), description="the end of every process")


def test_a_demo_that_fails_says_why(tmp_path: Path) -> None:
    demo = start(tmp_path)
    read_tour(demo)
    (scheduler,) = [process for process in processes_of(tmp_path) if process.cmdline()[-1] == "scheduler"]
    scheduler.kill()
    _, error = demo.communicate(timeout=40)
    assert demo.returncode == 1
    assert "scheduler ended with -9" in error
    wait_until(lambda: not processes_of(tmp_path), description="the end of every process")
