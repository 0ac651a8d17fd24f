"""Databases for the benchmarks: files, or a PostgreSQL server of their own that syncs as one in production does."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import click

from tests.support.postgres import Server, server

PRODUCTION = ("-c", "max_connections=100", "-c", "shared_buffers=256MB", "-c", "min_wal_size=1GB")
"""Everything else is PostgreSQL's default: fsync, full_page_writes and synchronous_commit are on."""
WAL_FILES = 40
"""A server that has run for a while writes its log into files that are there; a new one makes each, for 80 ms or so."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
option = click.option("--database", "kind", type=click.Choice(["sqlite", "postgres"]), default="sqlite", help="Which.")


class Databases:
    """Fresh databases of one kind; `folder` is for whatever else a benchmark writes."""

    def __init__(self, folder: Path, running: Server | None) -> None:
        self.folder = folder
        self._server = running
        self._made = 0

    def fresh(self, template: str | None = None) -> str:
        """Return the URL of a new database: empty, or a copy of another that nobody has open."""
        if self._server is not None:
            return self._server.database(template)
        self._made += 1
        path = self.folder / f"{self._made}.db"
        if template:
            shutil.copy(template.removeprefix("sqlite:///"), path)
        return f"sqlite:///{path}"

    @property
    def served(self) -> bool:
        """Whether the database is a server of its own."""
        return self._server is not None

    def cpu_s(self) -> float:
        """Return the seconds of CPU that the server and its processes have used, ended ones included; 0 for files."""
        if self._server is None:
            return 0.0
        used = cpu_s(self._server.pid)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                name_of, _, rest = stat.read_text().rpartition(")")
            except OSError:
                continue  # it has just ended
            fields, pid = rest.split(), int(name_of.split(" ", 1)[0])
            if pid == self._server.pid:
                used += (int(fields[13]) + int(fields[14])) / TICKS_PER_S  # its children's that have ended
            elif int(fields[1]) == self._server.pid:
                used += cpu_s(pid)
        return used


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used, by its own clock: that of clock_getcpuclockid(3)."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0  # it has just ended


@contextmanager
def databases(kind: str) -> Iterator[Databases]:
    """Databases that are gone when the block ends. No event loop may run yet."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-"))
        running = stack.enter_context(server(PRODUCTION)) if kind == "postgres" else None
        if running is not None:
            asyncio.run(_worn(running.url))
        yield Databases(Path(folder), running)


async def _worn(url: str) -> None:
    """As after some days: a checkpoint has put used files of the log aside to be used again."""
    connection = await asyncpg.connect(url)
    try:
        for _ in range(WAL_FILES):
            await connection.execute("SELECT pg_logical_emit_message(FALSE, '', '')")
            await connection.execute("SELECT pg_switch_wal()")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
