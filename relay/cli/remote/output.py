"""Print what a command found: as a table for people, as JSON or a line of JSON an item for programs.

What comes from providers and subscribers cannot control the terminal: what is not printable is escaped as in JSON.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal

import click

from relay.cli.remote.connection import Json, Remote, chosen

Format = Literal["table", "json", "jsonl"]
Columns = Mapping[str, str | Callable[[Json], Any]]
"""The heading of each column with the path of its value (`subject.name`), or what makes it."""
NONE: Final = "–"


class Session:
    """What a command works with: the running relay, and how to print."""

    def __init__(self, remote: Remote, output: Format, *, yes: bool) -> None:
        self.remote = remote
        self.output = output
        self._yes = yes

    def items(self, found: Iterable[Json], columns: Columns) -> None:
        """Print a list."""
        if self.output == "jsonl":
            for item in found:
                click.echo(in_a_line(item))
        elif self.output == "json":
            click.echo(_pretty(list(found)))
        else:
            _table([[_cell(item, value) for value in columns.values()] for item in found], list(columns))

    def item(self, found: Json, columns: Columns | None = None) -> None:
        """Print one object: as a table a line for each field, or for each of these."""
        if self.output == "jsonl":
            click.echo(in_a_line(found))
        elif self.output == "json":
            click.echo(_pretty(found))
        else:
            shown = columns or {name: name for name in found}
            width = max(map(len, shown))
            for name, value in shown.items():
                click.echo(f"{name:<{width}}  {_cell(found, value)}")

    def say(self, text: str) -> None:
        """Print a sentence for people, on standard error."""
        click.echo(printable(text), err=True)

    def confirm(self, question: str) -> None:
        """Ask before something that cannot be undone, unless `--yes`; end the command at a no."""
        if self._yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Give --yes to do it without a terminal.")
        click.confirm(question, abort=True, err=True)


def remote(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection; its first argument is then a Session."""

    @click.option("--url", metavar="URL", help="Where relay is; else RELAY_URL, the profile, or 127.0.0.1:8000.")
    @click.option("--profile", metavar="NAME", help="A profile that `relay login` stored.")
    @click.option("-o", "--output", type=click.Choice(["table", "json", "jsonl"]), default="table", show_default=True)
    @wraps(function)
    def command(url: str | None, profile: str | None, output: Format, **options: Any) -> None:
        session = Session(Remote(chosen(url, profile)), output, yes=bool(options.pop("yes", False)))
        function(session, **options)

    return command


def yes(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option to skip its question; below `remote`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def document(text: str | None, name: str) -> Any:
    """Return JSON that was given as text, as `@file`, or as `-` for standard input."""
    if text is None:
        return None
    try:
        if text == "-":
            return json.load(sys.stdin)
        if text.startswith("@"):
            return json.loads(Path(text[1:]).read_text("utf-8"))
        return json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"cannot read {text[1:]}: {error.strerror}", param_hint=name) from None
    except ValueError as error:
        raise click.BadParameter(f"is no JSON: {error}", param_hint=name) from None


def pairs(given: Sequence[str], name: str) -> dict[str, str]:
    """Return `key=value` options as a dictionary."""
    for one in given:
        if "=" not in one:
            raise click.BadParameter(f"must be KEY=VALUE, not {one[:60]!r}", param_hint=name)
    return dict(one.partition("=")[::2] for one in given)


def _cell(item: Json, value: str | Callable[[Json], Any]) -> str:
    """Return a cell's text."""
    found: Any = item
    if callable(value):
        found = value(item)
    else:
        for part in value.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    if found is None or found == "":
        return NONE
    if isinstance(found, bool):
        return "yes" if found else "no"
    return in_a_line(found) if isinstance(found, dict | list) else printable(str(found))


def _table(rows: list[list[str]], heads: list[str]) -> None:
    """Print a table: with rich on a terminal, if it is installed, else in plain columns."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ and _rich(rows, heads):
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in [heads, *rows]:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich(rows: list[list[str]], heads: list[str]) -> bool:
    """Print a table with rich; return False if it is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
    return True


def _pretty(found: Any) -> str:
    """Return indented JSON."""
    return printable(json.dumps(found, ensure_ascii=False, indent=2))


def in_a_line(found: Any) -> str:
    """Return JSON in one line."""
    return printable(json.dumps(found, ensure_ascii=False, separators=(",", ":")))


def printable(text: str) -> str:
    """Return the text with everything escaped that a terminal would act on, but for the end of a line."""
    if text.isprintable():
        return text
    return "".join(one if one == "\n" or one.isprintable() else json.dumps(one)[1:-1] for one in text)
