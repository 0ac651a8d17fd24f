"""The archiver: claims copies that are due, the first to expire first, makes them, and stores how they ended.

The table is the truth, as for deliveries: a claim is a lease, a failed try sets the time of the next one, and a kill
makes a copy due again. A project leaves a slot to others, and a host whose last copy failed has half of the slots at
most. A bucket that does not answer costs no copy a try: all wait, and one is tried again, later and later, until it
answers.

A result that is gone is asked for by a status check, because many providers sign a fresh URL for each.

An object is deleted only after it was queued for that, in the transaction in which its copy failed, began anew or
passed its retention: no object is deleted that relay shows.
"""

import asyncio
from collections import Counter
from functools import partial
from typing import Final

from relay import log
from relay.archive.buckets import Buckets
from relay.archive.copier import Copied, Copier, LeaseLost
from relay.context import FlowContext
from relay.errors import Conflict, RelayError, StorageUnavailable
from relay.jobs.status_checks import Checker
from relay.lifecycle import archiving
from relay.model.archive import CopyEnd, CopyErrorCode, CopyState
from relay.model.job import Disposition
from relay.outbound.download import DownloadFailed
from relay.outbound.object_store import BucketFailed, ObjectFailed
from relay.storage.apply_updates import JobUpdate, UpdateResult
from relay.storage.copies import CopyClaim, CopyRetry, DueCopy, HeldEvent, LeftObject, OldCopy

PAUSE_MS: Final = 5_000
"""How often the table is read at least: another process may have ordered copies."""
LEASE_MARGIN_MS: Final = 30_000
RETRY_S: Final = (2, 5, 15, 60, 180, 600, 1800, 3600)
"""The pauses after each failed try; the last one repeats."""
TRIES_OF: Final = {CopyErrorCode.GONE: 4, CopyErrorCode.WRONG_TYPE: 3, CopyErrorCode.KEY_REFUSED: 4}
"""So many tries in a row that fail thus are the last; the others go on until RELAY_ARCHIVE_RETRY_S is over."""
FINAL: Final = frozenset({CopyErrorCode.TOO_LARGE, CopyErrorCode.ADDRESS_REFUSED})
"""What no second try can change."""
STORE_PAUSES_S: Final = (2, 5, 15, 30, 60)
RESERVED_PART: Final = 8
"""One slot of eight, and one at least, is reserved for other projects than the one that has all others."""
HOSTS_MAX: Final = 1000
"""So many hosts whose last copy failed are remembered."""
EXPIRY_PART: Final = 4
"""Before a result expires, the next try is no later than after this part of the time that is left."""
LEFT_EVERY_MS: Final = 60_000
LEFT_PAUSE_MS: Final = 10_000
"""The pauses before queued objects are deleted: usually, and after the bucket has failed."""
LEFT_LEASE_MS: Final = 300_000
LEFT_AGAIN_MS: Final = {CopyErrorCode.STORE_UNAVAILABLE: 60_000, CopyErrorCode.STORE_REFUSED: 3_600_000}
"""How much later an object is deleted whose bucket did not answer, or refused to delete it."""
RETENTION_PAUSE_MS: Final = 1_000
RETENTION_EVERY_MS: Final = 600_000
"""The pauses before what is past its retention is deleted: while there was something, and else."""
DAY_MS: Final = 86_400_000
_logger = log.get("archive")


class Archiver:
    """Runs the loop over copies; `ordered` is set when there are new ones. `…_at_ms` are monotonic milliseconds."""

    def __init__(
        self, context: FlowContext, checker: Checker, copier: Copier, buckets: Buckets, ordered: asyncio.Event
    ) -> None:
        self._context = context
        self._checker = checker
        self._copier = copier
        self._buckets = buckets
        self._bucket = buckets.own
        self._store = context.store.copies
        self._clock = context.clock
        settings = context.settings
        self._in_flight_max = slots = settings.archive_in_flight_max
        self._project_max = max(1, slots - max(1, slots // RESERVED_PART))
        self._host_max = max(1, slots // 2)
        self._lease_ms = round(settings.archive_timeout_s * 1000) + LEASE_MARGIN_MS
        self._retry_ms = settings.archive_retry_s * 1000
        self._retention_ms = settings.archive_retention_days * DAY_MS
        self._of_project: Counter[str] = Counter()
        self._of_host: Counter[str] = Counter()
        self._failing_hosts: set[str] = set()
        self._copying: set[asyncio.Task[None]] = set()
        self._tidying: asyncio.Task[None] | None = None
        self._store_failures = 0
        self._store_opens_at_ms = 0
        self._retention_at_ms = 0
        self._left_at_ms = 0
        self._wake = ordered

    def wake(self) -> None:
        """Read the table now: copies were ordered, or another process has ended."""
        self._wake.set()

    async def order(self, job_id: str, *, failed: bool) -> bool:
        """Order copies of a job's results that have none, with `failed` also where it failed; return if there were."""
        now_ms = self._clock.now_ms()
        transition = partial(archiving.order_missing, now_ms=now_ms, failed=failed)
        result = await self._record(JobUpdate(job_id=job_id, at=now_ms, transition=transition, renews_outputs=False))
        return result.disposition is not Disposition.STALE

    async def again(self, job_id: str) -> None:
        """Order copies of a job's results that have none or whose copy failed, and try those that wait now.

        Raise Conflict if there is none of them. The bucket is tried now too, if it did not answer before.
        """
        ordered = await self.order(job_id, failed=True)
        if not await self._store.hasten(job_id, self._clock.now_ms()) and not ordered:
            raise Conflict(
                "the job has no result to copy: each is in the archive, is being copied, or was deleted there"
            )
        self._store_opens_at_ms = self._clock.monotonic_ms()
        self.wake()

    async def run(self) -> None:
        """Make due copies, until cancelled."""
        await self._store.name_bucket(self._bucket.shown)
        try:
            while True:
                self._wake.clear()
                now_ms, began_ms = self._clock.now_ms(), self._clock.monotonic_ms()
                for held in await self._store.out_of_time(now_ms):
                    await self._release(held)
                self._tidy()
                claimed = await self._start(now_ms)
                if not claimed:
                    await self._clock.wait(self._wake, until_monotonic_ms=await self._again_at(now_ms, began_ms))
        except asyncio.CancelledError:
            tasks = [*self._copying, *([self._tidying] if self._tidying else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _again_at(self, now_ms: int, began_ms: int) -> int:
        """Return when to read the table again: events that wait have their time, whatever the bucket does."""
        again_at, soonest = began_ms + PAUSE_MS, began_ms + 100
        if self._tidying is None:
            tidied_at = min(self._left_at_ms, self._retention_at_ms) if self._retention_ms else self._left_at_ms
            again_at = min(again_at, max(tidied_at, soonest))
        times = await self._store.next_times(now_ms)
        if times.held_until is not None:
            again_at = min(again_at, max(began_ms + times.held_until - now_ms, soonest))
        if self._store_failures > 0 and began_ms < self._store_opens_at_ms:
            again_at = min(again_at, self._store_opens_at_ms)
        elif times.due_at is not None and self._free_slots() > 0:
            # What is due already and was not claimed is of projects or hosts that are full.
            again_at = min(again_at, max(began_ms + times.due_at - now_ms, soonest))
        return again_at

    def _free_slots(self) -> int:
        """Return how many copies may start: one while the bucket is tried again after a failure."""
        if not self._store_failures:
            return self._in_flight_max - len(self._copying)
        return 1 if not self._copying and self._clock.monotonic_ms() >= self._store_opens_at_ms else 0

    async def _start(self, now_ms: int) -> bool:
        """Claim and start the most urgent copy that may start; return whether there is one.

        While the bucket is tried again, each copy has its turn: one that it never takes holds back no other.
        """
        if self._free_slots() <= 0:
            return False
        claim = CopyClaim(
            now=now_ms,
            leased_until=now_ms + self._lease_ms,
            limit=1,
            full=[project for project, number in self._of_project.items() if number >= self._project_max],
            full_hosts=[host for host in self._failing_hosts if self._of_host[host] >= self._host_max],
            in_turn=self._store_failures > 0,
        )
        claimed = await self._store.claim(claim)
        for copy in claimed:
            self._of_project[copy.project_id] += 1
            self._of_host[copy.host] += 1
            copying = asyncio.create_task(self._copy(copy), name=f"copy {copy.id}")
            self._copying.add(copying)
            copying.add_done_callback(partial(self._done, copy))
        return bool(claimed)

    def _done(self, copy: DueCopy, copying: "asyncio.Task[None]") -> None:
        """Free the slot of a copy, and log a failure inside relay: the copy is due again when its lease ends."""
        self._copying.discard(copying)
        for counter, name in ((self._of_project, copy.project_id), (self._of_host, copy.host)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        self._wake.set()
        if not copying.cancelled() and (error := copying.exception()) is not None:
            _logger.error("archive.error", copy=copy.id, error=type(error).__name__, exc_info=error)

    async def _copy(self, copy: DueCopy) -> None:
        """Make one try of a copy, and store what came of it."""
        began_ms = self._clock.monotonic_ms()
        try:
            if copy.gone_seen or self._expired(copy):
                copy = await self._renewed(copy)
            provider = self._context.providers.get(copy.provider)
            copied = await self._copier.copy(copy, provider, self._store.name)
        except DownloadFailed as error:
            self._note_host(copy.host, failed=True)
            await self._failed(copy, error.code, str(error), began_ms)
        except ObjectFailed as error:
            await self._failed(copy, error.code, str(error), began_ms)
        except BucketFailed as error:
            await self._bucket_failed(copy, error)
        except LeaseLost:
            _logger.warning("archive.lease_lost", job=copy.job_id, number=copy.number)
        except StorageUnavailable:
            raise  # the copy is due again when its lease ends
        except Exception as error:
            _logger.error("archive.error", copy=copy.id, error=type(error).__name__, exc_info=error)
            await self._failed(copy, CopyErrorCode.UNREACHABLE, "relay could not copy it: its log says why", began_ms)
        else:
            self._bucket_works()
            self._note_host(copy.host, failed=False)
            await self._archived(copy, copied, began_ms)

    def _expired(self, copy: DueCopy) -> bool:
        """Return whether a result has expired, as far as its lifetime is known."""
        return copy.expires_at is not None and copy.expires_at <= self._clock.now_ms()

    async def _renewed(self, copy: DueCopy) -> DueCopy:
        """Return the copy after a status check of its job: with a fresh URL, if the provider signs one."""
        job = await self._context.store.jobs.get(copy.job_id, copy.project_id)
        if job is not None and job.provider_job_id is not None and job.provider in self._context.providers:
            try:
                await self._checker.check_now(job)
            except RelayError as error:  # the job has used up its checks, or the database is away
                _logger.warning("archive.not_checked", job=job.id, error=type(error).__name__)
        return await self._store.get(copy) or copy

    def _note_host(self, host: str, *, failed: bool) -> None:
        """Remember whether the last copy from a host failed."""
        if not failed:
            self._failing_hosts.discard(host)
        elif len(self._failing_hosts) < HOSTS_MAX:
            self._failing_hosts.add(host)

    def _bucket_works(self) -> None:
        """Note that the bucket took a copy."""
        if self._store_failures:
            _logger.info("archive.bucket_works", bucket=self._bucket.shown, failures=self._store_failures)
        self._store_failures = 0
        self._context.metrics.archive_failing(failing=False)

    async def _archived(self, copy: DueCopy, copied: Copied, began_ms: int) -> None:
        """Store a copy that was made."""
        end = copy.end(
            CopyState.ARCHIVED,
            bucket=copied.bucket,
            key=copied.key,
            sha256=copied.sha256,
            bytes=copied.size,
            content_type=copied.content_type,
        )
        if await self._end(copy, end, began_ms):
            self._context.metrics.copied(copy.provider, copied.size, self._clock.monotonic_ms() - began_ms)

    async def _failed(self, copy: DueCopy, code: CopyErrorCode, reason: str, began_ms: int) -> None:
        """Store a failed try: the time of the next one, or that there is none."""
        self._context.metrics.not_copied(copy.provider, code)
        gone_seen = copy.gone_seen + 1 if code in TRIES_OF else 0
        now_ms = self._clock.now_ms()
        last = code in FINAL or gone_seen >= TRIES_OF.get(code, gone_seen + 1)
        if not last and now_ms + RETRY_S[0] * 1000 < copy.created_at + self._retry_ms:
            retry = CopyRetry(
                id=copy.id,
                leased_until=copy.leased_until,
                due_at=now_ms + self._pause_ms(copy, now_ms),
                attempts_made=copy.attempts_made + 1,
                gone_seen=gone_seen,
                error_code=code,
                error=reason,
                writing=code is CopyErrorCode.TOO_SLOW,
            )
            await self._store.retry(retry)
            _logger.info("archive.retried", job=copy.job_id, number=copy.number, code=code, reason=reason)
            return
        await self._end(copy, copy.end(CopyState.FAILED, error_code=code, error=reason), began_ms)

    def _pause_ms(self, copy: DueCopy, now_ms: int) -> int:
        """Return the pause until the next try; while the result lasts, at most a part of the time that it has left."""
        pause_ms = RETRY_S[min(copy.attempts_made, len(RETRY_S) - 1)] * 1000
        if copy.expires_at is None or copy.expires_at <= now_ms:
            return pause_ms
        return min(pause_ms, max(RETRY_S[0] * 1000, (copy.expires_at - now_ms) // EXPIRY_PART))

    async def _bucket_failed(self, copy: DueCopy, error: BucketFailed) -> None:
        """Store that the bucket did not take a copy, which costs it no try, and start no other for a while."""
        self._context.metrics.not_copied(copy.provider, error.code)
        self._context.metrics.archive_failing(failing=True)
        monotonic_ms = self._clock.monotonic_ms()
        if monotonic_ms >= self._store_opens_at_ms:  # of several that were under way, one counts
            pause_s = STORE_PAUSES_S[min(self._store_failures, len(STORE_PAUSES_S) - 1)]
            self._store_failures += 1
            self._store_opens_at_ms = monotonic_ms + pause_s * 1000
        _logger.error("archive.bucket_failed", bucket=self._bucket.shown, code=error.code, reason=str(error))
        now_ms = self._clock.now_ms()
        if now_ms >= copy.created_at + self._retry_ms:
            await self._end(copy, copy.end(CopyState.FAILED, error_code=error.code, error=str(error)), monotonic_ms)
            return
        retry = CopyRetry(
            id=copy.id,
            leased_until=copy.leased_until,
            due_at=now_ms,
            attempts_made=copy.attempts_made,
            gone_seen=copy.gone_seen,
            error_code=error.code,
            error=str(error),
            writing=error.hangs,
        )
        await self._store.retry(retry)

    async def _end(self, copy: DueCopy, end: CopyEnd, began_ms: int) -> bool:
        """Store how a copy ended, with all that follows for its job, and publish it; return whether it counts.

        It does not where the copy is another process's by now, or its job has no such result any more.
        """
        now_ms = self._clock.now_ms()
        url = f"{self._context.settings.public_url or ''}/v1/jobs/{copy.job_id}/outputs/{copy.number}"
        transition = partial(archiving.end_copy, copy=end, url=url, now_ms=now_ms)
        update = JobUpdate(job_id=copy.job_id, at=now_ms, transition=transition, copy=end, renews_outputs=False)
        result = await self._record(update)
        if end.state is CopyState.FAILED or result.disposition is Disposition.STALE:
            self._left_at_ms = 0
        duration_ms = self._clock.monotonic_ms() - began_ms
        counts = result.job is not None and result.disposition is not Disposition.STALE
        if result.job is not None and counts:
            self._context.store.statistics.copied(result.job, end, now_ms, duration_ms)
        _logger.info(
            "archive.ended" if counts else "archive.end_too_late",
            job=copy.job_id,
            number=copy.number,
            state=end.state,
            bytes=end.bytes,
            duration_ms=duration_ms,
            code=end.error_code,
            reason=end.error,
        )
        return counts

    async def _release(self, held: HeldEvent) -> None:
        """Send an event that has waited long enough for copies."""
        now_ms = self._clock.now_ms()
        transition = partial(archiving.out_of_time, copy=held.copy, now_ms=now_ms)
        await self._record(JobUpdate(job_id=held.job_id, at=now_ms, transition=transition, releases=True))

    def _tidy(self) -> None:
        """Delete what is to be deleted, beside the loop: a bucket that hangs delays no event that waits for a copy."""
        now_ms = self._clock.monotonic_ms()
        old_is_due = self._retention_ms > 0 and now_ms >= self._retention_at_ms
        if self._tidying is None and (old_is_due or now_ms >= self._left_at_ms):
            self._tidying = asyncio.create_task(self._delete(old=old_is_due), name="delete copies")
            self._tidying.add_done_callback(self._tidied)

    def _tidied(self, tidying: "asyncio.Task[None]") -> None:
        """Let the next deletion begin, and log a failure inside relay."""
        self._tidying = None
        self._wake.set()
        if not tidying.cancelled() and (error := tidying.exception()) is not None:
            self._retention_at_ms = self._left_at_ms = self._clock.monotonic_ms() + LEFT_PAUSE_MS
            _logger.error("archive.error", copy=None, error=type(error).__name__, exc_info=error)

    async def _delete(self, *, old: bool) -> None:
        """Delete the objects that are queued for it; with `old`, first queue those of copies past their retention."""
        if old:
            await self._delete_old()
        if self._clock.monotonic_ms() >= self._left_at_ms:
            await self._delete_left()

    async def _delete_left(self) -> None:
        """Delete the queued objects, those of each bucket until it fails: the others of that one are tried later."""
        self._left_at_ms = self._clock.monotonic_ms() + LEFT_EVERY_MS
        for bucket in await self._store.buckets_left(self._clock.now_ms()):
            if not await self._delete_left_in(bucket):
                self._left_at_ms = self._clock.monotonic_ms() + LEFT_PAUSE_MS

    async def _delete_left_in(self, bucket: str) -> bool:
        """Delete the queued objects of a bucket until it fails; return whether it did not."""
        while (left := await self._claim_left(bucket)) is not None:
            try:
                await self._buckets.of(left.bucket).delete(left.key)
            except BucketFailed as error:
                _logger.warning("archive.not_deleted", bucket=left.bucket, key=left.key, reason=str(error))
                await self._store.postpone_left(left, self._clock.now_ms() + LEFT_AGAIN_MS[error.code])
                return False
            await self._store.forget_left(left)
        return True

    async def _claim_left(self, bucket: str) -> LeftObject | None:
        """Return the next object of a bucket that is queued to be deleted, leased."""
        now_ms = self._clock.now_ms()
        return await self._store.claim_left(bucket, now_ms, now_ms + LEFT_LEASE_MS)

    async def _delete_old(self) -> None:
        """Store that copies are past their retention, a batch at a time: their objects are then deleted."""
        old = await self._store.past_retention(self._clock.now_ms() - self._retention_ms)
        for copy in old:
            await self._deleted(copy)
        if old:
            self._left_at_ms = 0
        self._retention_at_ms = self._clock.monotonic_ms() + (RETENTION_PAUSE_MS if old else RETENTION_EVERY_MS)

    async def _deleted(self, copy: OldCopy) -> None:
        """Store that a copy is past its retention, before its object is deleted."""
        now_ms = self._clock.now_ms()
        transition = partial(archiving.delete_copy, number=copy.number, now_ms=now_ms)
        update = JobUpdate(job_id=copy.job_id, at=now_ms, transition=transition, deletes=copy.id, renews_outputs=False)
        result = await self._record(update)
        if result.job is not None and result.disposition is not Disposition.STALE:
            self._context.store.statistics.copy_deleted(result.job, now_ms)

    async def _record(self, update: JobUpdate) -> UpdateResult:
        """Store an update, while the database is away too, and publish it."""
        result = await self._context.stored(update)
        self._context.publish(result)
        return result
