"""Ports for programs of their own."""

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a free port of 127.0.0.1, for a program that binds it later.

    It is below those that the system gives away, so until the program binds it, no server and no connection gets it.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
