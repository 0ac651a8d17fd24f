"""One OpenTelemetry trace for each job, from its submission to the notifications about it.

The ids follow from the job: the trace is the one that the client named by `traceparent`, or else the job's own UUID,
and the job's span has the last half of that UUID. So every process adds its spans to the same trace without any state.
Without RELAY_OTEL nothing of this is made, and the libraries (`pip install '.[otel]'`) are not loaded.
https://www.w3.org/TR/trace-context/
"""

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from relay import __version__
from relay.errors import SettingsError
from relay.model import ids
from relay.model.job import Job, JobState, ProviderCall
from relay.outbound.webhook_sender import PostResult

HEADER: Final = "traceparent"
JOBS_KEPT: Final = 10_000
"""So many jobs' `traceparent` stay in memory; those of others are read from their rows."""
FLUSH_S: Final = 2.0
"""How long a stop waits for the collector, at most."""
_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LOW: Final = (1 << 64) - 1
_SAMPLED: Final = 1
_MILLI: Final = 1_000_000
"""Nanoseconds."""
Attributes = Mapping[str, str | int]


class Trace(msgspec.Struct, frozen=True):
    """A job's place in its trace: the trace's id, the span of the job, and the client's span that it belongs to."""

    trace_id: int
    job_span: int
    client_span: int | None
    sampled: bool


class Spanned(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of work that has ended: when (unix ms), what it was, and whether it failed."""

    name: str
    kind: str
    started_at: int
    ended_at: int
    attributes: Attributes
    failed: str | None = None


class Post(Protocol):
    """What sends a notification."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> PostResult:
        """Send a request once, and return how it ended."""


Lookup = Callable[[str], Awaitable[str | None]]
"""Reads the `traceparent` that a job was submitted with; None where there was none."""


def parse(text: str | None) -> str | None:
    """Return a `traceparent` of a request, if it is one; a malformed one counts as none, as the standard says."""
    found = _FORM.fullmatch(text.strip()) if text else None
    return f"00-{found[1]}-{found[2]}-{found[3]}" if found else None


def trace_of(job_id: str, given: str | None) -> Trace:
    """Return where a job's spans belong."""
    bits = int.from_bytes(ids.to_bytes(job_id))
    if given is None:
        return Trace(bits, bits & _LOW, None, sampled=True)
    _, trace, span, flags = given.split("-")
    return Trace(int(trace, 16), bits & _LOW, int(span, 16), sampled=bool(int(flags, 16) & _SAMPLED))


class Tracing:
    """Makes spans of work that has ended, and exports them in a thread of the library's own.

    `lookup` is set once the store is open. OTEL_EXPORTER_OTLP_ENDPOINT and the library's other variables say where
    spans go; SettingsError if the library is not installed.
    """

    def __init__(self, environment: str, instance: str) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415 - as for the libraries below: only with RELAY_OTEL
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise SettingsError(
                "RELAY_OTEL needs OpenTelemetry (pip install '.[otel]' in the checkout, or -r requirements-all.txt): "
                f"{error.name} is not installed"
            ) from None
        own = {
            "service.name": "relay",
            "service.version": __version__,
            "service.instance.id": instance,
            "deployment.environment.name": environment,
        }
        self._ids = _id_generator()
        self._provider = TracerProvider(
            resource=Resource(own).merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("relay", __version__)
        self._api = trace
        self._given: OrderedDict[str, str | None] = OrderedDict()
        self.lookup: Lookup | None = None

    def note(self, job: Job) -> None:
        """Keep a job's `traceparent` in memory, for the notifications about it."""
        self._given[job.id] = job.traceparent
        self._given.move_to_end(job.id)
        if len(self._given) > JOBS_KEPT:
            self._given.popitem(last=False)

    async def trace(self, job_id: str) -> Trace:
        """Return where a job's spans belong, read from its row if it is not in memory."""
        if job_id not in self._given and self.lookup is not None:
            self._given[job_id] = await self.lookup(job_id)
        return trace_of(job_id, self._given.get(job_id))

    def job_ended(self, job: Job) -> None:
        """Make the job's own span when it has its first end; a later end is a span within it."""
        of_job = trace_of(job.id, job.traceparent)
        first = not job.late and job.submissions_made <= 1
        began_at = job.created_at if first else job.finished_at or job.updated_at
        spanned = Spanned(
            name=f"job {job.provider}" if first else f"job {job.provider} ended again",
            kind="INTERNAL",
            started_at=began_at,
            ended_at=job.finished_at or job.updated_at,
            attributes=_without_none(
                {
                    **_of_job(job),
                    "relay.job.status": str(job.state),
                    "relay.job.reason": job.reason and str(job.reason),
                    "relay.job.finished_by": job.finished_by and str(job.finished_by),
                    "relay.job.verification": str(job.verification),
                }
            ),
            failed=None if job.state is JobState.SUCCEEDED else (job.error.code if job.error else str(job.state)),
        )
        if first:
            self._export(of_job, spanned, of_job.client_span, of_job.job_span)
        else:
            self._export(of_job, spanned, of_job.job_span)

    def provider_call(self, job: Job, call: ProviderCall) -> None:
        """Make the span of a request to a provider."""
        of_job = trace_of(job.id, job.traceparent)
        failed = call.status_code is None or call.status_code >= 400
        spanned = Spanned(
            name=f"{call.kind} at {job.provider}",
            kind="CLIENT",
            started_at=call.started_at,
            ended_at=call.started_at + call.duration_ms,
            attributes=_without_none(
                {
                    **_of_job(job),
                    "relay.call.id": call.id,
                    "relay.call.outcome": call.outcome,
                    "http.response.status_code": call.status_code,
                }
            ),
            failed=call.outcome if failed else None,
        )
        self._export(of_job, spanned, of_job.job_span)

    def callback(self, job: Job, received_at: int, ended_at: int, about: Attributes) -> None:
        """Make the span of a callback, from its receipt to its commit (unix ms)."""
        of_job = trace_of(job.id, job.traceparent)
        spanned = Spanned(
            name=f"callback from {job.provider}",
            kind="SERVER",
            started_at=received_at,
            ended_at=ended_at,
            attributes={**_of_job(job), **about},
        )
        self._export(of_job, spanned, of_job.job_span)

    def new_span(self) -> int:
        """Return a new span's id."""
        return int(self._ids.new_span_id())

    def attempt(self, of_job: Trace, span_id: int, spanned: Spanned) -> None:
        """Make the span of an attempt, under the id that its request had."""
        self._export(of_job, spanned, of_job.job_span, span_id)

    async def close(self, within_s: float) -> None:
        """Export what waits, and stop; a collector that does not answer delays this by `within_s` at most."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:  # the loop has ended: nothing waits any more
                return

        # A thread that does not keep the process alive, unlike those of the loop's executor.
        threading.Thread(target=shut_down, name="traces", daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                await done.wait()
        except TimeoutError:
            return

    def _export(self, of_job: Trace, spanned: Spanned, parent: int | None, span_id: int | None = None) -> None:
        """Hand one span to the exporter; nothing where the client does not sample its trace."""
        if not of_job.sampled:
            return
        self._ids.next_trace, self._ids.next_span = of_job.trace_id, span_id
        context = None
        if parent is not None:
            flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
            above = self._api.SpanContext(of_job.trace_id, parent, is_remote=True, trace_flags=flags)
            context = self._api.set_span_in_context(self._api.NonRecordingSpan(above))
        span = self._tracer.start_span(
            spanned.name,
            context=context,
            kind=self._api.SpanKind[spanned.kind],
            attributes=spanned.attributes,
            start_time=spanned.started_at * _MILLI,
        )
        if spanned.failed is not None:
            span.set_attribute("error.type", spanned.failed)
            span.set_status(self._api.StatusCode.ERROR, spanned.failed)
        span.end(spanned.ended_at * _MILLI)


def _id_generator() -> Any:
    """Return what gives spans their ids: the one that was set for the next span, or else a random one."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415 - as above

    class Ids(RandomIdGenerator):
        next_trace = 0
        next_span: int | None = None

        def generate_trace_id(self) -> int:
            return self.next_trace

        def generate_span_id(self) -> int:
            return super().generate_span_id() if self.next_span is None else self.next_span

        def new_span_id(self) -> int:
            return super().generate_span_id()

    return Ids()


class TracedSender:
    """Sends notifications with a `traceparent`, and makes a span of each attempt; those about no job go as they are."""

    def __init__(self, sender: Post, tracing: Tracing, now_ms: Callable[[], int]) -> None:
        self._sender = sender
        self._tracing = tracing
        self._now_ms = now_ms

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> PostResult:
        """Send a request once, and return how it ended."""
        job_id = _job_of(body)
        if job_id is None:
            return await self._sender.post(url, headers, body, timeout_s)
        of_job, span_id, started_at = await self._tracing.trace(job_id), self._tracing.new_span(), self._now_ms()
        named = f"00-{of_job.trace_id:032x}-{span_id:016x}-{int(of_job.sampled):02x}"
        answer = await self._sender.post(url, {**headers, HEADER: named}, body, timeout_s)
        about = {
            "relay.job.id": job_id,
            "relay.event.id": headers["webhook-id"],
            "relay.attempt": int(headers["relay-attempt"]),
            "relay.outcome": str(answer.outcome),
            "http.request.method": "POST",
            "http.response.status_code": answer.status_code,
            "server.address": urlsplit(url).hostname,
        }
        spanned = Spanned(
            name="notification",
            kind="CLIENT",
            started_at=started_at,
            ended_at=self._now_ms(),
            attributes=_without_none(about),
            failed=None if answer.outcome == "ok" else str(answer.outcome),
        )
        self._tracing.attempt(of_job, span_id, spanned)
        return answer


class _Job(msgspec.Struct):
    """What is read of a notification's job."""

    id: str


class _Data(msgspec.Struct):
    """What is read of a notification's data."""

    job: _Job | None = None


class _Body(msgspec.Struct):
    """What is read of a notification's body."""

    data: _Data | None = None


_decode: Final = msgspec.json.Decoder(_Body).decode


def _job_of(body: bytes) -> str | None:
    """Return the job that a notification is about; None for one about an endpoint or an alert, or for Slack."""
    data = _decode(body).data
    return data.job.id if data is not None and data.job is not None else None


def _of_job(job: Job) -> dict[str, str]:
    """Return what each span says of its job: nothing of the request, which may be private."""
    return {"relay.job.id": job.id, "relay.project.id": job.project_id, "relay.provider": job.provider}


def _without_none(attributes: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}
