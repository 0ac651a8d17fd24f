"""Makes the commands `list` and `show` of what the API lists: a group for each noun, with the list's own filters."""

from collections.abc import Mapping
from typing import Any, Final

import click
import msgspec

from relay.cli.connection import Connection, connected, path_of
from relay.errors import RelayError

LIMIT: Final = 50


class Filter(msgspec.Struct, frozen=True):
    """A parameter of the list: its name in the API, and what it asks for."""

    name: str
    help: str
    flag: bool = False


MADE: Final = (
    Filter("created_after", "Made after this time, date or age (-24h)."),
    Filter("created_before", "Made before this time, date or age (-24h)."),
)


class Noun(msgspec.Struct, frozen=True):
    """What the API lists under `/v1/{path}`; `columns` are the titles of its table, and where each one's values are."""

    path: str
    help: str
    columns: Mapping[str, str]
    filters: tuple[Filter, ...] = ()
    metadata: bool = False


def group_of(noun: Noun, *, shows: bool = True) -> click.Group:
    """Return the group of a noun, with `list` and, if one thing can be asked for, `show`."""
    group = click.Group(noun.path, help=noun.help)
    group.add_command(list_command(noun, "list"))
    if shows:
        group.add_command(_show(noun))
    return group


def list_command(noun: Noun, name: str) -> click.Command:
    """Return the command that lists a noun."""

    def index(relay: Connection, limit: int, cursor: str | None, metadata: tuple[str, ...] = (), **given: Any) -> None:
        """Print the list, newest first."""
        query = {key: str(value).lower() if value is True else str(value) for key, value in given.items() if value}
        query |= {f"metadata[{key}]": value for key, value in pairs(metadata).items()}
        if cursor is not None:
            query["cursor"] = cursor
        found, after = relay.rows(path_of(noun.path), query, limit)
        relay.print_rows(found, noun.columns, after)

    made: Any = connected(index)
    if noun.metadata:
        made = metadata_option("Only those with this metadata.")(made)
    for one in reversed(noun.filters):
        option = f"--{one.name.replace('_', '-')}"
        made = click.option(option, one.name, is_flag=one.flag, default=None, help=one.help)(made)
    made = click.option("--cursor", help="Go on where the list before ended.")(made)
    made = click.option("--limit", type=click.IntRange(1), default=LIMIT, show_default=True, help="How many.")(made)
    return click.command(name, help="List them, newest first.")(made)


def metadata_option(text: str) -> Any:
    """Return the option `--metadata KEY=VALUE`, which may be given more than once."""
    return click.option("--metadata", multiple=True, metavar="KEY=VALUE", help=text)


def pairs(given: tuple[str, ...]) -> dict[str, str]:
    """Return the pairs of `KEY=VALUE`; raise RelayError for anything else."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RelayError(f"{text!r} must be KEY=VALUE")
        found[key] = value
    return found


def _show(noun: Noun) -> click.Command:
    """Return the command that shows one of a noun."""

    @click.command("show", help="Show one.")
    @click.argument("id_", metavar="ID")
    @connected
    def show(relay: Connection, id_: str) -> None:
        """Print one."""
        relay.print(relay.get(path_of(noun.path, id_)))

    return show
