"""`python -m bench NAME`: benchmarks, one a file; each prints a table and, last, one line of JSON."""

import importlib

import click

BENCHES = (
    "archive",
    "chaos",
    "checks",
    "coldstart",
    "contract",
    "crowd",
    "deliver",
    "fuzz",
    "growth",
    "herd",
    "ingest",
    "isolation",
    "manifest",
    "pages",
    "pipeline",
    "reads",
    "scale",
    "senders",
    "soak",
    "strangers",
    "targets",
    "writes",
)


class _Lazy(click.Group):
    """Finds benchmarks by their file."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the benchmarks."""
        return list(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the benchmark of a name."""
        if cmd_name not in BENCHES:
            return None
        command: click.Command = importlib.import_module(f"bench.{cmd_name}").command
        return command


@click.group(cls=_Lazy)
def main() -> None:
    """Measures relay; the ratios within one run count, not the numbers of two machines."""


if __name__ == "__main__":
    main()
