"""The stand-in providers' world: their jobs, how these go on, and the routes on which they are asked about."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from relay.sandbox import answers, bodies
from relay.sandbox.calling import CallbackSent, Caller
from relay.sandbox.contract import API_KEY, PaidStandIn, ProviderJob, StandIn
from relay.sandbox.faults import Faults, of_prompt
from relay.sandbox.keys import Keys
from relay.sandbox.serving import hang_up
from relay.sandbox.uploads import FileStores

RESULTS_PATH: Final = "/results"
RECEIVED_MAX: Final = 100
_CLIP: Final = Path(__file__).with_name("clip.mp4")

Handler = Callable[[StandIn, Request], Awaitable[Response]]


class Sandbox:
    """All stand-ins on one origin. `pace_s` is how long a job takes; None: only until a test calls `finish`.

    With `serves_results` result URLs lead to the sandbox, which answers each with the same three seconds of video.

    `status_checks` and `cancellations` are the provider's job ids that were asked about, in order. Where jobs are paid
    for, `submissions` are the paid ones, and the next faults are shown to an unpaid one and taken with a payment.
    `received` are the paths and the bytes of the last submissions, refused and unpaid ones too.
    """

    def __init__(
        self,
        stand_ins: dict[str, StandIn],
        keys: Keys | None = None,
        *,
        pace_s: float | None = 1.0,
        time_scale: float = 1.0,
    ) -> None:
        self.jobs: dict[str, ProviderJob] = {}
        self.submissions: list[dict[str, Any]] = []
        self.received: deque[tuple[str, bytes]] = deque(maxlen=RECEIVED_MAX)
        self.callbacks: list[CallbackSent] = []
        self.status_checks: list[str] = []
        self.cancellations: list[str] = []
        self.next_faults: list[Faults] = []
        self.allow_http = True
        self.serves_results = False
        self._of_job: dict[str, StandIn] = {}
        self._of_payment: dict[str, Faults] = {}
        self._pace_s = pace_s
        self._time_scale = time_scale
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.keys = keys or Keys()
        self._caller = Caller(self.callbacks, self.keys, time_scale, self._tell)
        routes = []
        for stand_in in stand_ins.values():
            routes += [
                Route(stand_in.prefix + path, partial(handler, self.jobs), methods=[method])
                for method, path, handler in stand_in.further_routes()
            ]
            if stand_in.cancel_path is not None:
                routes.append(_route(stand_in, stand_in.cancel_path, stand_in.cancel_method, self._cancel))
            routes += [_route(stand_in, path, "GET", self._status) for path in stand_in.status_paths]
            routes += [_route(stand_in, path, "POST", self._submit) for path in stand_in.submit_paths]
        self.files = FileStores(API_KEY)
        results = Mount(RESULTS_PATH, _result, name="results")
        self.app = Starlette(routes=[*routes, self.keys.route(), *self.files.routes(), results])

    async def close(self) -> None:
        """End what is running."""
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._caller.close()

    async def wait_for(self, reached: Callable[["Sandbox"], bool], timeout_s: float = 30.0) -> None:
        """Return when the sandbox has come so far; TimeoutError when it has not in time."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: reached(self))

    async def finish(self, job_id: str) -> None:
        """Brings a job to its end now, and its callbacks out; nothing for one that was canceled."""
        job = self.jobs[job_id]
        if job.state != "canceled":
            await self._move(job, "running")
            await self._end(job)

    async def turn(self, job_id: str, state: str) -> None:
        """Give an ended job another end, and call back about it."""
        job = self.jobs[job_id]
        job.faults = msgspec.structs.replace(job.faults, outcome=state)
        await self._move(job, state)

    async def _submit(self, stand_in: StandIn, request: Request) -> Response:
        """Return the submission route of a provider."""
        raw = await request.body()
        self.received.append((request.url.path, raw))
        try:
            body = msgspec.json.decode(raw)
            wanted = of_prompt(stand_in.prompt_of(body) if isinstance(body, dict) else None)
        except (msgspec.DecodeError, ValueError) as error:
            return JSONResponse(stand_in.refusal(400) | {"detail": str(error)}, 400)
        faults = wanted or self._next_faults(stand_in, request)
        take = partial(self._take, stand_in, request, body, faults)
        if not isinstance(stand_in, PaidStandIn):
            return await take()
        price = stand_in.price(body, request)
        return price if isinstance(price, Response) else await stand_in.till.sell(request, price, faults, take)

    def _next_faults(self, stand_in: StandIn, request: Request) -> Faults:
        """Those that a test has put in the queue; a payment that is sent again meets the same ones."""
        nonce = stand_in.till.nonce(request) if isinstance(stand_in, PaidStandIn) else ""
        if nonce in self._of_payment:
            return self._of_payment[nonce]
        faults = self.next_faults[0] if self.next_faults else Faults()
        if nonce is not None:
            del self.next_faults[:1]
        if nonce:
            self._of_payment[nonce] = faults
        return faults

    async def _take(
        self, stand_in: StandIn, request: Request, body: dict[str, Any], faults: Faults, payer: str = ""
    ) -> Response:
        """Make a job of a submission, or refuses it."""
        self.submissions.append(body)
        refused = stand_in.check(body, self.allow_http) or await answers.to_refused_submission(stand_in, faults)
        if refused is not None:
            return refused
        if faults.submit == "reset":
            await hang_up(request)
            return Response(status_code=500)  # which the client never receives
        job = stand_in.accept(body, len(self.jobs) + 1, request)
        job.faults, job.owner, job.callback_url = faults, payer, stand_in.callback_url_of(request, body)
        if self.serves_results:
            job.results_at = f"{request.url.scheme}://{request.url.netloc}{RESULTS_PATH}"
        if isinstance(stand_in, PaidStandIn):
            job = stand_in.sold(job, request)
        if (sent := stand_in.handshake(job)) is not None and not await self._caller.tested(stand_in, job, sent):
            if (refused := stand_in.handshake_failed(job)) is not None:
                return refused
            job.callback_url = None
        self.jobs[job.id] = job
        self._of_job[job.id] = stand_in
        await self._tell()
        if faults.early:
            await self.finish(job.id)
        elif isinstance(stand_in, PaidStandIn) and stand_in.answers_at_the_end and faults.version != "async":
            await self._live(job, self._pace_s or 0)
        elif self._pace_s is not None:
            self._begin(self._live(job, self._pace_s))
        return await answers.to_submission(stand_in, job, request)

    async def _status(self, stand_in: StandIn, request: Request) -> Response:
        """Return the status route of a provider."""
        asked = stand_in.asked_id(request)
        job = self.jobs.get(asked)
        if isinstance(stand_in, PaidStandIn) and (locked := stand_in.locked(request, job)):
            return locked
        self.status_checks.append(asked)
        await self._tell()
        if job is None:
            return stand_in.unknown(request)
        job.checks += 1
        return await answers.to_check(stand_in, job, request)

    async def _cancel(self, stand_in: StandIn, request: Request) -> Response:
        """Return a provider's cancel route: a job that has not ended is canceled, with a callback as at any end."""
        asked = stand_in.asked_id(request)
        self.cancellations.append(asked)
        await self._tell()
        job = self.jobs.get(asked)
        if job is None:
            return answers.refused(stand_in, 404)
        refused = await answers.to_cancellation(stand_in, job)
        if refused is not None:
            return refused
        effect = stand_in.cancel_effect(job)
        if effect == "erased":
            del self.jobs[job.id]
        if effect in ("erased", "kept"):
            return JSONResponse(stand_in.cancel_answer(job))
        job.enter("canceled")
        self._begin(self._after_end(job))
        return JSONResponse(stand_in.cancel_answer(job))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the requests."""
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _live(self, job: ProviderJob, pace_s: float) -> None:
        """Run a job: pending, running, then its end, unless it was ended otherwise."""
        await asyncio.sleep(pace_s / 3)
        if not job.ended:
            await self._move(job, "running")
        await asyncio.sleep(pace_s * 2 / 3)
        if not job.ended:
            await self._end(job)

    async def _end(self, job: ProviderJob) -> None:
        """End a job, unless it was canceled during its callback."""
        if job.faults.unknown_word:
            await self._send(job, job.faults.unknown_word)
        if job.state != "canceled":
            job.enter("succeeded" if job.faults.outcome == "no_output" else job.faults.outcome)
            await self._after_end(job)

    async def _after_end(self, job: ProviderJob) -> None:
        """Call back about an end, with the faults of a last callback."""
        faults = job.faults
        await self._tell()
        await asyncio.sleep(faults.late_s * self._time_scale)
        await self._call_back(job)
        for _ in range(faults.duplicate):
            await self._call_back(job)
        if faults.changed:
            job.signature += 1
            await self._call_back(job)
        if faults.reordered:
            await self._call_back(msgspec.structs.replace(job, state="running"))
        if faults.flips:
            await asyncio.sleep(self._pace_s or 0)
            await self.turn(job.id, faults.flips)

    async def _move(self, job: ProviderJob, state: str) -> None:
        """Put the job into another state, and call back if its provider does."""
        job.enter(state)
        await self._call_back(job)

    async def _call_back(self, job: ProviderJob) -> None:
        """Send the callback for the job's state, where its provider has one."""
        if self._of_job[job.id].announces(job):
            await self._send(job)
        await self._tell()

    async def _send(self, job: ProviderJob, word: str = "") -> None:
        """Send a callback, with another status word where one is given."""
        stand_in = self._of_job[job.id]
        await self._caller.call(stand_in, job, bodies.of_callback(stand_in, job, word))

    async def _tell(self) -> None:
        """Wakes those who wait for something to have happened."""
        async with self._changed:
            self._changed.notify_all()


def _route(stand_in: StandIn, path: str, method: str, handler: Handler) -> Route:
    """Return a route that requires the provider's key; paid providers have none."""

    async def answer(request: Request) -> Response:
        if not stand_in.authorized(request):
            await request.body()
            return answers.refused(stand_in, 401)
        return await handler(stand_in, request)

    return Route(stand_in.prefix + path, answer, methods=[method])


async def _result(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a result's URL with the clip, in parts where a player asks for parts."""
    await FileResponse(_CLIP, media_type="video/mp4")(scope, receive, send)
