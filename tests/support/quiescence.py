"""When everything in a test's event loop waits: relay's loops, its writer and threads, the stand-ins and their sockets.

A held clock makes time a matter of the test, so "nothing more came" can be proved: nothing in this process can go on
unless the test does something. Three facts say so together, and none of them is a guess about how long something takes:

- the loop is about to block: no callback is ready, no socket has anything to read, no timer is due (`WatchedLoop`);
- no task waits for the database or for a thread: the chain of coroutines that it awaits shows where it stands, so a
  PostgreSQL that is slow to answer is waited for, however long it takes;
- no timer in real time is under way in relay (a writer's pause, say).

What waits for a stand-in that keeps silent, for another process, or for the held clock, is left alone.
"""

import asyncio
import gc
import inspect
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

WITHIN_S: Final = 30.0
"""What is still at work then is stuck, or never waits: the test fails and names it."""
PAUSE_S: Final = 0.001
NETWORK_PAUSE_S: Final = 0.01
"""How long no socket may become readable while an exchange is under way: on loopback the kernel hands bytes over as
they are sent, unless the machine is so busy that its own thread for this has to wait for a processor."""
TURNS: Final = 5
"""Of the loop, in which what a timer has woken comes to its next wait, if that needs no socket and no thread."""
WRITES: Final = ("relay.deliveries.attempt_writer", "write_attempt")
"""What stands here waits for a commit, which may wait for another to go along with."""
WAITS_FOR_OTHERS: Final = frozenset({"listen", "taken"})
"""What waits for another process in the storage, for as long as relay runs: it is idle."""
PAUSES: Final = frozenset({"sleep", "to_thread", "getaddrinfo"})
THREADS: Final = "in_thread"
"""What waits for a thread of the archive's."""
EXCHANGES: Final = ("httpx", "httpcore", "relay.outbound.")
ASYNCPG_LEAVES: Final = "unexpected connection_lost() call"
_AWAITS: Final = {"cr": "cr_await", "ag": "ag_await", "gi": "gi_yieldfrom"}


class _WatchedSelector(selectors.DefaultSelector):
    """Says so when the loop is about to block."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[asyncio.Future[None], float]] = []
        self.time_is_held = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; the loop gives a timeout of 0 while it has callbacks to run."""
        if not self.waiting or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        idle, pause_s = self.waiting[0]
        due = timeout is not None and timeout <= pause_s and not self.time_is_held
        ready = super().select(timeout if due else pause_s)
        if not (ready or due or idle.done()):
            idle.set_result(None)
        return ready


class WatchedLoop(asyncio.SelectorEventLoop):
    """Python's own event loop, which also knows when it has nothing to do."""

    def __init__(self) -> None:
        self._watched = _WatchedSelector()
        self._held_at_s = self._ahead_s = 0.0
        super().__init__(self._watched)

    def time(self) -> float:
        """Return the time of the loop's timers: seconds of real time, unless it is held."""
        return self._held_at_s or super().time() + self._ahead_s

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report what nobody handled, but not what asyncpg leaves when PostgreSQL goes away as it asks for TLS.

        Where that connect has just timed out, nobody reads the future; a test fails of all that is reported here.
        """
        if str(context.get("exception")) != ASYNCPG_LEAVES:
            super().call_exception_handler(context)

    @contextmanager
    def time_held(self) -> Iterator[Callable[[float], None]]:
        """Stop the timers of asyncio; what is yielded lets so many seconds of their time pass."""

        def advance(seconds: float) -> None:
            self._held_at_s += seconds

        self._held_at_s, self._watched.time_is_held = self.time(), True
        try:
            yield advance
        finally:
            self._ahead_s = self._held_at_s - super().time()
            self._held_at_s, self._watched.time_is_held = 0.0, False

    async def skip(self, seconds: float) -> None:
        """Let the loop's timers that are due within these seconds be due now, and give what they wake some turns."""
        if self._held_at_s:
            self._held_at_s += seconds
        else:
            self._ahead_s += seconds
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def idle(self, pause_s: float) -> None:
        """Return when nothing was ready, and nothing came from outside, for this long."""
        waiting = self.create_future(), pause_s
        self._watched.waiting.append(waiting)
        try:
            await waiting[0]
        finally:
            self._watched.waiting.remove(waiting)


def watched_loop() -> WatchedLoop:
    """Return the loop that the test runs in."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, WatchedLoop), "the event loop is not the one of tests/conftest.py"
    return loop


async def quiet(within_s: float = WITHIN_S) -> None:
    """Return when nothing can go on by itself; TimeoutError names the tasks that are still at work."""
    loop = watched_loop()
    try:
        async with asyncio.timeout(within_s):
            pause_s = PAUSE_S
            while True:
                await loop.idle(pause_s)
                chains = [list(_chain(task.get_coro())) for task in asyncio.all_tasks() - {asyncio.current_task()}]
                if not any(map(_at_work, chains)):
                    longer_s = NETWORK_PAUSE_S if any(map(_exchanges, chains)) else PAUSE_S
                    if longer_s <= pause_s:
                        return
                    pause_s = longer_s
    except TimeoutError:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        busy = [str(task) for task in tasks if _at_work(list(_chain(task.get_coro())))]
        raise TimeoutError(f"still at work after {within_s} s: {busy or 'a loop that never waits'}") from None


def _chain(awaited: Any) -> Iterator[tuple[str, str]]:
    """Yield module and function of each coroutine or generator that a task stands in, the outermost first."""
    while awaited is not None:
        kind = next((kind for kind in _AWAITS if hasattr(awaited, f"{kind}_frame")), None)
        if kind is None:  # the step of an asynchronous generator, say: what it steps is all that it refers to
            awaited = next((each for each in gc.get_referents(awaited) if inspect.isasyncgen(each)), None)
            continue
        if (frame := getattr(awaited, f"{kind}_frame")) is not None:
            yield frame.f_globals.get("__name__", ""), frame.f_code.co_name
        awaited = getattr(awaited, _AWAITS[kind])


def _at_work(chain: list[tuple[str, str]]) -> bool:
    """Whether a task with this chain goes on by itself, sooner or later."""
    relays = [function for module, function in chain if module.startswith("relay.") and ".sandbox" not in module]
    if any(module == "relay.clock" for module, _ in chain):
        return False
    stored = [function for module, function in chain if module.startswith("relay.storage.")]
    if stored:
        return not WAITS_FOR_OTHERS.intersection(stored)
    if THREADS in relays or chain[-1:] == [WRITES]:
        return True
    return bool(relays) and chain[-1][0].startswith("asyncio") and chain[-1][1] in PAUSES


def _exchanges(chain: list[tuple[str, str]]) -> bool:
    """Whether a task with this chain has a request under way."""
    return any(module.startswith(EXCHANGES) for module, _ in chain)
