"""The stand-in providers' world: their jobs, how these go on, and the callbacks that are sent about them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from relay.sandbox.faults import Faults, of_prompt
from relay.sandbox.serving import hang_up

API_KEY: Final = "sandbox-key"
HTML: Final = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>"
HANG_S: Final = 600


class ProviderJob(msgspec.Struct, kw_only=True):
    """A job as its provider sees it; `state` is one of pending, running, succeeded, failed, canceled."""

    id: str
    number: int
    body: dict[str, Any]
    callback_url: str | None
    faults: Faults
    model: str
    seconds: int
    created_s: int
    state: str = "pending"

    @property
    def result_url(self) -> str:
        """A plausible URL; nothing is there."""
        return f"https://cdn.example.com/sandbox/{self.id}.mp4"


class CallbackSent(msgspec.Struct, frozen=True):
    """One try of one callback, and what came back (None: no answer)."""

    job_id: str
    url: str
    body: bytes
    status_code: int | None


class StandIn(Protocol):
    """What a provider's file gives the world."""

    submit_path: str
    status_path: str
    pauses_s: Sequence[float]
    """Before each further try of a callback that got no 2xx."""
    callback_timeout_s: float

    def refusal(self, status_code: int) -> dict[str, Any]:
        """The published error body of a status."""

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """The refusal of a body that is against the published limits."""

    def accept(self, body: dict[str, Any], number: int) -> ProviderJob:
        """The job of an accepted body."""

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """The published answer to a submission."""

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """The published answer to a status check."""

    def callback(self, job: ProviderJob) -> dict[str, Any] | None:
        """The published callback for the state the job is in; None where none is sent."""

    def asked_id(self, request: Request) -> str:
        """The job a status check is about."""


class Sandbox:
    """All stand-ins on one origin. `pace_s` is how long a job takes; None: only until a test calls `finish`."""

    def __init__(self, stand_ins: dict[str, StandIn], *, pace_s: float | None = 1.0, time_scale: float = 1.0) -> None:
        self.jobs: dict[str, ProviderJob] = {}
        self.submissions: list[dict[str, Any]] = []
        self.callbacks: list[CallbackSent] = []
        self.next_faults: list[Faults] = []
        self.allow_http = True
        self._stand_ins = stand_ins
        self._of_job: dict[str, StandIn] = {}
        self._pace_s = pace_s
        self._time_scale = time_scale
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        routes = []
        for stand_in in stand_ins.values():
            routes.append(Route(stand_in.submit_path, self._submit(stand_in), methods=["POST"]))
            routes.append(Route(stand_in.status_path, self._status(stand_in), methods=["GET"]))
        self.app = Starlette(routes=routes)

    async def close(self) -> None:
        """Ends what is running."""
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._http.aclose()

    async def wait_for(self, reached: Callable[["Sandbox"], bool], timeout_s: float = 10.0) -> None:
        """Returns when the sandbox has come so far; TimeoutError when it has not in time."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: reached(self))

    async def finish(self, job_id: str) -> None:
        """Brings a job to its end now, and its callbacks out."""
        job = self.jobs[job_id]
        await self._move(job, "running")
        await self._end(job)

    def _submit(self, stand_in: StandIn) -> Callable[[Request], Any]:
        """The submission route of a provider."""

        async def submit(request: Request) -> Response:
            raw = await request.body()
            if request.headers.get("authorization") != f"Bearer {API_KEY}":
                return JSONResponse(stand_in.refusal(401), 401)
            try:
                body = msgspec.json.decode(raw)
                wanted = of_prompt(_prompt(body))
            except (msgspec.DecodeError, ValueError) as error:
                return JSONResponse(stand_in.refusal(400) | {"detail": str(error)}, 400)
            self.submissions.append(body)
            faults = wanted or (self.next_faults.pop(0) if self.next_faults else Faults())
            return await self._accept(stand_in, request, body, faults)

        return submit

    async def _accept(self, stand_in: StandIn, request: Request, body: Any, faults: Faults) -> Response:
        """Answers a submission, as well or as badly as its faults say."""
        refused = stand_in.check(body, self.allow_http)
        if refused is not None:
            return refused
        if faults.html:
            return HTMLResponse(HTML, faults.status_code if faults.status_code != 200 else 502)
        if faults.status_code != 200:
            return JSONResponse(stand_in.refusal(faults.status_code), faults.status_code)
        if faults.submit == "reset":
            await hang_up(request)
            return Response(status_code=204)
        job = msgspec.structs.replace(stand_in.accept(body, len(self.jobs) + 1), faults=faults)
        self.jobs[job.id] = job
        self._of_job[job.id] = stand_in
        await self._tell()
        if faults.early:
            await self.finish(job.id)
        elif self._pace_s is not None:
            self._begin(self._live(job, self._pace_s))
        match faults.submit:
            case "hang":
                await asyncio.sleep(HANG_S)
            case "reset_after":
                await hang_up(request)
            case "empty":
                return Response(status_code=200)
            case "id_missing":
                return JSONResponse({"status": "submitted"})
            case _:
                pass
        return JSONResponse(stand_in.answer(job))

    def _status(self, stand_in: StandIn) -> Callable[[Request], Any]:
        """The status route of a provider."""

        async def status(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {API_KEY}":
                return JSONResponse(stand_in.refusal(401), 401)
            job = self.jobs.get(stand_in.asked_id(request))
            return JSONResponse(stand_in.refusal(404), 404) if job is None else JSONResponse(stand_in.status(job))

        return status

    def _begin(self, work: Any) -> None:
        """Runs something beside the requests."""
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _live(self, job: ProviderJob, pace_s: float) -> None:
        """A job's own life: pending, running, its end."""
        await asyncio.sleep(pace_s / 3)
        await self._move(job, "running")
        await asyncio.sleep(pace_s * 2 / 3)
        await self._end(job)

    async def _end(self, job: ProviderJob) -> None:
        """The end of a job, with the faults of its last callback."""
        await self._move(job, "succeeded" if job.faults.outcome == "no_output" else job.faults.outcome)
        for _ in range(job.faults.duplicate):
            await self._call_back(job)
        if job.faults.reordered:
            late = msgspec.structs.replace(job, state="running")
            await self._call_back(late)

    async def _move(self, job: ProviderJob, state: str) -> None:
        """The job is in another state, and its provider says so where it does."""
        job.state = state
        await self._call_back(job)
        await self._tell()

    async def _call_back(self, job: ProviderJob) -> None:
        """Sends the callback for the job's state, as often as its provider tries."""
        stand_in = self._of_job[job.id]
        about = msgspec.structs.replace(job, id=job.id + "x") if job.faults.wrong_id else job
        body = stand_in.callback(about)
        if body is None or job.callback_url is None or job.faults.lost:
            return
        if job.faults.huge:
            body = body | {"padding": "x" * job.faults.huge}
        raw = msgspec.json.encode(body)
        if job.faults.forged:
            forged = job.callback_url[:-1] + ("A" if job.callback_url[-1] != "A" else "E")
            await self._post(job, forged, raw, stand_in.callback_timeout_s)
        for pause_s in (0.0, *stand_in.pauses_s):
            await asyncio.sleep(pause_s * self._time_scale)
            if await self._post(job, job.callback_url, raw, stand_in.callback_timeout_s):
                return

    async def _post(self, job: ProviderJob, url: str, raw: bytes, timeout_s: float) -> bool:
        """One try of one callback; True for a 2xx."""
        try:
            answer = await self._http.post(
                url, content=raw, headers={"content-type": "application/json"}, timeout=timeout_s
            )
            status_code: int | None = answer.status_code
        except httpx.HTTPError:
            status_code = None
        self.callbacks.append(CallbackSent(job.id, url, raw, status_code))
        await self._tell()
        return status_code is not None and 200 <= status_code < 300

    async def _tell(self) -> None:
        """Wakes those who wait for something to have happened."""
        async with self._changed:
            self._changed.notify_all()


def _prompt(body: Any) -> object:
    """The prompt, wherever a provider keeps it."""
    if not isinstance(body, dict):
        return None
    inputs = body.get("inputs")
    return body.get("prompt") or (inputs.get("prompt") if isinstance(inputs, dict) else None)


def now_s() -> int:
    """Unix seconds."""
    return int(time.time())
