"""`python -m tests.chaos.steered CONTROL serve`: relay as it is, but for the machine's clock and its look-ups of names.

Names that end in `.chaos.test` are this machine's. The harness steers both through the file CONTROL (control.py).
"""

import ctypes
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.chaos.control import Control

PR_SET_PDEATHSIG: Final = 1
DOMAIN: Final = ".chaos.test"


def steer(control: Control) -> None:
    """Put the clock and the look-ups of this process under the control."""
    real_ns: Callable[[], int] = time.time_ns
    real_lookup: Callable[..., Any] = socket.getaddrinfo

    def time_ns() -> int:
        return real_ns() + control["ahead_ms"] * 1_000_000

    def lookup(host: Any, *arguments: Any, **named: Any) -> Any:
        if not (isinstance(host, str) and host.endswith(DOMAIN)):
            return real_lookup(host, *arguments, **named)
        if control["names_ms"]:
            control["names_met"] += 1
            time.sleep(control["names_ms"] / 1000)
        if control["names_fail"]:
            control["names_met"] += 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real_lookup("127.0.0.1", *arguments, **named)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    socket.getaddrinfo = lookup


def end_with_parent() -> None:
    """Have the kernel kill this process when the harness ends, however that ends (Linux alone has such a call)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    steer(Control(Path(sys.argv[1])))
    del sys.argv[1]
    from relay.cli import main

    main()
