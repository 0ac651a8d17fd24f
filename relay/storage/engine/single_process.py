"""The lock of a SQLite file, which the kernel frees when its process ends, however that ends.

The one process that has it sends, checks and sweeps; a second one would claim the same rows and know nothing of what
the first has in memory. A second process on the file serves requests only, and takes over when the first has ended:
so a platform that starts the new one before it stops the old one loses no request.
"""

import asyncio
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from relay import log
from relay.errors import SettingsError

PAUSE_S: Final = 0.1
_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EINVAL})
"""What a file system answers that knows no such locks."""
_logger = log.get("database")


class FileLock:
    """The lock beside a database's file; SettingsError where that cannot be opened.

    `proven` is whether this process has it, so that no other can. A file system without locks proves nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.proven = False
        lock = beside(path, ".lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise SettingsError(f"the file of DATABASE_URL cannot be opened for writing: {error.strerror}") from error

    def take(self) -> bool:
        """Take the lock; return False if another process has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _logger.warning("database.no_locks", file=str(self._path), advice="run one relay on this file, and no more")
            return True
        self.proven = True
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return True

    @property
    def holder(self) -> str:
        """Return the number of the process that took the lock last, as it sees itself."""
        return os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"

    async def acquired(self) -> None:
        """Return when this process has the lock."""
        while not self.take():  # noqa: ASYNC110 - the kernel sends no signal
            await asyncio.sleep(PAUSE_S)

    def close(self) -> None:
        """Free the lock."""
        os.close(self._descriptor)


def beside(path: Path, ending: str) -> Path:
    """Return the file beside a database's, behind any symbolic link, which SQLite follows too."""
    return Path(os.path.realpath(path) + ending)
