"""Runs status checks: asks the provider about jobs whose callback is late or waits for confirmation.

The answer is applied like a callback. An answer that is no verdict about the job (not found yet, too many requests, an
outage) delays the next check; what it does to the job is decided in `lifecycle/checks.py`.
"""

import asyncio
from functools import partial
from typing import Final

import msgspec

from relay import backoff, log
from relay.context import EndedCall, FlowContext, send_signed_in
from relay.errors import JobUnknown, Unreadable
from relay.jobs.rate_limit import KEY_PAUSE_MS, PAUSE_MS, AskedPace, Pace
from relay.lifecycle import checks
from relay.lifecycle.checks import CheckOutcome, StatusCheck
from relay.model.job import Job, Report
from relay.model.provider_http import ProviderResponse
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.storage.apply_updates import JobUpdate, UpdateResult
from relay.storage.idempotency import Tie

TIMEOUT_S: Final = 15.0
LEASE_MS: Final = 60_000
PAUSE_MAX_MS: Final = 5_000
BLIP_S: Final = 30.0
"""After an outage or a reset the provider is asked again this soon, even where its jobs take long."""
NOW_WITHIN_S: Final = 27.0
"""How long a request waits for the check that it wants; routers cut a request that is not answered within 30 s."""
_logger = log.get("check")


class StatusAnswer(msgspec.Struct, frozen=True):
    """A provider's answer to a status request: its kind, the report where it is a verdict, a text for the timeline."""

    finding: CheckOutcome
    report: Report | None
    outcome: str
    response: ProviderResponse | None = None


class Checker:
    """Runs the loop over due status checks, and the checks that clients request."""

    def __init__(self, context: FlowContext) -> None:
        self._context = context
        self._store = context.store
        self._clock = context.clock
        self._settings = settings = context.settings
        self._under_way: set[asyncio.Task[UpdateResult | None]] = set()
        self._paces = {
            name: Pace(settings.checks_in_flight_max, settings.checks_per_s)
            for name, provider in context.providers.items()
            if provider.usable
        }
        self._asked = AskedPace(settings.checks_asked_per_job, settings.checks_asked_per_project)
        self._wake = context.check_soon

    async def run(self) -> None:
        """Start the due checks, until cancelled."""
        try:
            while True:
                self._wake.clear()
                now_ms, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
                due = {name: at - now_ms for name, at in (await self._store.jobs.next_checks()).items()}
                if not await self._start(due, now_ms):
                    again_at = min([began_at + PAUSE_MAX_MS, *self._due_again(due, began_at)])
                    await self._clock.wait(self._wake, until_monotonic_ms=again_at)
        except asyncio.CancelledError:
            # relay stops. After a failure of the database the checks go on: their answers are still to be stored.
            for under_way in self._under_way:
                under_way.cancel()
            raise

    def require_share(self, job_id: str, project_id: str) -> None:
        """Raise TooManyRequests if a client's check of the job would be refused; without any database work."""
        self._asked.check(job_id, project_id, self._clock.monotonic_ms())

    def paused(self) -> frozenset[str]:
        """Return the providers that are not asked at the moment, because of what they answered."""
        now_ms = self._clock.monotonic_ms()
        return frozenset(name for name, pace in self._paces.items() if pace.paused(now_ms))

    async def check_now(self, asked: Job, tie: Tie | None = None) -> UpdateResult | None:
        """Check a job for a client immediately and return the result, at most 27 s later.

        Returns None where the job cannot be checked, or the check takes longer; its result is stored all the same.
        TooManyRequests where the job or its project has used up its checks.
        """
        self._asked.ask(asked.id, asked.project_id, self._clock.monotonic_ms())
        job = await self._store.jobs.claim_check(asked.id, self._clock.now_ms() + LEASE_MS)
        if job is None or job.provider not in self._paces:
            return None
        checking = self._begin(job, tie)
        await asyncio.wait([checking], timeout=NOW_WITHIN_S)
        return checking.result() if checking.done() else None

    async def _start(self, due: dict[str, int], now_ms: int) -> bool:
        """Claim and start the due checks within each provider's rate limit; return whether any was started.

        `due` holds the milliseconds until each provider's first check is due.
        """
        began = False
        for name, due_in_ms in due.items():
            pace = self._paces.get(name)
            room = pace.room(self._clock.monotonic_ms()) if pace and due_in_ms <= 0 else 0
            if room > 0:
                for job in await self._store.jobs.claim_checks(name, now_ms, now_ms + LEASE_MS, room):
                    self._begin(job)
                    began = True
        return began

    def _due_again(self, due: dict[str, int], began_at: int) -> list[int]:
        """Return when each provider's next check may start; one without a slot wakes the loop at a check's end."""
        times = []
        for name, due_in_ms in due.items():
            opens_at = self._paces[name].opens_at(began_at) if name in self._paces else None
            if opens_at is not None:
                times.append(max(began_at + due_in_ms, opens_at))
        return times

    def _begin(self, job: Job, tie: Tie | None = None) -> "asyncio.Task[UpdateResult | None]":
        """Start one check."""
        self._paces[job.provider].started(self._clock.monotonic_ms())
        checking = asyncio.create_task(self._check(job, tie), name=f"check {job.id}")
        self._under_way.add(checking)
        checking.add_done_callback(partial(self._done, job.provider))
        return checking

    async def _check(self, job: Job, tie: Tie | None) -> UpdateResult | None:
        """Check one job and commit the result; after a failure in between it is due again when the lease ends."""
        started_at = self._clock.now_ms()
        answer = await self._ask(job)
        now_ms = self._clock.now_ms()
        again_at = now_ms + max(self._delay_ms(job, answer.finding), self._pause_ms(job.provider, answer, now_ms))
        check = StatusCheck(
            asked_id=job.provider_job_id,
            finding=answer.finding,
            report=answer.report,
            started_at=started_at,
            again_at=again_at,
            heartbeat_ms=round(self._settings.heartbeat_s * 1000),
        )
        note = answer.report.note if answer.report else None
        call = self._context.ended_call(job, EndedCall("check", started_at, answer.outcome, answer.response, note))
        transition = partial(checks.decide, check=check, now_ms=now_ms)
        update = JobUpdate(job_id=job.id, at=now_ms, transition=transition, call=call)
        recorded = await self._context.stored(update, tie, provider=job.provider)
        self._context.publish(recorded)
        self._context.metrics.checked(job.provider, answer.finding)
        _logger.info("job.checked", job=job.id, provider=job.provider, outcome=answer.outcome, decision=recorded.reason)
        return recorded

    async def _ask(self, job: Job) -> StatusAnswer:
        """Ask the provider about the job."""
        provider = self._context.providers[job.provider]
        if job.provider_job_id is None:
            return StatusAnswer(CheckOutcome.NO_ANSWER, None, "no id to ask by")
        request = provider.adapter.status_check(job.provider_job_id, job.status_path)
        try:
            response = await send_signed_in(self._context.client, provider, request, self._context.sign_in, TIMEOUT_S)
        except (NotSent, NoAnswer) as error:
            return StatusAnswer(CheckOutcome.NO_ANSWER, None, str(error))
        try:
            report = provider.judged(provider.adapter.read_status(response, self._clock.now_ms()))
        except JobUnknown as error:
            return StatusAnswer(CheckOutcome.NOT_FOUND, None, f"not found: {str(error)[:200]}", response)
        except Unreadable as error:
            return StatusAnswer(_kind(response), None, f"no verdict: {str(error)[:200]}", response)
        if report.state is None:
            self._context.unknown_word(job.provider, report.word)
        outcome = report.state or f"unknown word {report.word[:40]!r}"
        return StatusAnswer(CheckOutcome.VERDICT, report, outcome, response)

    def _pause_ms(self, name: str, answer: StatusAnswer, now_ms: int) -> int:
        """Pause all checks at a provider if its answer asks for that; return the milliseconds until the pause ends."""
        pace, finding, response = self._paces[name], answer.finding, answer.response
        if response is not None and finding in (CheckOutcome.KEY_REFUSED, CheckOutcome.VERDICT, CheckOutcome.NOT_FOUND):
            refusal = answer.outcome if finding is CheckOutcome.KEY_REFUSED else None
            self._context.key_judged(name, response.status_code, refusal)
        retry_after = response.headers.get("retry-after") if response else None
        retry_after_ms = backoff.parse_retry_after(retry_after, now_ms)
        match finding:
            case CheckOutcome.KEY_REFUSED:
                pause_ms = KEY_PAUSE_MS
            case CheckOutcome.RATE_LIMITED:
                pause_ms = retry_after_ms or PAUSE_MS
            case CheckOutcome.NO_VERDICT if retry_after_ms:
                pause_ms = retry_after_ms
            case _:
                return 0
        monotonic_ms = self._clock.monotonic_ms()
        return pace.pause(monotonic_ms + pause_ms, monotonic_ms) - monotonic_ms

    def _delay_ms(self, job: Job, finding: CheckOutcome) -> int:
        """Return the milliseconds until the next check of a job that is still open."""
        adapter = self._context.providers[job.provider].adapter
        if adapter.limits.poll_s is not None:
            return adapter.limits.poll_s * 1000
        first_s = self._settings.status_check_first_s or adapter.limits.expected_s * backoff.CHECK_MARGIN
        normal_ms = backoff.check_delay_ms(first_s, job.checks_made)
        if finding in (CheckOutcome.NO_ANSWER, CheckOutcome.NO_VERDICT, CheckOutcome.NOT_FOUND):
            return min(normal_ms, backoff.check_delay_ms(min(first_s, BLIP_S), max(0, job.checks_made - 1)))
        return normal_ms

    def _done(self, provider: str, under_way: "asyncio.Task[UpdateResult | None]") -> None:
        """Free the check's slot; log a check that failed inside relay."""
        self._paces[provider].finished()
        self._under_way.discard(under_way)
        self._wake.set()
        if not under_way.cancelled() and (error := under_way.exception()):
            _logger.error("job.check_broke", error=type(error).__name__, exc_info=error)


def _kind(answer: ProviderResponse) -> CheckOutcome:
    """Return the kind of an answer without a verdict, by its HTTP status."""
    match answer.status_code:
        case 401 | 403:
            return CheckOutcome.KEY_REFUSED
        case 429:
            return CheckOutcome.RATE_LIMITED
        case _:
            return CheckOutcome.NO_VERDICT
