"""One round of `make failover`: the documented cluster promotes a standby when its leader's host fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.failover import programs
from tests.support.processes import ROOT

REASON = programs.why_impossible()
# This machine may be busy with other tests, so that only what must never happen is checked here.
GOAL_SECONDS = 60
# A fault that is not much longer than the promotion takes.
SEED = 48
TIMEOUT_SECONDS, TTL_SECONDS = 280, 10


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.long(seconds=90)
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_when_the_leader_s_host_is_killed() -> None:
    arguments = [
        "--rounds",
        "1",
        "--seed",
        str(SEED),
        "--only",
        "kill leader",
        "--ttl",
        str(TTL_SECONDS),
        "--without-cost",
        "--goal",
        str(GOAL_SECONDS),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "tests.failover", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    summary = result.stdout.rpartition("\nfailover ")[2]
    assert summary.startswith("ok: rounds 1, promotions 1, "), result.stdout + result.stderr
