"""Run relay's commands, one a file; each is imported only when it runs, so that a small one starts fast."""

import contextlib
import gc
import importlib
import io
import os
import sys
from typing import Final

import click

from relay import __version__, settings
from relay.errors import RelayError, SettingsError
from relay.settings import Settings

COMMANDS: Final = {
    **{name: (name, "command") for name in ("serve", "work", "dev", "simulate", "migrate", "prune", "keys", "doctor")},
    **{name: ("remote.account", name) for name in ("login", "whoami", "status")},
    "open": ("remote.account", "open_"),
    "jobs": ("remote.jobs", "command"),
    **{name: ("remote.history", name) for name in ("events", "deliveries", "attempts", "callbacks")},
    "endpoints": ("remote.endpoints", "command"),
    **{name: ("remote.money", name) for name in ("providers", "quote", "spend", "files")},
    "archive": ("remote.archive", "command"),
    "payments": ("remote.ledger", "payments"),
    **{name: ("remote.insight", name) for name in ("alerts", "audit", "search", "stats")},
    "projects": ("remote.access", "projects"),
    **{name: ("remote.live", name) for name in ("tail", "listen")},
    **{name: ("remote.signing", name) for name in ("verify", "sign")},
    "incident": ("remote.incident", "command"),
    "mcp": ("remote.mcp", "command"),
    **{name: (name, "command") for name in ("completion", "openapi", "healthcheck")},
}
"""The file and the name of each command, in the order in which a new user needs them."""
EXIT_CONFIG = 78
"""The exit status for wrong settings, EX_CONFIG of sysexits.h."""
GC_OBJECTS = 10_000
"""New objects after which the garbage collector runs; Python's own default is 700 to 2,000."""
GC_OBJECTS_AT_START: Final = 100_000
"""The same while a command's modules are loaded, which makes no garbage: collections would take a tenth of a start."""
LOADS_AS_IT_RUNS: Final = frozenset({"serve", "work", "dev"})
"""Commands that load most of relay after their own module, and call `tune_gc` once they have started."""
STDERR: Final = 2


class CommandFailed(RelayError):
    """A command failed for a reason that a script can act on by the exit status."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class _Lazy(click.Group):
    """A group that finds its commands by their file names."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of a name, imported now; then garbage is collected as usual, unless it loads more."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"relay.cli.{module}"), name)
        if cmd_name not in LOADS_AS_IT_RUNS:
            gc.set_threshold(GC_OBJECTS)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of the commands, without importing them."""
        from relay.cli.summaries import SUMMARIES

        width = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, click.Command(name, help=SUMMARIES[name]).get_short_help_str(width)) for name in COMMANDS]
            )


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay")
def group() -> None:
    """relay: a webhook receiver and callback relay for applications that make AI videos."""


def main() -> None:
    """Run a command; print a RelayError as one sentence, without a traceback, and exit with 1 or EXIT_CONFIG."""
    gc.set_threshold(GC_OBJECTS_AT_START)
    _open_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        group(prog_name="relay")
    except RelayError as error:
        sys.exit(report(error))


def report(error: RelayError) -> int:
    """Print the error, and return the exit status, which is the same if standard error cannot be written."""
    with contextlib.suppress(OSError):
        click.echo(f"relay: {error}", err=True)
    return EXIT_CONFIG if isinstance(error, SettingsError) else getattr(error, "exit_status", 1)


def _open_standard_descriptors() -> None:
    """Open /dev/null for each closed standard stream, so that no database file gets the number of one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def tune_gc() -> None:
    """Exclude what the start has made from garbage collection, and collect the rest less often.

    A request makes a few hundred objects and drops them; a collection after every 700 would use 5% of its time.
    """
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)


def load_settings() -> Settings:
    """Return the environment's settings, and remove the secrets from it, which child processes would inherit.

    /proc/PID/environ still shows them, to the same user and root. Raise SettingsError for a SQLite database on a disk
    that the platform wipes, unless that is allowed.
    """
    from relay.cli.platforms import presets, require_lasting
    from relay.providers import DEV_PROVIDERS, PROVIDERS
    from relay.storage.engine.database_url import is_postgres, sqlite_path

    providers = (*PROVIDERS, *DEV_PROVIDERS)
    given = {name: value for name, value in os.environ.items() if value.strip()}
    loaded = settings.load(presets(given) | given, providers)
    if not loaded.allow_ephemeral and not is_postgres(loaded.database_url):
        require_lasting(sqlite_path(loaded.database_url), given)
    for name in settings.secret_names(providers):
        os.environ.pop(name, None)
    return loaded
