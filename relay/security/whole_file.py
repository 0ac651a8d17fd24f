"""Creates a file atomically: after a full disk or a power cut it is complete on the disk, or absent."""

import os
from pathlib import Path

from relay.errors import StorageUnavailable


def create_once(path: Path, content: str) -> bool:
    """Create a file that only its owner can read; return False if it exists, perhaps by another process.

    The content is written under a temporary name, synced, then linked to `path`. Raise StorageUnavailable on failure.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageUnavailable(f"{path.name} cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return True
