"""Receives callbacks: verifies, parses and stores each, and publishes what it changed after COMMIT.

Whatever the body says, a callback with a valid token is stored and answered 200: a provider that is refused retries for
seconds and then stops. `callbacks/parse.py` reads the body, `callbacks/verify.py` verifies signatures, and
`storage/apply_updates.py` changes the job.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from relay import log
from relay.callbacks.parse import ParsedCallback, parse, parse_stepwise
from relay.callbacks.verify import Proof, verify, verify_by_key
from relay.context import FlowContext
from relay.errors import KeyUnknown
from relay.lifecycle import reports
from relay.lifecycle.reports import StatusReport, Transition
from relay.model import ids
from relay.model.job import Callback, Disposition, FinishedBy, Job, JobState, Reason, Report, Verification
from relay.security.callback_tokens import CallbackToken, CallbackTokens
from relay.security.redaction import STEP_BYTES
from relay.storage.apply_updates import JobUpdate, ReceivedCallback, UpdateResult
from relay.storage.engine.group_commit import Waiting
from relay.storage.idempotency import Tie
from relay.storage.jobs import NewJob

EVIDENCE_BYTES: Final = 65536
"""How much is kept of a body that was not read whole."""
ADOPTED_MS: Final = 86_400_000
"""How long an adopted job may take: the deadline that it had is lost."""
_ALARMING: Final = (Disposition.ORPHANED, Disposition.QUARANTINED, Disposition.MISMATCHED)
_logger = log.get("receive")


class IncomingCallback(msgspec.Struct, frozen=True):
    """A callback with a valid token, before it is parsed; header names are in lower case."""

    provider: str
    token: CallbackToken
    headers: tuple[tuple[str, str], ...]
    body: bytes


class PreparedCallback(msgspec.Struct, frozen=True):
    """A callback that is ready to be stored: the update of its job, the row to keep, and the report it brings.

    `reply` is the JSON to answer after COMMIT to a callback that only tests the URL.
    """

    update: JobUpdate
    received: ReceivedCallback
    report: Report | None
    reply: bytes | None = None


class Receiver:
    """Receives every callback: from a provider, by an operator's request, or with a body that was cut."""

    def __init__(self, context: FlowContext, tokens: CallbackTokens) -> None:
        self._context = context
        self._store = context.store
        self._tokens = tokens
        self._clock = context.clock

    def verify_token(self, provider: str, token: str) -> CallbackToken | None:
        """Return what the token says, None if it is not valid for this provider; no I/O."""
        return self._tokens.verify(provider, token, self._clock.now_ms())

    async def receive(self, callback: IncomingCallback) -> PreparedCallback:
        """Store the callback and apply its report; return after COMMIT.

        Raise StorageUnavailable, or KeyUnknown if the provider's keys cannot be read now: nothing is stored then, and
        the provider must send the callback again.
        """
        provider = self._context.providers.get(callback.provider)
        now_ms, headers = self._clock.now_ms(), dict(callback.headers)
        if provider is None or provider.keys is None:
            proof = verify(provider, headers, callback.body, now_ms)
        else:
            proof = await verify_by_key(provider.keys, headers, callback.body, now_ms)
        parsed = ParsedCallback()
        if proof.forged is None:
            parsed = await parse_stepwise(provider, headers, callback.body, now_ms)
        received = self._received(callback, now_ms, parsed, proof)
        at = self._clock.now_ms()
        prepared = self._prepared(callback.token.job_id, received, parsed, proof.verification, at)
        await self._store_and_publish(prepared)
        return prepared

    def receive_nowait(
        self, callback: IncomingCallback, done: Callable[[list[Waiting]], None], caller: object
    ) -> PreparedCallback | None:
        """Non-async variant of `receive`: `done` is called after COMMIT, and `publish` must follow it.

        Return None if the provider's published keys are needed, which may take I/O, or if the body is so large that
        it is parsed in steps. Raise StorageUnavailable if too many writes wait.
        """
        provider = self._context.providers.get(callback.provider)
        if (provider is not None and provider.keys is not None) or len(callback.body) > STEP_BYTES:
            return None
        now_ms, headers = self._clock.now_ms(), dict(callback.headers)
        proof = verify(provider, headers, callback.body, now_ms)
        parsed = ParsedCallback()
        if proof.forged is None:
            parsed = parse(provider, headers, callback.body, now_ms)
        received = self._received(callback, now_ms, parsed, proof)
        prepared = self._prepared(callback.token.job_id, received, parsed, proof.verification, now_ms)
        self._store.jobs.record_nowait(prepared.update, done, caller)
        return prepared

    async def receive_unread(self, callback: IncomingCallback, reason: str) -> UpdateResult:
        """Store the start of a callback whose body was too large, too slow or cut; return after COMMIT."""
        now_ms, unproven = self._clock.now_ms(), Proof(Verification.NONE)
        parsed = ParsedCallback(unreadable=reason)
        received = self._received(callback, now_ms, parsed, unproven)
        received = msgspec.structs.replace(received, body=callback.body[:EVIDENCE_BYTES])
        return await self._store_and_publish(
            self._prepared(callback.token.job_id, received, parsed, unproven.verification, now_ms)
        )

    async def reprocess(self, callback: Callback, key_id: str, tie: Tie | None = None) -> UpdateResult:
        """Apply a stored callback's report on an operator's request; return after COMMIT.

        `key_id` is the operator's API key. The callback is proven by its signature if that fits by now, else by its
        token.
        """
        assert callback.job_id is not None
        headers = dict(callback.headers)
        provider = self._context.providers.get(callback.provider)
        verification = verify(provider, headers, callback.body, callback.received_at).verification
        if provider is not None and provider.keys is not None:
            with suppress(KeyUnknown):
                proof = await verify_by_key(provider.keys, headers, callback.body, callback.received_at)
                verification = proof.verification
        parsed = parse(provider, headers, callback.body, callback.received_at)
        received = ReceivedCallback(
            id=callback.id,
            provider=callback.provider,
            received_at=callback.received_at,
            headers=tuple(callback.headers),
            body=callback.body,
            size=callback.size,
            digest=reports.digest(parsed.report) if parsed.report else None,
            unreadable=parsed.unreadable,
            reprocessed_by=key_id,
        )
        at = self._clock.now_ms()
        prepared = self._prepared(callback.job_id, received, parsed, verification, at)
        return await self._store_and_publish(prepared, tie)

    async def adopt(self, callback: Callback) -> None:
        """Make the job that an orphaned callback is about, if it is not there, as `submit_unknown`.

        A database that was restored lacks the jobs of after its backup. The token, which was verified when the callback
        came, proves that relay made this one. Its request, metadata and own endpoints are lost.
        """
        assert callback.job_id is not None
        now_ms, created_at = self._clock.now_ms(), ids.made_at(callback.job_id)
        job = Job(
            id=callback.job_id,
            project_id=callback.project_id,
            provider=callback.provider,
            state=JobState.PENDING,
            reason=Reason.SUBMIT_UNKNOWN,
            created_at=created_at,
            updated_at=now_ms,
            deadline_at=now_ms + ADOPTED_MS,
            request={},
            submission_started_at=created_at,
            submissions_made=1,
        )
        await self._store.jobs.create(NewJob(job, ()))
        _logger.warning("job.adopted", job=job.id, callback=callback.id)

    def publish(self, prepared: PreparedCallback, result: UpdateResult) -> UpdateResult:
        """Pass the stored result on to deliveries, long polls, metrics and the log; call it after COMMIT."""
        received, report = prepared.received, prepared.report
        self._context.publish(result)
        self._context.metrics.callback(received.provider, result.disposition)
        if received.reprocessed_by is None:
            self._store.statistics.callback(received, result)
        if self._context.tracing is not None and result.job is not None:
            about = {"relay.callback.id": received.id, "relay.verdict": str(result.disposition)}
            self._context.tracing.callback(result.job, received.received_at, self._clock.now_ms(), about)
        if report is not None and report.state is None:
            self._context.unknown_status(received.provider, report.provider_status)
        (_logger.warning if result.disposition in _ALARMING else _logger.info)(
            "callback.received",
            job=prepared.update.job_id,
            provider=received.provider,
            callback=received.id,
            disposition=result.disposition,
            reason=result.reason,
            announced=result.announced,
            size=received.size,
        )
        return result

    async def _store_and_publish(self, prepared: PreparedCallback, tie: Tie | None = None) -> UpdateResult:
        """Store a callback, and publish the result after COMMIT."""
        return self.publish(prepared, await self._store.jobs.record(prepared.update, tie))

    def _received(
        self, callback: IncomingCallback, now_ms: int, parsed: ParsedCallback, proof: Proof
    ) -> ReceivedCallback:
        """Return the row of a callback that is received now."""
        return ReceivedCallback(
            id=ids.new_id(ids.CALLBACK),
            provider=callback.provider,
            received_at=now_ms,
            headers=callback.headers,
            body=callback.body,
            size=len(callback.body),
            digest=reports.digest(parsed.report) if parsed.report else None,
            unreadable=parsed.unreadable,
            quarantined=proof.forged,
            other_environment=callback.token.other_environment,
        )

    def _prepared(
        self, job_id: str, received: ReceivedCallback, parsed: ParsedCallback, verification: Verification, at: int
    ) -> PreparedCallback:
        """Return the update of the callback's job: by its report if it has one, else only the stored callback."""
        report = parsed.report
        transition: Callable[[Job], Transition] | None = None if parsed.reply is None else reports.handshake
        if report is not None:
            status_report = StatusReport(
                report=report,
                source=FinishedBy.CALLBACK,
                verification=verification,
                callback_id=received.id,
                confirm_ms=self._confirm_ms(received.provider, verification),
            )
            transition = partial(reports.apply_report, status_report=status_report, now_ms=at)
        update = JobUpdate(job_id=job_id, at=at, transition=transition, received=received)
        return PreparedCallback(update, received, report, parsed.reply)

    def _confirm_ms(self, provider: str, verification: Verification) -> int | None:
        """Return how long a final status waits for confirmation; None if it is trusted or cannot be checked."""
        known = self._context.providers.get(provider)
        if verification is Verification.SIGNATURE or known is None or not known.confirm or not known.usable:
            return None
        return round(self._context.settings.confirm_wait_s * 1000)
