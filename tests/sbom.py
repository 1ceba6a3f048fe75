"""A software bill of materials in CycloneDX: `make sbom` writes sbom.json.

What the lock names, with its hashes, and the programs within packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests import inventory
from tests.inventory import Program

ROOT = Path(__file__).resolve().parent.parent
SPEC = SchemaVersion.V1_6
SECONDS = 600


def bill() -> dict[str, Any]:
    """The bill, valid by its schema; raises `ValueError` where it is not."""
    words = [sys.executable, "-m", "cyclonedx_py", "requirements", "--pyproject", "pyproject.toml"]
    words += ["--spec-version", SPEC.to_version(), "--output-format", "JSON", "--output-reproducible"]
    done = subprocess.run(
        [*words, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    made: dict[str, Any] = json.loads(done.stdout)
    packages = {component["name"]: component["bom-ref"] for component in made["components"]}
    for program in inventory.programs():
        made["components"].append(_component(program))
        needed = next(node for node in made["dependencies"] if node["ref"] == packages[program.package])
        needed["dependsOn"] = [_reference(program)]
        made["dependencies"].append({"ref": _reference(program)})
    made["dependencies"].append({"ref": made["metadata"]["component"]["bom-ref"], "dependsOn": [*packages.values()]})
    made["dependencies"] = [*{node["ref"]: node for node in made["dependencies"]}.values()]
    if (error := JsonStrictValidator(SPEC).validate_str(json.dumps(made))) is not None:
        raise ValueError(f"the bill of materials is not valid: {error}")
    return made


def _reference(program: Program) -> str:
    return f"{program.package}/{program.name}"


def _component(program: Program) -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": _reference(program),
        "name": program.name,
        "version": program.version,
        "description": f"within the package {program.package} {version(program.package)}",
        "licenses": [{"license": {"id": program.licence}}],
        "hashes": [{"alg": "SHA-256", "content": program.digest}],
        "cpe": f"{program.cpe}:{program.version}:*:*:*:*:*:*:*",
    }


def main() -> None:
    """Write the bill."""
    made = bill()
    (ROOT / "sbom.json").write_text(json.dumps(made, indent=2) + "\n")
    print(f"sbom.json: {len(made['components'])} components")


if __name__ == "__main__":
    main()
