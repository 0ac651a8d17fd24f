"""What time does to jobs: the unsent are sent, those left in sending become unknown, those past their deadline expire.

Every timer is a row, so a restart begins with a sweep and goes on where the last process stopped.
"""

import asyncio
from functools import partial
from typing import Final

from relay import checking, lifecycle, log
from relay.calling import Calling
from relay.model import ErrorClass, JobError
from relay.pay import Payer
from relay.storage.record import Fact
from relay.submit import Submitter

BATCH: Final = 100
PAUSE_MS: Final = 5_000
MARGIN_MS: Final = 5_000
FORGET_EVERY_MS: Final = 3_600_000
_logger = log.get("sweep")


class Sweeper:
    """The loop over jobs."""

    def __init__(self, calling: Calling, submitter: Submitter, payer: Payer) -> None:
        self._calling = calling
        self._payer = payer
        self._store = calling.store
        self._submitter = submitter
        self._clock = calling.clock
        self._submit_timeout_ms = round(calling.settings.submit_timeout_s * 1000)
        self._forgot_at = 0

    async def run(self) -> None:
        """Sweeps at once, then whenever a row is due, until it is cancelled."""
        while True:
            now_ms = self._clock.now_ms()
            await self.once()
            due_at = await self._store.jobs.next_clock() or now_ms + PAUSE_MS
            # What was due is under way, and stays due until it has begun; what became due since is not waited for.
            again_at = due_at if due_at > now_ms else now_ms + 50
            await self._clock.wait(asyncio.Event(), min(again_at, now_ms + PAUSE_MS))

    async def once(self) -> None:
        """One sweep over everything that is due, in batches."""
        now_ms = self._clock.now_ms()
        for job_id in await self._store.jobs.to_submit(now_ms, BATCH):
            self._submitter.start(job_id)
        for job_id in await self._store.jobs.left_in_submission(now_ms - self._submit_timeout_ms - MARGIN_MS, BATCH):
            await self._record(
                Fact(job_id=job_id, at=now_ms, move=partial(lifecycle.unclear, error=_interrupted(), now_ms=now_ms))
            )
        for job_id in await self._store.jobs.to_settle(now_ms, BATCH):
            await self._record(Fact(job_id=job_id, at=now_ms, move=partial(checking.settle, now_ms=now_ms)))
        for job_id, provider in await self._store.jobs.past_deadline(now_ms, BATCH):
            askable = bool((known := self._calling.providers.get(provider)) and known.usable)
            move = partial(checking.overdue, askable=askable, now_ms=now_ms)
            await self._record(Fact(job_id=job_id, at=now_ms, move=move))
        for payment in await self._store.payments.to_prove(now_ms, BATCH):
            await self._payer.prove(payment)
        if now_ms - self._forgot_at >= FORGET_EVERY_MS:
            await self._store.access.forget(now_ms)
            self._forgot_at = now_ms

    async def _record(self, fact: Fact) -> None:
        """Records what time decided, and tells of it."""
        recorded = await self._store.jobs.record(fact)
        self._calling.tell(recorded)
        _logger.info("job.swept", job=fact.job_id, decision=recorded.reason, announced=recorded.announced)


def _interrupted() -> JobError:
    """The process that sent the job went away before the answer was stored."""
    return JobError(
        class_=ErrorClass.UNKNOWN,
        code="submission_interrupted",
        message="relay was stopped while it submitted the job; it may exist at the provider, so it is not sent again",
        retryable=False,
    )
