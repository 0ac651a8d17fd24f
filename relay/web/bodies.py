"""Request bodies: read up to a cap and a deadline, whoever sends them; and read as JSON that has one meaning."""

import asyncio
from itertools import islice
from typing import Final

from starlette.types import Receive

from relay import jsonbody, text
from relay.errors import ERRORS_MAX, BadBody, BodyTooLarge, FieldError, InvalidInput, RelayError

DEPTH_MAX: Final = 32


class BodyTooSlow(RelayError):
    """The body did not arrive in time."""

    code = "body_too_slow"


class BodyCut(Exception):
    """The sender went away before the body was whole."""


class Capped(BodyTooLarge):
    """Over the cap; `start` is what was read until then."""

    def __init__(self, max_bytes: int, start: bytes) -> None:
        super().__init__(f"the body is over its limit of {max_bytes} bytes")
        self.start = start


async def read(receive: Receive, max_bytes: int, deadline_s: float) -> bytes:
    """The body; Capped, BodyTooSlow or BodyCut when there is none that is whole and small enough in time."""
    body = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                part = await receive()
                if part["type"] != "http.request":
                    raise BodyCut
                body += part.get("body", b"")
                if len(body) > max_bytes:
                    raise Capped(max_bytes, bytes(body[:max_bytes]))
                if not part.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {deadline_s:g} s") from None


def parse(raw: bytes) -> object:
    """The JSON of a client's request; BadBody for what two readers could read differently.

    InvalidInput names each text that holds U+0000.
    """
    parsed = jsonbody.parse(raw, depth_max=DEPTH_MAX)
    if parsed.duplicates:
        raise BadBody(f"the key {min(parsed.duplicates)[:60]!r} is there twice")
    if parsed.surrogates:
        raise BadBody("a string has half of a surrogate pair, which is no character")
    if text.may_hold_nul(raw):
        wrong = islice(text.paths_with_nul(parsed.value), ERRORS_MAX)
        if errors := [FieldError(path, text.REFUSAL) for path in wrong]:
            raise InvalidInput(errors)
    return parsed.value
