"""`relay serve` where names under `.hangs.test` are never resolved, as if their name server were silent.

Only root can give one process another name server, so the blocking lookup itself is replaced here.
"""

import sys
import threading
from collections.abc import Sequence

from relay.cli import main
from relay.outbound import resolver

_system_lookup = resolver.system_lookup


def _lookup(host: str) -> Sequence[resolver.Address]:
    """Never return for a name under `.hangs.test`."""
    if host.endswith(".hangs.test"):
        threading.Event().wait()
    return _system_lookup(host)


if __name__ == "__main__":
    resolver.system_lookup = _lookup  # type: ignore[assignment]
    sys.argv = ["relay", "serve"]
    main()
