"""How an attempt's time was spent and how its answer began, as one text of the attempt's row.

The first line has four times in milliseconds, each of them empty where there was none; each further line is a header of
the answer as it came. It is written for each attempt, and read only when one is shown: so it is no JSON, and it is
redacted when it is read.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

HEADERS_MAX_BYTES: Final = 2_048
"""So much of an answer's headers is kept."""


class Timings(msgspec.Struct):
    """How many milliseconds the parts of a request took; None where a kept connection was used, or before it failed."""

    lookup_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    wait_ms: float | None = None
    """From the request until the first byte of the answer."""


class Exchange(msgspec.Struct, frozen=True):
    """An attempt's times, and the start of its answer's headers; no headers where no answer came."""

    timings: Timings
    headers: list[tuple[str, str]]


def written(timings: Timings, headers: Sequence[bytes]) -> str:
    """Return an attempt's times and the lines of its answer's headers as its row has them."""
    wait = "" if timings.wait_ms is None else f"{timings.wait_ms:.2f}"
    if timings.lookup_ms is None:
        first = f",,,{wait}"
    else:
        opened = (timings.lookup_ms, timings.connect_ms, timings.tls_ms)
        first = ",".join(["" if one is None else f"{one:.2f}" for one in opened] + [wait])
    if not headers:
        return first
    return b"\n".join([first.encode(), *headers]).decode("latin-1").replace("\x00", "")


def read(text: str) -> Exchange:
    """Return what an attempt's row has."""
    first, *lines = text.split("\n")
    times = [None if one == "" else float(one) for one in first.split(",")]
    headers = [line.partition(": ") for line in lines]
    return Exchange(Timings(*times), [(name.lower(), value) for name, _, value in headers])
