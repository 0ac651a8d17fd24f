"""The named statements of `sql/*.sql`: `-- name: claim_deliveries`, a sentence, the text.

A text is SQLite's and PostgreSQL's. Where PostgreSQL needs another one it stands behind the first as
`-- name: claim_deliveries.postgres`, with a sentence that says why; or as `.postgres_batch`, which takes each parameter
as an array with one value for each row of a batch. What only PostgreSQL needs has no text for SQLite.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache, cached_property, partial
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Final

# The colon comes first and what must not stand before it second, since a search for a letter is fast.
_PARAMETER: Final = re.compile(r":(?<![:\w]:)([a-z_]+)")
_NAME: Final = re.compile(r"^-- name: ([\w.]+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)
_FOLDER: Final = Path(__file__).parents[1] / "sql"
_BATCH: Final = "postgres_batch"


class Dialect(StrEnum):
    """A database's SQL; the value is the suffix of the names of its own texts."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


_MARKS: Final = {Dialect.SQLITE: "?", Dialect.POSTGRES: "$"}
_SUFFIXES: Final = {Dialect.SQLITE: ("",), Dialect.POSTGRES: ("", Dialect.POSTGRES, _BATCH)}


class Statement:
    """A statement as its database takes it: `?1` (or `$1`) for each `:name`. `names` are in that order.

    `source` is as it is written, without its comments. Where `is_batch`, each parameter is an array.
    """

    def __init__(self, source: str, dialect: Dialect, *, is_batch: bool = False) -> None:
        self.source = source
        self.is_batch = is_batch
        self._dialect = dialect

    @cached_property
    def names(self) -> list[str]:
        """The names of the parameters, each once, in the order of their numbers."""
        return _names(self.source)

    @cached_property
    def text(self) -> str:
        """The text with numbers for names; made at its first use, since a start uses a few of some 240."""
        return numbered([self.source], self._dialect)

    @cached_property
    def values(self) -> Callable[[Any], tuple[Any, ...]]:
        """What picks the parameters from a dictionary, in their order."""
        return _picker(self.names, itemgetter)

    @cached_property
    def _fields(self) -> Callable[[Any], tuple[Any, ...]]:
        """What picks the parameters from an object's attributes."""
        return _picker(self.names, attrgetter)

    @cached_property
    def words(self) -> frozenset[str]:
        """All that the text is made of, the tables that it reads and writes among it."""
        return frozenset(re.findall(r"\w+", self.source))

    @cached_property
    def locks(self) -> bool:
        """Whether it locks what it reads."""
        return "FOR UPDATE" in self.source

    @cached_property
    def table(self) -> str:
        """The table that a batch is written to."""
        verb, *words = self.source.split(maxsplit=3)
        return words[1] if verb == "INSERT" else words[0]

    def rows(self, many: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Return the parameters of a batch row by row: of dictionaries, or of structs with fields of these names."""
        return map(self.values if isinstance(many[0], dict) else self._fields, many)

    def arrays(self, many: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the parameters of a batch, one array for each."""
        return list(zip(*self.rows(many), strict=True))


def texts() -> dict[str, str]:
    """Return every text by its name, with its suffix and its comments; ValueError if a name is used twice."""
    found: dict[str, str] = {}
    for file in sorted(_FOLDER.glob("*.sql")):
        parts = _NAME.split(file.read_text("utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"{file.name}: the statement {name} is there twice")
            found[name] = text.strip()
    return found


@cache
def load(dialect: Dialect) -> Mapping[str, Statement]:
    """Return a database's statements by their names, of two texts of a name its own; read once in a process."""
    found: dict[str, Statement] = {}
    for full_name, text in texts().items():
        name, _, suffix = full_name.partition(".")
        if suffix in _SUFFIXES[dialect]:
            source = _COMMENT.sub("", text + "\n").strip().removesuffix(";")
            found[name] = Statement(source, dialect, is_batch=suffix == _BATCH)
    return found


def numbered(sources: Sequence[str], dialect: Dialect) -> str:
    """Return the texts as one statement, with numbers for their names.

    The last is what it does, and the others are done with it, as CTEs. A name has another number in each of them.
    """
    parts: list[str] = []
    number = 1
    for source in sources:
        names = _names(source)
        numbers = {name: f"{_MARKS[dialect]}{index}" for index, name in enumerate(names, number)}
        parts.append(_PARAMETER.sub(partial(_number, numbers), source))
        number += len(names)
    *first, last = parts
    text = ", ".join(f"part_{place} AS ({part})" for place, part in enumerate(first))
    return f"WITH {text} {last}" if first else last


def _names(source: str) -> list[str]:
    """Return the names of a text's parameters, each once."""
    return list(dict.fromkeys(_PARAMETER.findall(source)))


def _number(numbers: Mapping[str, str], found: re.Match[str]) -> str:
    """Return the number of a name."""
    return numbers[found[1]]


def _picker(names: Sequence[str], getter: Callable[..., Callable[[Any], Any]]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what picks the parameters in their order; it raises KeyError or AttributeError for one that is missing."""
    if len(names) > 1:
        return getter(*names)
    pick = [getter(name) for name in names]
    return lambda params: tuple(one(params) for one in pick)
