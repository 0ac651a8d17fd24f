"""A relay database with jobs at their provider already, so that a load may begin with their callbacks."""

import asyncio
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from msgspec import structs

from bench.load import NOT_YET
from relay.clock import SystemClock
from relay.model import ids
from relay.model.archive import ArchiveMode
from relay.model.delivery import Endpoint
from relay.model.job import Job, JobState
from relay.security.callback_tokens import CallbackTokens
from relay.security.encryption import Encryption
from relay.security.signatures import new_secret
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.jobs import NewJob
from relay.storage.projects import Project
from relay.storage.store import Store, StoreOptions

SECRET_KEY = "a-key-that-is-for-the-benchmarks-alone"
PROVIDER = "evolink"
HOUR_MS = 3_600_000
REQUEST = {
    "model": "seedance-2.0-image-to-video",
    "prompt": "slow push in, the sea behind the window, a gull crosses from left to right " * 4,
    "image_urls": ["https://example.com/first.png", "https://example.com/last.png"],
    "duration": 5,
    "quality": "720p",
    "aspect_ratio": "16:9",
    "generate_audio": True,
}
_OPTIONS = StoreOptions(lease_ms=25_000, backlog_max=100_000, callbacks_per_job_max=100, schedule_s=(0, 5))
_AT_ONCE = 1000


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How the endpoints are made, and for which projects: jobs and URLs are dealt out to them in turn.

    With a first delay the deliveries of an endpoint are rows and wait. The results are at `results_at`.
    """

    projects: tuple[str, ...] = (DEFAULT_PROJECT,)
    first_delay_s: int = 0
    in_flight_max: int | None = None
    rate_limit_per_s: float | None = None
    event_types: tuple[str, ...] = ("*",)
    archive: ArchiveMode = ArchiveMode.OFF
    results_at: str = "https://cdn.example.com"


PLAIN = Shape()


class Stock(msgspec.Struct, frozen=True):
    """What was put into the database: the file that the load reads, and the endpoints' ids."""

    callbacks: Path
    endpoint_ids: tuple[str, ...]


async def stocked(
    database_url: str, folder: Path, jobs: int, urls: Sequence[str], shape: Shape = PLAIN, *, name: str = "callbacks"
) -> Stock:
    """Jobs that their provider has, endpoints at these URLs, and a file with one callback for each job."""
    clock, encryption = SystemClock(), Encryption((SECRET_KEY,))
    tokens = CallbackTokens((SECRET_KEY,), "default")
    store = await Store.open(database_url, encryption, _OPTIONS, clock.now_ms())
    try:
        endpoints = [
            _endpoint(url, project, shape, clock.now_ms())
            for url, project in zip(urls, itertools.cycle(shape.projects), strict=False)
        ]
        for endpoint in endpoints:
            await store.endpoints.create(endpoint)
        path, dealt = folder / f"{name}.txt", itertools.cycle(shape.projects)
        with path.open("wb") as file:
            for start in range(0, jobs, _AT_ONCE):
                made = [_job(next(dealt), shape, clock.now_ms()) for _ in range(min(_AT_ONCE, jobs - start))]
                await asyncio.gather(*(store.jobs.create(NewJob(job, ())) for job in made))
                for job in made:
                    token = tokens.make(PROVIDER, job.id, job.deadline_at + HOUR_MS)
                    file.write(f"/callbacks/{PROVIDER}/{token}\t".encode() + callback(job, shape) + b"\n")
                if sys.stderr.isatty():
                    click.echo(f"\r{start + len(made)} of {jobs} jobs made ", nl=False, err=True)
        return Stock(path, tuple(endpoint.id for endpoint in endpoints))
    finally:
        await store.close()


async def new_projects(database_url: str, count: int) -> tuple[str, ...]:
    """Make projects, and return their ids."""
    clock = SystemClock()
    store = await Store.open(database_url, Encryption((SECRET_KEY,)), _OPTIONS, clock.now_ms())
    try:
        made = [Project(id=ids.new_id(ids.PROJECT), name=f"p{n}", created_at=clock.now_ms()) for n in range(count)]
        await asyncio.gather(*(store.projects.create(project) for project in made))
        return tuple(project.id for project in made)
    finally:
        await store.close()


def callback(job: Job, shape: Shape = PLAIN) -> bytes:
    """Return a terminal callback of about 1 kB."""
    said = {
        "id": job.provider_job_id,
        "object": "video.generation.task",
        "created": job.created_at // 1000,
        "model": "seedance-2.0",
        "status": "completed",
        "progress": 100,
        "results": [f"{shape.results_at}/videos/{job.provider_job_id}.mp4?sent={NOT_YET}&signature={'s' * 460}"],
        "type": "video",
        "task_info": {"can_cancel": False, "video_duration": 5, "note": "n" * 160},
    }
    return msgspec.json.encode(said)


def _job(project_id: str, shape: Shape, now_ms: int) -> Job:
    """Return a job that was submitted just now, with its status check far off."""
    job_id = ids.new_id(ids.JOB)
    return Job(
        id=job_id,
        project_id=project_id,
        provider=PROVIDER,
        state=JobState.SUBMITTED,
        created_at=now_ms,
        updated_at=now_ms,
        submitted_at=now_ms,
        submissions_made=1,
        submission_started_at=now_ms,
        deadline_at=now_ms + 6 * HOUR_MS,
        request=REQUEST,
        model="seedance-2.0-image-to-video",
        provider_job_id=f"task-unified-{job_id}",
        next_check_at=now_ms + 5 * HOUR_MS,
        last_report_at=now_ms,
        archive=shape.archive,
    )


def _endpoint(url: str, project_id: str, shape: Shape, now_ms: int) -> Endpoint:
    """Return an endpoint for every event of its project."""
    endpoint = Endpoint(
        id=ids.new_id(ids.ENDPOINT),
        project_id=project_id,
        job_id=None,
        url=url,
        secret=new_secret(),
        event_types=list(shape.event_types),
        schedule_s=[shape.first_delay_s, 60] if shape.first_delay_s else None,
        rate_limit_per_s=shape.rate_limit_per_s,
        created_at=now_ms,
        updated_at=now_ms,
    )
    return endpoint if shape.in_flight_max is None else structs.replace(endpoint, in_flight_max=shape.in_flight_max)
