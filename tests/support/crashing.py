"""`python -m tests.support.crashing POINT`: relay, which kills (or suspends) itself at one point between two steps.

It is the product as it is, but that one step is followed (or preceded) by a real kill of the process: no handler runs,
no buffer is flushed, nothing is closed.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from relay.archive import folder
from relay.archive.copier import Copier
from relay.cli import main
from relay.clock import SystemClock
from relay.outbound import object_store
from relay.outbound.file_upload import FileClient
from relay.outbound.provider_client import ProviderClient
from relay.outbound.webhook_sender import WebhookSender
from relay.storage.api_keys import Access
from relay.storage.copies import Copies
from relay.storage.deliveries import Deliveries
from relay.storage.engine.exchanges import PostgreSQLTransaction
from relay.storage.engine.sqlite import SQLiteTransaction
from relay.storage.jobs import Jobs


def die() -> None:
    """End this process immediately."""
    os.kill(os.getpid(), signal.SIGKILL)


def _around(owner: Any, name: str, *, before: bool, when: Callable[..., bool] = lambda *_: True) -> None:
    """Put the kill before or after a step, where `when` holds for its arguments."""
    step = getattr(owner, name)

    async def stepped(*arguments: Any) -> Any:
        fatal = when(*arguments)
        if before and fatal:
            die()
        result = await step(*arguments)
        if fatal:
            die()
        return result

    setattr(owner, name, stepped)


def _around_commit(owner: Any, name: str, *, before: bool, when: Callable[..., bool] = lambda *_: True) -> None:
    """Kill around a step that returns a future: before anything is written, or after the commit."""
    step = getattr(owner, name)

    def stepped(*arguments: Any, **named: Any) -> Any:
        fatal = when(*arguments)
        if before and fatal:
            die()
        written = step(*arguments, **named)
        if fatal:
            written.add_done_callback(lambda _: die())
        return written

    setattr(owner, name, stepped)


def _is_callback(_: Jobs, update: Any, *__: Any) -> bool:
    return update.received is not None


def _around_callback(*, before: bool) -> None:
    """Kill before a callback is written, or after its commit, whichever way it comes."""
    _around(Jobs, "record", before=before, when=_is_callback)
    record = Jobs.record_nowait

    def stepped(jobs: Jobs, update: Any, done: Any, caller: object) -> None:
        if before:
            die()
        record(jobs, update, lambda _: die(), caller)

    Jobs.record_nowait = stepped  # type: ignore[method-assign, assignment]


def _is_copy(_: Jobs, update: Any, *__: Any) -> bool:
    return update.copy is not None


def _around_part_of_a_copy() -> None:
    """Kill once the first bytes of a copy are in its file."""
    write = folder._File.write

    def half(file: folder._File, pieces: list[bytes]) -> None:
        data = b"".join(pieces)
        write(file, [data[: len(data) // 2]])
        die()

    folder._File.finish = half  # type: ignore[method-assign, assignment]


PIECES = 3
"""So many pieces of a streamed copy are passed on before the kill."""


def _around_pieces(name: str) -> None:
    """Kill while a larger copy is streamed, once some of it has been passed on."""
    pieces = getattr(object_store, name)

    async def cut(*arguments: Any) -> AsyncIterator[bytes]:
        passed = 0
        async for piece in pieces(*arguments):
            yield piece
            passed += 1
            if passed == PIECES:
                die()

    setattr(object_store, name, cut)


def _is_submission(_: Jobs, update: Any, *__: Any) -> bool:
    return update.call is not None


def _is_check(_: ProviderClient, __: str, ___: str, request: Any, *____: Any) -> bool:
    return bool(request.method == "GET")


def _is_of_pruning(_: Any, name: str, __: Any) -> bool:
    return name == "prune_calls_of_jobs"


def _in_pruning() -> None:
    for transaction in (SQLiteTransaction, PostgreSQLTransaction):
        _around(transaction, "rows", before=False, when=_is_of_pruning)


SUSPENDED_MS = 65_000
"""How long a suspended process has stood still, by its clock."""


def _ahead() -> None:
    """Put the clock forward, as it is for a process that goes on after it stood still."""
    now_ms = SystemClock.now_ms
    SystemClock.now_ms = lambda clock: now_ms(clock) + SUSPENDED_MS  # type: ignore[method-assign, assignment]


def _suspended_before_its_job() -> None:
    """Stop the process before the first job is committed; it goes on when it is told to, and its database is slow."""
    create, stopped = Jobs.create, False

    async def suspended(jobs: Jobs, new: Any) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)
            _ahead()
            await asyncio.sleep(2)  # the slow database itself, in a process of its own
        await create(jobs, new)

    Jobs.create = suspended  # type: ignore[method-assign, assignment]


POINTS: dict[str, Callable[[], None]] = {
    "job_committed": lambda: _around(Jobs, "create", before=False),
    "submission_started": lambda: _around(Jobs, "start_submission", before=False),
    "provider_accepted": lambda: _around(ProviderClient, "send", before=False),
    "check_claimed": lambda: _around(ProviderClient, "send", before=True, when=_is_check),
    "submission_recorded": lambda: _around(Jobs, "record", before=False, when=_is_submission),
    "callback_arrived": lambda: _around_callback(before=True),
    "callback_committed": lambda: _around_callback(before=False),
    "delivery_claimed": lambda: _around(WebhookSender, "post", before=True),
    "notification_sent": lambda: _around(WebhookSender, "post", before=False),
    "attempt_committed": lambda: _around_commit(Deliveries, "write_attempt", before=False),
    "copy_claimed": lambda: _around(Copier, "copy", before=True),
    "copy_named": lambda: _around(Copies, "name", before=False),
    "copy_half_written": _around_part_of_a_copy,
    "copy_half_sent": lambda: _around_pieces("_joined"),
    "copy_half_spooled": lambda: _around_pieces("_read_spool"),
    "copy_sent": lambda: _around(FileClient, "send", before=False),
    "copy_written": lambda: _around(Copier, "copy", before=False),
    "copy_ended": lambda: _around(Jobs, "record", before=False, when=_is_copy),
    "job_half_pruned": _in_pruning,
    "job_suspended": _suspended_before_its_job,
    "minute_ahead": _ahead,
    "work_committed": lambda: _around(Access, "answer", before=True),
}

if __name__ == "__main__":
    POINTS[sys.argv[1]]()
    sys.argv[1] = "serve"
    main()
