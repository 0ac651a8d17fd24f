"""Group commit: writes everything that waits in one transaction a turn; each caller continues after COMMIT.

A commit costs a sync of the disk whatever is in it, so under load many writes share one; a single write starts
immediately. A turn takes what is there, or half of it where two run concurrently. The dispatcher's writes come before
those of requests and callbacks, up to half of a turn, so notifications are sent under any load.

A write that a caller awaits starts as soon as a turn is free. A patient one, that nothing waits for, waits for LINGER_S
at most while writes follow each other closely: the next one is then expected soon, and both share a commit.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Final, TypeVar

import msgspec

from relay.errors import Bound, StorageUnavailable
from relay.storage import idempotency
from relay.storage.engine.database import Database, Transaction
from relay.storage.idempotency import Done, Tie

Item = TypeVar("Item")
Result = TypeVar("Result")
Operation = Callable[[Transaction, Sequence[Item]], Awaitable[Sequence[Result]]]
"""Writes a batch of items of one kind, and gives one result an item, in order.

By a method `apart`, which is given the items, it says whether it may be a part of `Database.transact_apart`; one with
`reads_last` is the last part, which may read after it has written.
"""

BATCH_MAX = 128
TURNS_SHARED = 2
"""Where the database is a server: while it commits one batch, the next is made ready."""
SHARE_MIN = 8
"""Fewer than so many are not parted between turns: a commit costs more than it would gain."""
LINGER_S: Final = 0.02
"""How long a patient item waits for the commit of another item."""
PATIENT_MAX: Final = 16
"""So many patient items are worth a commit of their own, and wait no longer."""


class Waiting(msgspec.Struct, eq=False):
    """One item that waits to be written, and afterwards its `result`, or the `error` because of which it was not.

    `done` is called on the event loop with all items of a batch that have the same `done`; `caller` is for its use.
    `locks` names the row that the item locks before others, if its operation locks one for each item in turn.
    """

    operation: Operation[Any, Any]
    item: Any
    done: Callable[[list["Waiting"]], None]
    caller: Any
    tie: Tie | None = None
    locks: str = ""
    result: Any = None
    error: Exception | None = None


class Writer:
    """The one place that writes. `backlog_max` items may wait; one more is StorageUnavailable.

    `copied` is awaited after each COMMIT, before it is acknowledged; StorageUnavailable then means that the batch is
    committed and may be lost with the disk.
    """

    def __init__(
        self, database: Database, backlog_max: int, copied: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._database = database
        self._copied = copied
        self._backlog_max = backlog_max
        self._backlog: deque[Waiting] = deque()
        self._urgent: deque[Waiting] = deque()
        self._patient: deque[Waiting] = deque()
        self._lingering: asyncio.TimerHandle | None = None
        self._last_at_s = self._last_but_one_at_s = -1.0
        """When the last two items came, by the loop's clock."""
        self._turns: set[asyncio.Task[None]] = set()
        self._turns_max = TURNS_SHARED if database.shared else 1
        self._under_way = 0

    async def write(
        self,
        operation: Operation[Item, Result],
        item: Item,
        *,
        urgent: bool = False,
        tie: Tie | None = None,
        locks: str = "",
    ) -> Result:
        """Write the item with all else that waits; return after COMMIT, raise if it was not written.

        What is urgent is bounded by who writes it, and is never refused for a full backlog. With `tie` the same commit
        ties an Idempotency-Key to the result; ReservationLost where that cannot be, and then nothing was written.
        `locks` is the id of the row that the operation locks for this item: a batch locks such rows in their order.
        """
        written: Result = await self._submit(Waiting(operation, item, _resolve, None, tie, locks), urgent=urgent)
        return written

    def submit(self, operation: Operation[Item, Result], item: Item, *, urgent: bool = False) -> asyncio.Future[Result]:
        """Non-async variant of `write`: the future resolves after COMMIT."""
        return self._submit(Waiting(operation, item, _resolve, None), urgent=urgent)

    def _submit(self, waiting: Waiting, *, urgent: bool) -> asyncio.Future[Any]:
        """Write the item, and resolve the future that is returned."""
        waiting.caller = asyncio.get_running_loop().create_future()
        self.enqueue(waiting, urgent=urgent)
        return waiting.caller  # type: ignore[no-any-return]

    def submit_patient(self, operation: Operation[Item, Result], item: Item) -> asyncio.Future[Result]:
        """Write the item with the next commit, or after LINGER_S; it is never refused for a full backlog."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        waiting = Waiting(operation, item, _resolve, future)
        if loop.time() - self._last_but_one_at_s > 2 * LINGER_S:
            self.enqueue(waiting, urgent=True)
            return future
        self._note_arrival(loop.time())
        self._patient.append(waiting)
        if len(self._patient) >= PATIENT_MAX:
            self._stop_lingering()
        elif self._lingering is None:
            self._lingering = loop.call_later(LINGER_S, self._stop_lingering)
        return future

    def enqueue(self, waiting: Waiting, *, urgent: bool = False) -> None:
        """Write an item with all else that waits, and call its `done` after COMMIT; one call serves a whole batch.

        Raise StorageUnavailable if too many items wait, unless it is urgent.
        """
        if urgent:
            self._urgent.append(waiting)
        elif len(self._backlog) < self._backlog_max:
            self._backlog.append(waiting)
        else:
            raise StorageUnavailable(
                "too many writes are waiting (RELAY_BACKLOG_MAX): the database is slower than the requests",
                bound=Bound.BACKLOG_MAX,
            )
        self._note_arrival(asyncio.get_running_loop().time())
        self._start_turn()

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        while self._turns or self._patient:
            self._stop_lingering()
            await asyncio.wait(self._turns)

    def _note_arrival(self, now_s: float) -> None:
        """Note when an item came: how closely they follow each other says whether another is to be expected."""
        self._last_but_one_at_s, self._last_at_s = self._last_at_s, now_s

    def _start_turn(self) -> None:
        """Start a turn, unless as many go on as may."""
        if len(self._turns) < self._turns_max:
            self._turns.add(asyncio.create_task(self._take_turns(), name="writer", context=Context()))

    def _stop_lingering(self) -> None:
        """Write now what waited for a commit to go along with."""
        self._hurry()
        if self._urgent:
            self._start_turn()

    def _hurry(self) -> None:
        """Make what is patient go with the next batch."""
        self._urgent += self._patient
        self._patient.clear()
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    async def _take_turns(self) -> None:
        """Take turns until nothing waits; a later write starts another task."""
        try:
            for _ in range(2):  # a look at the sockets, and a step of what came: it goes along
                await asyncio.sleep(0)
            while self._backlog or self._urgent:
                batch = self._next_batch()
                self._under_way += len(batch)
                try:
                    await self._write_batch(batch)
                finally:
                    self._under_way -= len(batch)
        finally:
            self._turns = {turn for turn in self._turns if turn is not asyncio.current_task()}

    def _next_batch(self) -> list[Waiting]:
        """Return what the next turn writes: its share of all that is there.

        Senders wait for their answers: if one turn took everything, they would all come again together, and what is
        here would stand still while the server works, and the server while they are read.
        """
        if self._patient:
            self._hurry()
        there = len(self._urgent) + len(self._backlog) + self._under_way
        most = min(BATCH_MAX, max(SHARE_MIN, -(-there // self._turns_max)))
        first = most // 2 if self._backlog else most
        batch = [self._urgent.popleft() for _ in range(min(first, len(self._urgent)))]
        return batch + [self._backlog.popleft() for _ in range(min(most - len(batch), len(self._backlog)))]

    async def _write_batch(self, batch: list[Waiting]) -> None:
        """One transaction for the batch; when an item is bad, one for each, so that it fails alone."""
        try:
            results = await self._transact(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the callers that wait
            if len(batch) > 1 and not isinstance(error, StorageUnavailable):
                for waiting in batch:
                    await self._write_batch([waiting])
                return
            for waiting in batch:
                waiting.error = error
        else:
            for waiting, result in zip(batch, results, strict=True):
                waiting.result = result
        _call_done(batch)

    async def _transact(self, batch: list[Waiting]) -> list[Any]:
        """Run each kind of operation once over its items.

        The kinds always come in the same order, and so do the items of a kind that locks a row for each: two batches do
        not lock rows in opposite orders. Items about the same row stay as they came.
        """
        unordered: dict[Operation[Any, Any], list[int]] = {}
        for index, waiting in enumerate(batch):
            unordered.setdefault(waiting.operation, []).append(index)
        for indexes in unordered.values():
            if batch[indexes[0]].locks:
                indexes.sort(key=lambda index: batch[index].locks)
        kinds = {
            operation: ([batch[index].item for index in indexes], indexes)
            for operation, indexes in sorted(unordered.items(), key=lambda kind: _place(kind[0]))
        }
        tied = any(waiting.tie for waiting in batch)
        few = len(kinds) == 1 or len(batch) <= SHARE_MIN
        apart = few and not tied and all(_is_apart(operation, items) for operation, (items, _) in kinds.items())

        async def write(transaction: Transaction) -> list[Any]:
            results: list[Any] = [None] * len(batch)
            for operation, (items, indexes) in kinds.items():
                if apart:
                    transaction.begin_part()
                written = await operation(transaction, items)
                for index, result in zip(indexes, written, strict=True):
                    results[index] = result
            done = [Done(waiting.tie, result) for waiting, result in zip(batch, results, strict=True) if waiting.tie]
            if done:
                await idempotency.tie(transaction, done)
            return results

        written = await (self._database.transact_apart if apart else self._database.transact)(write)
        if self._copied is not None:
            await self._copied()
        return written


def _call_done(batch: Sequence[Waiting]) -> None:
    """Call each `done` once, with its items, in a step of its own: an error in one concerns no other."""
    by_done: dict[Callable[[list[Waiting]], None], list[Waiting]] = {}
    for waiting in batch:
        by_done.setdefault(waiting.done, []).append(waiting)
    loop = asyncio.get_running_loop()
    for done, items in by_done.items():
        loop.call_soon(done, items)


def _resolve(batch: Sequence[Waiting]) -> None:
    """Resolve the future of each item whose caller still waits."""
    for waiting in batch:
        future: asyncio.Future[Any] = waiting.caller
        if future.done():
            continue
        if waiting.error is None:
            future.set_result(waiting.result)
        else:
            future.set_exception(waiting.error)


def _is_apart(operation: Operation[Any, Any], items: Sequence[Any]) -> bool:
    """Return whether the operation says of itself that it writes these items as `transact_apart` asks."""
    apart: Callable[[Sequence[Any]], bool] | None = getattr(operation, "apart", None)
    return apart is not None and apart(items)


def _place(operation: Operation[Any, Any]) -> tuple[bool, str]:
    """Return what orders the kinds; an object that is called is known by its class."""
    name = getattr(operation, "__qualname__", type(operation).__qualname__)
    return getattr(operation, "reads_last", False), name
