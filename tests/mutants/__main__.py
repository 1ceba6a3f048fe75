"""Mutation check: `make mutants`, or a part of it with `ARGS="--only overdue"`.

Each mutant of `tests.mutants.catalogue` is applied to a copy of the project, where the tests that it names are run.
They must pass without the mutant and fail with it. A test that is skipped, cannot be collected, or errors during set-up
does not count as a failure. Exits with 0 only if every mutant was caught.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from runtime import embedded
from tests.mutants.catalogue import MUTANTS
from tests.mutants.catalogue.mutant import Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
RUN_SECONDS = 300
BASELINE_SECONDS = 2_400
OUTPUT_LINES = 15
PASSED, FAILED = 0, 1


@dataclass(frozen=True)
class Verdict:
    """The result for a mutant, and the seconds it took: `problem` is None if its tests caught it."""

    mutant: Mutant
    seconds: float
    problem: str | None = None
    output: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of pytest: its exit code (None: timeout), its last lines, and the numbers of tests by result.

    `errors` are tests whose set-up failed.
    """

    code: int | None
    output: str
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def is_success(self) -> bool:
        """Whether every test ran and passed."""
        return self.code == PASSED and self.passed > 0 and not (self.failed or self.errors or self.skipped)

    @property
    def problem(self) -> str | None:
        """Why this does not prove that a mutant was caught; None if it does."""
        if self.code is None:
            return "the tests timed out"
        if self.failed and self.code == FAILED:
            return None
        if self.errors:
            return "a test failed during set-up"
        if self.skipped:
            return "a test was skipped"
        return "was not caught" if self.code == PASSED else "the tests did not run"


def copy_project(folder: Path) -> None:
    """Copy the working tree, without ignored files, to `folder`; its own `.patina` folder is kept."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    names = {name for name in listing.split("\0") if name and (ROOT / name).is_file()}
    for path in [
        path for path in folder.rglob("*") if path.is_file() and ".patina" not in path.parts[len(folder.parts) :]
    ]:
        if str(path.relative_to(folder)) not in names:
            path.unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def run_tests(folder: Path, tests: Sequence[str], seconds: int, *options: str) -> Outcome:
    """Run tests in a copy, for at most `seconds`."""
    report = folder / ".patina" / "report.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "--timeout", "120", "-p", "no:randomly", "--tb=line"]
    command += [f"--junit-xml={report}", *options, *tests]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            stdout = process.communicate(timeout=seconds)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Outcome(None, "")
    output = "\n".join(stdout.splitlines()[-OUTPUT_LINES:])
    return Outcome(process.returncode, output, *(_counts(report) if report.exists() else ()))


def _counts(report: Path) -> tuple[int, int, int, int]:
    """The numbers of tests that passed, failed, had an error during set-up, and were skipped."""
    passed = failed = errors = skipped = 0
    for case in ElementTree.parse(report).iter("testcase"):
        messages = [error.get("message", "") for error in case.findall("error")]
        # An error during teardown counts as a failure.
        is_late = any(message.startswith("failed on teardown") for message in messages)
        if case.find("skipped") is not None:
            skipped += 1
        elif case.find("failure") is not None or is_late:
            failed += 1
        elif messages:
            errors += 1
        else:
            passed += 1
    return passed, failed, errors, skipped


@contextmanager
def mutated(folder: Path, mutant: Mutant) -> Iterator[None]:
    """Apply a mutant until the block ends; raises `ValueError` if its text does not occur exactly once."""
    path = folder / mutant.path
    original = path.read_text()
    count = original.count(mutant.before)
    if count != 1:
        raise ValueError(f"the text to replace occurs {count} times in {mutant.path}")
    path.write_text(original.replace(mutant.before, mutant.after))
    try:
        yield
    finally:
        path.write_text(original)


def judge(folder: Path, mutant: Mutant) -> Verdict:
    """Apply one mutant and run its tests."""
    started = time.monotonic()
    try:
        with mutated(folder, mutant):
            outcome = run_tests(folder, mutant.tests, RUN_SECONDS, "-x")
    except (OSError, ValueError) as error:
        return Verdict(mutant, 0, f"could not be applied: {error}")
    return Verdict(mutant, time.monotonic() - started, outcome.problem, outcome.output if outcome.problem else "")


def select(filters: Sequence[str]) -> list[Mutant]:
    """The mutants whose name or path contains one of the filters; all of them without filters."""
    return [
        mutant for mutant in MUTANTS if not filters or any(part in f"{mutant.name} {mutant.path}" for part in filters)
    ]


def judge_all(mutants: Sequence[Mutant], folders: Sequence[Path], console: Console) -> list[Verdict]:
    """Judge every mutant, one at a time in each folder."""
    free_folders: queue.Queue[Path] = queue.Queue()
    for folder in folders:
        free_folders.put(folder)

    def work(mutant: Mutant) -> Verdict:
        folder = free_folders.get()
        try:
            return judge(folder, mutant)
        finally:
            free_folders.put(folder)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    verdicts: list[Verdict] = []
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(len(folders)) as pool:
        task = progress.add_task("mutants", total=len(mutants))
        for future in as_completed([pool.submit(work, mutant) for mutant in mutants]):
            verdict = future.result()
            verdicts.append(verdict)
            progress.advance(task)
            line = f"{verdict.problem or 'caught'}: {verdict.mutant.name} ({verdict.seconds:.0f} s)"
            progress.console.print(f"{line}\n{verdict.output}".strip(), markup=False, highlight=False, soft_wrap=True)
    return verdicts


def main() -> int:
    """Run the check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make mutants", description="Break the product on purpose; the tests must catch it."
    )
    parser.add_argument("--only", nargs="*", default=[], help="substrings of names or paths")
    parser.add_argument("--parallel", type=int, default=2, choices=range(1, 9), help="copies of the project (1 to 8)")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a mutant first")
    arguments = parser.parse_args()
    mutants, console = select(arguments.only), Console(stderr=True)
    if not mutants:
        parser.error("no mutant matches")
    folders = [ROOT / ".patina" / "mutants" / str(number) for number in range(min(arguments.parallel, len(mutants)))]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        copy_project(folder)
        for service in ("postgres", "redis"):
            embedded.use(service, folder / ".patina" / "tests")
    if not arguments.no_baseline and not _passes(folders[0], mutants, console):
        print("mutants failed: the tests fail without any mutant")
        return 1
    verdicts = judge_all(mutants, folders, console)
    caught = sum(verdict.problem is None for verdict in verdicts)
    print(f"mutants {'ok' if caught == len(mutants) else 'failed'}: {caught} of {len(mutants)} caught")
    return 0 if caught == len(mutants) else 1


def _passes(folder: Path, mutants: Sequence[Mutant], console: Console) -> bool:
    """Whether the tests pass without a mutant."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    console.print(f"{len(tests)} tests without any mutant …")
    outcome = run_tests(folder, tests, BASELINE_SECONDS, "-n", "2")
    if not outcome.is_success:
        console.print(f"{outcome.skipped} skipped\n{outcome.output}", markup=False)
    return outcome.is_success


if __name__ == "__main__":
    raise SystemExit(main())
