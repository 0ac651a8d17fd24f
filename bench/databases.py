"""Databases for the benchmarks: files, or a PostgreSQL server of their own that syncs as one in production does."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from tests.postgres import Server, server

PRODUCTION = ("-c", "max_connections=100", "-c", "shared_buffers=256MB")
"""Everything else is PostgreSQL's default: fsync, full_page_writes and synchronous_commit are on."""

option = click.option("--database", "kind", type=click.Choice(["sqlite", "postgres"]), default="sqlite", help="Which.")


class Databases:
    """Fresh databases of one kind; `folder` is for whatever else a benchmark writes."""

    def __init__(self, folder: Path, running: Server | None) -> None:
        self.folder = folder
        self._server = running
        self._made = 0

    def fresh(self, template: str | None = None) -> str:
        """The URL of a new database: empty, or a copy of another that nobody has open."""
        if self._server is not None:
            return self._server.database(template)
        self._made += 1
        path = self.folder / f"{self._made}.db"
        if template:
            shutil.copy(template.removeprefix("sqlite:///"), path)
        return f"sqlite:///{path}"


@contextmanager
def databases(kind: str) -> Iterator[Databases]:
    """Databases that are gone when the block ends. No event loop may run yet."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-"))
        running = stack.enter_context(server(PRODUCTION)) if kind == "postgres" else None
        yield Databases(Path(folder), running)
