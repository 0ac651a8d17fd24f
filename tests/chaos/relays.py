"""The processes of relay in one run: started, killed, suspended, stopped and overlapped as a platform would."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec

from relay.cli.stopping import EXIT_HUNG
from tests.chaos.control import Control
from tests.chaos.manifest import Manifest
from tests.support.processes import ROOT, clean, send

PORTS: Final = (12_000, 32_000)
READY_S: Final = 60.0
STOP_S: Final = 15.0
REFUSED: Final = 1
"""The status of a process that could not start for what may pass."""
AGAIN_S: Final = 0.3
AGAIN_MAX: Final = 60
BUGS: Final = (
    *("AssertionError", "AttributeError", "IndexError", "InvalidStateError", "KeyError", "NameError"),
    *("RecursionError", "TypeError", "UnboundLocalError", "UnicodeError", "ZeroDivisionError", "never awaited"),
)
"""What no fault of the surroundings explains, where it is in a line of the log."""


class Program(msgspec.Struct, frozen=True):
    """What every process of a run is: a module with its first arguments, its settings, and a folder for its control."""

    words: tuple[str, ...]
    environ: dict[str, str]
    folder: Path


def quiet_port() -> int:
    """Return a free port that the system gives to no connection: a start may take seconds until it listens."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """One process, and its log, which is read unless a fault stops that."""

    def __init__(self, name: str, program: Sequence[str], words: Sequence[str], run: Manifest) -> None:
        self.name = name
        self.serves = words[0] == "serve"
        self._program = program
        self.port = quiet_port()
        self.log: list[str] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self._words = words
        self._run = run
        self._ends = False
        self._child: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._was_ready = False

    @property
    def alive(self) -> bool:
        """Return whether the process is there."""
        return self._child is not None and self._child.returncode is None

    async def start(self, environ: dict[str, str], control: Control, refused: Callable[["Process"], None]) -> None:
        """Start the process; `refused` is called if it does not come up, and says why, as with a disk that fails."""
        reader, writer = os.pipe()
        try:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *self._program, str(control.path), *self._words),
                cwd=ROOT,
                env=clean(environ | {"PORT": str(self.port)} | control.environ()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        finally:
            os.close(writer)
        self._watching = asyncio.create_task(self._watch(self._child, reader, refused))

    async def ready(self) -> None:
        """Return when the process takes requests, or has begun its loops; or when it has ended, or is late."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S), httpx.AsyncClient(trust_env=False, timeout=2) as client:
                while self.alive:
                    if any("relay.working" in line for line in self.log):
                        self._was_ready = True
                        return
                    if self.serves:
                        with contextlib.suppress(httpx.TransportError):
                            if (await client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200:
                                self._was_ready = True
                                return
                    await asyncio.sleep(0.05)  # another process starts

    async def _watch(
        self, child: asyncio.subprocess.Process, reader: int, refused: Callable[["Process"], None]
    ) -> None:
        """Read the log until it ends, and note an end of the process that no fault has caused."""
        reading = asyncio.create_task(self._read(reader))
        self._reading_task = reading
        status = await child.wait()
        self.reading.set()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        if self._ends:
            return
        if not self._was_ready and status == REFUSED and self.log and self.log[-1].startswith("relay: "):
            refused(self)
        else:
            self._run.exits.append(f"{self.name} ended by itself with {status}: {' '.join(self.log[-5:])[-1500:]}")

    async def _read(self, reader: int) -> None:
        """Read the log."""
        stream = asyncio.StreamReader(limit=1 << 22)
        pipe = os.fdopen(reader, "rb", 0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), pipe
        )
        try:
            while line := await stream.readline():
                self._note(line.decode("utf-8", "replace"))
                if not self.reading.is_set():
                    transport.pause_reading()
                    await self.reading.wait()
                    transport.resume_reading()
        finally:
            transport.close()

    def _note(self, line: str) -> None:
        """Keep a line; note one that shows a fault of relay's own."""
        self.log.append(line.rstrip("\n"))
        if any(bug in line for bug in BUGS):
            self._run.log_errors.append(f"{self.name} logged: {line[:3000]}")

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it is there."""
        if self._child is not None and self.alive:
            send(self._child, number)

    def measure(self) -> None:
        """Note the most memory that the process has held, and how many files it has open."""
        if self._child is None or not self.alive:
            return
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self._child.pid}/status").read_text()
            held_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
            opened = len(os.listdir(f"/proc/{self._child.pid}/fd"))  # noqa: PTH208 - a number is wanted
            self._run.memory_mb[self.name] = max(self._run.memory_mb.get(self.name, 0), held_kb / 1024)
            self._run.descriptors[self.name] = max(self._run.descriptors.get(self.name, 0), opened)

    async def kill(self) -> None:
        """End the process immediately."""
        self._ends = True
        self.measure()
        self.signal(signal.SIGKILL)
        if self._watching is not None:
            await self._watching

    async def stop(self) -> None:
        """End the process as a platform does; note one that does not end in time, or not with 0."""
        if self._child is None or not self.alive:
            return
        self._ends = True
        self.measure()
        self.signal(signal.SIGTERM)
        try:
            status = await asyncio.wait_for(self._child.wait(), STOP_S)
            if status == EXIT_HUNG:
                self._run.cut_short += 1  # as it promises: what it had is claimed again
            elif status != 0:
                self._run.exits.append(f"{self.name} stopped with {status}: {' '.join(self.log[-5:])[-1500:]}")
        except TimeoutError:
            self._run.exits.append(f"{self.name} did not stop within {STOP_S:g} s: {' '.join(self.log[-5:])[-1500:]}")
        await self.kill()

    def close_log(self) -> None:
        """Close the reading end of the log: from now on every write of it fails."""
        self._reading_task.cancel()

    def limit_files(self, most_bytes: int | None) -> None:
        """Let no file of the process grow beyond so many bytes; None: without a limit."""
        if self._child is not None and self.alive:
            most = resource.RLIM_INFINITY if most_bytes is None else most_bytes
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._child.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


class Place:
    """A place for one process, as a platform has it: a restart fills it again, and an overlap fills it twice."""

    def __init__(self, name: str, words: Sequence[str], program: Program, run: Manifest) -> None:
        self.name = name
        self.control = Control(program.folder / f"{name}.control")
        self.processes: list[Process] = []
        self._all: list[Process] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._words = tuple(words)
        self._program = program
        self._run = run

    async def start(self) -> Process:
        """Return a new process, which is in front of the one that is there."""
        made = Process(f"{self.name}.{len(self._all) + 1}", self._program.words, self._words, self._run)
        self._all.append(made)
        await made.start(self._program.environ, self.control, self._refused)
        self.processes.insert(0, made)
        return made

    def _refused(self, process: Process) -> None:
        """Start a process again that could not start, as a supervisor does after a pause."""
        again = asyncio.create_task(self._again(process))
        self._starting.add(again)
        again.add_done_callback(self._starting.discard)

    async def _again(self, process: Process) -> None:
        """Replace a process that could not start, unless it was already."""
        await asyncio.sleep(AGAIN_S)
        if process in self.processes and len(self._all) < AGAIN_MAX:
            self.processes.remove(process)
            await (await self.start()).ready()

    async def kill(self, process: Process) -> None:
        """Kill a process of this place."""
        if process in self.processes:  # one that could not start is replaced meanwhile
            self.processes.remove(process)
        await process.kill()

    async def stop(self, process: Process) -> None:
        """Stop a process of this place; requests go to it as long as it takes them."""
        await process.stop()
        if process in self.processes:
            self.processes.remove(process)

    @property
    def lines(self) -> list[str]:
        """Return what all processes of this place have logged."""
        return [f"{process.name} {line}" for process in self._all for line in process.log]

    @property
    def ports(self) -> list[int]:
        """Return the ports of the processes that take requests, the newest first."""
        return [process.port for process in self.processes if process.serves and process.alive]
