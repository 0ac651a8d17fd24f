"""Runs status checks: asks the provider about jobs whose callback is late or waits for confirmation.

The answer is applied like a callback. An answer that is no verdict about the job (not found yet, too many requests, an
outage) delays the next check; what it does to the job is decided in `lifecycle/checks.py`.
"""

import asyncio
from functools import partial
from itertools import chain
from typing import Final

import msgspec

from relay import backoff, log
from relay.context import EndedCall, FlowContext, send_signed_in
from relay.errors import JobUnknown, Unreadable
from relay.jobs.rate_limit import GROWN_PAUSE_MS, KEY_PAUSE_MS, PAUSE_MS, AskedPace, GrowingPace, Pace
from relay.lifecycle import checks
from relay.lifecycle.checks import CheckOutcome, StatusCheck
from relay.model.job import Job, Report
from relay.model.provider_http import ProviderResponse
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.storage.apply_updates import JobUpdate, UpdateResult
from relay.storage.boots import CHECK_LEASE_MS
from relay.storage.idempotency import Tie
from relay.storage.jobs import ConfirmationClaim

TIMEOUT_S: Final = 15.0
PAUSE_MAX_MS: Final = 5_000
GATHER_S: Final = 0.01
"""After a claim what becomes due is gathered for so long, because each claim is a transaction."""
BLIP_S: Final = 30.0
"""After an outage or a reset the provider is asked again this soon, even where its jobs take long."""
NOW_WITHIN_S: Final = 27.0
"""How long a request waits for the check that it wants; routers cut a request that is not answered within 30 s."""
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_logger = log.get("check")


class StatusAnswer(msgspec.Struct, frozen=True):
    """A provider's answer to a status request: its kind, the report where it is a verdict, a text for the timeline."""

    finding: CheckOutcome
    report: Report | None
    outcome: str
    response: ProviderResponse | None = None

    @property
    def failed(self) -> bool:
        """Return whether the provider did not answer, or could not: a 429 or a 5xx."""
        if self.response is None:
            return self.finding is CheckOutcome.NO_ANSWER
        return self.response.status_code == _TOO_MANY_REQUESTS or self.response.status_code >= _SERVER_ERROR


class ProviderPaces(msgspec.Struct, frozen=True):
    """The limits at one provider: of confirmations, and of all other checks, so that neither delays the other."""

    checks: Pace
    confirmations: GrowingPace

    def pause(self, until_ms: int, now_ms: int) -> int:
        """Start no check before `until_ms`; return when the pause ends."""
        self.confirmations.pause(until_ms, now_ms)
        return self.checks.pause(until_ms, now_ms)


class DueChecks(msgspec.Struct, frozen=True):
    """When the next checks are due, in unix milliseconds: by provider, and confirmations by provider and project."""

    checks: dict[str, int]
    confirmations: dict[str, dict[str, int]]


class Checker:
    """Runs the loop over due status checks, and the checks that clients request."""

    def __init__(self, context: FlowContext) -> None:
        self._context = context
        self._store = context.store
        self._clock = context.clock
        self._settings = settings = context.settings
        self._under_way: set[asyncio.Task[UpdateResult | None]] = set()
        in_flight_max, per_s = settings.checks_in_flight_max, settings.checks_per_s
        self._paces = {
            name: ProviderPaces(
                Pace(in_flight_max, per_s), GrowingPace(in_flight_max, per_s, settings.confirmations_per_s_max)
            )
            for name, provider in context.providers.items()
            if provider.usable
        }
        self._asked = AskedPace(settings.checks_asked_per_job, settings.checks_asked_per_project)
        self._wake = context.check_soon
        self._slot_awaited = False

    async def run(self) -> None:
        """Start the due checks, until cancelled."""
        try:
            while True:
                self._wake.clear()
                now_ms, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
                jobs = self._store.jobs
                due = DueChecks(await jobs.next_checks(), await jobs.next_confirmations())
                started = await asyncio.gather(self._start_checks(due, now_ms), self._start_confirmations(due, now_ms))
                if any(started):
                    await asyncio.sleep(GATHER_S)
                else:
                    again_at = min([began_at + PAUSE_MAX_MS, *self._due_again(due, now_ms, began_at)])
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
        return frozenset(name for name, paces in self._paces.items() if paces.checks.paused(now_ms))

    async def check_now(self, asked: Job, tie: Tie | None = None) -> UpdateResult | None:
        """Check a job for a client immediately and return the result, at most 27 s later.

        Returns None where the job cannot be checked, or the check takes longer; its result is stored all the same.
        TooManyRequests where the job or its project has used up its checks.
        """
        self._asked.ask(asked.id, asked.project_id, self._clock.monotonic_ms())
        job = await self._store.jobs.claim_check(asked.id, self._clock.now_ms() + CHECK_LEASE_MS)
        if job is None or job.provider not in self._paces:
            return None
        self._paces[job.provider].checks.started(self._clock.monotonic_ms())
        checking = self._begin(job, tie, confirms=False)
        await asyncio.wait([checking], timeout=NOW_WITHIN_S)
        return checking.result() if checking.done() else None

    async def _start_checks(self, due: DueChecks, now_ms: int) -> int:
        """Claim and start the checks that are due within each provider's limits; return how many."""
        began = 0
        for name, at in due.checks.items():
            pace = self._paces[name].checks if name in self._paces else None
            room = pace.room(self._clock.monotonic_ms()) if pace and at <= now_ms else 0
            if pace is not None and room > 0:
                for job in await self._store.jobs.claim_checks(name, now_ms, now_ms + CHECK_LEASE_MS, room):
                    pace.started(self._clock.monotonic_ms())
                    self._begin(job, confirms=False)
                    began += 1
        return began

    async def _start_confirmations(self, due: DueChecks, now_ms: int) -> int:
        """Claim and start the confirmations that are due, project by project within each provider's pace."""
        return sum(
            await asyncio.gather(
                *(
                    self._start_confirmations_at(name, projects, now_ms)
                    for name, at_of in due.confirmations.items()
                    if name in self._paces and (projects := [project for project, at in at_of.items() if at <= now_ms])
                )
            )
        )

    async def _start_confirmations_at(self, name: str, projects: list[str], now_ms: int) -> int:
        """Claim and start confirmations at one provider; return how many."""
        pace = self._paces[name].confirmations
        granted = pace.grant(projects, self._clock.monotonic_ms())
        claims = [
            ConfirmationClaim(
                provider=name, project_id=project, now=now_ms, leased_until=now_ms + CHECK_LEASE_MS, limit=checks
            )
            for project, checks in granted.items()
        ]
        claimed = await asyncio.gather(*map(self._store.jobs.claim_confirmations, claims))
        began, started_at = sum(map(len, claimed)), self._clock.monotonic_ms()
        pace.note_scarcity(began >= granted.total(), started_at)
        for job in chain.from_iterable(claimed):
            pace.start(job.project_id, started_at)
            self._begin(job, confirms=True)
        return began

    def _due_again(self, due: DueChecks, now_ms: int, began_at: int) -> list[int]:
        """Return when each provider's next checks may start; those without a slot wait for the end of a check."""
        times = []
        self._slot_awaited = False
        for name, paces in self._paces.items():
            confirmations = due.confirmations.get(name, {})
            startable = [at for project, at in confirmations.items() if paces.confirmations.may_start(project)]
            waiting: list[tuple[Pace, int]] = [(paces.checks, due.checks[name])] if name in due.checks else []
            waiting += [(paces.confirmations, min(startable))] if startable else []
            for pace, at in waiting:
                if (opens_at := pace.opens_at(began_at)) is not None:
                    times.append(max(began_at + at - now_ms, opens_at))
                self._slot_awaited |= opens_at is None
            self._slot_awaited |= len(startable) < len(confirmations)
        return times

    def _begin(self, job: Job, tie: Tie | None = None, *, confirms: bool) -> "asyncio.Task[UpdateResult | None]":
        """Start one check, which its pace has counted."""
        checking = asyncio.create_task(self._check(job, tie, confirms=confirms), name=f"check {job.id}")
        self._under_way.add(checking)
        checking.add_done_callback(partial(self._done, job, confirms))
        return checking

    async def _check(self, job: Job, tie: Tie | None, *, confirms: bool) -> UpdateResult | None:
        """Check one job and commit the result; after a failure in between it is due again when the lease ends."""
        started_at, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
        answer = await self._ask(job)
        now_ms = self._clock.now_ms()
        pause_ms = self._pause_ms(job.provider, answer, now_ms)
        if answer.failed or confirms:
            confirmations = self._paces[job.provider].confirmations
            confirmations.answered(began_at, self._clock.monotonic_ms(), failed=answer.failed)
        check = StatusCheck(
            asked_id=job.provider_job_id,
            finding=answer.finding,
            report=answer.report,
            started_at=started_at,
            again_at=now_ms + max(self._delay_ms(job, answer.finding), pause_ms),
            paused_until=now_ms + pause_ms,
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
        paces, finding, response = self._paces[name], answer.finding, answer.response
        if response is not None and finding in (CheckOutcome.KEY_REFUSED, CheckOutcome.VERDICT, CheckOutcome.NOT_FOUND):
            refusal = answer.outcome if finding is CheckOutcome.KEY_REFUSED else None
            self._context.key_judged(name, response.status_code, refusal)
        retry_after = response.headers.get("retry-after") if response else None
        retry_after_ms = backoff.parse_retry_after(retry_after, now_ms)
        match finding:
            case CheckOutcome.KEY_REFUSED:
                pause_ms = KEY_PAUSE_MS
            case CheckOutcome.RATE_LIMITED:
                pause_ms = retry_after_ms or (GROWN_PAUSE_MS if paces.confirmations.grown else PAUSE_MS)
            case CheckOutcome.NO_VERDICT if retry_after_ms:
                pause_ms = retry_after_ms
            case _:
                return 0
        monotonic_ms = self._clock.monotonic_ms()
        return paces.pause(monotonic_ms + pause_ms, monotonic_ms) - monotonic_ms

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

    def _done(self, job: Job, confirms: bool, under_way: "asyncio.Task[UpdateResult | None]") -> None:
        """Free the check's slot, wake the loop if that makes another check possible, and log a failure inside relay."""
        paces = self._paces[job.provider]
        if confirms:
            paces.confirmations.finish(job.project_id)
        else:
            paces.checks.finished()
        self._under_way.discard(under_way)
        error = None if under_way.cancelled() else under_way.exception()
        recorded = under_way.result() if error is None and not under_way.cancelled() else None
        if self._slot_awaited or recorded is None or (recorded.job and recorded.job.next_check_at is not None):
            self._wake.set()
        if error is not None:
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
