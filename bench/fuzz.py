"""Feeds mutated inputs to what reads foreign bytes (`tests/fuzz`), for as long as asked, and prints what broke.

relay's own engine changes recorded inputs; `--engine atheris` is guided by coverage, where that package is installed.
An input that breaks a rule is written to `--found`; with its mend it goes into `tests/fuzz/corpus`.
"""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from tests.fuzz.run import Outcome, run
from tests.fuzz.targets import TARGETS

NEVER: Final = 1 << 60


@click.command("fuzz")
@click.argument("names", nargs=-1)
@click.option("--seconds", default=10.0, show_default=True, help="Time for each target.")
@click.option("--tries", default=NEVER, help="Inputs for each target, at most.")
@click.option("--seed", default=1, show_default=True, help="Another seed tries other inputs.")
@click.option("--engine", type=click.Choice(["own", "atheris"]), default="own", show_default=True)
@click.option("--found", type=click.Path(path_type=Path), default=Path("fuzz-found"), show_default=True)
def command(names: tuple[str, ...], seconds: float, tries: int, seed: int, engine: str, found: Path) -> None:
    """Fuzz the targets of these names (or of names that begin so), or all of them."""
    chosen = [name for name in TARGETS if not names or any(name.startswith(one) for one in names)]
    tried, broken, began = 0, 0, time.monotonic()
    for name in chosen:
        since = time.monotonic()
        outcome = (
            run(TARGETS[name], seed, seconds, tries) if engine == "own" else _with_atheris(name, seed, seconds, tries)
        )
        tried, broken = tried + outcome.tried, broken + len(outcome.broken)
        pace = outcome.tried / max(0.001, time.monotonic() - since)
        common = sorted(outcome.outcomes.items(), key=lambda one: -one[1])[:4]
        said = ", ".join(f"{text} {number:,}" for text, number in common)
        print(
            f"{name:24} {outcome.tried:>10,} tried  {pace:>8,.0f}/s  {len(outcome.broken)} broken  {said}", flush=True
        )
        for place, one in outcome.broken.items():
            path = found / name / hashlib.sha256(one.data).hexdigest()[:12]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.data)
            print(f"  {place}: {one.error}\n  {path}", flush=True)
    result = {"bench": "fuzz", "engine": engine, "seed": seed, "targets": len(chosen), "tried": tried, "broken": broken}
    print(json.dumps(result | {"seconds": round(time.monotonic() - began)}))
    sys.exit(1 if broken else 0)


def _with_atheris(name: str, seed: int, seconds: float, tries: int) -> Outcome:
    """Return what atheris found in a process of its own, since it never returns; it stops at the first broken rule."""
    program = [
        sys.executable,
        "-m",
        "tests.fuzz.by_atheris",
        name,
        str(seed),
        str(round(seconds)),
        str(min(tries, 1 << 31)),
    ]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    *_, last = ended.stdout.strip().split("\n") or [""]
    if not last.startswith("{"):
        raise click.ClickException(ended.stderr[-2000:])
    return msgspec.json.decode(last, type=Outcome)
