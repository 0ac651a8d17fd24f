"""What a delivery shows of each attempt: the request as it was sent, the answer's headers, the times of its parts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.model.exchange import HEADERS_MAX_BYTES
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

PARTS = ("lookup_ms", "connect_ms", "tls_ms", "wait_ms")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock that tries a delivery twice."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,5") as started:
        yield started


async def endpoint(running: Running, **fields: Any) -> str:
    """Return the id of a new endpoint at the sink."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def notified(running: Running, endpoint_id: str) -> dict[str, Any]:
    """Return the delivery of a test, after its first attempt."""
    answer = await running.client.post(f"/v1/endpoints/{endpoint_id}/tests")
    assert answer.status_code == 202, answer.text
    await quiet()
    return await running.get(f"/v1/deliveries/{answer.json()['id']}")


def times(attempt: dict[str, Any]) -> list[bool]:
    """Return which of the times an attempt has."""
    assert all(attempt["timings"][name] is None or attempt["timings"][name] >= 0 for name in PARTS)
    return [attempt["timings"][name] is not None for name in PARTS]


async def test_the_request_is_shown_as_it_was_sent(running: Running) -> None:
    """Show method, URL, body size and each header of every attempt, without signatures and the endpoint's values."""
    assert isinstance(running.clock, HeldClock)
    id_ = await endpoint(running, headers={"X-Key": "hidden-value"})
    running.sink.answers = [500]
    delivery = await notified(running, id_)
    await running.clock.advance(7)
    await running.client.post(f"/v1/endpoints/{id_}/secret-rotations", json={"grace_s": 60})
    again = await running.client.post(f"/v1/deliveries/{delivery['id']}/redeliveries")
    await quiet()
    attempts = (await running.get(f"/v1/deliveries/{delivery['id']}"))["attempts"]
    attempts += (await running.get(f"/v1/deliveries/{again.json()['id']}"))["attempts"]
    assert [one["status_code"] for one in attempts] == [500, 200, 200]
    for attempt, received in zip(attempts, running.sink.received, strict=True):
        request = attempt["request"]
        assert (request["method"], request["url"]) == ("POST", running.hook)
        assert request["body_bytes"] == len(received.body)
        sent = {name: value for name, value in received.headers.items() if name not in ("host", "content-length")}
        shown = {name.lower(): value for name, value in request["headers"].items()}
        signatures = sent.pop("webhook-signature").split(" ")
        redacted = dict.fromkeys(f"{one.partition(',')[0]},[redacted]" for one in signatures)
        assert shown.pop("webhook-signature") == " ".join(redacted)
        assert (sent.pop("x-key"), shown.pop("x-key")) == ("hidden-value", "[redacted]")
        assert shown == sent
    assert (await running.client.delete(f"/v1/endpoints/{id_}")).status_code == 204
    (attempt, _) = (await running.get(f"/v1/deliveries/{delivery['id']}"))["attempts"]
    assert (attempt["request"], attempt["response_headers"] is None) == (None, False)


async def test_the_size_is_that_of_what_was_sent(running: Running) -> None:
    """Show the size of the message that an endpoint of another format gets, and not of the event."""
    id_ = await endpoint(running, format="slack")
    delivery = await notified(running, id_)
    assert delivery["attempts"][0]["request"]["body_bytes"] == len(running.sink.received[0].body)


async def test_the_answers_headers_are_shown_without_secrets(running: Running) -> None:
    """Show the headers of the answer by their names, without cookies and what repeats the endpoint's own values."""
    id_ = await endpoint(running, headers={"X-Key": "hidden-value"})
    running.sink.response_headers = {
        "Set-Cookie": "session=abc",
        "X-Echo": "got hidden-value here",
        "Retry-After": "30",
        "X-Relay-Key": running.app.settings.provider("evolink").api_key or "",
    }
    attempt = (await notified(running, id_))["attempts"][0]
    shown = attempt["response_headers"]
    wanted = ("set-cookie", "x-echo", "retry-after", "x-relay-key")
    assert [shown[name] for name in wanted] == ["[redacted]", "got [redacted] here", "30", "[redacted]"]
    assert "content-length" in shown


@pytest.mark.parametrize("spare", [0, -1])
async def test_headers_are_kept_to_a_limit(running: Running, spare: int) -> None:
    """Keep the headers that end within HEADERS_MAX_BYTES, and none that ends a byte later."""
    id_ = await endpoint(running)
    first = (await notified(running, id_))["attempts"][0]["response_headers"]
    used = sum(len(name) + len(value) + 4 for name, value in first.items())
    running.sink.response_headers = {"x-last": "v" * (HEADERS_MAX_BYTES - used - len("x-last") - 4 - spare)}
    shown = (await notified(running, id_))["attempts"][0]["response_headers"]
    assert len(shown) == len(first) + (spare == 0)


async def test_the_times_are_those_of_the_parts_that_there_were(running: Running) -> None:
    """Time look-up, connection and answer of a new connection, the answer alone of a kept one, and no failed part."""
    id_ = await endpoint(running)
    assert times((await notified(running, id_))["attempts"][0]) == [True, True, False, True]
    assert times((await notified(running, id_))["attempts"][0]) == [False, False, False, True]
    dead = await endpoint(running, url="http://127.0.0.1:1/")
    attempt = (await notified(running, dead))["attempts"][0]
    assert (attempt["outcome"], attempt["response_headers"]) == ("unreachable", None)
    assert times(attempt) == [True, False, False, False]
