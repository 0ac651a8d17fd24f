"""Answers with a file of the archive, or with the parts of it that `Range` asks for (RFC 9110, section 14).

Starlette sends the bytes. Which of them is decided here: a request for none that there are gets relay's own problem
document, and a unit that relay does not know is ignored, as section 14.2 demands.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from relay.errors import RangeNotSatisfiable

RANGES_MAX: Final = 16
"""Ranges of one request: section 14.2 allows to refuse many small ones."""
_RANGES: Final = re.compile(r"bytes[ \t]*=(.*)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{0,40})-([0-9]{0,40})")

Range = tuple[int, int]
"""The first and the last byte of a part, both included, counted from 0."""


class MediaResponse(FileResponse):
    """A file that a browser may show and must not run; `parts` are those to send, None for all of it."""

    def __init__(self, path: Path, stat: os.stat_result, media_type: str, asked: Headers) -> None:
        """Raise RangeNotSatisfiable if `asked`, the request's headers, ask for no part that there is."""
        headers = {
            "content-security-policy": "default-src 'none'; media-src 'self'; img-src 'self'; sandbox",
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        }
        super().__init__(
            path,
            media_type=media_type,
            headers=headers,
            filename=path.name,
            stat_result=stat,
            content_disposition_type="inline",
        )
        version = asked.get("if-range")
        current = version is None or version in (self.headers["etag"], self.headers["last-modified"])
        self.parts = ranges(asked.get("range", ""), stat.st_size) if current else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts."""
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        if self.parts is not None:
            wanted = ",".join(f"{first}-{last}" for first, last in self.parts)
            headers.append((b"range", f"bytes={wanted}".encode()))
        await super().__call__({**scope, "headers": headers}, receive, send)


def ranges(text: str, size: int) -> Sequence[Range] | None:
    """Return the parts of `size` bytes that a `Range` header asks for; None for an empty one and for other units.

    Raise RangeNotSatisfiable if it is malformed, has more than RANGES_MAX ranges, or none of them begins within `size`.
    """
    given = _RANGES.fullmatch(text.strip())
    if given is None:
        return None
    listed = [one.strip(" \t") for one in given[1].split(",")]
    found = [_RANGE.fullmatch(one) for one in listed if one]
    if not found or len(found) > RANGES_MAX:
        reason = f"Range has {len(found)} ranges; it may have 1 to {RANGES_MAX}"
        raise RangeNotSatisfiable(reason, size)
    parts = [_part(one, size) for one in found]
    satisfiable = [part for part in parts if part is not None]
    if not satisfiable:
        raise RangeNotSatisfiable(f"Range asks for no byte of this file, which has {size}", size)
    return satisfiable


def _part(given: re.Match[str] | None, size: int) -> Range | None:
    """Return the part of one range, None for one that the file has nothing of; raise RangeNotSatisfiable."""
    first, last = ("", "") if given is None else given.groups()
    if not (first or last) or (first and last and int(last) < int(first)):
        raise RangeNotSatisfiable("Range must name bytes as first-last, first- or -number", size)
    if not first:
        number = min(int(last), size)
        return (size - number, size - 1) if number else None
    return (int(first), min(int(last or size), size - 1)) if int(first) < size else None
