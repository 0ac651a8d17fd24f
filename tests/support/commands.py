"""relay's commands as processes of their own that need not load relay: each is forked from one that has loaded it.

An interpreter that imports relay, httpx and click takes 0.3 s of CPU for a command that works for 20 ms. What is tested
here is what a command does; that it starts in a fresh interpreter is what the tests show that start one.
"""

import asyncio
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.forkserver import set_forkserver_preload
from pathlib import Path
from typing import Final, NamedTuple

from relay.cli import main

COMMANDS: Final = Path(__file__).parents[2] / "relay" / "cli" / "remote"
TIMEOUT_S: Final = 60.0

_FORKED = multiprocessing.get_context("forkserver")
set_forkserver_preload([__name__, *(f"relay.cli.remote.{path.stem}" for path in sorted(COMMANDS.glob("[a-z]*.py")))])


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: bytes
    err: bytes


async def run(arguments: tuple[str, ...], environ: dict[str, str], stdin: bytes) -> Ended:
    """Return how `relay` with these arguments ended, in this environment alone; TimeoutError after a minute."""
    return await asyncio.to_thread(_run, arguments, environ, stdin)


def _run(arguments: tuple[str, ...], environ: dict[str, str], stdin: bytes) -> Ended:
    """Run a command, whose standard streams are files."""
    with tempfile.TemporaryDirectory(prefix="relay-command-") as name:
        folder = Path(name)
        (folder / "0").write_bytes(stdin)
        child = _FORKED.Process(target=_command, args=(name, arguments, environ))
        child.start()
        child.join(TIMEOUT_S)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise TimeoutError(f"relay {' '.join(arguments)} runs longer than {TIMEOUT_S:.0f} s")
        status = child.exitcode
        child.close()
        return Ended(status, (folder / "1").read_bytes(), (folder / "2").read_bytes())


def _command(folder: str, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
    """Be the command: in the child, which exits as the command says."""
    os.environ.clear()
    os.environ.update(environ)
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        opened = os.open(f"{folder}/{number}", flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the one that multiprocessing gives is /dev/null
    sys.argv = ["relay", *arguments]
    main()
