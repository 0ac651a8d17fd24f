"""Ports for programs of their own."""

import os
import secrets
import socket
from contextlib import suppress
from typing import Final

FIRST: Final = 20_000
NUMBER: Final = 12_000
"""They are below those that the system gives away, so until the program binds one, no connection gets it."""
_given: set[int] = set()


def free_port() -> int:
    """Return a free port of 127.0.0.1, for a program that binds it later.

    It is given once, and each process of a run in parallel has ports of its own: what one is about to bind, or binds
    again after a restart, no other takes.
    """
    ports = share(os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    if len(_given) > len(ports) // 2:
        _given.clear()
    while True:
        port = secrets.choice(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def share(worker: str, workers: int) -> range:
    """Return the ports of one of so many workers, which are called gw0, gw1 and so on; of all where there is none."""
    if not worker:
        return range(FIRST, FIRST + NUMBER)
    each = NUMBER // workers
    first = FIRST + int(worker.removeprefix("gw")) * each
    return range(first, first + each)
