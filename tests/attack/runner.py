"""Runs attacks one after the other, each with a timeout, and reports the results."""

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
    """The result of an attack, and the seconds it took."""

    name: str
    is_open: bool
    saw: str
    seconds: float


class TookTooLong(BaseException):
    """An attack timed out; not an `Exception`, so that no handler on the way catches it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise `TookTooLong` in the block after some seconds."""

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
    """Run an attack; an attack that fails has no evidence, and so counts as open."""
    started = time.monotonic()
    try:
        with within(ATTACK_SECONDS):
            evidence = attack.run(site)
    except TookTooLong:
        evidence = Evidence([(False, f"it did not end within {ATTACK_SECONDS} s")])
    except Exception as error:
        evidence = Evidence([(False, f"it could not be carried out: {type(error).__name__}: {str(error)[:300]}")])
    return Verdict(attack.name, evidence.is_open, evidence.saw, time.monotonic() - started)


def select(filters: Sequence[str]) -> list[Attack]:
    """The attacks whose name contains one of the filters; all of them without filters."""
    return [attack for attack in ATTACKS if not filters or any(name_filter in attack.name for name_filter in filters)]


def run(attacks: Sequence[Attack], *, with_load: bool, console: Console) -> tuple[list[Verdict], list[Measurement]]:
    """Run attacks, then measure another tenant's latency without an attack and with it."""
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
    """Whether all attacks are closed, and the report: the measurement, and a summary line."""
    open_names = [verdict.name for verdict in verdicts if verdict.is_open]
    well = not open_names and all(attacked.is_within_bounds for attacked in measured[1:])
    names = f" ({', '.join(open_names)})" if open_names else ""
    last = f"attack {'ok' if well else 'failed'}: findings {len(verdicts)}, open {len(open_names)}{names}"
    if measured:
        attacked = measured[-1]
        last += f", other tenant p99 {attacked.read.p99:.0f} ms / {attacked.panel.p99:.0f} ms"
    return well, [*_table(measured), last]


def _table(measured: Sequence[Measurement]) -> Iterator[str]:
    for name, measurement in zip(("without the attack", "with the attack"), measured, strict=False):
        for endpoint, waits in (("read", measurement.read), ("panel", measurement.panel)):
            yield (
                f"{name}: {endpoint} p50 {waits.p50:.0f} ms, p99 {waits.p99:.0f} ms,"
                f" {waits.failed} of {waits.count} not answered"
            )
