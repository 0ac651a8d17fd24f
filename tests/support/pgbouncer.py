"""A real PgBouncer for the tests, in its transaction mode: few sessions of the server, shared by all that connect."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.support.ports import free_port
from tests.support.postgres import Server

SESSIONS = 2


def program() -> str | None:
    """Where it is; None where it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Pooler:
    """A running PgBouncer in front of a server."""

    def __init__(self, port: int) -> None:
        self._port = port

    def url(self, database_url: str) -> str:
        """Return the same database by way of the pooler."""
        return urlunsplit(urlsplit(database_url)._replace(netloc=f"relay@127.0.0.1:{self._port}"))


@contextmanager
def pooler(server: Server, ignored: str = "") -> Iterator[Pooler]:
    """Yield a pooler that drops these startup parameters, and refuses others it does not know; ended with the block."""
    found = program()
    assert found is not None, "PgBouncer is not installed"
    port = free_port()
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="relay-pgbouncer-") as folder:
        config = Path(folder) / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port} user=relay\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
            f"default_pool_size = {SESSIONS}\nignore_startup_parameters = {ignored}\n"
        )
        Path(folder).chmod(0o755)
        who = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
        child = subprocess.Popen([found, "-q", config], stderr=subprocess.DEVNULL, **who)  # type: ignore[call-overload]
        try:
            _wait(port)
            yield Pooler(port)
        finally:
            child.terminate()
            child.wait(20)


def _wait(port: int) -> None:
    """Return when it takes connections."""
    for _ in range(200):
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.05)  # another process starts
    raise TimeoutError("PgBouncer did not start")
