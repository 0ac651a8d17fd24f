"""Gives each HTTP request an id, which is on its response and on each of its log lines.

A request may bring its own as `x-request-id`, as routers such as Heroku's do; otherwise relay makes one.
"""

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from itertools import count
from typing import Final

HEADER: Final = b"request-id"
CURRENT: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""The id of the request that this task serves; None outside of requests."""
_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
_PROCESS: Final = os.urandom(6).hex()
_numbers: Final = count(1)


def of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the request's own id if it is valid (8 to 64 of `A-Za-z0-9._-`), else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _ACCEPTED.fullmatch(value.decode("latin-1")):
            return value.decode()
    return given(None)


def given(own: str | None) -> str:
    """Return the request's own id, its `x-request-id`, if it is valid, else a new one."""
    return own if own is not None and _ACCEPTED.fullmatch(own) else f"req_{_PROCESS}{next(_numbers):x}"
