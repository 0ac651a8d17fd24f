"""The file system that Linux keeps in memory: what a test writes there is written in a part of the time."""

import os
import shutil
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")


def folder(needed_bytes: int) -> Path | None:
    """Return the root of the file system in memory; None where there is none, or not this much of it is free."""
    enough = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= needed_bytes
    return MEMORY if enough else None
