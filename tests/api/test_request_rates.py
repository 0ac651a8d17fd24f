"""RELAY_RATE_PER_KEY and RELAY_RATE_PER_ADDRESS: what counts, what never does, and what a refusal says and logs."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from starlette.routing import Route

from relay.web.request_body import BodyMemory, memory_limits
from relay.web.routes import _Pages, routed
from tests.support.browsing import browser
from tests.support.calling_back import DONE
from tests.support.running import INPUT, KEY, HeldClock, Running, http_client, relay

pytestmark = pytest.mark.anyio

SLOW: dict[str, Any] = {
    "RELAY_CLIENT_IP": "xff:1",
    "RELAY_METRICS_KEY": KEY,
    "RELAY_RATE_PER_KEY": "0.5",
    "RELAY_BURST_PER_KEY": "3",
    "RELAY_RATE_PER_ADDRESS": "0.5",
    "RELAY_BURST_PER_ADDRESS": "2",
}
"""A request in two seconds of a key, or of an address, after a burst of three, or two."""
HERE, ELSEWHERE = {"x-forwarded-for": "198.51.100.7"}, {"x-forwarded-for": "203.0.113.9"}


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that the test advances."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a relay with low rates."""
    async with relay(tmp_path, clock=clock, confirm=False, **SLOW) as started:
        yield started


@pytest.fixture
async def anyone(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client without a key."""
    async with http_client(running.origin, None) as client:
        yield client


def bearing(key: str) -> dict[str, str]:
    """Return the headers of a request with a key, from an address of its own."""
    return {"authorization": f"Bearer {key}"} | HERE


async def new_key(running: Running, *, project: str = "default") -> str:
    """Return a new admin key."""
    made = await running.app.store.access.create_api_key(project, "a key", ["admin"], running.clock.now_ms())
    return made.text


async def use_up(client: httpx.AsyncClient, headers: dict[str, str], path: str = "/nothing") -> None:
    """Make requests that nothing proves until their address has none left."""
    while (await client.get(path, headers=headers)).status_code != 429:
        pass


async def refused(running: Running, bound: str) -> int:
    """Return how many requests the metrics count as refused by a limit."""
    shown = (await running.client.get("/metrics")).text
    found = re.search(rf'relay_refused_total{{bound="{bound}"}} (\d+)', shown)
    assert found
    return int(found[1])


async def test_a_key_has_its_burst_and_then_its_rate(running: Running, clock: HeldClock) -> None:
    """Answer the burst, refuse one more with 429, and pass the next when Retry-After is over, not a moment before."""
    statuses = [(await running.client.get("/v1/whoami")).status_code for _ in range(3)]
    answer = await running.client.get("/v1/whoami")
    assert (statuses, answer.status_code, answer.headers["retry-after"]) == ([200] * 3, 429, "2")
    assert answer.headers["content-type"] == "application/problem+json"
    shown = answer.json()
    assert (shown["code"], shown["status"]) == ("too_many_requests", 429)
    assert shown["detail"] == "an API key may make 0.5 requests a second; send this one again in 2 s"
    await clock.advance(1.999)
    assert (await running.client.get("/v1/whoami")).headers["retry-after"] == "1"
    await clock.advance(0.001)
    assert (await running.client.get("/v1/whoami")).status_code == 200
    assert (await running.client.get("/v1/whoami")).status_code == 429
    assert await refused(running, "rate_per_key") == 3


async def test_a_step_of_the_wall_clock_changes_no_rate(running: Running, clock: HeldClock) -> None:
    """Measure by the monotonic clock: NTP neither refills a bucket nor keeps it empty."""
    for _ in range(3):
        await running.client.get("/v1/whoami")
    clock.set_back(-86_400)
    assert (await running.client.get("/v1/whoami")).status_code == 429
    clock.set_back(2 * 86_400)
    await clock.advance(2)
    assert (await running.client.get("/v1/whoami")).status_code == 200


async def test_one_keys_rate_is_no_other_keys(running: Running) -> None:
    """Let another key of the project, and one of another project, work while one is over its rate."""
    others = [await new_key(running), await new_key(running, project="films")]
    while (await running.client.get("/v1/whoami")).status_code == 200:
        pass
    for key in others:
        assert (await running.client.get("/v1/whoami", headers=bearing(key))).status_code == 200
    assert (await running.client.get("/v1/whoami")).status_code == 429


async def test_a_refused_submission_makes_no_job_and_may_be_repeated(running: Running, clock: HeldClock) -> None:
    """Refuse before anything is stored; the same Idempotency-Key works once the rate allows it."""
    for _ in range(3):
        await running.client.get("/v1/whoami")
    body, headers = {"provider": "evolink", "input": INPUT}, {"idempotency-key": "order 4711"}
    assert (await running.client.post("/v1/jobs", json=body, headers=headers)).status_code == 429
    assert running.world.jobs == {}
    await clock.advance(2)
    made = await running.client.post("/v1/jobs", json=body, headers=headers)
    assert (made.status_code, "idempotent-replayed" in made.headers) == (202, False)
    assert len(running.world.jobs) == 1


async def test_a_stream_counts_once(running: Running, clock: HeldClock) -> None:
    """Count a stream when it begins, and nothing that it sends."""
    async with running.client.stream("GET", "/v1/events/stream") as stream:
        lines = stream.aiter_lines()
        assert (await anext(lines)).startswith("retry: ")
        await clock.advance(15)
        assert [(await running.client.get("/v1/whoami")).status_code for _ in range(4)] == [200, 200, 200, 429]


async def test_without_rates_nothing_is_refused(tmp_path: Path) -> None:
    """Limit nothing at 0 a second."""
    off = SLOW | {"RELAY_RATE_PER_KEY": "0", "RELAY_RATE_PER_ADDRESS": "0"}
    async with relay(tmp_path, **off) as running:
        assert {(await running.client.get("/v1/whoami")).status_code for _ in range(9)} == {200}
        assert {(await running.client.get("/nothing")).status_code for _ in range(9)} == {404}


PUBLIC: Final = [
    "/openapi.json",
    "/docs",
    "/docs/docs.css",
    "/.well-known/webhook-keys",
    "/nothing",
    "/v1/nothing",
    "/",
    "/jobs",
]


@pytest.mark.parametrize("path", [*PUBLIC, "/signin", "/live/jobs", "/v1/whoami", "/v1/jobs"])
async def test_what_nothing_proves_counts_against_its_address(
    running: Running, anyone: httpx.AsyncClient, clock: HeldClock, path: str
) -> None:
    """Answer two requests of an address, refuse the third, pass those of another one, and the first one's later."""
    answers = [await anyone.get(path, headers=HERE) for _ in range(3)]
    assert [answer.status_code == 429 for answer in answers] == [False, False, True]
    assert answers[2].headers["retry-after"] == "2"
    assert (await anyone.get(path, headers=ELSEWHERE)).status_code != 429
    await clock.advance(1.999)
    assert (await anyone.get(path, headers=HERE)).status_code == 429
    await clock.advance(0.001)
    assert (await anyone.get(path, headers=HERE)).status_code != 429
    assert await refused(running, "rate_per_address") == 2


@pytest.mark.parametrize("path", ["/v1/jobs", "/signin", "/signout", "/theme", "/jobs", "/nothing"])
async def test_posts_that_nothing_proves_count_too(anyone: httpx.AsyncClient, path: str) -> None:
    """Refuse a POST over the rate of its address, whether relay has the path or not."""
    statuses = [(await anyone.post(path, headers=HERE, data={"key": "wrong"})).status_code for _ in range(3)]
    assert [status == 429 for status in statuses] == [False, False, True]


async def test_every_route_counts_or_says_why_not(running: Running, anyone: httpx.AsyncClient) -> None:
    """Refuse each route of the server to an address over its rate, but for those that are named here."""
    await use_up(anyone, HERE)
    memory = BodyMemory(memory_limits(running.app.settings))
    served = [*routed(running.app, memory).routes, *await _Pages(running.app, memory)._made()]
    answered = set()
    for route in served:
        assert isinstance(route, Route)
        for method in (route.methods or {"GET"}) - {"HEAD"}:
            path = re.sub(r"{[^}]*}", "x", route.path)
            answer = await anyone.request(method, path, headers=HERE)
            if answer.status_code != 429:
                answered.add(route.path)
    assert answered == {"/healthz", "/readyz", "/assets/{name:path}"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_never_refused(anyone: httpx.AsyncClient, path: str) -> None:
    """Answer a platform's checks, also from an address that is over its rate."""
    await use_up(anyone, HERE)
    assert {(await anyone.get(path, headers=HERE)).status_code for _ in range(9)} == {200}


async def test_a_wrong_metrics_key_counts_and_the_right_one_does_not(
    running: Running, anyone: httpx.AsyncClient
) -> None:
    """Refuse keys that are tried at /metrics, and show the metrics to the right one meanwhile."""
    statuses = [(await anyone.get("/metrics", headers=bearing("wrong"))).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert {(await anyone.get("/metrics", headers=bearing(KEY))).status_code for _ in range(9)} == {200}


async def test_guesses_are_bounded(running: Running, anyone: httpx.AsyncClient) -> None:
    """Answer 401 to two wrong keys, and then 429, before the key is looked up: also to one that would be right."""
    unused = await new_key(running)
    statuses = [(await anyone.get("/v1/whoami", headers=bearing(f"guess {n}"))).status_code for n in range(4)]
    assert statuses == [401, 401, 429, 429]
    assert (await anyone.get("/v1/whoami", headers=bearing(unused))).status_code == 429
    assert (await anyone.get("/v1/whoami", headers=bearing(unused) | ELSEWHERE)).status_code == 200
    assert (await anyone.get("/v1/whoami", headers=bearing(unused))).status_code == 200


async def test_guesses_do_not_shut_out_a_key_behind_the_same_address(
    running: Running, anyone: httpx.AsyncClient
) -> None:
    """Answer a client whose key has worked before, whatever others behind its address try; a revoked one no more."""
    key = await new_key(running)
    assert (await anyone.get("/v1/whoami", headers=bearing(key))).status_code == 200
    await use_up(anyone, bearing("wrong"), "/v1/whoami")
    whoami = await anyone.get("/v1/whoami", headers=bearing(key))
    assert whoami.status_code == 200
    await running.app.store.access.revoke_api_key(whoami.json()["key"]["id"], running.clock.now_ms())
    statuses = [(await anyone.get("/v1/whoami", headers=bearing(key) | ELSEWHERE)).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


@pytest.mark.parametrize("path", ["/v1/jobs", "/nothing", "/callbacks/evolink/forged"])
async def test_requests_without_a_key_do_not_lock_out_a_key(
    running: Running, anyone: httpx.AsyncClient, path: str
) -> None:
    """Answer a key's first request, though its address has used up its requests that nothing proves."""
    key = await new_key(running)
    for _ in range(9):
        await anyone.post(path, headers=HERE, content=DONE)
    assert (await anyone.get("/nothing", headers=HERE)).status_code == 429
    assert (await anyone.get("/v1/whoami", headers=bearing(key))).status_code == 200


async def test_the_key_of_the_setting_is_never_counted_for_its_address(anyone: httpx.AsyncClient) -> None:
    """Answer RELAY_API_KEY, which needs no look-up, at its first request beside wrong keys."""
    await use_up(anyone, bearing("wrong"), "/v1/whoami")
    assert (await anyone.get("/v1/whoami", headers=bearing(KEY))).status_code == 200


@pytest.mark.both_databases
async def test_wrong_keys_do_not_lock_out_a_key_after_a_restart(tmp_path: Path) -> None:
    """Answer a key that was in use before the start beside wrong keys; one that was revoked is a wrong key."""
    async with relay(tmp_path, **SLOW) as before, http_client(before.origin, None) as anyone:
        keys = [await new_key(before) for _ in range(3)]
        whoami = [await anyone.get("/v1/whoami", headers=bearing(key)) for key in keys[:2]]
        await before.app.store.access.revoke_api_key(whoami[1].json()["key"]["id"], before.clock.now_ms())
    async with relay(tmp_path, **SLOW) as after, http_client(after.origin, None) as anyone:
        await use_up(anyone, bearing("wrong"), "/v1/whoami")
        statuses = [(await anyone.get("/v1/whoami", headers=bearing(key))).status_code for key in keys]
        assert statuses == [200, 429, 429]
        await after.app.store.access.revoke_api_key(whoami[0].json()["key"]["id"], after.clock.now_ms())
        assert (await anyone.get("/v1/whoami", headers=bearing(keys[0]) | ELSEWHERE)).status_code == 401


async def test_a_new_key_works_at_once_beside_wrong_keys(running: Running, anyone: httpx.AsyncClient) -> None:
    """Answer the first request with a key that this process has just made."""
    await use_up(anyone, bearing("wrong"), "/v1/whoami")
    made = await running.client.post("/v1/keys", json={"scopes": ["read"]})
    assert made.status_code == 201
    assert (await anyone.get("/v1/whoami", headers=bearing(made.json()["key"]))).status_code == 200


async def test_a_key_over_its_rate_is_not_looked_up(running: Running, anyone: httpx.AsyncClient) -> None:
    """Refuse before the database is read: that the key is revoked shows once its rate allows a look-up."""
    key = await new_key(running)
    whoami = [await anyone.get("/v1/whoami", headers=bearing(key)) for _ in range(3)]
    await running.app.store.access.revoke_api_key(whoami[0].json()["key"]["id"], running.clock.now_ms())
    assert (await anyone.get("/v1/whoami", headers=bearing(key))).status_code == 429
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(2)
    assert (await anyone.get("/v1/whoami", headers=bearing(key))).status_code == 401


async def test_requests_with_a_key_use_up_nothing_of_their_address(running: Running, anyone: httpx.AsyncClient) -> None:
    """Count a valid key by its own rate alone."""
    for _ in range(5):
        await anyone.get("/v1/whoami", headers=bearing(KEY))
    assert [(await anyone.get("/nothing", headers=HERE)).status_code for _ in range(3)] == [404, 404, 429]


async def test_an_ipv6_client_counts_by_its_network(anyone: httpx.AsyncClient) -> None:
    """Count the addresses of a /64 together, and the next /64 apart."""
    one, other, apart = ({"x-forwarded-for": f"2001:db8:1:{net}::1"} for net in ("2", "2:8", "3"))
    statuses = [(await anyone.get("/nothing", headers=headers)).status_code for headers in (one, other, one, apart)]
    assert statuses == [404, 404, 429, 404]


async def test_a_forged_address_is_not_believed(tmp_path: Path) -> None:
    """Count by the connection's address where no proxy is trusted, and by the proxy's own entry where one is."""
    forged = [{"x-forwarded-for": f"192.0.2.{number}"} for number in range(3)]
    async with relay(tmp_path, **SLOW | {"RELAY_CLIENT_IP": "peer"}) as running:
        statuses = [(await running.client.get("/nothing", headers=headers)).status_code for headers in forged]
    assert statuses == [404, 404, 429]
    behind_a_proxy = [{"x-forwarded-for": f"192.0.2.{number}, 198.51.100.7"} for number in range(3)]
    async with relay(tmp_path, **SLOW) as running:
        statuses = [(await running.client.get("/nothing", headers=headers)).status_code for headers in behind_a_proxy]
    assert statuses == [404, 404, 429]


async def test_a_callback_with_a_valid_token_always_passes(running: Running, anyone: httpx.AsyncClient) -> None:
    """Store every callback from an address over its rate, in one read and in several, and count none of them."""
    await running.submit()
    url = running.callback_url()
    await use_up(anyone, HERE)
    for number in range(5):
        whole = await anyone.post(url, headers=HERE, content=DONE)
        parts = await anyone.post(url, headers=HERE, content=_parts(DONE + b" " * number))
        assert (whole.status_code, parts.status_code) == (200, 200)
    assert [(await anyone.get("/nothing", headers=ELSEWHERE)).status_code for _ in range(3)] == [404, 404, 429]


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in parts."""
    for letter in body[:3], body[3:]:
        yield letter


async def test_forged_callbacks_get_the_same_answer_and_fill_no_log(
    running: Running, anyone: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answer 404 to every forged callback, since a provider repeats a 429; log those within the rate, count all."""
    for _ in range(9):
        answer = await anyone.post("/callbacks/evolink/forged", headers=HERE, content=DONE)
        assert (answer.status_code, answer.json()) == (404, {"received": False})
    assert (await anyone.get("/nothing", headers=HERE)).status_code == 429
    assert await refused(running, "rate_per_address") == 8
    assert 'relay_callbacks_refused_total{provider="evolink"} 9.0' in (await running.client.get("/metrics")).text
    said = "".join(capsys.readouterr())
    assert said.count("callback.refused") == 2


async def test_a_session_counts_as_its_key(running: Running, clock: HeldClock) -> None:
    """Count a page once, whatever it reads, by the key of its session; show what is the matter, and when to retry."""
    async with browser(running) as reader:
        first = await reader.get("/jobs")  # the sign-in led to a page, which counted
        assert first.status == 200
        await reader.get("/jobs")
        page = await reader.get("/jobs")
        assert (page.status, page.response.headers["retry-after"]) == (429, "2")
        assert "Too many requests" in page.html
        assert (await running.client.get("/v1/whoami")).status_code == 429
        await clock.advance(2)
        assert (await reader.get("/jobs")).status == 200
    assert await refused(running, "rate_per_key") == 2


async def test_a_stream_of_a_page_over_its_rate_is_refused_and_counted(running: Running, clock: HeldClock) -> None:
    """Answer 429 with the time to wait, not the 204 that ends a browser's tries; open the stream when that is over."""
    async with browser(running) as reader:
        for _ in range(2):
            await reader.get("/jobs")  # the sign-in led to a page, which counted
        refusal = await reader.client.get("/live/jobs")
        assert (refusal.status_code, refusal.headers["retry-after"]) == (429, "2")
        await clock.advance(2)
        async with reader.client.stream("GET", "/live/jobs") as stream:
            assert stream.status_code == 200
    assert await refused(running, "rate_per_key") == 1


async def test_the_log_names_who_is_refused_once_a_minute(
    running: Running, anyone: httpx.AsyncClient, clock: HeldClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log the key's id, or the address, and the setting, once a minute for each; never the key."""
    key = await new_key(running)
    for _ in range(9):
        await anyone.get("/v1/whoami", headers=bearing(key))
        await anyone.get("/v1/whoami", headers=bearing("wrong-key") | ELSEWHERE)
    said = "".join(capsys.readouterr())
    lines = [line for line in said.splitlines() if "requests.limited" in line]
    assert len(lines) == 2
    of_address, of_key = sorted(lines, key=lambda line: "RATE_PER_KEY" in line)
    assert "setting=RELAY_RATE_PER_KEY" in of_key
    assert re.search(r"key=key_\w+", of_key)
    assert "client=198.51.100.7" in of_key
    assert "setting=RELAY_RATE_PER_ADDRESS" in of_address
    assert "client=203.0.113.9" in of_address
    assert key not in said
    assert "wrong-key" not in said
    assert said.count("api_key.refused") == 2
    await clock.advance(60)
    await use_up(anyone, bearing("wrong-key") | ELSEWHERE, "/v1/whoami")
    assert "".join(capsys.readouterr()).count("requests.limited") == 1
