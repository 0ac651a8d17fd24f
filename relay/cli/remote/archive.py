"""`relay archive`: which results are in the operator's bucket, and copies of those that are not."""

import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from relay.cli.remote.connection import Json, Refused, progress
from relay.cli.remote.options import made_between
from relay.cli.remote.output import Columns, Session, remote


def _count(state: str, shown: Json) -> str:
    """Return how many copies have a state."""
    counted = shown["copies"][state]
    return f"{counted['number']} ({counted['bytes']} bytes)"


SHOWN: Final[Columns] = {
    "mode": "mode",
    "bucket": "bucket",
    "pending": partial(_count, "pending"),
    "archived": partial(_count, "archived"),
    "failed": partial(_count, "failed"),
    "deleted": partial(_count, "deleted"),
}
COPIES: Final[Columns] = {
    "NO": "number", "KIND": "kind", "STATE": "state", "BYTES": "bytes", "KEY": "key", "TRIES": "tries",
    "ERROR": "error", "NEXT TRY": "next_try_at", "WHY": "error_detail",
}  # fmt: skip
PAUSE_S: Final = 1.0
"""Between two looks at what is pending."""


@click.group("archive")
def command() -> None:
    """Show the archive, and copy results into it."""


@command.command("show")
@remote
def show(session: Session) -> None:
    """Show which results of the project are copied, and how many are."""
    session.item(session.remote.get("/v1/archive"), SHOWN)


@command.command("get")
@click.argument("job")
@click.argument("number", type=click.IntRange(0, 999), default=0)
@click.option("--to", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@remote
def get(session: Session, job: str, number: int, to: Path) -> None:
    """Download a result of a job: its copy, or while there is none the provider's; results are counted from 0."""
    size = session.remote.download(f"/v1/jobs/{job}/outputs/{number}", to)
    session.item({"file": str(to), "bytes": size})


@command.command("copies")
@click.argument("job")
@remote
def copies(session: Session, job: str) -> None:
    """List the copies of a job's results: where each is, or why it is not there and when it is tried again."""
    session.items(session.remote.get(f"/v1/jobs/{job}/copies")["data"], COPIES)


@command.command("copy")
@click.argument("job")
@remote
def copy(session: Session, job: str) -> None:
    """Copy results of a job again: those without a copy and those whose copy failed; and try pending ones now.

    For many jobs there is `relay jobs bulk copy --copies failed`.
    """
    session.items(session.remote.post(f"/v1/jobs/{job}/copies")["data"], COPIES)


@command.command("backfill")
@click.option("--provider")
@made_between
@click.option("--failed", is_flag=True, help="Also results whose copy failed.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--no-wait", is_flag=True, help="Order the copies, and do not wait until they are made.")
@remote
def backfill(session: Session, dry_run: bool, no_wait: bool, **given: Any) -> None:
    """Copy the results of succeeded jobs that have no copy; exit 1 if a copy failed.

    A result that has expired is asked for at its provider, which may sign a fresh URL. It may be repeated: no result is
    copied twice.
    """
    wanted: Json = {name: value for name, value in given.items() if value is not None} | {"dry_run": dry_run}
    failed_before = session.remote.get("/v1/archive")["copies"]["failed"]["number"]
    examined, ordered = _ordered(session, wanted)
    counts = {"examined": examined, "ordered": ordered}
    if dry_run or no_wait or not ordered:
        session.item(counts)
        return
    with progress("copying", ordered) as bar:
        left = ordered
        while left:
            time.sleep(PAUSE_S)
            pending = min(left, session.remote.get("/v1/archive")["copies"]["pending"]["number"])
            bar.update(left - pending)
            left = pending
    failed = max(0, session.remote.get("/v1/archive")["copies"]["failed"]["number"] - failed_before)
    session.item(counts | {"failed": failed})
    if failed:
        raise Refused(f"{failed} copies failed; their jobs say why", 1)


def _ordered(session: Session, wanted: Json) -> tuple[int, int]:
    """Order copies part by part; return how many jobs were examined, and how many results are to be copied."""
    examined = ordered = 0
    while True:
        answer = session.remote.post("/v1/archive/backfills", wanted)
        examined, ordered = examined + answer["examined"], ordered + answer["ordered"]
        if answer["next_cursor"] is None:
            return examined, ordered
        wanted = wanted | {"cursor": answer["next_cursor"]}
