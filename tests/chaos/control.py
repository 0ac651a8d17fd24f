"""The numbers that a steered process shares with the harness: its clock, its look-ups of names, its syncs.

`python -m tests.chaos.steered CONTROL serve` is relay with the first two; the last are the C library's (shim.c), which
needs a C compiler: without one there is no shim, and faults of syncs are skipped.
"""

import mmap
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

FIELDS: Final = ("ahead_ms", "names_fail", "names_ms", "syncs_fail", "syncs_failed", "names_met")
SIZE: Final = 8 * len(FIELDS)
SOURCE: Final = Path(__file__).with_name("shim.c")


class Control:
    """The numbers of one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)

    def __getitem__(self, field: str) -> int:
        """Return a number."""
        value: int = struct.unpack_from("q", self._map, 8 * FIELDS.index(field))[0]
        return value

    def __setitem__(self, field: str, value: int) -> None:
        """Set a number, from the process's next call on."""
        struct.pack_into("q", self._map, 8 * FIELDS.index(field), value)

    def environ(self) -> dict[str, str]:
        """Return the variables that load the shim into a process; none without a C compiler."""
        made = shim()
        return {} if made is None else {"LD_PRELOAD": str(made), "CHAOS_CONTROL": str(self.path)}


@cache
def shim() -> Path | None:
    """Return the shim, compiled once for this process; None where no C compiler is installed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    made = Path(tempfile.mkdtemp(prefix="relay-chaos-")) / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(made), str(SOURCE), "-ldl"]
    return made if subprocess.run(command, check=False).returncode == 0 else None
