"""Runs one target under atheris, which is guided by coverage: `NAME SEED SECONDS TRIES`; prints its outcome as JSON.

The package instruments what is imported under it, so this is a process of its own.
"""

import importlib
import os
import sys
import time
from typing import Any

import msgspec

from tests.fuzz.run import Broken, Outcome


def main(name: str, seed: str, seconds: str, tries: str) -> None:
    """Fuzz until the time or the number of inputs is reached, or a rule is broken."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["relay"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    target, outcome, ends_at = targets[name], Outcome(), time.monotonic() + float(seconds)

    def end() -> None:
        """Print the outcome and leave, since the engine never returns."""
        sys.stdout.write("\n" + msgspec.json.encode(outcome).decode() + "\n")
        sys.stdout.flush()
        os._exit(0)

    def one(data: bytes) -> None:
        """Check one input."""
        outcome.tried += 1
        try:
            said = target.check(data)
        except Exception as error:  # noqa: BLE001 - every error is a finding
            outcome.broken[type(error).__name__] = Broken(data, f"{type(error).__name__}: {error}"[:500])
            end()
        else:
            outcome.outcomes[said] = outcome.outcomes.get(said, 0) + 1
        if outcome.tried >= int(tries) or (outcome.tried % 200 == 0 and time.monotonic() > ends_at):
            end()

    for data in target.corpus():
        one(data)
    atheris.Setup([sys.argv[0], f"-seed={seed}", "-max_len=20000", "-verbosity=0"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
