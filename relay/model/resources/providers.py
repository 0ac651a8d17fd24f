"""What a provider supports, what a job would cost there, and an uploaded file."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.model.resources.envelopes import FieldErrorResource
from relay.model.resources.payments import Amount
from relay.model.resources.times import Time
from relay.security.callback_signatures import VerifierName


class DurationRange(msgspec.Struct, frozen=True):
    """Seconds, both ends included."""

    min: int
    max: int


class ModelResource(msgspec.Struct, frozen=True, kw_only=True):
    """A model's own limits, where they differ from its provider's; null means as the provider's."""

    duration_s: DurationRange | None
    resolutions: tuple[str, ...] | None
    aspect_ratios: tuple[str, ...] | None
    images_min: int | None
    images_max: int | None
    references_max: Annotated[
        dict[Literal["image", "video", "audio"], int] | None, Meta(description="References of each kind.")
    ]


class ProviderDayResource(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider's jobs of a project ended in the last 24 hours."""

    jobs_ended: int
    by_callback: Annotated[float | None, Meta(description="Share, 0 to 1, that a callback ended; null without a job.")]
    checks_per_job: Annotated[float | None, Meta(description="Status checks for each job that ended.")]


class ProviderResource(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider supports, and whether it is configured."""

    name: str
    title: Annotated[str, Meta(description="The name as the provider writes it.")]
    configured: bool
    key_refused_at: Annotated[Time | None, Meta(description="Since when it refuses relay's key.")]
    last_error: Annotated[str | None, Meta(description="Why it refuses the key, else why a job of the project failed.")]
    last_error_at: Time | None
    last_callback_at: Annotated[Time | None, Meta(description="When a callback about a job of the project came.")]
    verifies: Annotated[
        Literal["secret", "published_keys", "token"],
        Meta(description="What proves its callbacks besides the token: a secret, its published keys, or nothing."),
    ]
    verifier: Annotated[
        VerifierName, Meta(description="How it signs callbacks: by published keys, by a secret if one is set, or not.")
    ]
    finished_by: Annotated[Literal["callback", "status_check"], Meta(description="What ends its jobs.")]
    last_day: ProviderDayResource
    paid: Annotated[bool, Meta(description="Whether relay's wallet pays for each job.")]
    cancel: Annotated[bool, Meta(description="Whether a job can be canceled there.")]
    models: tuple[str, ...]
    limits_by_model: Annotated[
        dict[str, ModelResource], Meta(description="Of the models whose limits differ from the provider's.")
    ]
    other_models: Annotated[bool, Meta(description="Whether `request` may name another model.")]
    duration_s: DurationRange
    resolutions: tuple[str, ...]
    aspect_ratios: tuple[str, ...]
    images_max: int
    prompt_max: Annotated[int | None, Meta(description="Characters.")]
    prompt_required: bool
    honours: Annotated[
        list[str],
        Meta(description="The fields of `input` that it has a place for; `references.video`: references of that kind."),
    ]
    result_lifetime_s: Annotated[int | None, Meta(description="How long its result URLs work.")]
    further_limits: Annotated[dict[str, str], Meta(description="Other limits and rules that it publishes.")]


class QuoteResource(msgspec.Struct, frozen=True, kw_only=True):
    """What a job would cost at one provider."""

    provider: str
    accepted: bool
    amount: Amount | None
    unit: Literal["USD", "USDC", "credits"] | None
    usd: Annotated[Amount | None, Meta(description="The price in USD, if it is known.")]
    basis: Annotated[
        Literal["table", "quote"] | None,
        Meta(description="Published prices, or the provider's answer to an unpaid request."),
    ]
    reason: Annotated[str | None, Meta(description="Why there is no amount.")]
    errors: list[FieldErrorResource]


class FileResource(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was uploaded to a provider."""

    url: str
    expires_at: Annotated[Time | None, Meta(description="Null if the provider publishes no lifetime.")]
