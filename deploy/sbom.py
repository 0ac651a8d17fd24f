"""List what relay is made of, as CycloneDX 1.6 and as a table of licences: `./deploy/dev sbom dist`.

It reads what is installed in the environment that runs it, and lists what requirements.txt (or another file) pins for
this Python. It exits 1 if a licence is not in ALLOWED: then somebody decides.
"""

import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from relay import __version__  # noqa: E402 - the checkout is not installed

ALLOWED: Final = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
    "Unlicense",
}
CLASSIFIED: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def pinned(requirements: Path) -> dict[str, str]:
    """Return the version of each package that a requirements file pins for this Python."""
    text = re.sub(r"\\\n\s*--hash=\S+|\n\s*#.*", "", requirements.read_text()).replace("\\", "")
    wanted = [Requirement(line) for line in text.splitlines() if line.strip()]
    here = [one for one in wanted if one.marker is None or one.marker.evaluate()]
    return {one.name: next(iter(one.specifier)).version for one in here}


def licence(name: str) -> str:
    """Return the SPDX expression of an installed package; LookupError if it names none."""
    about = importlib.metadata.metadata(name)
    if expression := (about.get_all("License-Expression") or [""])[0]:
        return str(expression)
    classified = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License ::")
    ]
    if found := sorted({CLASSIFIED[one] for one in classified if one in CLASSIFIED}):
        return " OR ".join(found)
    said = str((about.get_all("License") or [""])[0])
    if (expression := CLASSIFIED.get(said, said)) in ALLOWED:
        return expression
    raise LookupError(f"{name} does not say its licence: {classified} {said:.80}")


def components(requirements: Path) -> list[dict[str, Any]]:
    """Return each pinned package as CycloneDX has it; AssertionError if another version is installed."""
    found: list[dict[str, Any]] = []
    for name, version in sorted(pinned(requirements).items()):
        assert importlib.metadata.version(name) == version, f"{name} {version} is pinned, and another is installed"
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        licences = [{"expression": licence(name)}]
        found.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "licenses": licences}
        )
    return found


def bom(requirements: Path) -> dict[str, Any]:
    """Return the whole document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    made_of = components(requirements)
    about = {
        "type": "application",
        "bom-ref": "relay",
        "name": project["name"],
        "version": __version__,
        "licenses": [{"expression": project["license"]}],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": about},
        "components": made_of,
        "dependencies": [{"ref": "relay", "dependsOn": [one["bom-ref"] for one in made_of]}],
    }


def allowed(expression: str) -> bool:
    """Return whether an expression can be met by allowed licences: one of an OR, each of an AND."""
    return any(
        all(part.strip("() ") in ALLOWED for part in either.split(" AND ")) for either in expression.split(" OR ")
    )


def main(into: Path, requirements: Path) -> int:
    """Write sbom.json and licences.txt; return 1 if a licence is not allowed."""
    into.mkdir(parents=True, exist_ok=True)
    document = bom(requirements)
    (into / "sbom.json").write_text(json.dumps(document, indent=1) + "\n")
    rows = [(one["name"], one["version"], one["licenses"][0]["expression"]) for one in document["components"]]
    (into / "licences.txt").write_text("".join(f"{name:24} {version:12} {under}\n" for name, version, under in rows))
    others = [row for row in rows if not allowed(row[2])]
    for row in others:
        print(f"not among the allowed licences: {' '.join(row)}", file=sys.stderr)
    print(f"{len(rows)} packages: {into / 'sbom.json'}, {into / 'licences.txt'}")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main(Path((sys.argv[1:] or ["dist"])[0]), ROOT / (sys.argv[2:] or ["requirements.txt"])[0]))
