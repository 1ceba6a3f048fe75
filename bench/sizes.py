"""How large Patina is where it is installed: its wheel, its dependencies and its image."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from bench import environment
from bench.figures import Figure

BUILD_SECONDS = 120
IMAGE_SECONDS = 240
LISTED_PACKAGES = 6
# What is not part of a source tree.
GENERATED = shutil.ignore_patterns(
    ".git", ".venv*", ".patina", ".*_cache", "__pycache__", "build", "node_modules", "*.egg-info"
)
KIB, MIB = 1024, 1024 * 1024


def measure() -> list[Figure]:
    """The sizes, without goals."""
    figures = [_measure_wheel(), _measure_dependencies()]
    image = _measure_image()
    return figures if image is None else [*figures, image]


def _measure_wheel() -> Figure:
    """Build the wheel of a copy of the source tree."""
    with tempfile.TemporaryDirectory(prefix="patina-wheel-") as folder:
        source = Path(folder) / "source"
        shutil.copytree(environment.ROOT, source, ignore=GENERATED)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
        subprocess.run(
            [*command, "--wheel-dir", folder, str(source)], check=True, capture_output=True, timeout=BUILD_SECONDS
        )
        (wheel,) = Path(folder).glob("*.whl")
        return Figure("size of the wheel", (wheel.stat().st_size / KIB,), "KiB")


def _measure_dependencies() -> Figure:
    """The files of the packages that Patina needs, without those of its development."""
    sizes = {package.name: _installed_bytes(package) for package in _dependencies("patina", {})}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:LISTED_PACKAGES]
    details = {name: f"{sizes[name] / MIB:.0f} MiB" for name in largest}
    total = sum(sizes.values()) / MIB
    return Figure(f"size of its {len(sizes)} dependencies, installed", (total,), "MiB", details=details)


def _dependencies(name: str, visited: dict[str, Distribution]) -> list[Distribution]:
    """The distributions that one requires, directly or not; `visited` are those seen before."""
    extras = ("", *_extras(name))
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if requirement.name in visited:
            continue
        try:
            visited[requirement.name] = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        _dependencies(requirement.name, visited)
    return list({package.name: package for package in visited.values()}.values())


def _extras(name: str) -> Iterator[str]:
    """The extras of a package that Patina's own requirements name."""
    for text in distribution("patina").requires or []:
        requirement = Requirement(text)
        if requirement.name == name:
            yield from requirement.extras


def _installed_bytes(package: Distribution) -> int:
    paths = [Path(str(package.locate_file(file))) for file in package.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _measure_image() -> Figure | None:
    """Build the image; None with a printed line where Docker or the base image is not available."""
    tag = "patina-bench"
    build = ["docker", "build", "--quiet", "--file", "docs/deploy/Containerfile", "--tag", tag, "."]
    inspect = ["docker", "image", "inspect", "--format", "{{.Size}}", tag]
    try:
        for command in (["docker", "version"], build, inspect):
            completed = subprocess.run(
                command, cwd=environment.ROOT, capture_output=True, text=True, timeout=IMAGE_SECONDS, check=True
            )
    except (OSError, subprocess.SubprocessError) as error:
        message = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        print(f"  left out: the image: {(message.strip().splitlines() or ['no reason given'])[-1][:200]}", flush=True)
        return None
    subprocess.run(["docker", "image", "rm", tag], capture_output=True, timeout=IMAGE_SECONDS, check=False)
    return Figure("size of the image", (int(completed.stdout) / MIB,), "MiB")
