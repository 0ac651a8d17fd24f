"""A file that is whole on the disk or not there at all, whatever a full disk or a power cut does in between."""

import os
from pathlib import Path

from relay.errors import StorageUnavailable


def make_once(path: Path, content: str) -> bool:
    """Make a file for its owner alone; False where there is one already, which another process may have just made.

    It is written under another name, brought to the disk, and linked to its own. StorageUnavailable when that fails.
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
