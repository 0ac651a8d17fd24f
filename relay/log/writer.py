"""How log lines reach standard output: a bounded queue and a thread of its own.

A pipe whose reader is gone, a full disk and a reader that stands still make a write fail or block. None of them may
decide whether a callback is stored, so the code that logs only puts a line into the queue. This module does not format
lines; `log/__init__.py` does.
"""

import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Final

BATCH_BYTES: Final = 65_536
"""The most that is written with one call: what a pipe of usual size holds."""
GATHER_S: Final = 0.005
"""The pause after each write. Lines that come meanwhile share the next write and wake no thread."""
RETRY_S: Final = 0.5
"""The pause after a write that failed."""


class LogWriter:
    """Writes lines to a file descriptor, in their order, from a thread that nothing waits for.

    Lines that find the queue full are dropped and counted. A line that could not be written stays and is tried again.
    """

    def __init__(self, fd: int, queue_max: int, notice: Callable[[int], bytes]) -> None:
        """`notice` makes the line that says how many lines were dropped."""
        self._fd = fd
        self._queue_max = queue_max
        self._notice = notice
        # Reentrant, unlike a lock: the garbage collector may log in the middle of a `put`.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._reported = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line that ends with a line feed; never blocks and never raises."""
        if self._queue.qsize() >= self._queue_max:
            self.dropped += 1
        else:
            self._queue.put(line)

    def close(self, within_s: float) -> None:
        """Write what is queued, for `within_s` seconds at most; what cannot be written by then is lost."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(within_s)

    def _run(self) -> None:
        """Write batch after batch until `close`."""
        ended = False
        while not ended:
            batch, ended = self._next_batch()
            while batch := self._write(batch):
                if self._closing.wait(RETRY_S):
                    return
            if not self._closing.is_set():
                time.sleep(GATHER_S)

    def _next_batch(self) -> tuple[bytes, bool]:
        """Wait for a line; return it with those that are queued behind it, and whether the end is among them."""
        lines: list[bytes] = []
        size = 0
        line = self._queue.get()
        while line is not None:
            lines.append(line)
            size += len(line)
            if size >= BATCH_BYTES or self._queue.empty():
                break
            line = self._queue.get()
        if lost := self.dropped - self._reported:
            self._reported += lost
            lines.append(self._notice(lost))
        return b"".join(lines), line is None

    def _write(self, text: bytes) -> bytes:
        """Write the text, and return what the descriptor does not take now."""
        while text:
            try:
                text = text[os.write(self._fd, text) :]
            except BlockingIOError:  # another process that shares the pipe may have made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                if not poll.poll(RETRY_S * 1000):
                    return text
            except OSError:
                return text
        return text
