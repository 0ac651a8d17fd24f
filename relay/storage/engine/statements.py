"""The named statements of `sql/*.sql`: `-- name: claim_deliveries`, a sentence, the text."""

import re
from collections.abc import Callable, Mapping
from importlib import resources
from operator import itemgetter
from typing import Any, Final

PARAMETER: Final = re.compile(r"(?<![:\w]):([a-z_]+)")
_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load() -> dict[str, str]:
    """Every statement by its name; ValueError when a name is used twice."""
    found: dict[str, str] = {}
    for file in sorted(resources.files("relay.storage").joinpath("sql").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text("utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"{file.name}: the statement {name} is there twice")
            found[name] = text.strip().rstrip(";")
    return found


class Numbered:
    """A statement with `?1` (or `$1`) for each `:name`, which a database binds faster; `names` are in that order."""

    def __init__(self, text: str, mark: str) -> None:
        self.names: list[str] = []
        self.text = PARAMETER.sub(lambda found: f"{mark}{self._number(found[1])}", text)
        self.values = _picker(self.names)

    def _number(self, name: str) -> int:
        """The number of a name, the same each time."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name) + 1


def _picker(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """What takes the parameters in their order; KeyError for one that is missing."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda params: tuple(params[name] for name in names)
