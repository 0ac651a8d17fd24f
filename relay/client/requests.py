"""What both clients share: requests and their errors, when to try again, and the messages of an event stream."""

import random
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from relay.client.types import FieldError, Problem

Item = TypeVar("Item")
TRIES_MAX: Final = 4
"""A request is made so many times at most."""
_PAUSE_S: Final = 0.25
_ASKED_MAX_S: Final = 60.0
"""A longer pause, or delay between two connections, is cut to this, whatever relay or a proxy asks for."""
_PAUSE_MAX_S: Final = 8.0
AGAIN: Final = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may work."""


class RelayError(Exception):
    """relay refused a request: a program acts on `code`; `errors` names every wrong field."""

    def __init__(self, status: int, problem: Problem) -> None:
        fields = "".join(f"\n  {one.path}: {one.message}" for one in problem.errors or ())
        super().__init__(f"{status} {problem.code}: {problem.detail}{fields}")
        self.status = status
        self.code = problem.code
        self.detail = problem.detail
        self.errors: list[FieldError] = list(problem.errors or ())


class RelayUnavailable(Exception):
    """relay could not be reached, or answered 502, 503 or 504, after every retry."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the API; `timeout_s` is added to the client's own, for a request that relay holds."""

    method: str
    path: str
    query: dict[str, str] = {}
    body: Any = None
    form: dict[str, str] | None = None
    files: dict[str, tuple[str, bytes, str]] | None = None
    headers: dict[str, str] = {}
    timeout_s: float = 0


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """A page of a list."""

    data: list[Item]
    next_cursor: str | None


def page_of(kind: type[Item]) -> type[Page[Item]]:
    """Return the type of a page of these."""
    return Page[kind]  # type: ignore[valid-type]


class Message(msgspec.Struct, frozen=True):
    """A message of an event stream."""

    id: str
    data: bytes


def writing(method: str, path: str, body: Any = None, idempotency_key: str | None = None) -> Request:
    """Return a request that changes something; its key makes it safe to repeat."""
    headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
    return Request(method=method, path=path, body=body, headers=headers)


def uploading(path: str, form: dict[str, str], file: tuple[str, bytes, str]) -> Request:
    """Return a request that sends a file, given with its name and content type."""
    headers = {"idempotency-key": uuid.uuid4().hex}
    return Request(method="POST", path=path, form=form, files={"file": file}, headers=headers)


def query(**given: Any) -> dict[str, str]:
    """Return the parameters that are given; `metadata` as one parameter a pair, booleans as text."""
    found: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            found |= {f"{name}[{key}]": str(one) for key, one in value.items()}
        elif value is not None:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def body(**given: Any) -> dict[str, Any]:
    """Return the fields that are given."""
    return {name: value for name, value in given.items() if value is not None}


def pause_s(tried: int, retry_after: str | None) -> float:
    """Return for how long to wait after so many tries: what relay asks for, else twice as long each time."""
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), _ASKED_MAX_S)
    longest_s: float = min(_PAUSE_S * 2.0**tried, _PAUSE_MAX_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - it only spreads retries


def problem(status: int, content: bytes) -> RelayError:
    """Return the error of an answer; one that relay did not write is shown in part."""
    try:
        return RelayError(status, msgspec.json.decode(content, type=Problem))
    except msgspec.DecodeError:
        detail = content[:200].decode(errors="replace")
        return RelayError(status, Problem(type="", title="", status=status, detail=detail, code="unknown"))


class Messages:
    """Reads the messages of a stream from its bytes; `retry_s` is how long to wait before the next connection.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self) -> None:
        self.retry_s = 2.0
        self._rest = b""
        self._id = ""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[Message]:
        """Yield the messages that end in these bytes."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if not name and not value and self._data:
                yield Message(self._id, b"\n".join(self._data))
                self._data.clear()
            elif name == b"id" and value.isascii() and (text := value.decode()).isprintable():
                self._id = text  # any other could not be sent back in a header
            elif name == b"data":
                self._data.append(value)
            elif name == b"retry" and value.isdigit():
                self.retry_s = min(float(value) / 1000, _ASKED_MAX_S)
