"""Asking instead of being told: jobs whose callback is late, or is to be confirmed, are checked at their provider.

What the provider answers goes the same way as a callback. An answer that is no verdict about the job (not found yet,
too many requests, an outage) moves the next check further away, or lets a callback's word stand unproven.
"""

import asyncio
from functools import partial
from typing import Final

import msgspec

from relay import backoff, log
from relay.context import Calling, EndedCall, send_signed_in
from relay.errors import JobUnknown, Unreadable
from relay.jobs.rate_limit import KEY_PAUSE_MS, PAUSE_MS, AskedPace, Pace
from relay.lifecycle import checks
from relay.lifecycle.checks import Checked, Finding
from relay.model.job import Job, Report
from relay.model.provider_http import ApiAnswer
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.storage.apply_updates import Fact, Recorded
from relay.storage.idempotency import Tie

TIMEOUT_S: Final = 15.0
LEASE_MS: Final = 60_000
PAUSE_MAX_MS: Final = 5_000
BLIP_S: Final = 30.0
NOW_WITHIN_S: Final = 27.0
"""How long a request waits for the check that it asks for; routers cut one that is not answered within 30 s."""
"""After an outage or a reset the provider is asked again this soon, even where its jobs take long."""
_logger = log.get("check")


class Found(msgspec.Struct, frozen=True):
    """What came of asking: the kind of answer, the report where it is a verdict, the words for the timeline."""

    finding: Finding
    report: Report | None
    outcome: str
    answer: ApiAnswer | None = None


class Checker:
    """The loop over status checks, and the checks that a person asks for."""

    def __init__(self, calling: Calling) -> None:
        self._calling = calling
        self._store = calling.store
        self._clock = calling.clock
        self._settings = calling.settings
        self._under_way: set[asyncio.Task[Recorded | None]] = set()
        settings = calling.settings
        self._paces = {
            name: Pace(settings.checks_in_flight_max, settings.checks_per_s)
            for name, provider in calling.providers.items()
            if provider.usable
        }
        self._asked = AskedPace(settings.checks_asked_per_job, settings.checks_asked_per_project)
        self._wake = calling.check_soon

    async def run(self) -> None:
        """Checks what is due, until it is cancelled."""
        try:
            while True:
                self._wake.clear()
                now_ms, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
                due = {name: at - now_ms for name, at in (await self._store.jobs.next_checks()).items()}
                if not await self._start(due, now_ms):
                    again_at = min([began_at + PAUSE_MAX_MS, *self._due_again(due, began_at)])
                    await self._clock.wait(self._wake, until_monotonic_ms=again_at)
        except asyncio.CancelledError:  # a stop; where the database fails, what is under way has answers to store
            for under_way in self._under_way:
                under_way.cancel()
            raise

    def require_share(self, job_id: str, project_id: str) -> None:
        """TooManyRequests where a client's check of the job would be refused; no database is needed to say so."""
        self._asked.check(job_id, project_id, self._clock.monotonic_ms())

    async def check_now(self, asked: Job, tie: Tie | None = None) -> Recorded | None:
        """Check a job for a client, whatever the provider's pace; None when there is no such job, or its answer waits.

        The answer of a check that takes longer is stored all the same. TooManyRequests where the job or its project
        has had its share.
        """
        self._asked.ask(asked.id, asked.project_id, self._clock.monotonic_ms())
        job = await self._store.jobs.claim_check(asked.id, self._clock.now_ms() + LEASE_MS)
        if job is None or job.provider not in self._paces:
            return None
        checking_it = self._begin(job, tie)
        await asyncio.wait([checking_it], timeout=NOW_WITHIN_S)
        return checking_it.result() if checking_it.done() else None

    async def _start(self, due: dict[str, int], now_ms: int) -> bool:
        """Claims what is due, as far as there is room, and starts it; whether anything began.

        `due` says in how many milliseconds each provider's first check is due.
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
        """When time makes something startable, one entry a provider; one that is full wakes by itself."""
        known = [(due_in_ms, self._paces[name]) for name, due_in_ms in due.items() if name in self._paces]
        opening = [(began_at + due_in_ms, pace.opens_at(began_at)) for due_in_ms, pace in known]
        return [max(at, opens_at) for at, opens_at in opening if opens_at is not None]

    def _begin(self, job: Job, tie: Tie | None = None) -> "asyncio.Task[Recorded | None]":
        """Starts one check."""
        self._paces[job.provider].started(self._clock.monotonic_ms())
        checking_it = asyncio.create_task(self._check(job, tie), name=f"check {job.id}")
        self._under_way.add(checking_it)
        checking_it.add_done_callback(partial(self._done, job.provider))
        return checking_it

    async def _check(self, job: Job, tie: Tie | None) -> Recorded | None:
        """One status check, from the request to its commit; what fails in between is due again when the lease ends."""
        started_at = self._clock.now_ms()
        found = await self._ask(job)
        now_ms = self._clock.now_ms()
        again_at = now_ms + max(self._delay_ms(job, found.finding), self._paced(job.provider, found, now_ms))
        check = Checked(
            asked_id=job.provider_job_id,
            finding=found.finding,
            report=found.report,
            started_at=started_at,
            again_at=again_at,
            heartbeat_ms=round(self._settings.heartbeat_s * 1000),
        )
        note = found.report.note if found.report else None
        call = self._calling.ended_call(job, EndedCall("check", started_at, found.outcome, found.answer, note))
        move = partial(checks.decide, check=check, now_ms=now_ms)
        fact = Fact(job_id=job.id, at=now_ms, move=move, call=call)
        recorded = await self._calling.stored(fact, tie, provider=job.provider)
        self._calling.tell(recorded)
        self._calling.metrics.checked(job.provider, found.finding)
        _logger.info("job.checked", job=job.id, provider=job.provider, outcome=found.outcome, decision=recorded.reason)
        return recorded

    async def _ask(self, job: Job) -> Found:
        """What the provider says about the job."""
        provider = self._calling.providers[job.provider]
        if job.provider_job_id is None:
            return Found(Finding.NO_ANSWER, None, "no id to ask by")
        request = provider.adapter.status_check(job.provider_job_id, job.status_path)
        try:
            answer = await send_signed_in(self._calling.client, provider, request, self._calling.sign_in, TIMEOUT_S)
        except (NotSent, NoAnswer) as error:
            return Found(Finding.NO_ANSWER, None, str(error))
        try:
            report = provider.judged(provider.adapter.read_status(answer, self._clock.now_ms()))
        except JobUnknown as error:
            return Found(Finding.NOT_FOUND, None, f"not found: {str(error)[:200]}", answer)
        except Unreadable as error:
            return Found(_kind(answer), None, f"no verdict: {str(error)[:200]}", answer)
        if report.state is None:
            self._calling.unknown_word(job.provider, report.word)
        return Found(Finding.VERDICT, report, report.state or f"unknown word {report.word[:40]!r}", answer)

    def _paced(self, name: str, found: Found, now_ms: int) -> int:
        """Apply what the answer means for all checks at this provider; milliseconds until the next one may be made."""
        pace, answer = self._paces[name], found.answer
        if answer is not None and found.finding in (Finding.KEY_REFUSED, Finding.VERDICT, Finding.NOT_FOUND):
            refused = found.finding is Finding.KEY_REFUSED
            self._calling.key_judged(name, answer.status_code, found.outcome if refused else None)
        told_ms = backoff.parse_retry_after(answer.headers.get("retry-after"), now_ms) if answer else None
        match found.finding:
            case Finding.KEY_REFUSED:
                pause_ms = KEY_PAUSE_MS
            case Finding.RATE_LIMITED:
                pause_ms = told_ms or PAUSE_MS
            case Finding.NO_VERDICT if told_ms:
                pause_ms = told_ms
            case _:
                return 0
        monotonic_ms = self._clock.monotonic_ms()
        return pace.pause(monotonic_ms + pause_ms, monotonic_ms) - monotonic_ms

    def _delay_ms(self, job: Job, finding: Finding) -> int:
        """How long until the next check of a job that is still open."""
        adapter = self._calling.providers[job.provider].adapter
        if adapter.limits.poll_s is not None:
            return adapter.limits.poll_s * 1000
        first_s = self._settings.status_check_first_s or adapter.limits.expected_s * backoff.CHECK_MARGIN
        normal_ms = backoff.check_delay_ms(first_s, job.checks_made)
        if finding in (Finding.NO_ANSWER, Finding.NO_VERDICT, Finding.NOT_FOUND):
            return min(normal_ms, backoff.check_delay_ms(min(first_s, BLIP_S), max(0, job.checks_made - 1)))
        return normal_ms

    def _done(self, provider: str, under_way: "asyncio.Task[Recorded | None]") -> None:
        """Makes room, and tells of a check that failed inside relay."""
        self._paces[provider].finished()
        self._under_way.discard(under_way)
        self._wake.set()
        if not under_way.cancelled() and (error := under_way.exception()):
            _logger.error("job.check_broke", error=type(error).__name__, exc_info=error)


def _kind(answer: ApiAnswer) -> Finding:
    """What an answer without a verdict is about, by its status."""
    match answer.status_code:
        case 401 | 403:
            return Finding.KEY_REFUSED
        case 429:
            return Finding.RATE_LIMITED
        case _:
            return Finding.NO_VERDICT
