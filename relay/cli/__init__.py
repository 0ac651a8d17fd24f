"""The commands, one a file; each is imported only when it is asked for, so that a small one starts fast."""

import contextlib
import gc
import importlib
import io
import os
import sys
from typing import Final, NoReturn

import click

from relay import __version__, settings
from relay.errors import RelayError, SettingsError
from relay.settings import Settings

COMMANDS = ("serve", "work", "dev", "simulate", "migrate", "prune", "keys")
EXIT_CONFIG = 78
GC_OBJECTS = 10_000
STDERR: Final = 2


class _Lazy(click.Group):
    """Finds commands by their file."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of a name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"relay.cli.{cmd_name}").command
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay")
def group() -> None:
    """relay: a webhook receiver and callback relay for applications that make AI videos."""


def main() -> None:
    """Run a command; what relay refuses is one sentence and an exit status, never a traceback."""
    _occupy_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        group(prog_name="relay")
    except SettingsError as error:
        _refuse(error, EXIT_CONFIG)
    except RelayError as error:
        _refuse(error, 1)


def _refuse(error: RelayError, status: int) -> NoReturn:
    """End the process with a sentence; the status stays what it is if standard error cannot be written."""
    with contextlib.suppress(OSError):
        click.echo(f"relay: {error}", err=True)
    sys.exit(status)


def _occupy_standard_descriptors() -> None:
    """Open /dev/null in the place of a closed standard stream, so that no database gets its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def settle() -> None:
    """What a start made stays: the collector leaves it alone from here on, and looks at the rest less often.

    A request makes a few hundred objects and drops them; to look after every 700 of them is a twentieth of its time.
    """
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)


def load_settings() -> Settings:
    """The environment's settings; the secrets leave it, since a child or a crash report would show them.

    What the system shows of a process's environment (/proc/PID/environ, to its own user and root) is as it started.
    """
    from relay.providers import DEV_PROVIDERS, PROVIDERS

    providers = (*PROVIDERS, *DEV_PROVIDERS)
    loaded = settings.load(os.environ, providers)
    for name in settings.secret_names(providers):
        os.environ.pop(name, None)
    return loaded
