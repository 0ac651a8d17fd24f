"""A real PostgreSQL for the tests: a server of their own, started once, with a fresh database for whoever asks."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from tests.support import memory
from tests.support.ports import free_port

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")
FAST = (
    *("-F", "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"),
    *("-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB"),
)
SERVER_BYTES = 2 << 30
"""What a server may need in memory, where a database, some thousand files, is made in a tenth of the time."""
DROPPED_TOGETHER = 20


def programs() -> Path | None:
    """Where initdb and postgres are; None where PostgreSQL is not installed."""
    found = [path for place in PLACES for path in sorted(Path("/").glob(place[1:])) if (path / "initdb").exists()]
    beside = shutil.which("initdb")
    return found[-1] if found else Path(beside).parent if beside else None


class Server:
    """A running server; `url` opens its first database."""

    def __init__(self, port: int, data: Path, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self.port = port
        self._data = data
        self._start = start
        self._child = start()
        self._made = 0
        self._unused: list[str] = []

    @property
    def pid(self) -> int:
        """The process that all others of the server are children of."""
        return self._child.pid

    def restart(self, how: signal.Signals) -> None:
        """As `pg_ctl restart` does: SIGINT is its mode `fast`, SIGQUIT `immediate`; returns when it is there again."""
        self.stop(how)
        self.start()

    def start(self) -> None:
        """Start the server that was stopped; returns when it is there again."""
        self._child = self._start()
        self.wait()

    def wait(self) -> None:
        """Return when the server takes connections; another's on its port is not taken for it."""
        for _ in range(400):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    pass
                if asyncio.run(_data_of(self.port)) == str(self._data):
                    return
            except (OSError, asyncpg.PostgresError):
                pass
            time.sleep(0.05)  # another process starts
        raise TimeoutError("PostgreSQL did not start")

    def ensure(self) -> None:
        """Start the server unless it runs."""
        if self._child.poll() is not None:
            self.start()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server; SIGINT cuts its clients off, where SIGTERM would wait for them."""
        self._child.send_signal(how)
        self._child.wait(60)  # it writes a checkpoint, on a disk that others use too

    @property
    def url(self) -> str:
        """The database that is always there."""
        return f"postgresql://relay@127.0.0.1:{self.port}/postgres"

    def database(self, template: str | None = None) -> str:
        """Return the URL of a fresh database: empty, or a copy of another that nobody has open, by its URL."""
        self._made += 1
        name = f"relay_{self._made}"
        program = programs()
        assert program is not None
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "relay"]
        copied = ["-T", template.rpartition("/")[2]] if template else []
        subprocess.run([program / "createdb", *where, *copied, name], check=True)
        return f"postgresql://relay@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Drop a database that no test uses any more, together with others, because each is eight megabytes."""
        self._unused.append(url.rpartition("/")[2])
        program = programs()
        if len(self._unused) < DROPPED_TOGETHER or program is None or self._child.poll() is not None:
            return
        words = [word for name in self._unused for word in ("-c", f"DROP DATABASE {name} WITH (FORCE)")]
        subprocess.run([program / "psql", "-q", "-d", self.url, *words], check=True)
        self._unused.clear()


@contextmanager
def server(options: Sequence[str] = FAST) -> Iterator[Server]:
    """Yield a server in a temporary folder, under an account that may run one; ended when the block ends."""
    bin_ = programs()
    assert bin_ is not None, "PostgreSQL is not installed"
    with tempfile.TemporaryDirectory(prefix="relay-postgres-", dir=memory.folder(SERVER_BYTES)) as folder:
        data = Path(folder) / "data"
        account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        who = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **who}
        initdb = [bin_ / "initdb", "-D", data, "-U", "relay", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(initdb, check=True, **quiet)  # type: ignore[call-overload]
        port = free_port()
        command = [bin_ / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", *options]
        running = Server(port, data, lambda: subprocess.Popen(command, **quiet))  # type: ignore[call-overload]
        try:
            running.wait()
            yield running
        finally:
            running.stop()


async def _data_of(port: int) -> str:
    """Return where the server behind a port keeps its data."""
    connection = await asyncpg.connect(f"postgresql://relay@127.0.0.1:{port}/postgres")
    try:
        return str(await connection.fetchval("SHOW data_directory"))
    finally:
        await connection.close()
