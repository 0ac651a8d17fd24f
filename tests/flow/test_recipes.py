"""The recipes of docs/recipes do what they promise, as printed."""

import asyncio
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import httpx
import pytest
from starlette.applications import Starlette

from relay.clock import SystemClock
from relay.sandbox.faults import Faults
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from tests.support.oracles import ROOT
from tests.support.postgres import Server
from tests.support.running import KEY, HeldClock, Running, relay

pytestmark = pytest.mark.anyio
PAGES = ROOT / "docs" / "recipes"
SECRET = "whsec_" + "A" * 43 + "="
IMAGE = "https://example.com/a.png"


def printed(page: str, language: str) -> list[str]:
    """Return the code blocks of a recipe in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)


def module(code: str, **given: Any) -> ModuleType:
    """Return a recipe's code, run with these names known."""
    made = ModuleType("recipe")
    vars(made).update(given)
    exec(compile(code, "recipe", "exec"), vars(made))
    return made


async def ended(running: Running, job: dict[str, Any]) -> None:
    """End a job at its provider."""
    await running.world.finish(job["provider_job_id"])


def test_every_recipe_is_listed_and_tested() -> None:
    """List each page in the README of the recipes, and name each in a test."""
    pages = {page.name for page in PAGES.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", (PAGES / "README.md").read_text())) == pages
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "flow").glob("*.py"))
    assert [page for page in sorted(pages) if page not in tests and page != "ai-sdk.md"] == []


async def test_n8n_resumes(tmp_path: Path) -> None:
    """Submit the workflow's own body, and call the execution's resume URL when the job has ended."""
    (workflow,) = map(json.loads, printed("n8n.md", "json"))
    nodes = {node["name"]: node["parameters"] for node in workflow["nodes"]}
    body = nodes["Submit the job"]["jsonBody"].removeprefix("=")
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        body = body.replace("{{ $execution.resumeUrl }}", running.hook + "/waiting/42")
        running.sink.answers.append(404)  # the execution does not wait yet
        submitted = await running.client.post("/v1/jobs", content=body)
        assert submitted.status_code == 202, submitted.text
        await ended(running, submitted.json())
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        await clock.elapse(running.sink.wait_for(lambda sink: len(sink.received) == 2))
    body = json.loads(running.sink.received[1].body)
    assert running.sink.received[1].path == "/hook/waiting/42"
    assert (body["data"]["job"]["status"], body["data"]["job"]["outputs"][0]["kind"]) == ("succeeded", "video")
    targets = [target["node"] for outputs in workflow["connections"].values() for target in outputs["main"][0]]
    assert targets == list(nodes)[1:]


async def test_slack_gets_a_line_from_relay_itself(tmp_path: Path) -> None:
    """Register an incoming webhook as printed: Slack gets the line that the page shows, for a failure alone."""
    slack = Sink()
    async with serve(slack) as slack_at, relay(tmp_path, clock=SystemClock()) as running:
        curl, _ = printed("slack.md", "sh")
        fields = json.loads(curl[curl.index("{") : curl.rindex("}") + 1]) | {"url": f"{slack_at}/services/T/B/x"}
        assert (await running.client.post("/v1/endpoints", json=fields)).status_code == 201
        await ended(running, await running.submit())
        running.world.next_faults.append(Faults(outcome="failed"))
        job = await running.submit()
        await ended(running, job)
        await slack.wait_for(lambda slack: len(slack.received) == 1)
    (line,) = {json.loads(received.body)["text"] for received in slack.received}
    assert line == f"*job.failed* {job['id']} at evolink: the provider reports: The prompt was refused."
    assert line.replace(job["id"], "job_…") in (ROOT / "docs" / "recipes" / "slack.md").read_text()


async def test_slack_gets_a_line_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Post how a job failed to Slack, repeat what Slack refuses, and register the endpoint as printed."""
    slack = Sink()
    slack.answers.append(500)
    clock = HeldClock(SystemClock().now_ms())  # the recipe compares the time of the signature with the machine's
    async with serve(slack) as slack_at, relay(tmp_path, clock=clock) as running:
        monkeypatch.setenv("RELAY_ENDPOINT_SECRET", SECRET)
        monkeypatch.setenv("SLACK_URL", f"{slack_at}/services/T/B/x")
        async with serve(module(*printed("slack.md", "python")).app) as receiver:
            _, curl = printed("slack.md", "sh")
            fields = json.loads(curl[curl.index("{") : curl.rindex("}") + 1])
            fields |= {"url": f"{receiver}/slack", "secret": SECRET}
            assert (await running.client.post("/v1/endpoints", json=fields)).status_code == 201
            running.world.next_faults.append(Faults(outcome="failed"))
            job = await running.submit()
            await ended(running, job)
            await clock.elapse(slack.wait_for(lambda slack: len(slack.received) == 2))
            failed = await running.get(f"/v1/jobs/{job['id']}")
            async with httpx.AsyncClient() as anyone:
                forged = await anyone.post(f"{receiver}/slack", content=b"{}")
    assert forged.status_code == 400
    assert len(slack.received) == 2
    shown = {json.loads(received.body)["text"] for received in slack.received}
    assert shown == {f"evolink job {job['id']} is failed: {failed['error']['message']}"}


async def test_a_queue_gets_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_server: Server
) -> None:
    """Store a repeated event once, handle it once, and keep it if its handling fails."""
    monkeypatch.setenv("RELAY_ENDPOINT_SECRET", SECRET)
    monkeypatch.setenv("INBOX_URL", one_server.database())
    recipe = module(*printed("queues.md", "python"))
    app: Starlette = recipe.app
    async with recipe.lifespan(app), serve(app) as receiver, relay(tmp_path, clock=SystemClock()) as running:
        database: asyncpg.Pool = app.state.database
        job = await running.submit(
            notify=[{"url": f"{receiver}/hook", "event_types": ["job.succeeded"], "secret": SECRET}]
        )
        await ended(running, job)
        path = f"/v1/deliveries?job={job['id']}&status=delivered"
        (delivery,) = (await running.until(path, lambda shown: len(shown["data"]) == 1))["data"]
        await running.client.post(f"/v1/deliveries/{delivery['id']}/redeliveries")
        await running.until(path, lambda shown: len(shown["data"]) == 2)
        handled: list[bytes] = []

        async def fails(body: bytes) -> None:
            raise ValueError

        async def handle(body: bytes) -> None:
            handled.append(body)

        with pytest.raises(ValueError, match=r"^$"):
            await recipe.work_once(database, fails)
        assert [await recipe.work_once(database, handle) for _ in range(2)] == [True, False]
    assert [json.loads(body)["type"] for body in handled] == ["job.succeeded"]


async def test_polling_is_replaced(tmp_path: Path) -> None:
    """Run both steps as printed: the function that waits, and the endpoint with its handler."""
    waiting, notified = printed("from-polling.md", "python")
    async with relay(tmp_path, clock=SystemClock()) as running:
        given = {
            "url": running.origin,
            "api_key": KEY,
            "image": IMAGE,
            "prompt": "slow",
            "order": "42",
            "hook": running.hook,
        }
        function = asyncio.create_task(asyncio.to_thread(module, waiting, **given))
        await running.world.wait_for(lambda world: len(world.jobs) == 1)
        await running.world.finish(next(iter(running.world.jobs)))
        assert (await function).video.startswith("https://")

        recipe = await asyncio.to_thread(module, notified, **given)
        await running.world.finish(list(running.world.jobs)[1])
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        received = running.sink.received[running.sink.events().index("job.succeeded")]
        order, video = recipe.received(received.headers, received.body)
    assert (order, video[:8]) == ("42", "https://")
