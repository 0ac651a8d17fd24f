"""The database of one run: where it is, what can be done to it, and what it holds at the end, read past relay."""

import asyncio
import json
import re
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg

from tests.chaos.manifest import (
    Call,
    Stored,
    StoredCopy,
    StoredDelivery,
    StoredEndpoint,
    StoredEvent,
    StoredJob,
    StoredPayment,
)
from tests.support.postgres import Server

DISK_MB: Final = 24
_QUERIES: Final = (
    "SELECT id, provider, state, finished_at, doc, request, input FROM jobs JOIN job_requests ON job_id = id",
    "SELECT provider, body FROM callbacks ORDER BY id",
    "SELECT id, job_id, type, sequence, final, position FROM events WHERE job_id IS NOT NULL ORDER BY position, id",
    "SELECT id, event_id, endpoint_id, state FROM deliveries ORDER BY id",
    "SELECT job_id, nonce, amount, state, created_at FROM payments ORDER BY id",
    "SELECT id, url, job_id FROM endpoints ORDER BY id",
    "SELECT job_id, number, state, key, sha256, bytes, error_code, held_until, due_at, leased_by FROM copies",
    "SELECT key FROM objects_left ORDER BY key",
)


class Database(Protocol):
    """What a run needs of its database."""

    url: str

    async def stored(self) -> Stored:
        """Return what is stored."""


class SQLiteFile:
    """A file in a folder; `small` says whether that is a file system of its own, which can be filled."""

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        self.folder = folder
        self.path = folder / "relay.db"
        self.url = f"sqlite:///{self.path}"
        self.small = False
        self._template = template
        self._holding: sqlite3.Connection | None = None

    def prepare(self, *, small: bool) -> None:
        """Make the folder, on a small file system where that is wanted and this user may mount one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if small:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "relay-chaos", str(self.folder)]
            self.small = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        if self._template is not None:
            self.path.write_bytes(self._template.read_bytes())

    def remove(self) -> None:
        """Unmount the small file system."""
        if self.small:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)
            self.small = False

    def hold(self) -> None:
        """Begin a transaction that writes, as a backup program or a person with a shell may."""
        if self._holding is None:
            connection = sqlite3.connect(self.path, timeout=0.5, isolation_level=None)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:
                connection.close()
            else:
                self._holding = connection

    def release(self) -> None:
        """End that transaction."""
        if self._holding is not None:
            self._holding.close()
            self._holding = None

    def fill(self) -> bool:
        """Fill the small file system; return False where there is none."""
        if not self.small:
            return False
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while file.write(b"\0" * size):
                        pass
                except OSError:
                    continue
        return True

    def empty(self) -> None:
        """Give the file system its room back."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def largest_bytes(self) -> int:
        """Return the size of the largest of the database's files."""
        return max(path.stat().st_size for path in self.folder.glob("relay.db*"))

    async def stored(self) -> Stored:
        """Return what is stored, and what SQLite finds wrong with the file."""
        with closing(sqlite3.connect(self.path)) as connection:
            rows = [connection.execute(query).fetchall() for query in _QUERIES]
            (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        return _stored(rows, [] if found == "ok" else [f"SQLite's integrity check: {found}"])


class PostgreSQLDatabase:
    """A database of a server, which relay reaches through a link; `direct` leads past it."""

    def __init__(self, server: Server, direct: str) -> None:
        self.server = server
        self.direct = direct
        self.url = direct

    def through(self, port: int) -> None:
        """Lead relay through a port."""
        self.url = self.direct.replace(f":{self.server.port}/", f":{port}/")

    async def cut_sessions(self) -> None:
        """End every session of this database."""
        connection: Any = await asyncpg.connect(self.server.url)
        try:
            name = self.direct.rpartition("/")[2]
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            await connection.execute(cut, name)
        finally:
            await connection.close()

    async def lock(self, for_s: float) -> None:
        """Lock the table of jobs against everything, for a while."""
        connection: Any = await asyncpg.connect(self.direct)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(for_s)
        finally:
            await connection.close()

    async def stored(self) -> Stored:
        """Return what is stored."""
        async with asyncio.timeout(60):
            connection: Any = await asyncpg.connect(self.direct)
            try:
                rows = [[tuple(row) for row in await connection.fetch(query)] for query in _QUERIES]
            finally:
                await connection.close()
        return _stored(rows, [])


def _stored(rows: Sequence[Sequence[tuple[Any, ...]]], faults: list[str]) -> Stored:
    """Return the rows as the checker reads them."""
    jobs, callbacks, events, deliveries, payments, endpoints, copies, left = rows
    return Stored(
        jobs=[_job(*one) for one in jobs],
        callbacks=[Call(one[0], bytes(one[1])) for one in callbacks],
        events=[StoredEvent(one[0], one[1], one[2], one[3], bool(one[4]), one[5]) for one in events],
        deliveries=[StoredDelivery(*one) for one in deliveries],
        payments=[StoredPayment(*one) for one in payments],
        endpoints=[StoredEndpoint(*one) for one in endpoints],
        copies=[StoredCopy(*one) for one in copies],
        left={one[0] for one in left},
        faults=faults,
    )


def _job(name: str, provider: str, state: str, finished_at: int | None, doc: str, *requests: str | None) -> StoredJob:
    """Return a row of jobs; whether its results are copied, and how many it has, is in its document."""
    rest, marker = json.loads(doc), re.search(r"chaos-\d+-", " ".join(filter(None, requests)))
    return StoredJob(
        id=name,
        provider=provider,
        state=state,
        finished=finished_at is not None,
        archive=rest.get("archive", "off"),
        outputs=len(rest.get("outputs", ())),
        marker=marker[0] if marker else "",
    )
