"""The files of docs/deploy/cluster refer to declared variables and existing settings; how gaps are measured."""

from __future__ import annotations

import itertools
import random

import pytest

from runtime.settings import Settings
from tests.failover import configuration, faults
from tests.failover.availability import longest_gap
from tests.failover.faults import FaultKind, Victim

# Each host has its own.
OF_THE_HOST = {"HOST", "ADDRESS"}
FILES = sorted(path.name for path in configuration.FILES.iterdir())


@pytest.mark.parametrize("file_name", FILES)
def test_every_variable_that_a_file_refers_to_is_declared(file_name: str) -> None:
    text = (configuration.FILES / file_name).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = set(configuration.REFERENCE.findall("\n".join(lines)))
    assert names <= configuration.documented_variables().keys() | OF_THE_HOST


def test_every_setting_of_the_cluster_exists() -> None:
    settings = configuration.parse_environment((configuration.FILES / "patina.vars").read_text())
    assert {name.lower() for name in settings} <= set(Settings.model_fields)


def test_a_gap_reaches_from_one_success_to_the_next_within_the_period() -> None:
    assert longest_gap([0.5, 1.0, 1.5, 4.0, 4.5, 9.0], 1.0, 5.0) == 2.5
    assert longest_gap([], 1.0, 5.0) == 4.0


def test_a_dozen_rounds_contain_every_kind_of_fault_and_every_victim() -> None:
    rounds = list(itertools.islice(faults.choose(random.Random(1)), sum(faults.WEIGHTS.values())))
    assert {victim for _, victim in rounds} == set(Victim)
    assert len({kind for kind, _ in rounds}) >= len(FaultKind) - 1
    assert not faults.matches("no such fault")
