"""Mutation check: `make mutants`, or a part of it with `ARGS="--only overdue"`.

Each mutant of `tests.mutants.catalogue` is applied to a copy of the project, and the tests that it names are run there.
They must pass without it and fail with it. Exit 0 only when every mutant was caught.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from runtime import embedded
from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
RUN_SECONDS = 300
BASELINE_SECONDS = 1_800
PASSED, FAILED = 0, 1
OUTPUT_LINES = 15


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `problem` is None when its tests caught it."""

    mutant: Mutant
    problem: str | None = None
    output: str = ""


def copy_project(folder: Path) -> None:
    """Make `folder` hold what git tracks and does not ignore, as it is in the working tree, beside its own services."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for path in [
        path for path in folder.rglob("*") if path.is_file() and ".patina" not in path.parts[len(folder.parts) :]
    ]:
        if str(path.relative_to(folder)) not in names:
            path.unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def run_tests(folder: Path, tests: Sequence[str], seconds: int, *words: str) -> tuple[int | None, str]:
    """Run tests in a copy; returns pytest's exit code (None: it took longer than `seconds`) and its last lines."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "--timeout", "120", "-p", "no:randomly", "--tb=line", *words, *tests]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, "\n".join(done.stdout.decode(errors="replace").splitlines()[-OUTPUT_LINES:])


@contextmanager
def mutated(folder: Path, mutant: Mutant) -> Iterator[None]:
    """Apply a mutant until the block ends; raises `ValueError` when its text does not occur exactly once."""
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
    try:
        with mutated(folder, mutant):
            code, output = run_tests(folder, mutant.tests, RUN_SECONDS, "-x")
    except (OSError, ValueError) as error:
        return Verdict(mutant, f"could not be applied: {error}")
    if code == FAILED:
        return Verdict(mutant)
    if code == PASSED:
        return Verdict(mutant, "was not caught", output)
    return Verdict(mutant, "the tests did not run to their end", output)


def select(words: Sequence[str]) -> list[Mutant]:
    """The mutants whose name or path contains one of the words; all of them without words."""
    return [mutant for mutant in MUTANTS if not words or any(word in f"{mutant.name} {mutant.path}" for word in words)]


def judge_all(mutants: Sequence[Mutant], folders: Sequence[Path], console: Console) -> list[Verdict]:
    """Judge every mutant, one at a time in each folder."""
    free: queue.Queue[Path] = queue.Queue()
    for folder in folders:
        free.put(folder)

    def work(mutant: Mutant) -> Verdict:
        folder = free.get()
        try:
            return judge(folder, mutant)
        finally:
            free.put(folder)

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
        for done in as_completed([pool.submit(work, mutant) for mutant in mutants]):
            verdict = done.result()
            verdicts.append(verdict)
            progress.advance(task)
            if verdict.problem:
                progress.console.print(f"{verdict.mutant.name}: {verdict.problem}\n{verdict.output}", markup=False)
    return verdicts


def main() -> int:
    """Run the check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make mutants", description="Break the product on purpose; tests must notice."
    )
    parser.add_argument("--only", nargs="*", default=[], help="parts of names or paths")
    parser.add_argument("--parallel", type=int, default=2, choices=range(1, 9), help="copies of the project (1 to 8)")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a mutant first")
    arguments = parser.parse_args()
    mutants, console = select(arguments.only), Console(stderr=True)
    if not mutants:
        parser.error("no mutant has such a name or path")
    folders = [ROOT / ".patina" / "mutants" / str(number) for number in range(min(arguments.parallel, len(mutants)))]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        copy_project(folder)
        for kind in ("postgres", "redis"):
            embedded.use(kind, folder / ".patina" / "tests")
    if not arguments.no_baseline and not _passes(folders[0], mutants, console):
        print("mutants failed: the tests fail without any mutant")
        return 1
    verdicts = judge_all(mutants, folders, console)
    caught = sum(verdict.problem is None for verdict in verdicts)
    print(f"mutants {'ok' if caught == len(mutants) else 'failed'}: {caught} of {len(mutants)} caught")
    return 0 if caught == len(mutants) else 1


def _passes(folder: Path, mutants: Sequence[Mutant], console: Console) -> bool:
    """Whether the named tests pass as the project is."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    console.print(f"{len(tests)} tests without any mutant …")
    code, output = run_tests(folder, tests, BASELINE_SECONDS, "-n", "2")
    if code != PASSED:
        console.print(output, markup=False)
    return code == PASSED


if __name__ == "__main__":
    raise SystemExit(main())
