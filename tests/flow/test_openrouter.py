"""OpenRouter in the whole flow: results behind its key, other jobs' callbacks, and its refusals."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from relay.sandbox.contract import API_KEY
from relay.sandbox.faults import Faults
from relay.sandbox.keys import Keys
from relay.sandbox.providers import STAND_INS
from tests.support.calling_back import kept
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

REQUEST: dict[str, Any] = {"model": "some-maker/new-model", "prompt": "a wave", "odd": {"deep": [1.5, None]}}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


async def ended(running: Running, **faults: Any) -> dict[str, Any]:
    """Return a job that has ended with these faults."""
    running.world.next_faults.append(Faults(**faults))
    job = await running.submit("openrouter")
    await running.world.finish(job["provider_job_id"])
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["finished_at"] is not None)


async def test_an_unknown_model_is_sent_unchanged(running: Running) -> None:
    """Send a native body as it is but for the callback URL."""
    job = await running.submit("openrouter", request=REQUEST)
    assert running.world.submissions[-1] == REQUEST | {"callback_url": running.callback_url()}
    assert (job["model"], job["checked"], job["status"]) == ("some-maker/new-model", "partly", "submitted")


async def test_a_kept_copy_needs_no_key(running: Running) -> None:
    """A status answer with signed URLs gives a result that anyone can fetch, and the exact cost."""
    done = await ended(running)
    (output,) = done["outputs"]
    assert "needs_key" not in output
    assert output["expires_at"] is not None
    assert done["cost"] == {"amount": "0.336", "unit": "USD", "kind": "final"}


async def test_a_result_behind_the_key_says_so(running: Running) -> None:
    """Without signed URLs the result is on OpenRouter's own route, which answers nobody without the key."""
    running.world.serves_results = True
    (output,) = (await ended(running, version="unsigned"))["outputs"]
    assert output["needs_key"] is True
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(output["url"])).status_code == 401
        fetched = await client.get(output["url"], headers={"authorization": f"Bearer {API_KEY}"})
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "video/mp4")


async def test_the_archive_fetches_a_result_with_the_key(tmp_path: Path) -> None:
    """Copy a result that lies behind OpenRouter's key, which relay sends to the configured origin alone."""
    bucket = tmp_path / "bucket"
    async with relay(tmp_path, clock=HeldClock(), RELAY_ARCHIVE_URL=bucket.as_uri()) as running:
        running.world.serves_results = True
        job = await ended(running, version="unsigned")
        shown = await running.until(
            f"/v1/jobs/{job['id']}", lambda one: one["outputs"][0]["archive"]["state"] == "archived"
        )
        (file,) = [path for path in bucket.rglob("*") if path.suffix == ".mp4"]
        assert file.stat().st_size == shown["outputs"][0]["archive"]["bytes"] > 1000


async def test_another_jobs_callback_changes_nothing(running: Running) -> None:
    """A workspace's default callback URL may bring other jobs: one with another id is mismatched."""
    running.world.next_faults.append(Faults(lost=True))
    job = await running.submit("openrouter")
    other = msgspec.structs.replace(running.world.jobs[job["provider_job_id"]], id="gen-vid-1-Other", state="succeeded")
    body = STAND_INS["openrouter"](Keys()).callback(other)
    assert (await running.client.post(running.callback_url(), json=body)).status_code == 200
    assert [one["verdict"] for one in await kept(running)] == ["mismatched"]
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"


@pytest.mark.parametrize(
    ("status_code", "class_"), [(401, "auth"), (402, "insufficient_funds"), (403, "insufficient_funds")]
)
async def test_missing_credit_is_no_wrong_key(running: Running, status_code: int, class_: str) -> None:
    """A 403 about a key's limit of credits is missing funds, so that the key is not reported as refused."""
    running.world.next_faults.append(Faults(status_code=status_code))
    job = await running.submit("openrouter")
    assert (job["status"], job["error"]["class"]) == ("failed", class_)
    (provider,) = [one for one in (await running.get("/v1/providers"))["data"] if one["name"] == "openrouter"]
    assert (provider["key_refused_at"] is not None) == (class_ == "auth")


async def test_no_cancellation_is_sent(running: Running) -> None:
    """Detach a canceled job, because OpenRouter publishes no route; its later result supersedes the cancellation."""
    job = await running.submit("openrouter")
    done = (await running.client.post(f"/v1/jobs/{job['id']}/cancellations")).json()
    assert (done["status"], done["reason"], running.world.cancellations) == ("canceled", "detached", [])
