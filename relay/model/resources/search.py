"""What a search finds."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.model.resources.times import Time

Kind = Literal["job", "event", "delivery", "callback", "endpoint", "redelivery"]
Matched = Literal["id", "provider_job_id", "metadata", "url", "description"]


class HitResource(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a search found."""

    kind: Kind
    id: str
    job_id: Annotated[str | None, Meta(description="The job that it is about, itself if it is one.")]
    title: Annotated[str, Meta(description="What it is, in a few words.")]
    matched: Annotated[Matched, Meta(description="What has the text.")]
    created_at: Time


class HitsResource(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found, by kind, newest first."""

    data: list[HitResource]
