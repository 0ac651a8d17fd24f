"""What a start does not load, so that it does not wait for it."""

import subprocess
import sys

import click
from click.testing import CliRunner

from relay import cli
from relay.cli.summaries import SUMMARIES
from tests.support.rows import rows


@rows(
    ("arguments", "objects"),
    [
        (("tail",), cli.GC_OBJECTS),
        (("listen", "--forward-to", "http://localhost"), cli.GC_OBJECTS),
        (("mcp",), cli.GC_OBJECTS),
        (("migrate", "--to", "postgres://h/d"), cli.GC_OBJECTS),
        (("serve",), cli.GC_OBJECTS_AT_START),
        (("work",), cli.GC_OBJECTS_AT_START),
        (("dev",), cli.GC_OBJECTS_AT_START),
    ],
)
def test_garbage_is_collected_as_usual_once_a_command_runs(arguments: tuple[str, ...], objects: int) -> None:
    """Leave the threshold of a start before a command runs, but for those that load more and call tune_gc then."""
    program = (
        "import gc, sys, click; from relay import cli; command = cli.group.get_command(click.Context(cli.group), "
        "sys.argv[1]); command.callback = lambda **_: print(gc.get_threshold()[0]); cli.main()"
    )
    ran = subprocess.run([sys.executable, "-c", program, *arguments], timeout=60, check=True, stdout=subprocess.PIPE)
    assert int(ran.stdout) == objects


@rows("module", ["relay.web.dashboard", "relay.web.openapi", "jinja2", "prometheus_client"])
def test_a_start_loads_no_page(module: str) -> None:
    """Load the modules of pages, of the API's description and of metrics for the first request that needs them."""
    program = f"import sys, relay.web.server, relay.cli.serve; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_the_help_names_each_command_without_loading_it() -> None:
    """List every command with the first words of its own help, and import none of them for that."""
    context = click.Context(cli.group)
    commands = {name: cli.group.get_command(context, name) for name in cli.COMMANDS}
    assert {name: command and command.get_short_help_str(1000) for name, command in commands.items()} == SUMMARIES
    written = CliRunner().invoke(cli.group, ["--help"], prog_name="relay")
    inherited = click.HelpFormatter(width=80)  # the width that CliRunner sets
    click.Group.format_commands(cli.group, context, inherited)
    assert inherited.getvalue().split() == written.output[written.output.index("Commands:") :].split()
    program = "import sys; from relay.cli import group; group(['--help'], standalone_mode=False); "
    program += "sys.exit(any(name.startswith('relay.cli.') and name != 'relay.cli.summaries' for name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], timeout=60, check=False, stdout=subprocess.DEVNULL)
    assert ran.returncode == 0
