"""Runs status checks: asks the provider about jobs whose callback is late or waits for confirmation.

The answer is applied like a callback. An answer that has no status of the job (not found yet, too many requests, an
outage) delays the next check; what it does to the job is decided in `lifecycle/checks.py`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from relay import log
from relay.context import ConfiguredProvider, EndedCall, FlowContext, send_signed_in
from relay.errors import JobUnknown, Unreadable
from relay.jobs.check_times import CheckTimes, Kind
from relay.jobs.rate_limit import GROWN_PAUSE_MS, KEY_PAUSE_MS, PAUSE_MS, AskedPace, GrowingPace, Pace
from relay.lifecycle import checks, lookups
from relay.lifecycle.checks import CheckOutcome, StatusCheck
from relay.model import backoff
from relay.model.job import Job, ProviderCall, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.providers.base import submitted_job
from relay.storage.apply_updates import JobUpdate, UpdateResult
from relay.storage.boots import CHECK_LEASE_MS
from relay.storage.idempotency import Tie
from relay.storage.jobs import ConfirmationClaim

TIMEOUT_S: Final = 15.0
READ_EVERY_MS: Final = 5_000
"""How often the table is read at least: another process may have made a check due."""
GATHER_S: Final = 0.01
"""After a claim what becomes due is gathered for so long, because each claim is a transaction."""
BLIP_S: Final = 30.0
"""After an outage or a reset the provider is asked again this soon, even where its jobs take long."""
NOW_WITHIN_S: Final = 27.0
"""How long a request waits for the check that it wants; routers cut a request that is not answered within 30 s."""
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_logger = log.get("check")


class StatusAnswer(msgspec.Struct, frozen=True):
    """A provider's answer to a status request: its kind, the report where it says a status, a text for the timeline.

    `first` is the call for the status, if the answer is that to a second call for the result.
    """

    finding: CheckOutcome
    report: Report | None
    outcome: str
    response: ProviderResponse | None = None
    first: ProviderCall | None = None

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


class Checker:
    """Runs the loop over due status checks, and the checks that clients request."""

    def __init__(self, context: FlowContext, times: CheckTimes) -> None:
        self._context = context
        self._times = times
        self._store = context.store
        self._clock = context.clock
        self._settings = settings = context.settings
        self._under_way: set[asyncio.Task[UpdateResult | None]] = set()
        in_flight_max, per_s = settings.checks_in_flight_max, settings.checks_per_s
        self._paces = {
            name: ProviderPaces(
                Pace(in_flight_max, per_s), GrowingPace(in_flight_max, per_s, settings.confirmations_per_s_max)
            )
            for name in context.usable
        }
        self._asked = AskedPace(settings.checks_asked_per_job, settings.checks_asked_per_project)
        self._read_at = 0
        self._slot_awaited = False

    async def run(self) -> None:
        """Start the due checks, until cancelled."""
        self._times.must_read = True
        try:
            while True:
                self._times.changed.clear()
                if self._times.must_read or self._clock.monotonic_ms() >= self._read_at + READ_EVERY_MS:
                    await self._read_times()
                now_ms, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
                if sum(await asyncio.gather(*(self._start(name, now_ms) for name in self._paces))):
                    await asyncio.sleep(GATHER_S)
                elif not self._times.must_read:
                    again_at = self._due_again(now_ms, began_at)
                    self._times.waits_until_ms = now_ms + again_at - began_at
                    await self._clock.wait(self._times.changed, until_monotonic_ms=again_at)
                    self._times.waits_until_ms = 0
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

    async def _read_times(self) -> None:
        """Read from the table when checks are due."""
        self._read_at = self._clock.monotonic_ms()
        self._times.begin_reading()
        for provider, at in (await self._store.jobs.next_checks()).items():
            self._times.add((provider, None), at)
        for provider, projects in (await self._store.jobs.next_confirmations()).items():
            for project_id, at in projects.items():
                self._times.add((provider, project_id), at)

    async def _start(self, name: str, now_ms: int) -> int:
        """Claim and start the checks that are due at a provider, within its limits; return how many."""
        due = [kind for kind, at in self._times.of(name).items() if at <= now_ms]
        if not due:
            return 0
        paces, monotonic_ms = self._paces[name], self._clock.monotonic_ms()
        room = paces.checks.room(monotonic_ms) if (name, None) in due else 0
        projects = [project_id for _, project_id in due if project_id is not None]
        granted = paces.confirmations.grant(projects, monotonic_ms) if projects else Counter()
        claims = [self._claim((name, project_id), checks, now_ms) for project_id, checks in granted.items()]
        claimed = await asyncio.gather(*claims, *([self._claim((name, None), room, now_ms)] if room else []))
        confirming = sum(map(len, claimed[: len(claims)]))
        if projects:
            paces.confirmations.note_scarcity(confirming >= granted.total(), self._clock.monotonic_ms())
        return sum(map(len, claimed))

    async def _claim(self, kind: Kind, checks: int, now_ms: int) -> list[Job]:
        """Claim and start so many due checks of a kind; return their jobs."""
        (name, project_id), leased_until = kind, now_ms + CHECK_LEASE_MS
        unknown = self._times.claim(kind, now_ms)
        if project_id is None:
            jobs = await self._store.jobs.claim_checks(name, now_ms, leased_until, checks)
        else:
            jobs = await self._store.jobs.claim_confirmations(
                ConfirmationClaim(
                    provider=name, project_id=project_id, now=now_ms, leased_until=leased_until, limit=checks
                )
            )
        self._times.claimed(kind, all_of_it=len(jobs) < checks, unknown=unknown)
        for job in jobs:
            if project_id is None:
                self._paces[name].checks.started(self._clock.monotonic_ms())
            else:
                self._paces[name].confirmations.start(project_id, self._clock.monotonic_ms())
            self._begin(job, confirms=project_id is not None)
        return jobs

    def _due_again(self, now_ms: int, began_at: int) -> int:
        """Return when the next checks may start; those without a slot wait for the end of a check."""
        again_at = self._read_at + READ_EVERY_MS
        self._slot_awaited = False
        for name, paces in self._paces.items():
            for (_, project_id), at in self._times.of(name).items():
                pace: Pace = paces.checks if project_id is None else paces.confirmations
                opens_at = pace.opens_at(began_at)
                if project_id is not None and not paces.confirmations.may_start(project_id):
                    opens_at = None
                if opens_at is None:
                    self._slot_awaited = True
                else:
                    again_at = min(again_at, max(began_at + max(at - now_ms, 0), opens_at))
        return again_at

    def _begin(self, job: Job, tie: Tie | None = None, *, confirms: bool) -> "asyncio.Task[UpdateResult | None]":
        """Start one check, which its pace has counted."""
        checking = asyncio.create_task(self._check(job, tie, confirms=confirms), name=f"check {job.id}")
        self._under_way.add(checking)
        checking.add_done_callback(partial(self._done, job, confirms))
        return checking

    async def _check(self, job: Job, tie: Tie | None, *, confirms: bool) -> UpdateResult | None:
        """Check one job and commit the result; after a failure in between it is due again when the lease ends."""
        started_at, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
        looked_up = lookups.wanted(job)
        answer = await (self._look_up(job) if looked_up else self._ask(job))
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
            again_at=now_ms + max(self._delay_ms(job, answer), pause_ms),
            paused_until=now_ms + pause_ms,
            heartbeat_ms=round(self._settings.heartbeat_s * 1000),
        )
        note = answer.report.note if answer.report else None
        kind = "lookup" if looked_up else "check"
        if answer.first is not None:
            kind, started_at = "result", answer.first.started_at + answer.first.duration_ms
        call = self._context.ended_call(job, EndedCall(kind, started_at, answer.outcome, answer.response, note))
        transition = partial(lookups.decide if looked_up else checks.decide, check=check, now_ms=now_ms)
        update = JobUpdate(job_id=job.id, at=now_ms, transition=transition, call=call, earlier_call=answer.first)
        recorded = await self._context.stored(update, tie, provider=job.provider)
        self._context.publish(recorded)
        self._context.metrics.checked(job.provider, answer.finding)
        self._context.store.statistics.checked(job, now_ms)
        _logger.info("job.checked", job=job.id, provider=job.provider, outcome=answer.outcome, decision=recorded.reason)
        return recorded

    async def _ask(self, job: Job) -> StatusAnswer:
        """Ask the provider about the job."""
        provider = self._context.providers[job.provider]
        if job.provider_job_id is None:
            return StatusAnswer(CheckOutcome.NO_ANSWER, None, "no id to ask by")
        adapter, asked, started_at = provider.adapter, submitted_job(job), self._clock.now_ms()
        answer = await self._sent(provider, adapter.status_check(asked), adapter.read_status)
        if answer.report is None or answer.response is None:
            return answer
        request = adapter.result_request(asked, answer.report)
        if request is None:
            return answer
        status = EndedCall("check", started_at, f"{answer.outcome}: the result is fetched", answer.response)
        first, report = self._context.ended_call(job, status), answer.report
        result = await self._sent(provider, request, lambda response, at: adapter.read_result(response, report, at))
        if result.finding is CheckOutcome.NOT_FOUND:  # the status has just said that the job exists
            result = msgspec.structs.replace(result, finding=CheckOutcome.NO_STATUS)
        return msgspec.structs.replace(result, first=first)

    async def _look_up(self, job: Job) -> StatusAnswer:
        """Ask the provider for a job by relay's own id."""
        provider = self._context.providers[job.provider]
        asked = submitted_job(job)
        request = provider.adapter.find(asked)
        if request is None:
            return StatusAnswer(CheckOutcome.NO_ANSWER, None, "it cannot be looked up")

        def read(response: ProviderResponse, now_ms: int) -> Report:
            found = provider.adapter.read_found(response, asked, now_ms)
            if found is None:
                raise JobUnknown("no job has relay's id")
            return found

        return await self._sent(provider, request, read)

    async def _sent(
        self, provider: ConfiguredProvider, request: ProviderRequest, read: Callable[[ProviderResponse, int], Report]
    ) -> StatusAnswer:
        """Send a request about a job, and return its answer as `read` reads it."""
        try:
            response = await send_signed_in(self._context.client, provider, request, self._context.sign_in, TIMEOUT_S)
        except (NotSent, NoAnswer) as error:
            return StatusAnswer(CheckOutcome.NO_ANSWER, None, str(error))
        try:
            report = provider.judged(read(response, self._clock.now_ms()))
        except JobUnknown as error:
            return StatusAnswer(CheckOutcome.NOT_FOUND, None, f"not found: {str(error)[:200]}", response)
        except Unreadable as error:
            return StatusAnswer(_kind(response), None, f"no status: {str(error)[:200]}", response)
        if report.state is None:
            self._context.unknown_status(provider.adapter.name, report.provider_status)
        outcome = report.state or f"unknown status {report.provider_status[:40]!r}"
        return StatusAnswer(CheckOutcome.STATUS, report, outcome, response)

    def _pause_ms(self, name: str, answer: StatusAnswer, now_ms: int) -> int:
        """Pause all checks at a provider if its answer asks for that; return the milliseconds until the pause ends."""
        paces, finding, response = self._paces[name], answer.finding, answer.response
        if response is not None and finding in (CheckOutcome.KEY_REFUSED, CheckOutcome.STATUS, CheckOutcome.NOT_FOUND):
            refusal = answer.outcome if finding is CheckOutcome.KEY_REFUSED else None
            self._context.key_judged(name, response.status_code, refusal)
        retry_after_ms = self._retry_after_ms(name, response, now_ms) if response else None
        match finding:
            case CheckOutcome.KEY_REFUSED:
                pause_ms = KEY_PAUSE_MS
            case CheckOutcome.RATE_LIMITED:
                pause_ms = retry_after_ms or (GROWN_PAUSE_MS if paces.confirmations.grown else PAUSE_MS)
            case CheckOutcome.NO_STATUS if retry_after_ms:
                pause_ms = retry_after_ms
            case _:
                return 0
        monotonic_ms = self._clock.monotonic_ms()
        return paces.pause(monotonic_ms + pause_ms, monotonic_ms) - monotonic_ms

    def _retry_after_ms(self, name: str, response: ProviderResponse, now_ms: int) -> int | None:
        """Return how long the provider asks relay to wait, by the adapter's reading or by the Retry-After header."""
        wait_s = self._context.providers[name].adapter.retry_after_s(response)
        if wait_s is not None:
            return round(wait_s * 1000)
        return backoff.parse_retry_after(response.headers.get("retry-after"), now_ms)

    def _delay_ms(self, job: Job, answer: StatusAnswer) -> int:
        """Return the milliseconds until the next check, or look-up, of a job that is still open."""
        adapter, finding = self._context.providers[job.provider].adapter, answer.finding
        if lookups.wanted(job) and answer.report is None:
            return lookups.pause_ms(job)
        if adapter.limits.poll_s is not None:
            return adapter.limits.poll_s * 1000
        first_s = self._settings.status_check_first_s or adapter.limits.expected_s * backoff.CHECK_MARGIN
        normal_ms = backoff.check_delay_ms(first_s, job.checks_made)
        if finding in (CheckOutcome.NO_ANSWER, CheckOutcome.NO_STATUS, CheckOutcome.NOT_FOUND):
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
        if self._slot_awaited or error is not None or under_way.cancelled():
            self._times.changed.set()
        if error is not None:
            _logger.error("job.check_error", error=type(error).__name__, exc_info=error)


def _kind(answer: ProviderResponse) -> CheckOutcome:
    """Return the kind of an answer without a status, by its HTTP status."""
    match answer.status_code:
        case 401 | 403:
            return CheckOutcome.KEY_REFUSED
        case 429:
            return CheckOutcome.RATE_LIMITED
        case _:
            return CheckOutcome.NO_STATUS
