"""An Idempotency-Key is tied to the work that was done for it, by the transaction that does the work.

So there is no moment at which the work is committed and its key does not know: a process that is killed or suspended in
between, the same request is not run again. And a request whose key another one acquired meanwhile does nothing: its
work is undone with the tie that it did not get.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from relay.errors import ReservationLost
from relay.storage.engine.database import Transaction


class Tied(msgspec.Struct, frozen=True):
    """What is kept with a key: the answer, sealed, and the job that it shows, if it is to be shown as it stands."""

    answer: bytes
    job_id: str | None = None


class Tie(msgspec.Struct, frozen=True, kw_only=True):
    """The reservation of a key that some work is done for; `reserved_at` tells it from a later one of the same key.

    `of` makes of the work's result what is kept, None where nothing was done. It is called in the transaction, so it
    awaits and asks nothing.
    """

    project_id: str
    key: str
    reserved_at: int
    of: Callable[[Any], Tied | None]


class Done(msgspec.Struct, frozen=True):
    """Some work that a key is to be tied to, by its result."""

    tie: Tie
    result: Any


async def tie(transaction: Transaction, done: Sequence[Done]) -> None:
    """Tie each key to what was done for it; ReservationLost where a later request has it.

    In the order of the keys, so that two processes do not lock rows in opposite ones.
    """
    for work in sorted(done, key=lambda one: (one.tie.project_id, one.tie.key)):
        tied = work.tie.of(work.result)
        if tied is None:
            continue
        params = {
            "project_id": work.tie.project_id,
            "key": work.tie.key,
            "reserved_at": work.tie.reserved_at,
            "job_id": tied.job_id,
            "answer": tied.answer,
        }
        if not await transaction.rows("tie_idempotency_key", params):
            raise ReservationLost("another request has acquired this Idempotency-Key: try again")
