"""`GET /v1/search`: a text is found as an id, a provider's id, metadata or a part of an endpoint's URL."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from relay.model import ids
from relay.storage.search import NAMES_MAX, RECENT_JOBS
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock that tries each delivery once."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0") as started:
        yield started


async def found(running: Running, text: str, limit: int = 10) -> list[dict[str, Any]]:
    """Return what a search finds."""
    shown = await running.get(f"/v1/search?q={quote(text, safe='')}&limit={limit}")
    hits: list[dict[str, Any]] = shown["data"]
    return hits


async def finished(running: Running, **fields: Any) -> dict[str, Any]:
    """Return a job that has succeeded, once what that sends was answered."""
    job = await running.submit("evolink", **fields)
    await running.world.finish(job["provider_job_id"])
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    await quiet()
    return done


async def test_each_thing_is_found_by_its_id_and_by_its_beginning(running: Running) -> None:
    """Find a job, event, delivery, callback, endpoint and batch by the whole id, and by all but its last letters."""
    url = running.hook
    endpoint = (await running.client.post("/v1/endpoints", json={"url": url, "event_types": ["job.succeeded"]})).json()
    job = await finished(running)
    (event,) = (await running.get("/v1/events?type=job.succeeded"))["data"]
    (delivery,) = (await running.get("/v1/deliveries"))["data"]
    (callback,) = (await running.get("/v1/callbacks"))["data"]
    asked = await running.client.post(
        f"/v1/endpoints/{endpoint['id']}/redeliveries", json={"since": "-1h", "which": "all"}
    )
    batch = asked.json()
    expected = {
        job["id"]: ("job", job["id"], "evolink · succeeded", job["created_at"]),
        event["id"]: ("event", job["id"], "job.succeeded", event["timestamp"]),
        delivery["id"]: ("delivery", job["id"], f"delivered · {url}", delivery["created_at"]),
        callback["id"]: ("callback", job["id"], "evolink · recorded", callback["received_at"]),
        endpoint["id"]: ("endpoint", None, url, endpoint["created_at"]),
        batch["id"]: ("redelivery", None, None, batch["created_at"]),
    }
    for id_, (kind, job_id, title, created_at) in expected.items():
        for text in (id_, id_[:-4], f" {id_} "):
            hits = await found(running, text)
            assert [hit["id"] for hit in hits] == [id_], text
            assert (hits[0]["kind"], hits[0]["job_id"], hits[0]["matched"]) == (kind, job_id, "id")
            assert title is None or hits[0]["title"] == title
            assert hits[0]["created_at"] == created_at
        assert await found(running, f"{id_}0") == []
        assert await found(running, id_[:-1] + ("0" if id_[-1] != "0" else "1")) == []
    assert len(await found(running, "job_0")) == 1
    assert await found(running, "job_") == []


async def test_a_job_is_found_by_the_id_of_its_provider_as_it_changes(running: Running) -> None:
    """Find a job by the whole id that its provider gave it, and a resubmitted one by the new id, both as a filter."""
    first, second = await running.submit("evolink"), await running.submit("evolink")
    for job in (first, second):
        (hit,) = await found(running, job["provider_job_id"])
        assert (hit["id"], hit["matched"]) == (job["id"], "provider_job_id")
        (listed,) = (await running.get(f"/v1/jobs?provider_job_id={job['provider_job_id']}"))["data"]
        assert listed["id"] == job["id"]
    assert await found(running, first["provider_job_id"][:-1]) == []
    failed = await running.client.post(f"/v1/jobs/{first['id']}/failures", json={"reason": "lost"})
    assert failed.status_code == 200
    again = await running.client.post(f"/v1/jobs/{first['id']}/resubmissions", json={"accept_double_charge": True})
    assert again.status_code == 202, again.text
    renamed = again.json()["provider_job_id"]
    assert renamed != first["provider_job_id"]
    assert [hit["id"] for hit in await found(running, renamed)] == [first["id"]]
    assert await found(running, first["provider_job_id"]) == []


async def test_a_job_is_found_by_its_metadata(running: Running) -> None:
    """Find a job by `key=value`, and by a value alone under any name that recent jobs have."""
    first = await running.submit("evolink", metadata={"user": "42", "n": 7})
    second = await running.submit("evolink", metadata={"customer": "42", "user": "7", "a=b": "c"})
    expected = {
        "user=42": [first],
        "42": [second, first],
        "7": [second, first],
        "a=b=c": [second],
        "user=4": [],
        "4": [],
        "USER=42": [],
    }
    for text, jobs in expected.items():
        hits = await found(running, text)
        assert [hit["id"] for hit in hits] == [job["id"] for job in jobs], text
        assert {hit["matched"] for hit in hits} <= {"metadata"}
    assert [hit["id"] for hit in await found(running, "42", limit=1)] == [second["id"]]


async def test_a_standing_endpoint_is_found_by_a_part_of_its_url_or_description(running: Running) -> None:
    """Find endpoints by a part of URL or description in any case; `%` and `_` mean themselves; none that is deleted."""
    made = []
    for path, description in (("one_hook", "Alpha 100%"), ("onezhook", "beta")):
        body = {"url": f"{running.hook}/{path}", "description": description}
        made.append((await running.client.post("/v1/endpoints", json=body)).json())
    await running.submit("evolink", notify=[{"url": f"{running.hook}/one_hook"}])
    first, second = made
    expected = {
        "ONE_HOOK": ([first], "url"),
        "hook/one": ([second, first], "url"),
        "100%": ([first], "description"),
        "BETA": ([second], "description"),
        "100_": ([], ""),
        "one!": ([], ""),
    }
    for text, (endpoints, matched) in expected.items():
        hits = await found(running, text)
        assert [hit["id"] for hit in hits] == [one["id"] for one in endpoints], text
        assert {hit["matched"] for hit in hits} <= {matched}
    assert (await running.client.delete(f"/v1/endpoints/{second['id']}")).status_code == 204
    assert await found(running, "beta") == []
    assert await found(running, second["id"]) == []


async def test_another_project_finds_nothing(running: Running) -> None:
    """Find only what is the key's own project's, by whatever text."""
    url = f"{running.hook}/ours"
    endpoint = (await running.client.post("/v1/endpoints", json={"url": url})).json()
    job = await finished(running, metadata={"user": "42"})
    texts = [job["id"], job["provider_job_id"], "user=42", "42", "ours", endpoint["id"]]
    lists = [(await running.get(f"/v1/{path}"))["data"] for path in ("events", "deliveries", "callbacks")]
    texts += [found_ones[0]["id"] for found_ones in lists]
    key = await running.app.store.access.create_api_key("other", "other", ["read"], running.clock.now_ms())
    async with http_client(running.origin, key.text) as client:
        for text in texts:
            assert await found(running, text) != [], text
            answer = await client.get("/v1/search", params={"q": text})
            assert answer.json() == {"data": []}, text


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("", ["q"]),
        ("q=", ["q"]),
        ("q=%20", ["q"]),
        (f"q={'x' * 501}", ["q"]),
        ("q=x&limit=0", ["limit"]),
        ("q=x&limit=51", ["limit"]),
        ("limit=x", ["q", "limit"]),
    ],
)
async def test_a_wrong_search_is_refused(running: Running, query: str, wrong: list[str]) -> None:
    """Answer 422 and name each wrong parameter; the longest text and the largest limit are taken."""
    answer = await running.client.get(f"/v1/search?{query}")
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == wrong
    assert await found(running, "x" * 500, limit=50) == []


async def test_a_value_is_searched_under_the_names_of_recent_jobs(running: Running) -> None:
    """Know the names that the metadata of the RECENT_JOBS newest jobs has, and no older one's."""
    job = await running.submit("evolink", metadata={"rare": "needle"})
    for _ in range(RECENT_JOBS - 1):
        await running.submit("evolink")
    assert [hit["id"] for hit in await found(running, "needle")] == [job["id"]]
    await running.submit("evolink")
    assert await found(running, "needle") == []
    assert [hit["id"] for hit in await found(running, "rare=needle")] == [job["id"]]
    assert len(await found(running, ids.JOB + "0", limit=50)) == 50


@pytest.mark.parametrize("names", [NAMES_MAX - 1, NAMES_MAX])
async def test_a_value_is_searched_under_a_number_of_names(running: Running, names: int) -> None:
    """Search a value under NAMES_MAX names, those of the newest jobs first, and under no further one."""
    job = await running.submit("evolink", metadata={"rare": "needle"})
    await running.submit("evolink", metadata={f"name{number}": "x" for number in range(names)})
    hits = [hit["id"] for hit in await found(running, "needle")]
    assert hits == ([job["id"]] if names < NAMES_MAX else [])
