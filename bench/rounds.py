"""Interleaved rounds: each thing that is measured has its turn in every round, and the medians count."""

import statistics
import sys
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import click

Key = TypeVar("Key", bound=Hashable)
Run = TypeVar("Run")


async def interleaved(
    rounds: int, measured: Iterable[Key], run: Callable[[Key], Awaitable[Run]]
) -> dict[Key, list[Run]]:
    """Return the runs of each, made in turn."""
    found: dict[Key, list[Run]] = {each: [] for each in measured}
    for number in range(rounds):
        for each, runs in found.items():
            if sys.stderr.isatty():
                click.echo(f"\rround {number + 1} of {rounds}: {each}  ", nl=False, err=True)
            runs.append(await run(each))
    return found


def middle(runs: Sequence[Any], field: str) -> float:
    """Return the median of a field."""
    return float(statistics.median(getattr(run, field) for run in runs))


def medians(runs: Sequence[Any]) -> dict[str, float]:
    """Return the median of every field."""
    return {name: middle(runs, name) for name in runs[0].__struct_fields__}


def ratio(over: Sequence[Any], under: Sequence[Any], field: str) -> float:
    """Return the median over the rounds of one run's field by the other's of the same round."""
    return float(
        statistics.median(getattr(one, field) / getattr(other, field) for one, other in zip(over, under, strict=True))
    )
