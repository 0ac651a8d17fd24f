"""What both clients share: requests and their errors, when to try again, and the messages of an event stream."""

import random
import re
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
TOO_MANY: Final = 429
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BOM: Final = b"\xef\xbb\xbf"
_ID: Final = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
"""What a header can hold (RFC 9110, 5.5): the next connection sends the id in one."""


class RelayError(Exception):
    """relay refused a request: a program acts on `code`; `errors` names every wrong field.

    `retry_after_s` is how long relay asks to wait before the request is sent again, None if it does not.
    """

    def __init__(self, status: int, problem: Problem, retry_after_s: float | None = None) -> None:
        told = [f"{one.path}: {one.message}" for one in problem.errors or ()]
        fields = "".join(f"\n  {text}" for text in told if text not in problem.detail)
        super().__init__(f"{status} {problem.code}: {problem.detail}{fields}")
        self.status = status
        self.code = problem.code
        self.detail = problem.detail
        self.errors: list[FieldError] = list(problem.errors or ())
        self.retry_after_s = retry_after_s


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
    asked_s = _asked_s(retry_after)
    if asked_s is not None:
        return asked_s
    longest_s: float = min(_PAUSE_S * 2.0**tried, _PAUSE_MAX_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - it only spreads retries


def _asked_s(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After, a minute at most; None for none, or for one that is no number."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return None
    return min(float(retry_after), _ASKED_MAX_S)


def pause_after_refusal_s(error: RelayError, refusals: int) -> float:
    """Return for how long to wait before what was refused with 429 is tried again; raise the error at the last try.

    `refusals` counts this refusal and those before it. Lost connections are not refusals, and use up no try.
    """
    if error.status != TOO_MANY or refusals >= TRIES_MAX:
        raise error
    return pause_s(refusals, None) if error.retry_after_s is None else error.retry_after_s


def problem(status: int, content: bytes, retry_after: str | None = None) -> RelayError:
    """Return the error of an answer; one that relay did not write is shown in part."""
    try:
        found = msgspec.json.decode(content, type=Problem)
    except msgspec.DecodeError:
        detail = content[:200].decode(errors="replace")
        found = Problem(type="", title="", status=status, detail=detail, code="unknown")
    return RelayError(status, found, _asked_s(retry_after))


def position(last_id: str | None) -> dict[bytes, bytes]:
    """Return the header of a stream that goes on after an event; none without an id, or after an empty one."""
    return {b"last-event-id": last_id.encode()} if last_id else {}


class Messages:
    """Reads the messages of a stream from its bytes.

    `last_id` is what the next connection sends as Last-Event-ID, at first that of the connection before; `retry_s` is
    how long to wait before it. An id with U+0000 is ignored, as the standard says, and so is one that no header holds.
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self, last_id: str | None = None) -> None:
        self.retry_s = 2.0
        self.last_id = last_id or ""
        self._rest = b""
        self._id = self.last_id
        self._data: list[bytes] = []
        self._at_start = True
        self._after_cr = False

    def feed(self, received: bytes) -> Iterator[Message]:
        """Yield the messages that end in these bytes."""
        if not received:
            return
        if self._after_cr:
            received = received.removeprefix(b"\n")
        self._after_cr = received.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + received)
        for line in lines:
            if self._at_start:
                line = line.removeprefix(_BOM)  # noqa: PLW2901 - a stream may begin with one
                self._at_start = False
            if line:
                self._read(line)
                continue
            self.last_id, data, self._data = self._id, self._data, []
            if data:
                yield Message(self.last_id, b"\n".join(data))

    def _read(self, line: bytes) -> None:
        """Read one field; a line without a name is a comment."""
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"id" and _ID.fullmatch(value):
            self._id = value.decode(errors="replace")
        elif name == b"data":
            self._data.append(value)
        elif name == b"retry" and value.isdigit():
            self.retry_s = min(float(value) / 1000, _ASKED_MAX_S)
