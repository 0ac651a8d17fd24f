"""A callback comes in: its token is proven before a byte is read, its bytes are kept, and what it says goes to the job.

The answer to the provider is given after the commit. Whatever the body is, a good token gets 200: a provider that is
refused retries for seconds and then gives up.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from relay import ids, log, strict_json
from relay.context import ConfiguredProvider, FlowContext
from relay.errors import BadBody, KeyUnknown, Unreadable
from relay.lifecycle import reports
from relay.lifecycle.reports import StatusReport
from relay.model import text
from relay.model.job import Callback, Disposition, FinishedBy, Report, Verification
from relay.outbound.jwks import KeySet
from relay.security import signatures
from relay.security.callback_tokens import CallbackToken, CallbackTokens
from relay.security.signatures import SignatureInvalid
from relay.storage.apply_updates import JobUpdate, ReceivedCallback, UpdateResult
from relay.storage.idempotency import Tie

_CONTROL_FIELDS: Final = frozenset(
    {
        "id",
        "taskid",
        "task_id",
        "status",
        "state",
        "url",
        "output",
        "results",
        "data",
        "content",
        "metadata",
        "error",
        "result_url",
        "video_url",
    }
)
EVIDENCE_BYTES: Final = 65536
_ALARMING: Final = (Disposition.ORPHANED, Disposition.QUARANTINED, Disposition.MISMATCHED)
_logger = log.get("receive")


class ParsedCallback(msgspec.Struct, frozen=True):
    """A callback that was read, as it is to be recorded."""

    update: JobUpdate
    received: ReceivedCallback
    report: Report | None


class Receiver:
    """Takes callbacks."""

    def __init__(self, context: FlowContext, tokens: CallbackTokens) -> None:
        self._context = context
        self._store = context.store
        self._tokens = tokens
        self._clock = context.clock

    def claims(self, provider: str, token: str) -> CallbackToken | None:
        """What the token says, None when it is not good here; no I/O."""
        return self._tokens.read(provider, token, self._clock.now_ms())

    async def receive(
        self, provider: str, claims: CallbackToken, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> UpdateResult:
        """Stores the callback and what follows from it; returns after COMMIT.

        StorageUnavailable, or KeyUnknown where its signature cannot be judged now: nothing is stored, to come again.
        """
        now_ms = self._clock.now_ms()
        known = self._context.providers.get(provider)
        if known is None or known.keys is None:
            proven = _verified(known, headers, body, now_ms)
        else:
            proven = await _verified_by_key(known.keys, dict(headers), body, now_ms)
        parsed = self._heard(provider, claims, headers, body, now_ms, proven)
        return self.note(parsed, await self._store.jobs.record(parsed.update))

    def receiving(
        self, provider: str, claims: CallbackToken, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> tuple[ParsedCallback, asyncio.Future[UpdateResult]] | None:
        """The same for a caller that is no coroutine: after COMMIT the future is done, and to be noted.

        None where more than the commit may have to be waited for, StorageUnavailable where too much waits already.
        """
        known = self._context.providers.get(provider)
        if known is not None and known.keys is not None:
            return None
        now_ms = self._clock.now_ms()
        parsed = self._heard(provider, claims, headers, body, now_ms, _verified(known, headers, body, now_ms))
        return parsed, self._store.jobs.recording(parsed.update)

    def _heard(
        self,
        provider: str,
        claims: CallbackToken,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        now_ms: int,
        proven: tuple[Verification, str | None],
    ) -> ParsedCallback:
        """What a callback says, and how far it is proven."""
        named = dict(headers)
        verification, forged = proven
        if signatures.HOP_HEADER in named:
            forged = "it is the notification of a relay, which no provider sends"
        report, unreadable = self._read(provider, named, body, now_ms) if forged is None else (None, None)
        received = ReceivedCallback(
            id=ids.new_id(ids.CALLBACK),
            provider=provider,
            received_at=now_ms,
            headers=headers,
            body=body,
            size=len(body),
            digest=reports.digest(report) if report else None,
            unreadable=unreadable,
            quarantined=forged,
            other_environment=claims.other_environment,
        )
        return self._fact(claims.job_id, received, report, verification)

    async def note_unread(
        self, provider: str, claims: CallbackToken, headers: tuple[tuple[str, str], ...], body: bytes, reason: str
    ) -> UpdateResult:
        """A callback whose body was too large or too slow: what came of it is kept as evidence."""
        now_ms = self._clock.now_ms()
        received = ReceivedCallback(
            id=ids.new_id(ids.CALLBACK),
            provider=provider,
            received_at=now_ms,
            headers=headers,
            body=body[:EVIDENCE_BYTES],
            size=len(body),
            unreadable=reason,
            other_environment=claims.other_environment,
        )
        parsed = self._fact(claims.job_id, received, None, Verification.NONE)
        return self.note(parsed, await self._store.jobs.record(parsed.update))

    async def release(self, callback: Callback, key_id: str, tie: Tie | None = None) -> UpdateResult:
        """Runs a quarantined callback again, by a person's word: its signature, if it fits by now, else as unsigned."""
        assert callback.job_id is not None
        named = dict(callback.headers)
        known = self._context.providers.get(callback.provider)
        verification, _ = _verified(known, callback.headers, callback.body, callback.received_at)
        if known is not None and known.keys is not None:
            with suppress(KeyUnknown):
                verification, _ = await _verified_by_key(known.keys, named, callback.body, callback.received_at)
        report, unreadable = self._read(callback.provider, named, callback.body, callback.received_at)
        received = ReceivedCallback(
            id=callback.id,
            provider=callback.provider,
            received_at=callback.received_at,
            headers=tuple(callback.headers),
            body=callback.body,
            size=callback.size,
            digest=reports.digest(report) if report else None,
            unreadable=unreadable,
            reprocessed_by=key_id,
        )
        parsed = self._fact(callback.job_id, received, report, verification)
        return self.note(parsed, await self._store.jobs.record(parsed.update, tie))

    def _fact(
        self, job_id: str, received: ReceivedCallback, report: Report | None, verification: Verification
    ) -> ParsedCallback:
        """What is to be recorded, in one transaction."""
        now_ms = self._clock.now_ms()
        transition = None
        if report is not None:
            word = StatusReport(
                report=report,
                source=FinishedBy.CALLBACK,
                verification=verification,
                callback_id=received.id,
                confirm_ms=self._confirm_ms(received.provider, verification),
            )
            transition = partial(reports.apply_report, word=word, now_ms=now_ms)
        return ParsedCallback(
            JobUpdate(job_id=job_id, at=now_ms, transition=transition, received=received), received, report
        )

    def note(self, parsed: ParsedCallback, recorded: UpdateResult) -> UpdateResult:
        """After COMMIT: everybody who waits for it is told, and the log."""
        received, report = parsed.received, parsed.report
        self._context.publish(recorded)
        self._context.metrics.callback(received.provider, recorded.disposition)
        if report is not None and report.state is None:
            self._context.unknown_word(received.provider, report.word)
        (_logger.warning if recorded.disposition in _ALARMING else _logger.info)(
            "callback.received",
            job=parsed.update.job_id,
            provider=received.provider,
            callback=received.id,
            disposition=recorded.disposition,
            reason=recorded.reason,
            announced=recorded.announced,
            size=received.size,
        )
        return recorded

    def _confirm_ms(self, provider: str, verification: Verification) -> int | None:
        """How long the end of a job waits to be confirmed; None where it is believed, or nobody can be asked."""
        known = self._context.providers.get(provider)
        if verification is Verification.SIGNATURE or known is None or not known.confirm or not known.usable:
            return None
        return round(self._context.settings.confirm_wait_s * 1000)

    def _read(
        self, provider: str, headers: Mapping[str, str], body: bytes, now_ms: int
    ) -> tuple[Report | None, str | None]:
        """What the body says, or why it cannot be read."""
        if headers.get("content-encoding", "identity").lower() != "identity":
            return None, "the body is compressed"
        known = self._context.providers.get(provider)
        if known is None:
            return None, "this relay has no such provider"
        try:
            parsed = strict_json.parse(body)
            doubled = {name for name in parsed.duplicates if name.lower() in _CONTROL_FIELDS}
            if doubled:
                return None, f"the body has {min(doubled)} twice"
            value = text.kept_json(parsed.value) if text.may_hold_nul(body) else parsed.value
            if not isinstance(value, dict):
                return None, "the body is not a JSON object"
            if known.redactor is not None and known.redactor.suspects(body):
                value = known.redactor.json(value)
            return known.judged(known.adapter.read_callback(value, now_ms)), None
        except (BadBody, Unreadable) as error:
            return None, text.kept(str(error)[:300])


def _verified(
    known: ConfiguredProvider | None, headers: Iterable[tuple[str, str]], body: bytes, at_ms: int
) -> tuple[Verification, str | None]:
    """How far the callback is proven; where a signature is asked for and does not fit, what is wrong with it."""
    if known is None or known.callback_secret is None:
        return Verification.TOKEN, None
    try:
        signatures.verify(known.callback_secret, dict(headers), body, at_ms // 1000)
    except SignatureInvalid as error:
        return Verification.TOKEN, str(error)
    return Verification.SIGNATURE, None


async def _verified_by_key(
    keys: KeySet, headers: Mapping[str, str], body: bytes, at_ms: int
) -> tuple[Verification, str | None]:
    """The same by the provider's published keys; one that it did not sign is worth its token. KeyUnknown passes."""
    try:
        signed = await keys.verify(headers, body, at_ms // 1000)
    except SignatureInvalid as error:
        return Verification.TOKEN, str(error)
    return Verification.SIGNATURE if signed else Verification.TOKEN, None
