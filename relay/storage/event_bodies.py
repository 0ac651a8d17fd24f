"""A notification's body, stored without what its job's cold row has already, and whole again when it is read.

A job's input, request and metadata never change, and its links follow from its id; they would be most of every event's
row. So the stored body has a hole in place of each: a NUL, which JSON never contains, and a letter. It begins with a
NUL and the length of the whole. A body without a NUL is stored whole: of an event of no job, or of an earlier relay.

The bytes are the same in every attempt, the first included, because all of them are made here from what is stored.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_NUL: Final = b"\0"
HOLES: Final[dict[str, Any]] = {
    name: msgspec.Raw(_NUL + name[:1].encode()) for name in ("input", "request", "metadata", "links")
}
"""What stands in a job's public JSON in place of what is stored elsewhere."""


class BodyChangedError(Exception):
    """A body cannot be made as it was: its job's row is not what it was, or is gone."""


class JobParts(msgspec.Struct, frozen=True):
    """What the row of a job keeps of its events' bodies, as JSON; None where the row is gone or has no input."""

    job_id: str
    input: str | None
    request: str | None
    metadata: str | None


def stored(holed: bytes, whole_bytes: int) -> bytes:
    """Return the body as its row keeps it."""
    return b"\0%d\0%b" % (whole_bytes, holed)


def fill(holed: bytes, parts: JobParts) -> bytes:
    """Return a body with its holes filled."""
    texts = {
        b"i": b"null" if parts.input is None else parts.input.encode(),
        b"r": (parts.request or "").encode(),
        b"m": (parts.metadata or "").encode(),
        b"l": _links(parts.job_id),
    }
    pieces: list[bytes] = []
    start = 0
    try:
        while (hole := holed.find(_NUL, start)) >= 0:  # split() takes twice as long for so few
            pieces += (holed[start:hole], texts[holed[hole + 1 : hole + 2]])
            start = hole + 2
    except KeyError:
        raise BodyChangedError(f"an event of {parts.job_id} was stored by a newer relay") from None
    pieces.append(holed[start:])
    return b"".join(pieces)


def whole(body: bytes, parts: JobParts) -> bytes:
    """Return the body of an event's row as it was sent at first; BodyChangedError where that cannot be."""
    if not body.startswith(_NUL):
        return body
    _, size, holed = body.split(_NUL, 2)
    made = fill(holed, parts)
    if len(made) != int(size):
        raise BodyChangedError(
            f"a body of {int(size)} bytes is now one of {len(made)}: {parts.job_id} is not what it was"
        )
    return made


def of_row(row: Mapping[str, Any]) -> bytes:
    """Return the whole body of a row of `events` that was read with its job's parts; BodyChangedError, as `whole`."""
    parts = JobParts(row["job_id"], row["job_input"], row["job_request"], row["job_metadata"])
    return whole(bytes(row["body"]), parts)


def _links(job_id: str) -> bytes:
    """Return a job's links, as `resources/jobs.py` encodes them; another form needs another letter."""
    links = f'{{"self":"/v1/jobs/{job_id}","events":"/v1/events?job={job_id}","timeline":"/v1/jobs/{job_id}/timeline"}}'
    return links.encode()


class BodyCache:
    """The bodies used last, by event, `bytes_max` in all: none is read for each of its endpoints or attempts."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def get(self, event_id: str) -> bytes | None:
        """Return the body of an event, if it is here."""
        body = self._bodies.get(event_id)
        if body is not None:
            self._bodies.move_to_end(event_id)
        return body

    def keep(self, event_id: str, body: bytes) -> None:
        """Keep a body, in place of those used longest ago; one that is larger than all may be is not kept."""
        if event_id in self._bodies or len(body) > self._bytes_max:
            return
        self._bodies[event_id] = body
        self._bytes += len(body)
        while self._bytes > self._bytes_max:
            _, oldest = self._bodies.popitem(last=False)
            self._bytes -= len(oldest)
