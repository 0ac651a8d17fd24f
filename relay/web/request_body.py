"""Request bodies: read up to a cap and a deadline, whoever sends them; and read as JSON that has one meaning."""

import asyncio
from collections import Counter
from itertools import islice
from typing import Final

import msgspec
from starlette.types import Receive

from relay import strict_json
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
from relay.settings import Settings

DEPTH_MAX: Final = 32


class BodyTooSlow(RelayError):
    """The body did not arrive in time."""

    code = "body_too_slow"


class BodyCut(Exception):
    """The sender went away before the body was whole."""


class Capped(BodyTooLarge):
    """Over the cap; `start` is what was read until then."""

    def __init__(self, max_bytes: int, start: bytes, bound: Bound) -> None:
        super().__init__(f"the body is over its limit of {max_bytes} bytes", bound=bound)
        self.start = start


class OwnerFull(TooManyRequests):
    """The bodies that one project, or one job's callbacks, has open hold their share of memory."""


class MemoryFull(StorageUnavailable):
    """The bodies that are being read hold all the memory that they may."""


class Owner(msgspec.Struct, frozen=True):
    """Whose body it is: a project's, or that of a job's callback."""

    id: str
    is_callback: bool = False


class Room(msgspec.Struct, frozen=True):
    """How many bytes the bodies that are being read may hold: in all, of one owner, and of what is no callback."""

    max_bytes: int
    per_owner_max_bytes: int
    requests_max_bytes: int


def room_of(settings: Settings) -> Room:
    """Return the room that the settings give: an eighth of it for one owner and a quarter kept for callbacks."""
    most, share, kept = (
        settings.bodies_max_bytes,
        settings.bodies_per_owner_max_bytes,
        settings.bodies_for_callbacks_bytes,
    )
    return Room(most, most // 8 if share is None else share, most - (most // 4 if kept is None else kept))


class BodyMemory:
    """The memory of all bodies that are being read: bounded in all, for each owner, and for all requests of clients.

    So bodies of clients cannot turn a provider's callback away. A callback takes memory only after its token was
    verified. A body that came in one piece with its head takes none.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken_bytes = 0
        self._of_requests_bytes = 0
        self._owners: Counter[Owner] = Counter()

    def take(self, owner: Owner, size: int) -> None:
        """Count `size` bytes more; OwnerFull or MemoryFull if there is no room for them."""
        room = self._room
        if self._owners[owner] + size > room.per_owner_max_bytes:
            full = "too many bodies are open at the same time: finish some of them first"
            raise OwnerFull(full, bound=Bound.BODIES_PER_OWNER_MAX_BYTES)
        of_requests = self._of_requests_bytes + (0 if owner.is_callback else size)
        if self._taken_bytes + size > room.max_bytes or of_requests > room.requests_max_bytes:
            full = "too many bodies are open at the same time; send the request again"
            raise MemoryFull(full, bound=Bound.BODIES_MAX_BYTES)
        self._owners[owner] += size
        self._taken_bytes += size
        self._of_requests_bytes = of_requests

    def release(self, owner: Owner, size: int) -> None:
        """Count `size` bytes less."""
        self._taken_bytes -= size
        if not owner.is_callback:
            self._of_requests_bytes -= size
        self._owners[owner] -= size
        if not self._owners[owner]:
            del self._owners[owner]


class Limits(msgspec.Struct, frozen=True):
    """What bounds a body: its size, its time, and the memory that it shares with the others of its owner."""

    max_bytes: int
    deadline_s: float
    memory: BodyMemory
    owner: Owner

    @property
    def bound(self) -> Bound:
        """Return which limit `max_bytes` is."""
        return Bound.CALLBACK_BODY_MAX_BYTES if self.owner.is_callback else Bound.REQUEST_BODY_MAX_BYTES


async def read(receive: Receive, limits: Limits) -> bytes:
    """Return the body.

    Capped, BodyTooSlow or BodyCut when there is none that is whole and small enough in time, OwnerFull or MemoryFull
    when there is no memory for it.
    """
    body = bytearray()
    taken = 0
    try:
        async with asyncio.timeout(limits.deadline_s):
            while True:
                part = await receive()
                if part["type"] != "http.request":
                    raise BodyCut
                piece = part.get("body", b"")
                if len(body) + len(piece) > limits.max_bytes:
                    start = bytes((body + piece)[: limits.max_bytes])
                    raise Capped(limits.max_bytes, start, limits.bound)
                if not part.get("more_body"):
                    return bytes(body + piece)
                limits.memory.take(limits.owner, len(piece))
                taken += len(piece)
                body += piece
    except TimeoutError:
        late = f"the body did not arrive within {limits.deadline_s:g} s"
        raise BodyTooSlow(late, bound=Bound.BODY_DEADLINE_S) from None
    finally:
        limits.memory.release(limits.owner, taken)


def parse(raw: bytes) -> object:
    """The JSON of a client's request; BadBody for what two readers could read differently.

    InvalidInput names each text that holds U+0000.
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
