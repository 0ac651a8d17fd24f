"""A callback as received, and its reprocessings."""

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.job import Callback, CallbackHead, Disposition, Reprocessing
from relay.model.resources.times import Time

Verdict = Annotated[Disposition, Meta(description="What relay did with it.")]


class CallbackHeadResource(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request from a provider, as a list shows it."""

    id: Annotated[str, Meta(pattern="^cb_")]
    object: Literal["callback"] = "callback"
    job: str | None
    provider: str
    verdict: Verdict
    reason: str | None
    received_at: Time
    size: Annotated[int, Meta(description="Of its body, in bytes.")]
    headers: Annotated[list[tuple[str, str]], Meta(description="Names and values in their order, secrets redacted.")]


class ReprocessingResource(msgspec.Struct, frozen=True, kw_only=True):
    """The result of applying a quarantined or orphaned callback."""

    id: Annotated[str, Meta(pattern="^rep_")]
    at: Time
    by: Annotated[str, Meta(description="The id of the API key that requested it.")]
    verdict: Verdict
    reason: str | None


class CallbackResource(CallbackHeadResource, frozen=True, kw_only=True):
    """One HTTP request from a provider, with its body."""

    body: Annotated[str, Meta(description="As received, in base64.")]
    body_text: Annotated[str | None, Meta(description="As text; null if it is none.")]
    reprocessings: list[ReprocessingResource]


def head(callback: CallbackHead) -> CallbackHeadResource:
    """Return a callback as a list shows it."""
    return CallbackHeadResource(
        id=callback.id,
        job=callback.job_id,
        provider=callback.provider,
        verdict=callback.disposition,
        reason=callback.reason,
        received_at=rfc3339(callback.received_at),
        size=callback.size,
        headers=callback.headers,
    )


def callback(one: Callback, reprocessings: Sequence[Reprocessing]) -> CallbackResource:
    """Return a callback with its body as received, in base64, and as text if it is text."""
    try:
        text = one.body.decode()
    except UnicodeDecodeError:
        text = None
    return CallbackResource(
        **msgspec.structs.asdict(head(one)),
        body=base64.b64encode(one.body).decode(),
        body_text=text,
        reprocessings=[*map(reprocessing, reprocessings)],
    )


def reprocessing(reprocessing: Reprocessing) -> ReprocessingResource:
    """Return the result of applying a quarantined or orphaned callback."""
    return ReprocessingResource(
        id=reprocessing.id,
        at=rfc3339(reprocessing.at),
        by=reprocessing.key_id,
        verdict=reprocessing.disposition,
        reason=reprocessing.reason,
    )
