"""Begin the shutdown of a serving process at SIGTERM, SIGINT or an error, and end a process that hangs.

Platforms send SIGTERM, some of them twice, and later SIGKILL; so a second SIGTERM changes nothing. A second Ctrl-C sets
the remaining time to zero.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from relay import log
from relay.cli import report
from relay.errors import RelayError
from relay.shutdown import Stop

GRACE_S: Final = 0.8
"""How long after the shutdown's time limit a process that hangs, for example in a thread on its disk, is ended."""
FAILED_S: Final = 3.0
"""How long a process that has failed may take to close what it opened."""
FLUSH_S: Final = 0.1
EXIT_HUNG: Final = 75
_logger = log.get("stop")


class Starting:
    """The start of a process: a signal ends it immediately, since no work has begun."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()

    def over(self) -> None:
        """End the start: from now on a signal begins an orderly shutdown."""
        self._task = None

    def abandon(self) -> None:
        """Cancel the start, unless it is over."""
        if self._task is not None:
            self._task.cancel()


@contextmanager
def signals(stop: Stop, within_s: float) -> Iterator[Starting]:
    """Handle SIGTERM and SIGINT while the block runs: begin the shutdown, whose time limit is `within_s`.

    The process ends `within_s` and GRACE_S after the first signal even if something hangs. Unfinished work is then
    claimed again by the next start, as after a crash. After a RelayError it ends in FAILED_S, whatever hangs.
    """
    loop, starting = asyncio.get_running_loop(), Starting()

    def on_signal(name: signal.Signals) -> None:
        if not stop.draining.is_set():
            _logger.info("relay.stopping", signal=name.name, within_s=within_s)
            stop.begin()
            _end_after(within_s + GRACE_S, _end_hung)
            starting.abandon()
        elif name is signal.SIGINT:
            stop.end_now()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, on_signal, name)
    try:
        yield starting
    except asyncio.CancelledError:
        if not stop.draining.is_set():
            raise
        starting.over()
    except RelayError as error:
        _end_after(FAILED_S, partial(_end_failed, error))
        raise
    finally:
        if stop.draining.is_set():
            _ignore_signals()


def _ignore_signals() -> None:
    """Ignore what comes after the shutdown: the interpreter gives handled signals back their default when it ends.

    The loop's handler is not removed before, since the default would be in force for a moment. uvloop leaves what it
    finds here when it closes.
    """
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)


def _end_after(seconds: float, end: Callable[[], None]) -> None:
    """Call `end` in a thread that does not keep the process alive."""
    watchdog = threading.Timer(seconds, end)
    watchdog.daemon = True
    watchdog.start()


def _end_hung() -> None:
    """End the process immediately."""
    _logger.error("relay.stop_cut_short", advice="something did not end in time; its leases end by themselves")
    log.flush(FLUSH_S)
    os._exit(EXIT_HUNG)


def _end_failed(error: RelayError) -> None:
    """End a process that could not close what it opened, as it would have ended by itself."""
    status = report(error)
    log.flush(FLUSH_S)
    os._exit(status)
