"""Fills a relay database as years of work would: finished deliveries with all that belongs to them, retries that wait.

Rows go past relay, in bulk: SQLite by `executemany`, PostgreSQL by COPY. Everything is in the past or hours ahead, so
that a relay that is started on the database finds nothing to do in it.
"""

import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import asyncpg
import click
import msgspec

from bench.stock import HOUR_MS, PROVIDER, REQUEST, SECRET_KEY, callback
from relay.clock import SystemClock
from relay.model import ids
from relay.model.delivery import Endpoint
from relay.model.job import Disposition, EventType, FinishedBy, Job, JobState, Output, OutputKind, Verification
from relay.model.resources import events
from relay.security.encryption import Encryption
from relay.security.signatures import new_secret
from relay.storage import job_rows, rows
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.engine.database_url import is_postgres, sqlite_path
from relay.storage.engine.migrations import migrate
from relay.storage.store import open_database

Rows = dict[str, list[dict[str, Any]]]

_AT_ONCE = 10_000
"""Events of one transaction."""
_FIRST_POSITION = -4_611_686_018_427_387_904
DAY_MS = 24 * HOUR_MS
_HEADERS = rows.text([["content-type", "application/json"], ["user-agent", "provider/1.0"]])
HOSTS: Final = 20
"""Results are at so many hosts."""


class Filling(msgspec.Struct, frozen=True, kw_only=True):
    """What to fill in: deliveries that are finished, retries due in one to seven hours, jobs at their provider.

    Each event goes to `per_event` endpoints; the retries have endpoints of their own. None of them wants new events.
    """

    finished: int = 0
    retries: int = 0
    open_jobs: int = 0
    per_event: int = 10
    retry_endpoints: int = 100
    days: int = 30


class Filled(msgspec.Struct, frozen=True):
    """The endpoints of the finished deliveries, and those of the retries."""

    endpoints: tuple[str, ...]
    retry_endpoints: tuple[str, ...]


async def fill(database_url: str, wanted: Filling, *, analyze: bool = True) -> Filled:
    """Migrates the database and fills it; `analyze` gathers statistics, as PostgreSQL does by itself."""
    now_ms = SystemClock().now_ms()
    database = await open_database(database_url)
    try:
        await migrate(database, now_ms)
    finally:
        await database.close()
    maker = _Maker(wanted, now_ms)
    if is_postgres(database_url):
        await _copy(database_url, maker, analyze)
    else:
        _insert(sqlite_path(database_url), maker, analyze)
    return Filled(tuple(maker.endpoints[: wanted.per_event]), tuple(maker.endpoints[wanted.per_event :]))


class _Maker:
    """The rows, in the order of their time."""

    def __init__(self, wanted: Filling, now_ms: int) -> None:
        self.endpoints = [an_id(ids.ENDPOINT, now_ms - wanted.days * DAY_MS, n) for n in range(_endpoints(wanted))]
        self.deliveries = wanted.finished + wanted.retries
        self._wanted = wanted
        self._now_ms = now_ms
        template = _job(an_id(ids.JOB, now_ms, 0), now_ms)
        self._job = template
        self._names = (template.id.encode(), an_id(ids.EVENT, now_ms, 0).encode())
        self._body = events.job_event(self._names[1].decode(), EventType.JOB_SUCCEEDED, now_ms, template, None)
        self._callback = callback(template)
        self._made = 0

    def batches(self) -> Iterator[Rows]:
        """Rows by table, for one transaction each."""
        wanted, encryption = self._wanted, Encryption((SECRET_KEY,))
        yield {"endpoints": [_endpoint(one, self._now_ms, encryption) for one in self.endpoints]}
        finished, retries = -(-wanted.finished // wanted.per_event), -(-wanted.retries // wanted.per_event)
        step_ms = max(1, (wanted.days * DAY_MS - HOUR_MS) // max(1, finished))
        batch = _nothing()
        for number in range(finished + retries + wanted.open_jobs):
            if number < finished:
                first_ms = self._now_ms - HOUR_MS - (finished - number) * step_ms
                self._ended(batch, first_ms, wanted.finished, None)
            elif number < finished + retries:
                self._ended(batch, self._now_ms - HOUR_MS + number % HOUR_MS, self.deliveries, number)
            else:
                self._open(batch, self._now_ms - HOUR_MS + number % HOUR_MS, number)
            if number % _AT_ONCE == _AT_ONCE - 1:
                yield batch
                batch = _nothing()
        yield batch

    def _ended(self, batch: Rows, at: int, until: int, number: int | None) -> None:
        """Add a job that succeeded, its history, its event and the deliveries of that; with a number they wait."""
        job_id, event_id = an_id(ids.JOB, at, 0), an_id(ids.EVENT, at, 0)
        times = dict.fromkeys(("created_at", "updated_at", "submitted_at", "finished_at", "last_report_at"), at)
        more = {"id": job_id, "deadline_at": at + HOUR_MS, "last_final_event": event_id, "submission_started_at": at}
        self._add_job(batch, times | more | {"provider_job_id": f"task-unified-{job_id}"})
        pair = f"customer={self._made // self._wanted.per_event % 1000}"
        batch["job_metadata"].append({"project_id": DEFAULT_PROJECT, "pair": pair, "job_id": job_id})
        batch["calls"].append(_call(job_id, at))
        batch["callbacks"].append(
            {
                "id": an_id(ids.CALLBACK, at, 0),
                "project_id": DEFAULT_PROJECT,
                "job_id": job_id,
                "provider": PROVIDER,
                "disposition": Disposition.RECORDED.value,
                "received_at": at,
                "size": len(self._callback),
                "headers": _HEADERS,
                "body": self._callback,
                "digest": random.randbytes(16),
            }
        )
        self._copied(batch, job_id, at, waits=number is not None)
        body = self._body.replace(self._names[0], job_id.encode()).replace(self._names[1], event_id.encode())
        batch["events"].append(
            {
                "id": event_id,
                "project_id": DEFAULT_PROJECT,
                "job_id": job_id,
                "type": EventType.JOB_SUCCEEDED.value,
                "sequence": 1,
                "final": 1,
                "created_at": at,
                "body": body,
                "position": _FIRST_POSITION + self._made,
            }
        )
        for place in range(min(self._wanted.per_event, until - self._made)):
            delivery = self._delivery(at, place, number)
            batch["deliveries"].append(delivery | {"event_id": event_id, "job_id": job_id})
            batch["attempts"].append(_attempt(str(delivery["id"]), at, place, waits=number is not None))
            self._made += 1

    def _copied(self, batch: Rows, job_id: str, at: int, *, waits: bool) -> None:
        """Add the copy of a job's result, of which some failed, and for one in four an object that is to be deleted."""
        due, place = self._now_ms + HOUR_MS + random.randrange(6 * HOUR_MS) if waits else None, self._made // 10
        state = "pending" if waits else "failed" if place % 97 == 96 else "archived"
        key = f"{DEFAULT_PROJECT}/{job_id}-0.mp4"
        batch["copies"].append(
            {
                "id": an_id(ids.COPY, at, 0),
                "project_id": DEFAULT_PROJECT,
                "job_id": job_id,
                "number": 0,
                "provider": PROVIDER,
                "kind": OutputKind.VIDEO.value,
                "url": f"https://cdn.example.com/{'v' * 200}.mp4",
                "host": f"cdn{place % HOSTS}.example.com",
                "needs_key": 0,
                "expires_at": None,
                "urgent_at": at + DAY_MS,
                "state": state,
                "due_at": due,
                "attempts_made": 1,
                "gone_seen": 0,
                "created_at": at,
                "held_until": due if waits and place % 7 == 0 else None,
                "key": key if state == "archived" else None,
                "bytes": 5_000_000 if state == "archived" else None,
                "writes": 1,
                "finished_at": None if waits else at,
            }
        )
        if place % 4 == 0:
            left = {
                "bucket": "",
                "key": f"another-{key}",
                "due_at": self._now_ms + HOUR_MS + random.randrange(6 * HOUR_MS),
            }
            batch["objects_left"].append(left)

    def _delivery(self, at: int, place: int, number: int | None) -> dict[str, Any]:
        """Return a delivery; of those that are finished, one in 997 never arrived."""
        per_event, state, due = self._wanted.per_event, "delivered", None
        endpoint = self.endpoints[place % per_event]
        if number is not None:
            endpoint = self.endpoints[per_event + (number * per_event + place) % self._wanted.retry_endpoints]
            state, due = "pending", self._now_ms + HOUR_MS + random.randrange(6 * HOUR_MS)
        elif self._made % 997 == 996:
            state = "exhausted"
        return {
            "id": an_id(ids.DELIVERY, at, place),
            "project_id": DEFAULT_PROJECT,
            "endpoint_id": endpoint,
            "state": state,
            "attempts_made": 1,
            "next_attempt_at": due,
            "redelivery": 0,
            "created_at": at,
            "finished_at": None if due else at,
        }

    def _open(self, batch: Rows, at: int, number: int) -> None:
        """Add a job that its provider works on; its status check is due in some hours."""
        job_id, due = an_id(ids.JOB, at, number), self._now_ms + HOUR_MS + random.randrange(6 * HOUR_MS)
        times = dict.fromkeys(("created_at", "updated_at", "submitted_at", "last_report_at"), at)
        open_ = {"state": JobState.SUBMITTED, "finished_at": None, "finished_by": None, "outputs": ()}
        due_at = {"next_check_at": due, "deadline_at": due + HOUR_MS, "submission_started_at": at}
        self._add_job(batch, times | open_ | due_at | {"id": job_id, "provider_job_id": f"task-unified-{job_id}"})
        batch["calls"].append(_call(job_id, at))

    def _add_job(self, batch: Rows, changes: dict[str, Any]) -> None:
        """Add both rows of a job."""
        job = msgspec.structs.replace(self._job, **changes)
        batch["jobs"].append(msgspec.structs.asdict(job_rows.row(job)))
        batch["job_requests"].append(msgspec.structs.asdict(job_rows.request_row(job)))


def an_id(prefix: str, at_ms: int, place: int) -> str:
    """Return an id of that time; within a millisecond ids stand in the order of their 4,096 places."""
    return prefix + ids.encode(at_ms << 80 | (0x7000 | place & 0xFFF) << 64 | 2 << 62 | random.getrandbits(62))


def _nothing() -> Rows:
    """Return a batch to be filled."""
    tables = ("jobs", "job_requests", "job_metadata", "calls", "callbacks", "events", "deliveries", "attempts")
    return {table: [] for table in (*tables, "copies", "objects_left")}


def _endpoints(wanted: Filling) -> int:
    """How many there are in all."""
    return wanted.per_event + (wanted.retry_endpoints if wanted.retries else 0)


def _job(job_id: str, at: int) -> Job:
    """Return what every finished job looks like."""
    return Job(
        id=job_id,
        project_id=DEFAULT_PROJECT,
        provider=PROVIDER,
        state=JobState.SUCCEEDED,
        created_at=at,
        updated_at=at,
        submitted_at=at,
        finished_at=at,
        submissions_made=1,
        deadline_at=at + HOUR_MS,
        request=REQUEST,
        metadata={"customer": "0"},
        model="seedance-2.0-image-to-video",
        provider_job_id=f"task-unified-{job_id}",
        outputs=(Output(url=f"https://cdn.example.com/{'v' * 200}.mp4", kind=OutputKind.VIDEO),),
        finished_by=FinishedBy.CALLBACK,
        verification=Verification.NONE,
        sequence=1,
        callbacks_seen=1,
    )


def _endpoint(endpoint_id: str, now_ms: int, encryption: Encryption) -> dict[str, Any]:
    """Return an active endpoint that wants nothing of what a benchmark makes."""
    endpoint = Endpoint(
        id=endpoint_id,
        project_id=DEFAULT_PROJECT,
        job_id=None,
        url="http://127.0.0.1:9/",
        secret=new_secret(),
        event_types=[EventType.JOB_OUTPUT_EXPIRING],
        created_at=now_ms,
        updated_at=now_ms,
    )
    return rows.endpoint_params(endpoint, encryption)


def _call(job_id: str, at: int) -> dict[str, Any]:
    """Return the submission."""
    return {
        "id": an_id(ids.CALL, at, 0),
        "job_id": job_id,
        "kind": "submit",
        "started_at": at,
        "duration_ms": 300,
        "outcome": "ok",
        "status_code": 200,
        "summary": "POST /v1/videos/generations",
        "excerpt": '{"status":"pending"}',
    }


def _attempt(delivery_id: str, at: int, place: int, *, waits: bool) -> dict[str, Any]:
    """One attempt."""
    return {
        "id": an_id(ids.ATTEMPT, at, place),
        "delivery_id": delivery_id,
        "number": 1,
        "outcome": "bad_status" if waits else "ok",
        "status_code": 500 if waits else 200,
        "started_at": at,
        "duration_ms": 12,
        "response_excerpt": "ok",
        "exchange": ",,,0.8\ncontent-type: text/plain\ncontent-length: 2",
    }


def _insert(path: Path, maker: _Maker, analyze: bool) -> None:
    """Into SQLite, without a journal: whoever is interrupted begins anew."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        told = _progress(maker.deliveries)
        for batch in maker.batches():
            connection.execute("BEGIN")
            for table, made in batch.items():
                if made:
                    columns = ", ".join(made[0])
                    places = ", ".join("?" * len(made[0]))
                    text = f"INSERT INTO {table} ({columns}) VALUES ({places})"
                    connection.executemany(text, (tuple(row.values()) for row in made))
            connection.execute("COMMIT")
            told(batch)
        if analyze:
            connection.execute("ANALYZE")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


async def _copy(database_url: str, maker: _Maker, analyze: bool) -> None:
    """Into PostgreSQL."""
    connection = await asyncpg.connect(database_url)
    try:
        told = _progress(maker.deliveries)
        for batch in maker.batches():
            async with connection.transaction():
                for table, made in batch.items():
                    if made:
                        records: Sequence[tuple[Any, ...]] = [tuple(row.values()) for row in made]
                        await connection.copy_records_to_table(table, columns=list(made[0]), records=records)
            told(batch)
        await connection.execute("VACUUM ANALYZE" if analyze else "CHECKPOINT", timeout=3600)
    finally:
        await connection.close()


def _progress(deliveries: int) -> Callable[[Rows], None]:
    """Return what says how far it has come, on a terminal."""
    began_s, done = time.monotonic(), 0

    def told(batch: Rows) -> None:
        nonlocal done
        done += len(batch.get("deliveries", ()))
        if sys.stderr.isatty():
            seconds = time.monotonic() - began_s
            click.echo(f"\rfilling: {done:,} of {deliveries:,} deliveries, {seconds:.0f} s ", nl=False, err=True)

    return told
