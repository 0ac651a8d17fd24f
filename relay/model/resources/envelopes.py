"""What holds resources or says why there are none: a page of a list, a problem."""

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

Item = TypeVar("Item")
Json = dict[str, Any]


class PageResource(msgspec.Struct, Generic[Item], frozen=True, kw_only=True):
    """One page of a list, newest first."""

    data: list[Item]
    next_cursor: Annotated[
        str | None,
        Meta(description="Send it as `cursor` for the next page; null at the end of the list. A page may be short."),
    ]


class FieldErrorResource(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong field of a request."""

    path: Annotated[str, Meta(description="Where it is, such as `input.images[0]`.")]
    message: str


class ProblemResource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error (RFC 9457)."""

    type: Annotated[str, Meta(description="`urn:relay:problem:` and the code.")]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What is wrong, and what to do.")]
    code: Annotated[str, Meta(description="What a program acts on.")]
    errors: Annotated[
        list[FieldErrorResource] | msgspec.UnsetType, Meta(description="Every wrong field, if fields are wrong.")
    ] = msgspec.UNSET


class HealthResource(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "ready"]
