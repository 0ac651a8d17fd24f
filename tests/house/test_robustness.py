"""What relay survives: the cases of docs/robustness.md that no other test shows, and that the page tells the truth."""

import ast
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.clock import parse_rfc3339
from relay.sandbox.faults import Faults
from tests.support.calling_back import DONE, post
from tests.support.running import START_MS, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

ROOT = Path(__file__).parents[2]
NUMBERS = [*range(1, 32), 36, 40, *range(43, 57)]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


async def ended(running: Running, job: dict[str, Any], status: str = "succeeded") -> dict[str, Any]:
    """Return the job once it has ended so."""
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == status)


async def said(running: Running, job: dict[str, Any]) -> list[str]:
    """Return the types of a job's events, in order."""
    return [event["type"] for event in (await running.get(f"/v1/events?job={job['id']}"))["data"][::-1]]


def test_the_page_names_a_test_for_each_case() -> None:
    """Every case has its row, and every test that a row names is there."""
    page = (ROOT / "docs" / "robustness.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .+? \| .+? \| (.+?) \|$", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == NUMBERS
    for number, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, number
        for path, name in named:
            assert name in names_of(ROOT / path), f"{number}: {path} has no {name}"


def names_of(path: Path) -> set[str]:
    """Return what a test file defines: functions, classes, and the machines that are given a name."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


async def test_a_final_answer_to_the_submission_makes_the_callback_a_repetition(running: Running) -> None:
    """A provider that answers the submission late, with the job already ended by its callback, ends it once."""
    running.world.next_faults.append(Faults(early=True, duplicate=2))
    job = await running.submit(notify=[{"url": running.hook}])
    await ended(running, job)
    assert [kind for kind in await said(running, job) if kind == "job.succeeded"] == ["job.succeeded"]


async def test_two_jobs_may_have_one_id_at_the_provider(running: Running) -> None:
    """A provider that gives two jobs one id (a cache) ends both, each by its own callback URL."""
    async with relay_believing(running) as believing:
        body = b'{"id":"task-shared","status":"completed","results":["https://cdn.example.com/a.mp4"]}'
        for _ in range(2):
            believing.world.next_faults.append(Faults(submit="id_missing"))
            job = await believing.submit()
            assert (await believing.client.post(believing.callback_url(), content=body)).status_code == 200
            assert (await ended(believing, job))["provider_job_id"] == "task-shared"


def relay_believing(running: Running) -> Any:
    """Another relay beside this one that believes callbacks."""
    folder = Path(str(running.app.settings.database_url).removeprefix("sqlite:///")).parent / "other"
    return relay(folder, clock=running.clock, confirm=False)


async def test_progress_alone_is_no_event(running: Running) -> None:
    """Callbacks that only tell of progress move the number and announce nothing more."""
    job = await running.submit()
    name = job["provider_job_id"]
    for percent in (10, 40, 60):
        body = {"id": name, "status": "processing", "progress": percent}
        await running.client.post(running.callback_url(), json=body)
    shown = await running.get(f"/v1/jobs/{job['id']}")
    assert (shown["status"], shown["progress"]) == ("running", 60)
    assert await said(running, job) == ["job.submitted", "job.running"]


async def test_what_is_within_an_envelope_counts_and_not_its_code(running: Running) -> None:
    """`code: 200` around a failed task is a failure, and `code: 500` around a good one a success."""
    for code, state, status in ((200, "fail", "failed"), (500, "success", "succeeded")):
        job = await running.submit("kinovi")
        there = running.world.jobs[job["provider_job_id"]]
        there.state = status
        output = [{"url": "https://static.kinovi.ai/a.mp4"}] if state == "success" else None
        data = {"taskId": there.id, "state": state, "output": output, "error": None}
        await running.client.post(str(there.callback_url), json={"code": code, "message": "success", "data": data})
        await ended(running, job, status)


async def test_several_results_are_one_list_and_one_event(running: Running) -> None:
    """A job with two videos ends once, with both, in their order."""
    async with relay_believing(running) as believing:
        job = await believing.submit()
        urls = ["https://cdn.example.com/1.mp4", "https://cdn.example.com/2.mp4"]
        body = {"id": job["provider_job_id"], "status": "completed", "results": urls}
        await believing.client.post(believing.callback_url(), json=body)
        done = await ended(believing, job)
        assert [output["url"] for output in done["outputs"]] == urls
        assert await said(believing, job) == ["job.submitted", "job.succeeded"]


async def test_a_commit_whose_answer_was_lost_is_only_repeated(running: Running) -> None:
    """A provider that did not get its 200 sends again: 200, `repeated`, and no second event."""
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])
    await ended(running, job)
    sent = running.world.callbacks[-1]
    answer = await running.client.post(sent.url, content=sent.body)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    dispositions = [one["verdict"] for one in (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]]
    assert dispositions == ["repeated", "recorded"]
    assert await said(running, job) == ["job.submitted", "job.succeeded"]


@pytest.mark.parametrize("at", [0, 1_735_599_634, 1_735_599_634_000, 9_999_999_999_999, -5, "2025-01-01T00:00:00"])
async def test_a_providers_times_are_data(running: Running, at: object) -> None:
    """Seconds, milliseconds, naive text or nonsense in a body move no clock of relay's."""
    job = await running.submit("kinovi")
    there = running.world.jobs[job["provider_job_id"]]
    there.state = "succeeded"
    data = {"taskId": there.id, "status": "success", "output": [{"url": there.result_url}]}
    await running.client.post(str(there.callback_url), json={"data": data | {"createTime": at, "completeTime": at}})
    done = await ended(running, job)
    assert parse_rfc3339(done["finished_at"]) == START_MS


async def test_the_event_tells_when_its_result_is_gone(running: Running) -> None:
    """`expires_at` is in the notification, from the provider's published lifetime."""
    job = await running.submit(notify=[{"url": running.hook}])
    await running.world.finish(job["provider_job_id"])
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    bodies = [msgspec.json.decode(one.body) for one in running.sink.received]
    (output,) = next(body for body in bodies if body["type"] == "job.succeeded")["data"]["job"]["outputs"]
    assert parse_rfc3339(output["expires_at"]) == START_MS + 86_400_000


async def test_a_prompt_is_in_no_log(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """What a user wrote, and what an application noted about the user, is stored and shown, and never logged."""
    given = {"images": ["https://example.com/a.png"], "prompt": "a very private wish"}
    job = await running.submit(input=given, metadata={"mail": "someone@example.com"})
    await running.world.finish(job["provider_job_id"])
    await ended(running, job)
    said_aloud = "".join(capsys.readouterr())
    assert job["id"] in said_aloud
    assert not [secret for secret in ("private wish", "someone@example.com") if secret in said_aloud]


async def test_a_price_that_is_told_later_is_no_second_end(running: Running) -> None:
    """A provider that bills after the end changes the job's cost, and sends no event."""
    job = await running.submit("kinovi")
    await running.world.finish(job["provider_job_id"])
    before = await ended(running, job)
    running.world.jobs[job["provider_job_id"]].seconds = 12
    after = (await running.client.post(f"/v1/jobs/{job['id']}/status-checks")).json()
    assert after["cost"]["amount"] != before["cost"]["amount"]
    assert await said(running, job) == ["job.submitted", "job.succeeded"]


async def test_another_environments_callback_is_kept_and_not_applied(tmp_path: Path) -> None:
    """Staging's callback at production is an orphan with that reason: 200, stored, and no job moves."""
    async with relay(tmp_path / "staging", RELAY_ENV="staging") as staging:
        job = await staging.submit()
        path = staging.callback_url().partition("/callbacks")[2]
        async with relay(tmp_path / "production", RELAY_ENV="production") as production:
            answer = await post(production, DONE, f"{production.origin}/callbacks{path}")
            assert answer.status_code == 200
            (orphan,) = (await production.get("/v1/callbacks?verdict=orphaned"))["data"]
            assert orphan["reason"] == "the token was made in another environment"
        assert (await staging.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
