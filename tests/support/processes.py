"""relay as a process of its own: started, watched by its log, killed or stopped."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import httpx

from tests.support.running import http_client

ROOT = Path(__file__).parents[2]
_SAID: WeakKeyDictionary[asyncio.subprocess.Process, list[str]] = WeakKeyDictionary()


def clean(environ: dict[str, str]) -> dict[str, str]:
    """Return the environment of this machine without any setting of relay, then these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    kept.pop("DATABASE_URL", None)
    kept.pop("PORT", None)
    return kept | environ


@asynccontextmanager
async def process(environ: dict[str, str], *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python` with these arguments; killed at the end if it is still there."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env=clean(environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    _SAID[child] = []
    drained = asyncio.create_task(_drain(child))
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it was killed, and the loop has not noticed yet
                os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
        await drained


async def ready(origin: str, child: asyncio.subprocess.Process, timeout_s: float = 60) -> None:
    """Return when the process takes requests; AssertionError when it ended instead."""
    async with asyncio.timeout(timeout_s), http_client(origin, None) as client:
        while True:
            assert child.returncode is None, f"relay ended with {child.returncode}"
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)  # it starts in real time


def send(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send the process a signal, unless it has ended.

    asyncio's own `send_signal` asks first whether the process has ended, and so takes its status away from the thread
    that waits for it: Python 3.11 then gives 255.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, number)


async def line(child: asyncio.subprocess.Process, text: str, timeout_s: float = 60) -> None:
    """Return when the process has said it; TimeoutError if it does not."""
    async with asyncio.timeout(timeout_s):
        while not any(text in said for said in _SAID[child]):  # noqa: ASYNC110 - in its own time
            await asyncio.sleep(0.02)


async def _drain(child: asyncio.subprocess.Process) -> None:
    """Read what the process says, so that it never waits for a reader; shown by pytest when a test fails."""
    assert child.stdout is not None
    async for said in child.stdout:
        _SAID[child].append(said.decode("utf-8", "replace"))
        sys.stdout.write(_SAID[child][-1])


def said(child: asyncio.subprocess.Process) -> list[str]:
    """Return the lines that the process has said."""
    return list(_SAID[child])
