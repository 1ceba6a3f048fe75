"""Carries out attacks one after the other, each within a bound, and says how they went."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.attack.catalogue import ATTACKS
from tests.attack.evidence import Attack, Evidence
from tests.attack.installation import installation
from tests.attack.load import Measurement, measure
from tests.attack.site import Site

ATTACK_SECONDS = 150
LOAD = "load"


@dataclass(frozen=True)
class Verdict:
    """What became of an attack after some seconds."""

    name: str
    is_open: bool
    saw: str
    seconds: float


class TookTooLong(BaseException):
    """An attack did not end in time; no `except Exception` on its way may keep it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """End the block with `TookTooLong` after some seconds."""

    def end(*_: object) -> NoReturn:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def carry_out(attack: Attack, site: Site) -> Verdict:
    """One attack; one that cannot be carried out has shown nothing, and so counts as open."""
    began = time.monotonic()
    try:
        with within(ATTACK_SECONDS):
            evidence = attack.run(site)
    except TookTooLong:
        evidence = Evidence([(False, f"it did not end within {ATTACK_SECONDS} s")])
    except Exception as error:
        evidence = Evidence([(False, f"it could not be carried out: {type(error).__name__}: {str(error)[:300]}")])
    return Verdict(attack.name, evidence.is_open, evidence.saw, time.monotonic() - began)


def select(words: Sequence[str]) -> list[Attack]:
    """The attacks whose name contains one of the words; all of them without words."""
    return [attack for attack in ATTACKS if not words or any(word in attack.name for word in words)]


def run(attacks: Sequence[Attack], *, with_load: bool, console: Console) -> tuple[list[Verdict], list[Measurement]]:
    """Carry out attacks, then measure what another tenant notices: without the attack, and with it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    verdicts: list[Verdict] = []
    measured: list[Measurement] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting".ljust(40), total=len(attacks) + with_load)
        with installation() as site:
            site.open_both()
            for attack in attacks:
                progress.update(task, description=attack.name[:40].ljust(40))
                verdicts.append(carry_out(attack, site))
                site.recover()
                _tell(progress.console, verdicts[-1])
                progress.advance(task)
            if with_load:
                progress.update(task, description=LOAD.ljust(40))
                measured += measure(site)
                progress.advance(task)
            progress.update(task, description="stopping".ljust(40))
    return verdicts, measured


def _tell(console: Console, verdict: Verdict) -> None:
    state = "open  " if verdict.is_open else "closed"
    line = f"{state} {verdict.name} ({verdict.seconds:.0f} s): {verdict.saw[:600]}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def summarise(verdicts: Sequence[Verdict], measured: Sequence[Measurement]) -> tuple[bool, list[str]]:
    """Whether all is well, and what to print: the measurement, and one line about all of it."""
    opened = [verdict.name for verdict in verdicts if verdict.is_open]
    well = not opened and all(attacked.is_within_bounds for attacked in measured[1:])
    names = f" ({', '.join(opened)})" if opened else ""
    last = f"attack {'ok' if well else 'failed'}: findings {len(verdicts)}, open {len(opened)}{names}"
    if measured:
        attacked = measured[-1]
        last += f", other tenant p99 {attacked.read.p99:.0f} ms / {attacked.panel.p99:.0f} ms"
    return well, [*_table(measured), last]


def _table(measured: Sequence[Measurement]) -> Iterator[str]:
    for name, measurement in zip(("without the attack", "with the attack"), measured, strict=False):
        for kind, waits in (("read", measurement.read), ("panel", measurement.panel)):
            yield (
                f"{name}: {kind} p50 {waits.p50:.0f} ms, p99 {waits.p99:.0f} ms,"
                f" {waits.failed} of {waits.count} not answered"
            )
