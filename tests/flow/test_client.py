"""relay's own clients for Python against a live relay: with and without asyncio, from submission to verification."""

import asyncio
import contextlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import generate
from relay.client import AsyncRelay, Relay, RelayError, RelayUnavailable, SignatureInvalid, verify
from relay.client.requests import Message, Messages
from relay.model.delivery import DeliveryState
from relay.security import signatures
from relay.web.routes import API
from tests.support.running import INPUT, KEY, Running, relay

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))
SECRET = signatures.new_secret()
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay."""
    async with relay(tmp_path) as opened:
        yield opened


@pytest.fixture
async def client(running: Running) -> AsyncIterator[AsyncRelay]:
    """Yield a client of it."""
    async with AsyncRelay(running.origin, KEY) as opened:
        yield opened


async def test_a_job_is_submitted_awaited_and_its_notification_verified(running: Running, client: AsyncRelay) -> None:
    """Submit a job, wait for its end by the event stream, and verify the notification that arrived meanwhile."""
    endpoint = await client.create_endpoint(running.hook, event_types=["job.*"])
    job = await client.submit("evolink", INPUT, metadata={"user": "42"})
    waiting = asyncio.ensure_future(client.wait(job.id, timeout_s=20))
    assert job.provider_job_id is not None
    await asyncio.gather(waiting, running.world.finish(job.provider_job_id))
    assert (waiting.result().status, waiting.result().metadata) == ("succeeded", {"user": "42"})
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    received = next(one for one in running.sink.received if b'"job.succeeded"' in one.body)
    now_s = int(received.headers["webhook-timestamp"])
    found = verify(received.headers, received.body, endpoint.secret, now_s=now_s)
    assert (found.type, found.final, found.job and found.job.outputs) == (
        "job.succeeded",
        True,
        waiting.result().outputs,
    )
    keys = (await running.get(f"/.well-known/webhook-keys?project={found.project}"))["keys"]
    assert verify(received.headers, received.body, keys[0]["whpk"], project=found.project, now_s=now_s) == found
    with pytest.raises(SignatureInvalid, match="another project"):
        verify(received.headers, received.body, keys[0]["whpk"], project="prj_other", now_s=now_s)
    for secret in (endpoint.secret, keys[0]["whpk"]):
        for headers, body, at_s in (
            (received.headers, received.body + b" ", now_s),
            (received.headers, received.body, now_s + 301),
            (received.headers | {"webhook-id": "evt_other"}, received.body, now_s),
        ):
            with pytest.raises(SignatureInvalid):
                verify(headers, body, secret, now_s=at_s)


async def test_a_wait_for_a_final_job_returns_it(running: Running, client: AsyncRelay) -> None:
    """Return at the first look a job that has ended before."""
    job = await client.submit("evolink", INPUT)
    await client.fail(job.id, "lost")
    assert (await client.wait(job.id)).status == "failed"


async def test_a_wait_ends_in_time(client: AsyncRelay) -> None:
    """Raise TimeoutError if the job is not final by then."""
    job = await client.submit("evolink", INPUT)
    with pytest.raises(TimeoutError, match=job.id):
        await client.wait(job.id, timeout_s=0.2)


async def test_a_wait_without_a_free_stream_is_held_by_relay(tmp_path: Path) -> None:
    """Wait by requests that relay holds if the project has as many streams as it may."""
    async with relay(tmp_path, RELAY_STREAMS_PER_PROJECT_MAX="1") as running, AsyncRelay(running.origin, KEY) as one:
        job = await one.submit("evolink", INPUT)
        later = await one.submit("evolink", INPUT)
        stream = one.stream(after=(await anext(one.events(job=job.id))).id)
        assert (await anext(stream)).job_id == later.id
        waiting = asyncio.ensure_future(one.wait(job.id, timeout_s=20))
        assert job.provider_job_id is not None
        await asyncio.gather(waiting, running.world.finish(job.provider_job_id))
        await stream.aclose()
    assert waiting.result().status == "succeeded"


async def test_the_client_without_asyncio_does_the_same(running: Running) -> None:
    """Do the whole way with the client without asyncio, in a thread."""

    def work() -> list[str]:
        with Relay(running.origin, KEY) as client:
            job = client.submit("evolink", INPUT)
            asyncio.run_coroutine_threadsafe(running.world.finish(str(job.provider_job_id)), loop).result(10)
            found = [client.wait(job.id, timeout_s=20).status]
            return [*found, *(one.id for one in client.jobs(status="succeeded"))]

    loop = asyncio.get_running_loop()
    status, job_id = await asyncio.to_thread(work)
    assert (status, job_id) == ("succeeded", next(iter((await running.get("/v1/jobs"))["data"]))["id"])


async def test_every_list_is_read_to_its_end(running: Running, client: AsyncRelay) -> None:
    """Yield every item of several pages once."""
    made = [(await client.create_endpoint(f"{running.hook}?{number}")).id for number in range(51)]
    assert [one.id async for one in client.endpoints()] == made[::-1]
    jobs = [(await client.submit("evolink", INPUT, metadata={"n": str(number)})).id for number in range(2)]
    assert [one.id async for one in client.jobs(metadata={"n": "1"})] == [jobs[1]]
    assert [one.id async for one in client.jobs(status="open")] == jobs[::-1]


async def test_every_route_has_a_method(running: Running, client: AsyncRelay) -> None:
    """Call every route of the API by a method of the client."""
    called: set[tuple[str, str]] = set()

    async def note(request: httpx.Request) -> None:
        called.add((request.method, request.url.path))

    async with httpx.AsyncClient(event_hooks={"request": [note]}) as http:
        one = AsyncRelay(running.origin, KEY, http=http)
        endpoint = await one.create_endpoint(running.hook)
        job = await one.submit("evolink", INPUT)
        await one.check(job.id)
        await use_the_archive(one, job.id)
        await one.upload("evolink", PNG, filename="a.png", content_type="image/png")
        assert (await one.cancel((await one.submit("evolink", INPUT)).id)).status == "canceled"
        await one.fail(job.id, "lost")
        await one.resubmit(job.id, accept_double_charge=True)
        assert (await one.timeline(job.id)).data
        assert [one.name for one in await one.providers()]
        assert (await one.spend(since="-24h")).unit == "USDC"
        assert [found.id async for found in one.endpoints()] == [(await one.endpoint(endpoint.id)).id]
        assert [(await one.job(found.id)).id async for found in one.jobs(status="open")] == [job.id]
        await one.change_endpoint(endpoint.id, description="ours")
        await one.rotate_secret(endpoint.id, secret=SECRET)
        assert await one.secret(endpoint.id) == SECRET
        assert (await one.count_redeliveries(endpoint.id, which="all", since="-24h")) > 0
        await one.redeliver_to(endpoint.id, which="undelivered")
        test = await one.test_endpoint(endpoint.id)
        await running.until(f"/v1/deliveries/{test.id}", lambda shown: shown["status"] == DeliveryState.DELIVERED)
        assert (await one.delivery(test.id)).attempts[0].outcome == "ok"
        await one.redeliver(test.id)
        assert [one.id async for one in one.deliveries(endpoint=endpoint.id)]
        events = [event async for event in one.events(job=job.id)]
        assert [(await one.event(event.id)).id async for event in one.events(after=events[-1].id)] != []
        async for event in one.stream(after=events[-1].id):
            assert event.id
            break
        assert [found async for found in one.callbacks(verdict="recorded")] == []
        for refused in (one.callback("cb_1"), one.release("cb_1")):
            with pytest.raises(RelayError, match="not_found"):
                await refused
        await use_what_operators_use(one, endpoint.id, job.id)
        await one.delete_endpoint(endpoint.id)
    missed = [
        (route.method, route.path)
        for route in API
        if not any(method == route.method and matches(route.path, path) for method, path in called)
    ]
    assert missed == []


async def use_the_archive(one: AsyncRelay, job: str) -> None:
    """Call what is about prices and results, at a relay without an archive."""
    await one.quotes(INPUT)
    with pytest.raises(RelayError, match="not_found"):
        await one.result_url(job)
    assert (await one.archive()).mode == "off"
    assert await one.copies(job) == []
    for refused in (one.change_archive("off"), one.backfill_archive(dry_run=True), one.copy(job)):
        with pytest.raises(RelayError, match="conflict"):
            await refused


async def use_what_operators_use(one: AsyncRelay, endpoint: str, job: str) -> None:
    """Call what an operator's program calls."""
    with pytest.raises(RelayError, match="conflict"):
        await one.approve(job, reason="fine")
    assert (await one.bulk("check", {"status": "open"}, dry_run=True)).dry_run
    assert job in [hit.id for hit in await one.search(job)]
    assert (await one.stats(since="-1h")).totals.jobs_created >= 1
    assert [alert async for alert in one.alerts()] == []
    assert [entry.verb async for entry in one.audit(target=endpoint)]
    assert [payment async for payment in one.payments()] == []
    assert (await one.receipts()).startswith("id,")
    assert (await one.whoami()).operator
    made = await one.create_key("ci", ["read"])
    assert (await one.revoke_key(made.id)).revoked_at
    assert made.id in [key.id async for key in one.keys(live=False)]
    project = await one.create_project("films")
    assert project.id in [found.id async for found in one.projects()]
    assert (await one.probe(endpoint)).attempts[0].outcome == "ok"
    assert "created" in [note.kind async for note in one.history(endpoint)]
    (batch,) = [batch async for batch in one.redeliveries(endpoint)]
    assert (await one.redelivery(endpoint, batch.id)).id == batch.id
    with contextlib.suppress(RelayError):  # it may have ended already
        await one.stop_redelivery(endpoint, batch.id)


def matches(pattern: str, path: str) -> bool:
    """Return whether a path is of a route."""
    parts, given = pattern.split("/"), path.split("/")
    return len(parts) == len(given) and all(
        part in ("{id}", "{n}", "{redelivery}", one) for part, one in zip(parts, given, strict=True)
    )


async def test_a_refusal_names_every_wrong_field(client: AsyncRelay) -> None:
    """Raise RelayError with relay's code and each wrong field."""
    with pytest.raises(RelayError, match=r"input\.duration_s") as caught:
        await client.submit("evolink", {"images": [1], "duration_s": "long"})
    assert (caught.value.status, caught.value.code) == (422, "invalid_input")
    assert {one.path for one in caught.value.errors} >= {"input.images[0]", "input.duration_s"}
    assert str(caught.value).count("input.duration_s") == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504, None])
async def test_a_request_is_made_again_with_the_same_key(status: int | None) -> None:
    """Repeat what failed on the way, or may work later, with the same Idempotency-Key, and return its answer."""
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            if status is None:
                raise httpx.ConnectError("gone")
            return httpx.Response(status, headers={"retry-after": "0"}, json={})
        return httpx.Response(200, json={"data": [], "next_cursor": None})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        assert await AsyncRelay("http://relay", KEY, http=http).quotes(INPUT) == []
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize(("status", "kind"), [(503, RelayUnavailable), (429, RelayError), (500, RelayError)])
async def test_the_last_try_raises(status: int, kind: type[Exception]) -> None:
    """Raise after the fourth try what is answered again and again, and at the first what another try cannot help."""
    tried = []

    def answer(_: httpx.Request) -> httpx.Response:
        tried.append(1)
        return httpx.Response(status, headers={"retry-after": "0"}, text="no relay")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        with pytest.raises(kind):
            await AsyncRelay("http://relay", KEY, http=http).job("job_1")
    assert len(tried) == (1 if status == 500 else 4)


@given(st.data(), st.lists(st.tuples(st.text("abc", min_size=1), TEXT), max_size=5))
def test_messages_are_whole_however_they_arrive(data: Any, wanted: list[tuple[str, str]]) -> None:
    """Yield every message of a stream once, in whatever pieces its bytes arrive, whatever characters it has."""
    sent = b"retry: 2000\n\n: comment\n\n" + b"".join(
        f"id: {name}\r\ndata: {text}\n\n".encode() for name, text in wanted
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    messages = Messages()
    found: list[Message] = []
    for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        found += messages.feed(sent[begin:end])
    assert found == [Message(name, text.encode()) for name, text in wanted]


def test_a_genuine_notification_needs_a_known_form_of_secret() -> None:
    """Raise ValueError for a secret that is neither an endpoint's nor a public key."""
    with pytest.raises(ValueError, match="whsec_"):
        verify({}, b"{}", "secret", now_s=time.time())


def test_what_is_made_is_up_to_date() -> None:
    """Have the types and the client without asyncio as `python -m clients.generate` makes them."""
    for path, content in generate.files().items():
        assert path.read_text() == content, f"run: python -m clients.generate ({path.relative_to(ROOT)})"


def test_the_client_loads_little() -> None:
    """Import the client without relay's server, its databases or its cryptography."""
    code = "import relay.client, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"starlette", "uvicorn", "asyncpg", "aiosqlite", "sqlite3", "cryptography", "prometheus_client", "jinja2"}
    loaded = set(json.loads(done.stdout))
    assert not heavy & loaded
    assert {name for name in loaded if name.startswith("relay.")} <= {
        *("relay.client", "relay.client.aio", "relay.client.sync", "relay.client.types", "relay.client.requests"),
        *("relay.client.notifications", "relay.security", "relay.security.signatures"),
        *("relay.security.hmac_key", "relay.errors"),
    }


async def test_the_lines_of_the_readme_work(running: Running) -> None:
    """Run the README's lines for the client against a live relay, as printed but for the addresses."""
    (code,) = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    endpoint = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()
    submitting, verifying = code.split("\nevent = ")
    loop, shown = asyncio.get_running_loop(), io.StringIO()

    def finished_soon(provider_job_id: str) -> None:
        asyncio.run_coroutine_threadsafe(running.world.finish(provider_job_id), loop).result(10)

    def work() -> None:
        lines = submitting.replace("https://relay.example.com", running.origin)
        lines = lines.replace("    print(", "    finished_soon(job.provider_job_id)\n    print(")
        with contextlib.redirect_stdout(shown):
            exec(lines, {"api_key": KEY, "finished_soon": finished_soon})

    await asyncio.to_thread(work)
    assert shown.getvalue().startswith("http")
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    received = next(one for one in running.sink.received if b'"job.succeeded"' in one.body)
    given = {"verify": partial(verify, now_s=int(received.headers["webhook-timestamp"])), "secret": endpoint["secret"]}
    exec(f"event = {verifying}", given | {"headers": received.headers, "body": received.body})
