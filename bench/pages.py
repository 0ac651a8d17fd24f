"""Whether every answer that an operator reads comes in time from a database that has grown: API and dashboard.

relay is a process of its own, asked over HTTP; each route is asked for as its page asks, with the filters that few rows
or none pass, because those read the most.
"""

import asyncio
import json
import random
import re
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any, Final

import click
import httpx
import msgspec
import uvloop

from bench.databases import Databases, databases
from bench.filling import DAY_MS, Filling, an_id, fill
from bench.load import KEY
from bench.processes import Program, program
from relay.clock import SystemClock
from relay.model import ids
from relay.model.delivery import Outcome
from relay.model.job import Disposition
from relay.providers import PROVIDERS
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.audit import Via
from relay.storage.engine.database_url import sqlite_path
from relay.storage.statistics import WIDTHS
from relay.web import dashboard
from relay.web.api.events import EventStream
from relay.web.routes import API

LIMIT_MS: Final = 100.0
RUNS: Final = 5
SHOWN: Final = (200, 303)
"""The statuses of what is there; the search for an id leads to its page."""
ENTRIES: Final = 20_000
QUARANTINED: Final = 1_000
QUERIES: Final[Mapping[str, tuple[str, ...]]] = {
    "/v1/jobs": (
        *("limit=200", "status=open", "status=failed", "status=succeeded&limit=200", "provider=kinovi", "reason=lost"),
        *("metadata[customer]=7", "metadata[customer]=7&status=failed", "created_after=-24h", "created_before=-15d"),
        *("undelivered=true", "expiring_undelivered=true", "provider_job_id=nothing", "older_than=1h"),
        *("copies=failed", "copies=pending", "copies=deleted"),
    ),
    "/v1/events": ("limit=200", "type=job.failed", "undelivered=true", "created_after=-24h", "created_before=-15d"),
    "/v1/deliveries": (
        *("limit=200", "status=pending", "status=exhausted", "status=canceled", "created_before=-15d"),
        *("endpoint={endpoint}", "endpoint={endpoint}&status=exhausted", "endpoint={endpoint}&status=canceled"),
        *("endpoint={endpoint}&created_before=-15d", "job={job}", "event={event}"),
    ),
    "/v1/callbacks": (
        *(
            "limit=200",
            "verdict=quarantined",
            "verdict=stale",
            "created_after=-24h",
            "created_before=-15d",
            "job={job}",
        ),
    ),
    "/v1/search": (
        *(
            "q={job}",
            "q={event}",
            "q={delivery}",
            "q={callback}",
            "q={endpoint}",
            "q=task-unified-{job}",
            "q=127.0.0.1",
        ),
        *("q=customer=7", "q=nothing+like+this", "q=7&limit=50"),
    ),
    "/v1/stats": (
        *("from=-1h", "from=-24h", "from=-7d", "from=-30d", "from=-8h&bucket=1m", "from=-20d&bucket=1h"),
        *("from=-400d&bucket=1d", "from=-5d&bucket=15m"),
    ),
    "/v1/audit": ("limit=200", "verb=jobs.cancel", "verb=nothing", "target=job_nothing", "created_before=-15d"),
    "/v1/spend": ("all=true", "since=-30d"),
}
"""The queries of routes and pages besides the plain one; a page has those of the API's list of the same name."""
KINDS: Final = ("job", "event", "delivery", "callback", "endpoint", "key", "alert", "redelivery")
PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")


class Row(msgspec.Struct, frozen=True):
    """What was asked for, and its times in ms; `cpu_ms` is what relay used for each of them.

    `best_ms` counts, because whatever else runs on the machine only ever makes an answer later.
    """

    path: str
    status: int
    kb: float
    best_ms: float
    p50_ms: float
    cpu_ms: float


@click.command("pages")
@click.option("--jobs", default=100_000, help="Jobs that have ended, with ten deliveries each.")
@click.option("--retries", default=20_000, help="Deliveries that wait for their next attempt.")
@click.option("--limit-ms", default=LIMIT_MS, help="What the best of an answer's times may be at most.")
def command(jobs: int, retries: int, limit_ms: float) -> None:
    """Ask a relay on SQLite for everything that it shows; exit 1 for an answer that is too slow, or is none."""
    with databases("sqlite") as made:
        url = made.fresh()
        wanted = Filling(finished=jobs * 10, retries=retries, open_jobs=jobs // 100)
        asyncio.run(fill(url, wanted))
        _fill_more(url, jobs)
        rows = uvloop.run(_measured(made, url))
    click.echo(f"{'best ms':>8}{'p50 ms':>8}{'CPU ms':>8}{'kB':>8}{'status':>8}  path")
    for row in sorted(rows, key=lambda one: -one.best_ms):
        bad = "  <--" if _is_bad(row, limit_ms) else ""
        click.echo(f"{row.best_ms:8.1f}{row.p50_ms:8.1f}{row.cpu_ms:8.1f}{row.kb:8.1f}{row.status:8}  {row.path}{bad}")
    found = [msgspec.to_builtins(row) for row in rows]
    click.echo(json.dumps({"bench": "pages", "jobs": jobs, "limit_ms": limit_ms, "runs": found}))
    if any(_is_bad(row, limit_ms) for row in rows):
        sys.exit(1)


def _is_bad(row: Row, limit_ms: float) -> bool:
    """Return whether an answer is an error or too slow."""
    return row.status not in SHOWN or row.best_ms >= limit_ms


async def _measured(made: Databases, url: str) -> list[Row]:
    """Return the times of everything, asked for one after another."""
    settings = {"RELAY_ARCHIVE_URL": f"file://{made.folder}/copies"}  # its pages show copies
    async with program(made, url, settings=settings) as relay, relay.client() as client:
        found = await _samples(client)
        rows = [await _asked(relay, client, path) for path in _api(found)]
        signed_in = await client.post(
            "/signin", data={"key": KEY}, headers={"origin": str(client.base_url).rstrip("/"), "authorization": ""}
        )
        assert signed_in.status_code == 303, signed_in.text
        pages = [await _asked(relay, client, path) for path in _pages(found)]
    return rows + pages


async def _asked(relay: Program, client: httpx.AsyncClient, path: str) -> Row:
    """Return the times of one answer; the first is not counted, since it reads from the disk."""
    times, used_s = [], 0.0
    for number in range(RUNS + 1):
        if number == 1:
            used_s = relay.cpu_s()
        began = time.perf_counter()
        answer = await client.get(path)
        times.append((time.perf_counter() - began) * 1000)
    cpu_ms = (relay.cpu_s() - used_s) * 1000 / RUNS
    return Row(
        path, answer.status_code, len(answer.content) / 1000, min(times[1:]), statistics.median(times[1:]), cpu_ms
    )


async def _samples(client: httpx.AsyncClient) -> dict[str, str]:
    """Return an id of each kind of object, of the middle of a list."""
    await client.post("/v1/keys", json={"name": "bench"})
    lists = {"job": "jobs", "event": "events", "delivery": "deliveries", "callback": "callbacks"}
    lists |= {"endpoint": "endpoints", "key": "keys", "alert": "alerts"}
    found = {}
    for kind, name in lists.items():
        items = (await client.get(f"/v1/{name}")).json()["data"]
        if items:
            found[kind] = items[len(items) // 2]["id"]
    return found


def _api(found: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths of the API that read, with the queries of their lists."""
    for route in API:
        if route.method == "GET" and EventStream not in route.answers.values():
            yield from _filled(route.path, found)


def _pages(found: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths of the dashboard's pages, with the queries of their lists."""
    for page in dashboard.PAGES:
        yield from _filled(page.path, found)


def _filled(path: str, found: Mapping[str, str]) -> Iterator[str]:
    """Yield the path with ids in the places of its parameters, plain and with its queries; none without an id."""
    kinds = {f"{kind}s": kind for kind in KINDS} | {"deliveries": "delivery", "redeliveries": "redelivery"}
    parts = path.strip("/").split("/")
    resource = parts[1] if parts[0] == "v1" else parts[0]
    names = {
        name: found.get(kinds.get(resource, "")) if name == "id" else found.get(name)
        for name in PARAMETER.findall(path)
    }
    if None in names.values():
        return
    plain = PARAMETER.sub(lambda one: str(names[one[1]]), path)
    if "/v1/search" not in path and not path.startswith("/search"):
        yield plain
    if not names:
        for query in QUERIES.get(f"/v1/{resource}", ()):
            if all(kind in found for kind in PARAMETER.findall(query)):
                yield f"{plain}?{PARAMETER.sub(lambda one: found[one[1]], query)}"


def _fill_more(url: str, jobs: int) -> None:
    """Insert what `fill` does not: sums of a year, the audit, and callbacks in quarantine; less of all for few jobs."""
    now_ms = SystemClock().now_ms()
    with closing(sqlite3.connect(sqlite_path(url))) as connection, connection:
        connection.executemany("INSERT INTO statistics VALUES (?, ?, ?, ?, ?, ?)", _sums(now_ms, jobs))
        connection.executemany(
            "INSERT INTO provider_marks VALUES (?, ?, ?, ?, ?)",
            [(DEFAULT_PROJECT, name, now_ms, now_ms, "provider_error: no") for name in PROVIDERS],
        )
        connection.executemany(
            "INSERT INTO audit (id, project_id, at, key_id, key_name, via, verb, target, status) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            islice(_entries(now_ms), jobs),
        )
        connection.execute(
            "UPDATE callbacks SET disposition = 'quarantined', reason = 'the signature does not fit', digest = NULL "
            "WHERE id IN (SELECT id FROM callbacks ORDER BY id DESC LIMIT ?)",
            (QUARANTINED,),
        )


def _sums(now_ms: int, most: int) -> Iterator[tuple[str, int, int, str, str, int]]:
    """Yield a row for each interval that is kept, `most` of each width, each provider and each usual measure."""
    of_provider = [
        "created",
        "checks",
        "cost:credits:final",
        "cost:USDC:final",
        "by:callback",
        "by:status_check",
        "by:other",
    ]
    of_provider += [f"finished:{state}" for state in ("succeeded", "failed", "canceled", "expired")]
    of_provider += [f"callback:{verdict}" for verdict in Disposition]
    of_all = [f"attempt:{outcome}" for outcome in Outcome] + [f"latency:{step}" for step in range(10, 50)]
    of_provider += ["copy:archived", "copy:failed", "copy_bytes", "copy_error:gone"]
    of_all += [f"copy_took:{step}" for step in range(36, 52)]
    of_all += ["delivery:first_attempt", "delivery:after_retries", "delivery:exhausted", "due", "oldest"]
    for width_s, days in WIDTHS.items():
        width_ms = width_s * 1000
        for starts_at in range((now_ms - days * DAY_MS) // width_ms * width_ms, now_ms, width_ms)[-most:]:
            for provider in PROVIDERS:
                for measure in of_provider:
                    yield DEFAULT_PROJECT, width_s, starts_at, measure, provider, random.randrange(1, 1000)
            for measure in of_all:
                yield DEFAULT_PROJECT, width_s, starts_at, measure, "", random.randrange(1, 1000)


def _entries(now_ms: int) -> Iterator[tuple[Any, ...]]:
    """Yield the entries of a month's audit."""
    for number in range(ENTRIES):
        at = now_ms - 30 * DAY_MS + number * (30 * DAY_MS // ENTRIES)
        target = an_id(ids.JOB, at, 1)
        yield an_id(ids.AUDIT, at, 0), DEFAULT_PROJECT, at, "key_1", "ops", Via.API.value, "jobs.check", target, 200
