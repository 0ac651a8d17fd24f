"""One relay for one SQLite file: a lock beside it, which the kernel frees when its process ends, however that ends.

A second process would claim the same deliveries and check the same jobs, and know nothing of what the first one has in
memory. A restart that overlaps is waited for, for a bounded time.
"""

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from relay import log
from relay.errors import SettingsError

PAUSE_S: Final = 0.1
_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EINVAL})
"""What a file system answers that knows no such locks."""
_logger = log.get("database")


@asynccontextmanager
async def alone(path: Path, wait_s: float) -> AsyncIterator[bool]:
    """Hold the lock of a database's file; SettingsError where another process has it for longer than `wait_s`.

    Yield whether it is held: False on a file system without locks, where others may have the file too.
    """
    lock = beside(path, ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise SettingsError(f"the file of DATABASE_URL cannot be opened for writing: {error.strerror}") from error
    try:
        held = await _take(descriptor, path, wait_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield held
    finally:
        os.close(descriptor)


def beside(path: Path, ending: str) -> Path:
    """Return the file beside a database's, behind any symbolic link, which SQLite follows too."""
    return Path(os.path.realpath(path) + ending)


async def _take(descriptor: int, path: Path, wait_s: float) -> bool:
    """Take the lock, at once or when its holder has ended; return False where there are no locks."""
    began_s, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            left_s = began_s + wait_s - time.monotonic()
            if left_s <= 0:
                raise SettingsError(
                    f"another relay (process {holder}) runs on {path}: stop it first. On SQLite one process runs; if a "
                    "platform starts the new one before it stops the old one, have it stop first, or use PostgreSQL"
                ) from None
            if not told:
                _logger.warning("database.in_use", file=str(path), process=holder, seconds_left=round(left_s))
                told = True
            await asyncio.sleep(min(PAUSE_S, left_s))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _logger.warning("database.no_locks", file=str(path), advice="run one relay on this file, and no more")
            return False
        else:
            return True
