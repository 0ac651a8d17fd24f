"""Read request bodies within a size, a deadline and shared memory, and parse JSON that every parser reads alike.

Both the callback route and the API read here. What a body means is decided by their callers.
"""

import asyncio
from collections import Counter
from itertools import islice
from typing import Final

import msgspec
from starlette.types import Receive

from relay.errors import (
    ERRORS_MAX,
    BadBody,
    BodyTooLarge,
    Bound,
    FieldError,
    InvalidInput,
    RelayError,
    StorageUnavailable,
    TooManyRequests,
)
from relay.model import text
from relay.security import strict_json
from relay.settings import Settings

DEPTH_MAX: Final = 32


class BodyTooSlow(RelayError):
    """The body did not arrive before its deadline."""

    code = "body_too_slow"


class BodyIncomplete(BadBody):
    """The client disconnected before the body was complete."""


class BodyOverLimit(BodyTooLarge):
    """The body is over its limit; `start` holds the bytes up to the limit."""

    def __init__(self, max_bytes: int, start: bytes, bound: Bound) -> None:
        super().__init__(f"the body is over its limit of {max_bytes} bytes", bound=bound)
        self.start = start


class OwnerMemoryFull(TooManyRequests):
    """The open bodies of one project, or of one job's callbacks, use their whole share of memory."""


class MemoryFull(StorageUnavailable):
    """The open bodies use all the memory that bodies may use."""


class Owner(msgspec.Struct, frozen=True):
    """Whose share of memory a body counts in: a project's, or with `is_callback` a job's."""

    id: str
    is_callback: bool = False


class MemoryLimits(msgspec.Struct, frozen=True):
    """How many bytes the open bodies may use: all together, those of one owner, and those of API requests."""

    max_bytes: int
    per_owner_max_bytes: int
    requests_max_bytes: int


def memory_limits(settings: Settings) -> MemoryLimits:
    """Return the settings as limits; by default one owner gets an eighth, and a quarter is kept for callbacks."""
    most, share, kept = (
        settings.bodies_max_bytes,
        settings.bodies_per_owner_max_bytes,
        settings.bodies_for_callbacks_bytes,
    )
    return MemoryLimits(most, most // 8 if share is None else share, most - (most // 4 if kept is None else kept))


class BodyMemory:
    """The memory of all open bodies, limited in total, for each owner, and for API requests together.

    So API requests cannot crowd out a provider's callback. A callback reserves memory only after its token was
    verified; one that arrived in a single read with its head reserves none.
    """

    def __init__(self, limits: MemoryLimits) -> None:
        self._limits = limits
        self._used_bytes = 0
        self._requests_bytes = 0
        self._used_by_owner: Counter[Owner] = Counter()

    def reserve(self, owner: Owner, size: int) -> None:
        """Reserve `size` bytes more; raise OwnerMemoryFull or MemoryFull if a limit would be exceeded."""
        limits = self._limits
        if self._used_by_owner[owner] + size > limits.per_owner_max_bytes:
            full = "too many bodies are open at the same time: finish some of them first"
            raise OwnerMemoryFull(full, bound=Bound.BODIES_PER_OWNER_MAX_BYTES)
        requests_bytes = self._requests_bytes + (0 if owner.is_callback else size)
        if self._used_bytes + size > limits.max_bytes or requests_bytes > limits.requests_max_bytes:
            full = "too many bodies are open at the same time; send the request again"
            raise MemoryFull(full, bound=Bound.BODIES_MAX_BYTES)
        self._used_by_owner[owner] += size
        self._used_bytes += size
        self._requests_bytes = requests_bytes

    def release(self, owner: Owner, size: int) -> None:
        """Return `size` bytes that the owner had reserved."""
        self._used_bytes -= size
        if not owner.is_callback:
            self._requests_bytes -= size
        self._used_by_owner[owner] -= size
        if not self._used_by_owner[owner]:
            del self._used_by_owner[owner]


class ReadLimits(msgspec.Struct, frozen=True):
    """The limits of one body: its size, its deadline, and the memory that it shares with other bodies."""

    max_bytes: int
    deadline_s: float
    memory: BodyMemory
    owner: Owner

    @property
    def bound(self) -> Bound:
        """Return the setting that `max_bytes` comes from."""
        return Bound.CALLBACK_BODY_MAX_BYTES if self.owner.is_callback else Bound.REQUEST_BODY_MAX_BYTES


async def read(receive: Receive, limits: ReadLimits) -> bytes:
    """Return the body.

    Raise BodyOverLimit, BodyTooSlow or BodyIncomplete if no complete body arrives within the limits, OwnerMemoryFull
    or MemoryFull if there is no memory for it.
    """
    body = bytearray()
    reserved = 0
    try:
        async with asyncio.timeout(limits.deadline_s):
            while True:
                part = await receive()
                if part["type"] != "http.request":
                    raise BodyIncomplete("the connection was closed before the body was complete")
                piece = part.get("body", b"")
                if len(body) + len(piece) > limits.max_bytes:
                    start = bytes((body + piece)[: limits.max_bytes])
                    raise BodyOverLimit(limits.max_bytes, start, limits.bound)
                if not part.get("more_body"):
                    return bytes(body + piece)
                limits.memory.reserve(limits.owner, len(piece))
                reserved += len(piece)
                body += piece
    except TimeoutError:
        late = f"the body did not arrive within {limits.deadline_s:g} s"
        raise BodyTooSlow(late, bound=Bound.BODY_DEADLINE_S) from None
    finally:
        limits.memory.release(limits.owner, reserved)


def parse(raw: bytes) -> object:
    """Return the JSON of an API request.

    Raise BadBody for JSON that two parsers could read differently, and InvalidInput, which names each place, for a
    text that holds U+0000.
    """
    parsed = strict_json.parse(raw, depth_max=DEPTH_MAX)
    if parsed.duplicates:
        raise BadBody(f"the key {min(parsed.duplicates)[:60]!r} is there twice")
    if parsed.surrogates:
        raise BadBody("a string has half of a surrogate pair, which is no character")
    if text.may_hold_nul(raw):
        wrong = islice(text.paths_with_nul(parsed.value), ERRORS_MAX)
        if errors := [FieldError(path, text.REFUSAL) for path in wrong]:
            raise InvalidInput(errors)
    return parsed.value
