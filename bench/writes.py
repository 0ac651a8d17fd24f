"""What a batch of callbacks costs the database, without HTTP: CPU per callback, and what is written for each.

Each callback ends its job: callback, job, event and one delivery (it waits for an hour) in one transaction, as `ingest`
has them. On PostgreSQL the server's CPU is counted apart, and what is written is its log.
"""

import asyncio
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from bench.databases import Databases, databases, option
from bench.processes import usage
from bench.stock import PROVIDER, SECRET_KEY, Shape, stocked
from relay.clock import SystemClock
from relay.lifecycle import reports
from relay.lifecycle.reports import StatusReport
from relay.model import ids
from relay.model.job import FinishedBy, Verification
from relay.providers.evolink import EvoLink
from relay.security.callback_tokens import CallbackTokens
from relay.security.encryption import Encryption
from relay.storage.apply_updates import JobUpdate, ReceivedCallback
from relay.storage.engine.database_url import is_postgres
from relay.storage.store import Store, StoreOptions

HEADERS = (("content-type", "application/json"), ("user-agent", "provider/1.0"), ("content-length", "1000"))


class Cost(msgspec.Struct, frozen=True):
    """Of one callback: relay's CPU and the server's in microseconds, and kilobytes written."""

    relay_us: float
    server_us: float
    written_kb: float


@click.command("writes")
@click.option("--batch", "batches", default=[1, 8, 43], multiple=True, help="Callbacks of one transaction.")
@click.option("--callbacks", default=4_000, help="Callbacks of each size of batch and round.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(batches: tuple[int, ...], callbacks: int, rounds: int, kind: str) -> None:
    """Print what a callback costs in batches of several sizes."""
    with databases(kind) as made:
        found = asyncio.run(_measured(made, batches, callbacks, rounds))
    click.echo(f"{'batch':>6}{'relay us':>10}{'server us':>11}{'written kB':>12}")
    said = []
    for size, costs in found.items():
        middle = {
            name: round(statistics.median(getattr(one, name) for one in costs), 1) for name in Cost.__struct_fields__
        }
        click.echo(f"{size:6}{middle['relay_us']:10.0f}{middle['server_us']:11.0f}{middle['written_kb']:12.1f}")
        said.append({"batch": size} | middle)
    click.echo(json.dumps({"bench": "writes", "database": kind, "runs": said}))


async def _measured(made: Databases, batches: tuple[int, ...], callbacks: int, rounds: int) -> dict[int, list[Cost]]:
    """Every size of batch, in turn."""
    template = made.fresh()
    most = max(batches)
    stock = await stocked(template, made.folder, callbacks + most, ["http://127.0.0.1:9/"], Shape(first_delay_s=3600))
    updates = [_update(line) for line in stock.callbacks.read_bytes().splitlines()]
    found: dict[int, list[Cost]] = {size: [] for size in batches}
    for _ in range(rounds):
        for size, costs in found.items():
            few = max(size, callbacks if size > 1 else callbacks // 4)
            costs.append(await _run(made.fresh(template), updates[: few // size * size], size))
    return found


async def _run(database_url: str, updates: list[JobUpdate], size: int) -> Cost:
    """One database, from its first callback to its last."""
    options = StoreOptions(lease_ms=25_000, backlog_max=100, callbacks_per_job_max=100, schedule_s=(0, 5))
    store = await Store.open(database_url, Encryption((SECRET_KEY,)), options, SystemClock().now_ms())
    # The recorder itself, in a transaction of its own: group commit would make batches of another size.
    apply = store.jobs._recorder  # noqa: SLF001
    try:
        server_s, written = await _used(database_url, store.database)
        began = time.process_time()
        for start in range(0, len(updates), size):
            await store.database.transact(partial(apply, updates=updates[start : start + size]))
        relay_s = time.process_time() - began
        after = await _used(database_url, store.database)
    finally:
        await store.close()
    count = len(updates)
    return Cost(relay_s / count * 1e6, (after[0] - server_s) / count * 1e6, (after[1] - written) / count / 1000)


def _update(line: bytes) -> JobUpdate:
    """Return what the receiver makes of a callback."""
    path, _, body = line.partition(b"\t")
    parts = path.decode().split("/")
    now_ms = SystemClock().now_ms()
    token = CallbackTokens((SECRET_KEY,), "default").verify(PROVIDER, parts[-1], now_ms)
    report = EvoLink().read_callback(msgspec.json.decode(body), now_ms)
    status_report = StatusReport(report=report, source=FinishedBy.CALLBACK, verification=Verification.TOKEN)
    received = ReceivedCallback(
        id=ids.new_id(ids.CALLBACK),
        provider=PROVIDER,
        received_at=now_ms,
        headers=HEADERS,
        body=body,
        size=len(body),
        digest=reports.digest(report),
    )
    transition = partial(reports.apply_report, status_report=status_report, now_ms=now_ms)
    return JobUpdate(job_id=token.job_id, at=now_ms, transition=transition, received=received)


async def _used(database_url: str, database: Any) -> tuple[float, int]:
    """Return the seconds of CPU that the server has used for this database, and the bytes of its log, or of files."""
    if not is_postgres(database_url):
        return 0.0, _bytes_written()
    asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    pids = [pid for (pid,) in await database.ask(asked)]
    ((written,),) = await database.ask("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
    return sum(usage(pid).cpu_s for pid in pids), int(written)


def _bytes_written() -> int:
    """Return how much this process has written to files so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])
