"""Prints what a command found: data on standard output, everything else on standard error.

A table is drawn by rich where that is installed and a terminal shows it, and of plain columns elsewhere. What comes from
providers and subscribers cannot control the terminal: characters that are not printable are escaped.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from relay.errors import RelayError

Json = dict[str, Any]
NOTHING: Final = "–"
GAP: Final = "  "
GOOD, BAD = (
    frozenset({"succeeded", "delivered", "active", "ok"}),
    frozenset({"failed", "exhausted", "disabled", "held"}),
)


def one(found: Any, form: str) -> None:
    """Print one thing: as JSON, or a line for each of its fields."""
    if form != "table":
        click.echo(text_of(found, indent=2 if form == "json" else None))
        return
    lines = list(_fields(found, ""))
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        click.echo(f"{name:<{width}}{GAP}{value}")


def rows(found: Sequence[Json], columns: Mapping[str, str], form: str, cursor: str | None = None) -> None:
    """Print a list: as one JSON document like the API's, as one JSON document a line, or as a table."""
    if form == "json":
        click.echo(text_of({"data": found, "next_cursor": cursor}, indent=2))
    elif form == "jsonl":
        for item in found:
            click.echo(text_of(item))
    else:
        table([[cell(_at(item, path)) for path in columns.values()] for item in found], list(columns))
    if cursor is not None and form != "json":
        say(f"there are more: --cursor {cursor}")


def table(cells: Sequence[Sequence[str]], titles: Sequence[str]) -> None:
    """Print a table."""
    if sys.stdout.isatty() and _rich(cells, titles):
        return
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for row in (titles, *cells):
        click.echo(GAP.join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def say(text: str) -> None:
    """Print a sentence for people."""
    click.echo(printable(text), err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Return if the user agrees; without a terminal only `--yes` does."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Without a terminal this needs --yes.")
    if not click.confirm(question, err=True):
        raise RelayError("nothing was done")


def text_of(found: Any, indent: int | None = None) -> str:
    """Return JSON; characters that control a terminal are escaped, and integers of any size exact."""
    return printable(json.dumps(found, ensure_ascii=False, indent=indent), keep="\n")


def cell(value: Any) -> str:
    """Return a value as it stands in a table."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return ", ".join(map(cell, value)) or NOTHING
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def printable(text: str, keep: str = "\n") -> str:
    """Return the text with everything escaped that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(one if one in keep or one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    """Return a character as JSON escapes it, in two units where it has two."""
    return json.dumps(character)[1:-1]


def _fields(found: Any, name: str) -> Any:
    """Yield the name and text of each field within."""
    if isinstance(found, dict) and found:
        for key, value in found.items():
            yield from _fields(value, f"{name}.{key}" if name else str(key))
    elif isinstance(found, list) and any(isinstance(item, (dict, list)) for item in found):
        for number, value in enumerate(found):
            yield from _fields(value, f"{name}[{number}]")
    else:
        yield printable(name), cell(found if found != {} else None)


def _at(item: Json, path: str) -> Any:
    """Return the value at a path such as `cost.amount`; None if it is absent."""
    found: Any = item
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _rich(cells: Sequence[Sequence[str]], titles: Sequence[str]) -> bool:
    """Print a table by rich; return False if it is not installed. It honours NO_COLOR by itself."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        drawn.add_column(title, overflow="fold", no_wrap=title == "id")
    for row in cells:
        drawn.add_row(*(Text(text, style=_style(text)) for text in row))
    Console(no_color="NO_COLOR" in os.environ or None).print(drawn)
    return True


def _style(text: str) -> str:
    """Return the colour of a status."""
    return "green" if text in GOOD else "red" if text in BAD else ""
