"""A relay database with a long past: finished deliveries with their jobs, events and attempts; retries that wait."""

import asyncio
import sqlite3
import sys
import time
from contextlib import closing

import asyncpg
import click
import msgspec

PART = 250_000
PER_EVENT = 10
ENDPOINTS = 1000
REQUEST = '{"model":"seedance-2.0-image-to-video","prompt":"' + "slow push in " * 30 + '"}'
FAR_MS = 4_000_000
"""The first retry is due this long after now, the others one millisecond after another."""

_DELIVERIES = """
INSERT INTO deliveries (
    id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at,
    finished_at
)
SELECT {dlv}, 'prj_default', {evt}, {ep}, {job}, '{state}', 1, {due}, 0, i, {ended} FROM {numbers}
"""
_ATTEMPTS = """
INSERT INTO attempts (id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt)
SELECT {att}, {dlv}, 1, '{outcome}', 200, NULL, i, 20, 'ok' FROM {numbers}
"""
_EVENTS = """
INSERT INTO events (id, project_id, job_id, type, sequence, final, created_at, body, position)
SELECT {evt}, 'prj_default', {job}, 'job.succeeded', 1, 1, i, {body}, -4611686018427387904 + i
FROM {numbers} WHERE i % 10 = 0
"""
_JOBS = """
INSERT INTO jobs (
    id, project_id, provider, state, request, metadata, outputs, verification, late, sequence, callbacks_seen,
    submissions_made, created_at, updated_at, finished_at, deadline_at, checks_made, not_found_seen
)
SELECT {job}, 'prj_default', 'evolink', 'succeeded', '{request}', '{{}}', '[]', 'token', 0, 1, 1,
    1, {now}, {now}, {now}, {now}, 0, 0
FROM {numbers} WHERE i % 10 = 0
"""
_TABLES = (_JOBS, _EVENTS, _DELIVERIES, _ATTEMPTS)
_IDS = {"dlv": "i", "att": "i", "evt": "i / 10", "job": "i / 10", "ep": "i % 1000"}


class _Part(msgspec.Struct, frozen=True):
    """Rows of one table, from a number to another."""

    text: str
    start: int
    end: int
    finished: bool

    def in_words_of(self, ids: dict[str, str], numbers: str, body: str) -> str:
        """The statement, with one database's own words for ids, numbers and bytes."""
        now = _now_ms()
        return self.text.format(
            **ids,
            state="delivered" if self.finished else "pending",
            due="NULL" if self.finished else f"i + {now + FAR_MS}",
            ended="i" if self.finished else "NULL",
            outcome="ok" if self.finished else "timeout",
            numbers=numbers,
            body=body,
            request=REQUEST,
            now=now,
        )


def fill(database_url: str, finished: int, pending: int) -> None:
    """So many finished deliveries, ten for each job's one event, and so many that wait for a retry, hours away."""
    parts = [*_parts(0, finished, finished=True), *_parts(finished, finished + pending, finished=False)]
    if database_url.startswith("sqlite"):
        _fill_sqlite(database_url, parts)
    else:
        asyncio.run(_fill_postgres(database_url, parts))


def _parts(start: int, end: int, *, finished: bool) -> list[_Part]:
    """Each table in parts."""
    starts = range(start, end, PART)
    return [_Part(text, first, min(first + PART, end) - 1, finished) for first in starts for text in _TABLES]


def _fill_sqlite(database_url: str, parts: list[_Part]) -> None:
    """Part by part, without a sync until the end."""
    ids = {name: f"printf('{name}_%026d', {number})" for name, number in _IDS.items()}
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        for pragma in ("synchronous = OFF", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {pragma}")
        for done, part in enumerate(parts, 1):
            recursion = f"SELECT {part.start} UNION ALL SELECT i + 1 FROM n WHERE i < {part.end}"
            numbers = f"(WITH RECURSIVE n(i) AS ({recursion}) SELECT i FROM n)"
            connection.execute(part.in_words_of(ids, numbers, "zeroblob(1500)"))
            _say(done, len(parts))
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _fill_postgres(database_url: str, parts: list[_Part]) -> None:
    """Part by part."""
    ids = {name: f"'{name}_' || lpad(CAST({number} AS TEXT), 26, '0')" for name, number in _IDS.items()}
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("SET synchronous_commit = off")
        for done, part in enumerate(parts, 1):
            numbers = f"(SELECT CAST(g AS BIGINT) AS i FROM generate_series({part.start}, {part.end}) AS g) AS n"
            text = part.in_words_of(ids, numbers, "decode(repeat('00', 1500), 'hex')")
            await connection.execute(text, timeout=3600)
            _say(done, len(parts))
        await connection.execute("VACUUM ANALYZE", timeout=3600)
        await connection.execute("CHECKPOINT", timeout=3600)
    finally:
        await connection.close()


def _now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _say(done: int, parts: int) -> None:
    """How far it is."""
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {parts} parts filled ", nl=False, err=True)
