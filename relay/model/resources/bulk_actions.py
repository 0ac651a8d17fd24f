"""What a bulk action counted or did."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.model.resources.times import Time


class DoneResource(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a bulk action was done to."""

    job: Annotated[str, Meta(pattern="^job_")]


class RefusedResource(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a bulk action was refused for, with the problem's code and detail."""

    job: Annotated[str, Meta(pattern="^job_")]
    code: str
    detail: str


class BulkResultResource(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs match, or what was done to them."""

    action: Literal["cancel", "check", "resubmit", "fail", "redeliver", "copy"]
    dry_run: bool
    as_of: Annotated[Time, Meta(description="Jobs made later are not among them.")]
    matched: Annotated[int | None, Meta(description="How many jobs match, in a dry run.")] = None
    matched_more: Annotated[bool, Meta(description="Whether there may be more jobs than were counted.")] = False
    done: list[DoneResource] = []
    refused: list[RefusedResource] = []
    next_cursor: Annotated[
        str | None, Meta(description="Send it as `cursor` with the same body to go on; null when all are done.")
    ] = None
