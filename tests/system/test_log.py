"""The log decides nothing: whatever reads it, or nothing at all, callbacks are stored and notifications sent."""

import asyncio
import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import log
from relay.log.writer import BATCH_BYTES, LogWriter
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.sandbox.world import Sandbox
from tests.support import processes
from tests.support.ports import free_port
from tests.support.running import INPUT, environment, http_client

PIPE_BYTES = 4096
QUEUE_MAX = 16
RUNNING = b'{"status":"processing","progress":7}'


def notice(lines: int) -> bytes:
    """Return the line about dropped lines, as these tests write it."""
    return f"dropped {lines}\n".encode()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield a small pipe that is full."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.write(writer, b"." * PIPE_BYTES)
    yield reader, writer
    for descriptor in (reader, writer):
        if os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: PTH110
            os.close(descriptor)


def read_until(descriptor: int, end: bytes) -> bytes:
    """Return what a pipe gives until these bytes come."""
    text = b""
    while not text.endswith(end):
        text += os.read(descriptor, PIPE_BYTES)
    return text


@pytest.mark.parametrize(("lines", "dropped"), [(QUEUE_MAX, {0}), (QUEUE_MAX + 2, {1, 2})])
def test_a_full_queue_drops_and_reports(pipe: tuple[int, int], lines: int, dropped: set[int]) -> None:
    """Keep as many lines as the queue may hold, count the others, and say so when the reader goes on."""
    reader, descriptor = pipe
    writer = LogWriter(descriptor, QUEUE_MAX, notice)
    line = b"x" * (BATCH_BYTES - 1) + b"\n"  # one line is a batch, so the thread holds one and the queue the others
    for _ in range(lines):
        writer.put(line)
    assert writer.dropped in dropped
    lost = writer.dropped
    written = b""
    while written.count(b"x\n") < lines - lost or (lost and notice(lost) not in written):
        written += os.read(reader, PIPE_BYTES)
    writer.close(10)
    assert written.count(b"dropped") == bool(lost)


def test_a_reader_that_is_gone_costs_nothing(pipe: tuple[int, int]) -> None:
    """Neither raise nor wait when the pipe's reader is gone, and end within the time that `close` is given."""
    reader, descriptor = pipe
    os.close(reader)
    writer = LogWriter(descriptor, QUEUE_MAX, notice)
    for _ in range(1000):
        writer.put(b"line\n")
    began = time.monotonic()
    writer.close(5)
    assert time.monotonic() - began < 4
    assert writer.dropped > 0


def test_a_stalled_reader_holds_the_end_only_so_long(pipe: tuple[int, int]) -> None:
    """Give up what cannot be written when the time for closing is over."""
    _, descriptor = pipe
    writer = LogWriter(descriptor, QUEUE_MAX, notice)
    writer.put(b"line\n")
    began = time.monotonic()
    writer.close(0.2)
    assert 0.1 < time.monotonic() - began < 5


def test_a_pipe_that_another_process_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    """Write every byte of a line to a non-blocking pipe once it is read."""
    reader, descriptor = pipe
    os.set_blocking(descriptor, False)
    writer = LogWriter(descriptor, QUEUE_MAX, notice)
    writer.put(b"y" * 3 * PIPE_BYTES + b"\n")
    assert read_until(reader, b"y\n").count(b"y") == 3 * PIPE_BYTES
    writer.close(10)


def test_what_is_queued_is_written_at_the_end(tmp_path: Path) -> None:
    """Write every queued line before `close` returns."""
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno(), 10_000, notice)
        for number in range(5000):
            writer.put(b"%d\n" % number)
        writer.close(10)
    assert (tmp_path / "log").read_bytes().splitlines() == [b"%d" % number for number in range(5000)]


class Broken:
    """A value whose text cannot be made."""

    def __str__(self) -> str:
        """Raise, as a bug in an exception's text does."""
        raise RuntimeError("no text")

    __repr__ = __str__


VALUES = st.recursive(
    st.one_of(
        st.text(st.characters()), st.integers(), st.floats(), st.binary(), st.booleans(), st.none(), st.builds(Broken)
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=5,
)


@given(update=st.text(st.characters()), fields=st.dictionaries(st.text(st.characters(), min_size=1), VALUES))
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_any_field_makes_a_line(log_format: str, update: str, fields: dict[str, Any]) -> None:
    """Make a line of any fact and any fields, lone surrogates and objects without a text included; never raise."""
    output = log._Output()
    output.as_json = log_format == "json"
    lines: list[bytes] = []
    output.writer = type("Lines", (), {"put": staticmethod(lines.append)})()
    output.write("error", "test", update, {f"f_{name}": value for name, value in fields.items()})
    (line,) = lines
    assert line.endswith(b"\n")
    if output.as_json:
        assert json.loads(line)["level"] == "error"


def test_a_console_that_is_gone_makes_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write JSON, and the notice of dropped lines, when a line for a console cannot be drawn; show no secret in it."""
    closed = open(os.devnull, "w")  # noqa: PTH123, SIM115
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    output = log._Output()
    lines: list[bytes] = []
    output.writer = type("Lines", (), {"put": staticmethod(lines.append)})()
    output.write("info", "test", "a.fact", {"url": "/callbacks/evolink/secret-token"})
    update, dropped = json.loads(lines[0]), json.loads(output.dropped_line(3))
    assert (update["event"], update["unwritable"], dropped["event"]) == ("a.fact", "ValueError", "log.lines_dropped")
    assert "secret-token" not in lines[0].decode()


@pytest.mark.parametrize(("length", "whole"), [(log.LINE_BYTES_MAX - 200, True), (log.LINE_BYTES_MAX, False)])
def test_a_line_has_a_limit(capsys: pytest.CaptureFixture[str], length: int, whole: bool) -> None:
    """Shorten the fields of a line over the limit, keeping their beginning and their end."""
    output = log._Output()
    output.as_json = True
    output.write("info", "test", "fact", {"text": "a" * (length - 1) + "z"})
    text = json.loads(capsys.readouterr().err)["text"]
    assert (len(text) == length) is whole
    assert (text[0], text[-1]) == ("a", "z")


PROGRAM = """
import gc, logging, threading, warnings
from relay import log
log.configure("json")
warnings.warn("a library's warning", stacklevel=1)
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
logging.getLogger("lib").error("%d", "no number")
threading.Thread(target=lambda: 1 / 0).start()
class Finalized:
    def __del__(self): raise ValueError("in a finalizer")
Finalized(); gc.collect()
log.get("test").info("test.tab", text="é – \\udc80")
"""


@pytest.mark.anyio
async def test_libraries_and_python_itself_log_the_same_way() -> None:
    """Write warnings, libraries' records, dead threads and failed finalizers as lines, and nothing to stderr."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM),
        cwd=processes.ROOT,
        env=processes.clean({"PYTHONIOENCODING": "ascii"}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await child.communicate()
    events = {line["event"]: line for line in map(json.loads, said.splitlines())}
    assert (child.returncode, complained) == (0, b"")
    assert any("a library's warning" in event for event in events)
    assert {"Invalid HTTP request received.", "%d", "python.thread_died", "python.unraisable", "test.tab"} <= set(
        events
    )
    assert "ZeroDivisionError" in events["python.thread_died"]["exception"]


class Watched:
    """A relay whose standard output the test holds, and what is around it."""

    def __init__(
        self, child: asyncio.subprocess.Process, client: httpx.AsyncClient, world: Sandbox, sink: Sink
    ) -> None:
        self.child = child
        self.client = client
        self.world = world
        self.sink = sink

    async def job(self, hook: str | None = None) -> dict[str, Any]:
        """Return a new job."""
        body = {"provider": "evolink", "input": INPUT} | ({"notify": [{"url": hook}]} if hook else {})
        answer = await self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job


@asynccontextmanager
async def watched(folder: Path, stdout: int, **environ: str) -> AsyncIterator[tuple[Watched, str]]:
    """`relay serve` with this standard output, and the URL of a sink."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    world, sink = sandbox(pace_s=None, time_scale=0), Sink()
    async with serve(world.app) as providers_at, serve(sink) as hook:
        settings = environment(folder, origin, providers_at) | {"PORT": str(port), "RELAY_HOST": "127.0.0.1"} | environ
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "serve"),
            cwd=processes.ROOT,
            env=processes.clean(settings),
            stdout=stdout,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await processes.ready(origin, child)
            async with http_client(origin) as client:
                yield Watched(child, client, world, sink), f"{hook}/hook"
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
            await world.close()


async def goes_through(relay: Watched, hook: str) -> None:
    """Require that a job's callback is acknowledged and its end notified."""
    job = await relay.job(hook)
    await relay.world.finish(job["provider_job_id"])
    await relay.sink.wait_for(lambda s: any(b"job.succeeded" in one.body for one in s.received))
    assert {callback.status_code for callback in relay.world.callbacks} == {200}


async def stops(relay: Watched) -> None:
    """SIGTERM ends it well."""
    relay.child.terminate()
    assert await asyncio.wait_for(relay.child.wait(), 60) == 0


@pytest.mark.anyio
async def test_a_log_reader_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    """Go on taking callbacks and sending notifications when nobody reads the log any more."""
    reader, writer = os.pipe()
    async with watched(tmp_path, writer) as (relay, hook):
        os.close(writer)
        os.close(reader)
        await goes_through(relay, hook)
        await stops(relay)


@pytest.mark.anyio
async def test_a_full_log_disk_stops_nothing(tmp_path: Path) -> None:
    """Start, take callbacks and stop on a log disk without room."""
    full = os.open("/dev/full", os.O_WRONLY)
    async with watched(tmp_path, full) as (relay, hook):
        os.close(full)
        await goes_through(relay, hook)
        await stops(relay)


@pytest.mark.anyio
async def test_no_standard_output_at_all_stops_nothing(tmp_path: Path) -> None:
    """Start and work with standard output closed, and write no line into a file that got its number."""
    start = os.open(os.devnull, os.O_RDWR)
    program = (
        f"import os, sys; os.close(1); os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'relay', 'migrate'])"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        cwd=processes.ROOT,
        env=processes.clean(environment(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9")),
        stdin=start,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complained = await child.communicate()
    os.close(start)
    assert (child.returncode, complained) == (0, b"")


@pytest.mark.anyio
async def test_an_ascii_log_takes_every_callback(tmp_path: Path) -> None:
    """Answer 200 to a callback whose log line has letters that an ASCII terminal cannot show."""
    log_file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    async with watched(tmp_path, log_file, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0") as (relay, _):
        job = await relay.job()
        (made,) = relay.world.jobs.values()
        word = json.dumps({"id": job["provider_job_id"], "status": "träumt–"}).encode()
        assert (await relay.client.post(made.callback_url or "", content=word)).status_code == 200
        await stops(relay)
    os.close(log_file)
    assert "träumt–" in (tmp_path / "log").read_text("utf-8")


@pytest.mark.anyio
async def test_a_log_reader_that_stands_still_stops_nothing(tmp_path: Path) -> None:
    """Answer every callback while the log pipe is full; count what is dropped, and say so when the reader goes on."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    async with watched(tmp_path, writer, RELAY_LOG_QUEUE_MAX=str(QUEUE_MAX)) as (relay, hook):
        os.close(writer)
        await relay.job()
        (made,) = relay.world.jobs.values()
        for _ in range(100):
            answer = await relay.client.post(made.callback_url or "", content=RUNNING)
            assert answer.status_code == 200
        counted = re.search(
            r"^relay_log_lines_dropped_total (\d+)", (await relay.client.get("/metrics")).text, re.MULTILINE
        )
        assert counted
        assert int(counted[1]) > 0
        await goes_through(relay, hook)
        os.set_blocking(reader, False)
        text = b""
        async with asyncio.timeout(60):
            while b"log.lines_dropped" not in text:
                try:
                    text += os.read(reader, PIPE_BYTES)
                except BlockingIOError:
                    await asyncio.sleep(0.01)  # another process writes it
        await stops(relay)
    os.close(reader)
    said = [json.loads(line) for line in text.splitlines() if line.endswith(b"}")]
    (dropped,) = [line["lines"] for line in said if line["event"] == "log.lines_dropped"]
    assert dropped >= int(counted[1])
