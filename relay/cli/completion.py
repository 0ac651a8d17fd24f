"""`relay completion`: print what a shell sources to complete relay's commands."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion for a shell: eval "$(relay completion bash)" in its start file."""
    from relay.cli import group

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(kind(group, {}, "relay", "_RELAY_COMPLETE").source())
