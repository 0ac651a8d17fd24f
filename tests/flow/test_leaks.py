"""What one leaked thing allows, and what it does not: SECURITY.md has the same as a table."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay.web.routes import API
from tests.support.browsing import browser
from tests.support.calling_back import DONE
from tests.support.postgres import programs
from tests.support.running import DATABASES, KEY, SECRET_KEY, HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that the test advances."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=clock) as started:
        yield started


async def test_a_leaked_callback_url_reads_nothing_and_ends_no_job(running: Running, clock: HeldClock) -> None:
    """Show nothing by a callback URL, take its token for no key, and check what it claims with the provider."""
    job, other = await running.submit(), await running.submit()
    url = running.callback_url(-2)
    token = url.rpartition("/")[2]
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        answer = await running.client.request(method, url)
        assert job["id"] not in answer.text
        assert answer.status_code == (405 if method in ("PUT", "DELETE") else 200)
    async with http_client(running.origin, token) as client:
        assert {(await client.request(route.method, route.path)).status_code for route in API} == {401}
    forged = await running.client.post(url, content=DONE)
    assert forged.json() == {"received": True}
    await clock.advance(1)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    assert (await running.get(f"/v1/jobs/{other['id']}"))["status"] == "submitted"
    assert [one["type"] for one in (await running.get("/v1/events"))["data"]] == ["job.submitted"] * 2


async def test_a_leaked_endpoint_secret_is_no_key(running: Running) -> None:
    """Refuse an endpoint's secret as an API key, and as the signature of a callback."""
    made = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()
    for text in (made["secret"], made["secret"].removeprefix("whsec_")):
        async with http_client(running.origin, text) as client:
            assert {(await client.request(route.method, route.path)).status_code for route in API} == {401}


async def test_a_leaked_metrics_key_reads_metrics_alone(tmp_path: Path) -> None:
    """Refuse the key of /metrics everywhere else, and every API key there."""
    secret = "a-key-of-the-metrics-that-is-long"
    async with relay(tmp_path, RELAY_METRICS_KEY=secret) as running:
        assert (await running.client.get("/metrics")).status_code == 401
        async with http_client(running.origin, secret) as client:
            assert (await client.get("/metrics")).status_code == 200
            assert {(await client.request(route.method, route.path)).status_code for route in API} == {401}


async def test_a_leaked_database_has_no_secret_in_it(tmp_path: Path) -> None:
    """Keep no key, secret, header value, token, cookie or wallet in the database that a backup would show."""
    async with relay(tmp_path) as running:
        body = {"url": running.hook, "headers": {"x-key": "the-value-of-a-header"}}
        made = (await running.client.post("/v1/endpoints", json=body, headers={"idempotency-key": "a"})).json()
        rotated = await running.client.post(f"/v1/endpoints/{made['id']}/secret-rotations")
        key = (await running.client.post("/v1/keys", json={"name": "a"}, headers={"idempotency-key": "b"})).json()
        job = await running.submit(notify=[{"url": running.hook}])
        await running.world.finish(job["provider_job_id"])
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        token = urlsplit(running.callback_url()).path.rpartition("/")[2]
        async with browser(running) as reader:
            session = reader.client.cookies["relay-session"]
            await reader.send(await reader.get("/jobs"), "/signout")
        secrets = {
            "an endpoint's secret": made["secret"],
            "a rotated secret": rotated.json()["secret"],
            "the secret of a job's endpoint": job["notify"][0]["secret"],
            "an endpoint's header": "the-value-of-a-header",
            "an API key": key["key"],
            "the key of the setting": KEY,
            "the key of keys": SECRET_KEY,
            "a callback token": token,
            "a session": session,
        }
        there = stored(tmp_path)
    for name, text in secrets.items():
        raw = text.removeprefix("whsec_").encode()
        assert len(raw) > 16, name
        assert raw not in there, name
        assert raw.hex().encode() not in there, name


def stored(folder: Path) -> bytes:
    """Return everything that a database keeps, as a backup has it."""
    url = DATABASES.url(folder)
    if DATABASES.postgres is None:
        path = Path(url.removeprefix("sqlite:///"))
        return b"".join(one.read_bytes() for one in (path, Path(f"{path}-wal")) if one.exists())
    dump = [f"{programs()}/pg_dump", "--format=plain", url]
    return subprocess.run(dump, check=True, timeout=60, capture_output=True).stdout
