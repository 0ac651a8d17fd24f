"""Signals of a process that serves: the first begins the stop, and none can cut it off before its time is over.

Platforms send SIGTERM, some of them twice, and then SIGKILL. A second Ctrl-C leaves out what takes time.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from relay import log
from relay.shutdown import Stop

GRACE_S: Final = 0.8
"""After the time of a stop a process that hangs (in a thread that waits for its disk, say) is ended so much later."""
FLUSH_S: Final = 0.1
CUT_SHORT: Final = 75
_logger = log.get("stop")


class Starting:
    """Whether the process is still starting: a signal ends that at once, since nothing is under way."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()

    def over(self) -> None:
        """From here on a signal begins an orderly stop."""
        self._task = None

    def abandon(self) -> None:
        """End a start that is not over."""
        if self._task is not None:
            self._task.cancel()


@contextmanager
def signals(stop: Stop, within_s: float) -> Iterator[Starting]:
    """Begin the stop at SIGTERM and SIGINT, for as long as the block lasts.

    The process is over `within_s` and GRACE_S after the first signal, whatever hangs: what was under way is then found
    again by its lease, as after a crash.
    """
    loop, starting = asyncio.get_running_loop(), Starting()

    def told(name: signal.Signals) -> None:
        if not stop.draining.is_set():
            _logger.info("relay.stopping", signal=name.name, within_s=within_s)
            stop.begin()
            watchdog = threading.Timer(within_s + GRACE_S, _cut_short)
            watchdog.daemon = True
            watchdog.start()
            starting.abandon()
        elif name is signal.SIGINT:
            stop.hurry()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, told, name)
    try:
        yield starting
    except asyncio.CancelledError:
        if not stop.draining.is_set():
            raise
        starting.over()


def _cut_short() -> None:
    """End the process without waiting for anything."""
    _logger.error("relay.stop_cut_short", advice="something did not end in time; its leases end by themselves")
    log.flush(FLUSH_S)
    os._exit(CUT_SHORT)
