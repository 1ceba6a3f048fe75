"""A software bill of materials in CycloneDX: `make sbom` writes sbom.json.

It lists the locked packages with their hashes, and the programs bundled in packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft7Validator

from scripts import inventory
from scripts.inventory import Program

ROOT = Path(__file__).resolve().parent.parent
SPEC_VERSION = SchemaVersion.V1_6
TIMEOUT_SECONDS = 600


def build_sbom() -> dict[str, Any]:
    """The bill of materials; raises `ValueError` if it does not match the CycloneDX schema."""
    arguments = [sys.executable, "-m", "cyclonedx_py", "requirements", "--pyproject", "pyproject.toml"]
    arguments += ["--spec-version", SPEC_VERSION.to_version(), "--output-format", "JSON", "--output-reproducible"]
    # The document is validated once it is complete.
    arguments += ["--no-validate"]
    completed = subprocess.run(
        [*arguments, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
    )
    document: dict[str, Any] = json.loads(completed.stdout)
    packages = {component["name"]: component["bom-ref"] for component in document["components"]}
    for program in inventory.list_programs():
        document["components"].append(_component(program))
        package_node = next(node for node in document["dependencies"] if node["ref"] == packages[program.package])
        package_node["dependsOn"] = [_reference(program)]
        document["dependencies"].append({"ref": _reference(program)})
    document["dependencies"].append(
        {"ref": document["metadata"]["component"]["bom-ref"], "dependsOn": [*packages.values()]}
    )
    document["dependencies"] = [*{node["ref"]: node for node in document["dependencies"]}.values()]
    validate(document)
    return document


def validate(document: dict[str, Any]) -> None:
    """Raise `ValueError` if a bill of materials does not match the CycloneDX schema."""
    with _references_are_uris():
        error = JsonStrictValidator(SPEC_VERSION).validate_str(json.dumps(document))
    if error is not None:
        raise ValueError(f"the bill of materials is not valid: {error}")


@contextmanager
def _references_are_uris() -> Iterator[None]:
    """Check references by the grammar of URIs, a regular expression: the parser for IRIs takes 0.1 s for each."""
    checkers = Draft7Validator.FORMAT_CHECKER.checkers
    original = checkers["iri-reference"]
    checkers["iri-reference"] = checkers["uri-reference"]
    try:
        yield
    finally:
        checkers["iri-reference"] = original


def _reference(program: Program) -> str:
    return f"{program.package}/{program.name}"


def _component(program: Program) -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": _reference(program),
        "name": program.name,
        "version": program.version,
        "description": f"bundled in the package {program.package} {version(program.package)}",
        "licenses": [{"license": {"id": program.license}}],
        "hashes": [{"alg": "SHA-256", "content": program.digest}],
        "cpe": f"{program.cpe}:{program.version}:*:*:*:*:*:*:*",
    }


def main() -> None:
    """Write sbom.json."""
    document = build_sbom()
    (ROOT / "sbom.json").write_text(json.dumps(document, indent=2) + "\n")
    print(f"sbom.json: {len(document['components'])} components")


if __name__ == "__main__":
    main()
