"""The named statements of `sql/*.sql`: `-- name: claim_deliveries`, a sentence, the text."""

import re
from importlib import resources
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load() -> dict[str, str]:
    """Every statement by its name; ValueError when a name is used twice."""
    found: dict[str, str] = {}
    for file in sorted(resources.files(__package__).joinpath("sql").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text())
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"{file.name}: the statement {name} is there twice")
            found[name] = text.strip().rstrip(";")
    return found
