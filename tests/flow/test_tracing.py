"""One trace for each job, from its submission to its notifications, as a collector of OpenTelemetry receives it."""

import asyncio
import builtins
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.errors import SettingsError
from relay.model import ids
from relay.outbound.tracing import Trace, Tracing, parse, trace_of
from relay.sandbox.faults import Faults
from relay.sandbox.serving import serve
from tests.support.running import KEY, SECRET_KEY, HeldClock, Running, relay

pytestmark = pytest.mark.anyio

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


class Collector:
    """A collector: keeps every span that it receives, with its resource."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.app = Starlette(routes=[Route("/v1/traces", self._receive, methods=["POST"])])

    async def _receive(self, request: Request) -> Response:
        """Keep what is exported."""
        exported = ExportTraceServiceRequest.FromString(await request.body())
        for of_resource in exported.resource_spans:
            self.resources.append({one.key: one.value.string_value for one in of_resource.resource.attributes})
            for scope in of_resource.scope_spans:
                self.spans += scope.spans
        return Response(b"", media_type="application/x-protobuf")

    def named(self) -> dict[str, Any]:
        """Return the spans by their names."""
        return {span.name: span for span in self.spans}


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Yield a collector, which the library's own variable names."""
    one = Collector()
    async with serve(one.app) as origin:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", origin)
        yield one


@pytest.fixture(autouse=True)
def no_exporter_is_left() -> Iterator[None]:
    """Wait until the library's threads have ended: one that goes on draws from `random`, which hypothesis forbids."""
    yield
    for thread in threading.enumerate():
        if thread.name == "traces" or thread.name.startswith("OtelBatch"):
            thread.join(30)
            assert not thread.is_alive(), f"the thread {thread.name} is left of the test"


async def done(running: Running, job: dict[str, Any]) -> dict[str, Any]:
    """Have the provider finish the job; return it once it has ended and a notification of that was accepted."""
    await running.world.finish(job["provider_job_id"])
    ended = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["finished_at"] is not None)
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    return ended


def attributes(span: Any) -> dict[str, Any]:
    """Return the attributes of a span."""
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


@pytest.mark.both_databases
@pytest.mark.parametrize("given_trace", [GIVEN, None], ids=["the client's trace", "a trace of the job's own"])
async def test_a_job_is_one_trace_from_submission_to_notification(
    tmp_path: Path, collector: Collector, given_trace: str | None
) -> None:
    """Export the job, its submission, its callback, its status check and each attempt, and pass the trace on."""
    async with relay(tmp_path, RELAY_OTEL="1", RELAY_ENV="staging") as running:
        body = {"provider": "evolink", "input": {"images": ["https://example.com/a.png"], "prompt": "a secret prompt"}}
        headers = {"traceparent": given_trace} if given_trace else {}
        submitted = await running.client.post(
            "/v1/jobs", json=body | {"notify": [{"url": running.hook}]}, headers=headers
        )
        job = submitted.json()
        assert submitted.status_code == 202, submitted.text
        await done(running, job)
    spans = collector.named()
    of_job = spans["job evolink"]
    expected = bytes.fromhex(TRACE) if given_trace else ids.to_bytes(job["id"])
    assert {span.trace_id for span in collector.spans} == {expected}
    assert of_job.parent_span_id == (bytes.fromhex(SPAN) if given_trace else b"")
    assert spans.keys() == {
        "job evolink",
        "submission at evolink",
        "callback from evolink",
        "check at evolink",
        "notification",
    }
    assert {span.parent_span_id for span in collector.spans if span is not of_job} == {of_job.span_id}
    sent = {one.headers["traceparent"] for one in running.sink.received}
    attempts = [span for span in collector.spans if span.name == "notification"]
    assert sent == {f"00-{expected.hex()}-{span.span_id.hex()}-01" for span in attempts}
    assert len(attempts) == 2
    found = attributes(of_job)
    assert (found["relay.job.id"], found["relay.job.status"], found["relay.provider"]) == (
        job["id"],
        "succeeded",
        "evolink",
    )
    shown = str([(span.name, attributes(span)) for span in collector.spans])
    for private in ("a secret prompt", KEY, SECRET_KEY, "/callbacks/", "whsec_", "example.com/a.png"):
        assert private not in shown
    (resource,) = {tuple(sorted(one.items())) for one in collector.resources}
    named = dict(resource)
    assert (named["service.name"], named["deployment.environment.name"]) == ("relay", "staging")


@pytest.mark.both_databases
async def test_the_trace_goes_on_in_another_process(tmp_path: Path, collector: Collector) -> None:
    """Continue the client's trace after a restart, for a notification that was made before."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_OTEL="1", RELAY_RETRY_SCHEDULE_S="0,60") as running:
        running.sink.answers.append(500)
        body = {"provider": "evolink", "input": {"images": ["https://example.com/a.png"], "prompt": "x"}}
        running.world.next_faults.append(Faults(lost=True))
        made = {"url": running.hook, "event_types": ["job.submitted"]}
        endpoint = (await running.client.post("/v1/endpoints", json=made)).json()
        await running.client.post("/v1/jobs", json=body, headers={"traceparent": GIVEN})
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
    async with relay(tmp_path, clock=clock, RELAY_OTEL="1", RELAY_RETRY_SCHEDULE_S="0,60") as running:
        await running.client.patch(f"/v1/endpoints/{endpoint['id']}", json={"url": running.hook})
        await clock.advance(90)
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        (again,) = running.sink.received
    assert again.headers["traceparent"].startswith(f"00-{TRACE}-")
    attempts = [span for span in collector.spans if span.name == "notification"]
    assert [attributes(span)["relay.outcome"] for span in attempts] == ["bad_status", "ok"]
    assert [span.status.code for span in attempts] == [2, 0]


async def test_a_trace_that_the_client_does_not_sample_is_passed_on_and_not_exported(
    tmp_path: Path, collector: Collector
) -> None:
    """Pass `…-00` on as it is, and export nothing of that job."""
    async with relay(tmp_path, RELAY_OTEL="1") as running:
        body = {"provider": "evolink", "input": {"images": ["https://example.com/a.png"], "prompt": "x"}}
        made = body | {"notify": [{"url": running.hook}]}
        job = (await running.client.post("/v1/jobs", json=made, headers={"traceparent": f"{GIVEN[:-2]}00"})).json()
        await done(running, job)
    assert collector.spans == []
    assert all(one.headers["traceparent"].endswith("-00") for one in running.sink.received)


async def test_without_the_setting_there_is_no_trace(tmp_path: Path, collector: Collector) -> None:
    """Neither export nor pass anything on, and load no library, unless RELAY_OTEL is set."""
    async with relay(tmp_path) as running:
        body = {"provider": "evolink", "input": {"images": ["https://example.com/a.png"], "prompt": "x"}}
        made = body | {"notify": [{"url": running.hook}]}
        job = (await running.client.post("/v1/jobs", json=made, headers={"traceparent": GIVEN})).json()
        await done(running, job)
        assert running.app.tracing is None
    assert collector.spans == []
    assert not any("traceparent" in one.headers for one in running.sink.received)
    loaded = "import sys, relay.web.server, relay.cli.serve; print([m for m in sys.modules if 'opentelemetry' in m])"
    asked = [sys.executable, "-c", loaded]
    ran = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


async def test_a_collector_that_does_not_answer_delays_no_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop within the time that a stop has, although spans wait for a collector that never answers."""
    open_ones = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(writer)
        await reader.read()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    async with relay(tmp_path, RELAY_OTEL="1") as running:
        await running.submit()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 5
    silent.close()
    assert open_ones, "the exporter has connected, and waits"
    for one in open_ones:
        one.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")  # one that the exporter does not repeat
        one.close()


def test_without_the_library_the_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the extra if RELAY_OTEL is set and the library is not installed."""
    real = builtins.__import__

    def absent(name: str, *more: Any, **named: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name=name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(SettingsError, match=r"RELAY_OTEL needs OpenTelemetry \(pip install .\.\[otel\]. in the"):
        Tracing("default", "one")


HEX = "0123456789abcdef"


@given(
    st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16), st.text(HEX, min_size=2, max_size=2)
)
def test_every_traceparent_of_the_standard_is_read(trace: str, span: str, flags: str) -> None:
    """Read version 00 and later ones, with what they may add; refuse zeros, version ff, capitals and other lengths."""
    good = int(trace, 16) != 0 and int(span, 16) != 0
    text = f"00-{trace}-{span}-{flags}"
    assert parse(text) == (text if good else None)
    assert parse(f"cc-{trace}-{span}-{flags}-more") == (text if good else None)
    assert parse(f"ff-{trace}-{span}-{flags}") is None
    assert parse(f"00-{trace}0-{span}-{flags}") is None
    assert parse(f"00-{trace}-{span}-{flags}-") in (None, text)
    if good:
        job_id = ids.new_id(ids.JOB)
        found = trace_of(job_id, text)
        low = int.from_bytes(ids.to_bytes(job_id)[8:])
        assert found == Trace(int(trace, 16), low, int(span, 16), sampled=bool(int(flags, 16) & 1))


@pytest.mark.parametrize(
    "text", [None, "", "x", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", GIVEN.upper()]
)
def test_a_malformed_traceparent_counts_as_none(text: str | None) -> None:
    """Begin a trace of the job's own, as the standard says."""
    assert parse(text) is None
