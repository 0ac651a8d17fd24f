"""Writes log lines to standard output from a bounded queue, in its own thread.

A write fails or blocks if the pipe's reader is gone or stalled, or the disk is full. That must not decide whether a
callback is stored, so the code that logs only queues a line. Lines are formatted in `log/__init__.py`.
"""

import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Final

BATCH_BYTES: Final = 65_536
"""Limit of one write: the usual size of a pipe."""
GATHER_S: Final = 0.005
"""The pause after each write. Lines queued meanwhile share the next write and wake no thread."""
RETRY_S: Final = 0.5
"""The pause after a failed write."""


class LogWriter:
    """Writes lines to a file descriptor, in their order, from a thread.

    Lines beyond `queue_max` are dropped and counted; `dropped_line` makes the line that reports how many. A line that
    could not be written stays queued and is tried again.
    """

    def __init__(self, fd: int, queue_max: int, dropped_line: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._queue_max = queue_max
        self._dropped_line = dropped_line
        # Reentrant, unlike a lock: the garbage collector may log in the middle of a `put`.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._reported = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line that ends with a line feed; never block and never raise."""
        if self._queue.qsize() >= self._queue_max:
            self.dropped += 1
        else:
            self._queue.put(line)

    def close(self, within_s: float) -> None:
        """Write the queued lines, for at most `within_s` seconds; the lines left then are lost."""
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
        """Wait for a line; return it with those queued behind it, and True if `close` was called."""
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
            lines.append(self._dropped_line(lost))
        return b"".join(lines), line is None

    def _write(self, text: bytes) -> bytes:
        """Write the text; return the rest that the descriptor does not accept now."""
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
