"""What operators send: a test, one redelivery, a batch of redeliveries; and secret rotations."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from relay.clock import SystemClock
from relay.sandbox.serving import serve
from relay.sandbox.sink import Received
from relay.security import signatures
from tests.support.running import SECRET_KEY, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

ID, AT = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on the machine's clock, because the official libraries check the time themselves."""
    async with relay(tmp_path, clock=SystemClock(), confirm=False) as started:
        yield started


async def endpoint(running: Running, **fields: Any) -> dict[str, Any]:
    """Create an endpoint at the sink."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def notifications(running: Running, number: int) -> list[Received]:
    """Return the first so many notifications."""
    await running.sink.wait_for(lambda sink: len(sink.received) >= number)
    return running.sink.received


async def post(running: Running, path: str, body: Any = None, status: int = 202) -> dict[str, Any]:
    """Return the JSON that a POST answers."""
    answer = await running.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def refused(secret: str, received: Received) -> bool:
    """Return whether the official library refuses the notification with this secret."""
    try:
        Webhook(secret).verify(received.body, received.headers)
    except WebhookVerificationError:
        return True
    return False


def test_the_published_vector_of_the_asymmetric_signature() -> None:
    """Sign the standard's example with its example key, to its signature."""
    published = "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(published)[:32])
    expected = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
    assert signatures.sign_v1a(key.sign, ID, AT, b'{"test": 2432232314}') == expected


async def test_notifications_verify_with_the_published_key(running: Running) -> None:
    """Verify a `v1a` signature with the newest key of /.well-known/webhook-keys, in both forms; refuse another body."""
    made = await endpoint(running)
    await post(running, f"/v1/endpoints/{made['id']}/tests")
    (received,) = await notifications(running, 1)
    answer = await running.client.get("/.well-known/webhook-keys", headers={"authorization": ""})
    jwk = answer.json()["keys"][-1]
    raw = base64.urlsafe_b64decode(jwk["x"] + "=")
    assert jwk["whpk"] == "whpk_" + base64.b64encode(raw).decode()
    (signature,) = [part for part in received.headers["webhook-signature"].split() if part.startswith("v1a,")]
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode()
    public = Ed25519PublicKey.from_public_bytes(raw)
    public.verify(base64.b64decode(signature[4:]), signed + received.body)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature[4:]), signed + received.body + b" ")


async def test_published_keys_do_not_depend_on_the_secret_keys(tmp_path: Path) -> None:
    """Keep the public key when RELAY_SECRET_KEYS is rotated: the two are independent."""
    keys = []
    for secret_keys in (SECRET_KEY, f"{SECRET_KEY},another-key-that-is-long-enough-too"):
        async with relay(tmp_path, RELAY_SECRET_KEYS=secret_keys) as running:
            keys.append([key["x"] for key in (await running.get("/.well-known/webhook-keys"))["keys"]])
    async with relay(tmp_path / "elsewhere") as running:
        elsewhere = [key["x"] for key in (await running.get("/.well-known/webhook-keys"))["keys"]]
    assert len(keys[1]) == 1
    assert keys[1] == keys[0] != elsewhere


async def test_a_test_goes_to_its_endpoint_alone(running: Running) -> None:
    """Deliver `relay.test`, signed, to the endpoint alone, whatever types it selects."""
    made, _ = await endpoint(running, event_types=["job.failed"]), await endpoint(running, url=running.hook + "/other")
    delivery = await post(running, f"/v1/endpoints/{made['id']}/tests")
    (received,) = await notifications(running, 1)
    body = Webhook(made["secret"]).verify(received.body, received.headers)
    assert (body["type"], body["data"]["endpoint"], body["data"]["job"]) == ("relay.test", made["id"], None)
    shown = await running.until(f"/v1/deliveries/{delivery['id']}", lambda found: found["status"] == "delivered")
    assert (shown["endpoint"], shown["event"], shown["redelivery"]) == (made["id"], body["id"], False)


async def test_a_delivery_is_sent_again_with_the_same_id(running: Running) -> None:
    """Make a redelivery a delivery of its own with the same webhook-id and bytes, marked as requested."""
    await endpoint(running)
    await running.submit()
    (first,) = await notifications(running, 1)
    (delivery,) = (await running.until("/v1/deliveries?status=delivered", lambda found: found["data"] != []))["data"]
    again = await post(running, f"/v1/deliveries/{delivery['id']}/redeliveries")
    _, second = await notifications(running, 2)
    assert (again["redelivery"], again["event"], again["id"] != delivery["id"]) == (True, delivery["event"], True)
    assert (second.headers["webhook-id"], second.body) == (first.headers["webhook-id"], first.body)
    assert (first.headers.get("relay-redelivery"), second.headers.get("relay-redelivery")) == (None, "true")
    assert second.headers["relay-attempt"] == "1"


async def test_both_secrets_sign_until_the_grace_is_over(tmp_path: Path) -> None:
    """Sign with both secrets after a rotation, and with the new one alone after the grace period."""
    clock = HeldClock(SystemClock().now_ms())
    async with relay(tmp_path, clock=clock) as running:
        made = await endpoint(running)
        rotated = await post(running, f"/v1/endpoints/{made['id']}/secret-rotations", {"grace_s": 60}, 200)
        assert (await running.get(f"/v1/endpoints/{made['id']}/secret"))["secret"] == rotated["secret"]
        await post(running, f"/v1/endpoints/{made['id']}/tests")
        await notifications(running, 1)
        await clock.advance(60)
        await post(running, f"/v1/endpoints/{made['id']}/tests")
        during, after = await notifications(running, 2)
        assert [refused(made["secret"], one) for one in (during, after)] == [False, True]
        assert [refused(rotated["secret"], one) for one in (during, after)] == [False, False]


async def test_a_retry_is_signed_with_the_secret_of_its_time(tmp_path: Path) -> None:
    """Sign a retry with the new secret alone after a rotation without grace."""
    clock = HeldClock(SystemClock().now_ms())
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0,30") as running:
        made = await endpoint(running)
        running.sink.answers.append(503)
        await post(running, f"/v1/endpoints/{made['id']}/tests")
        await notifications(running, 1)
        own = signatures.new_secret()
        await post(running, f"/v1/endpoints/{made['id']}/secret-rotations", {"grace_s": 0, "secret": own}, 200)
        await running.until("/v1/deliveries", lambda found: found["data"][0]["attempts_made"] == 1)
        await clock.advance(40)
        first, second = await notifications(running, 2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert [refused(made["secret"], one) for one in (first, second)] == [False, True]
        assert not refused(own, second)


@pytest.mark.parametrize(
    ("body", "path"), [({"grace_s": -1}, "grace_s"), ({"grace_s": 700_000}, "grace_s"), ({"secret": "x"}, "secret")]
)
async def test_a_malformed_rotation_is_refused(running: Running, body: Any, path: str) -> None:
    """Answer 422 that names the field, and keep the secret."""
    made = await endpoint(running)
    problem = await post(running, f"/v1/endpoints/{made['id']}/secret-rotations", body, 422)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert (await running.get(f"/v1/endpoints/{made['id']}/secret"))["secret"] == made["secret"]


async def jobs_done(running: Running, number: int) -> None:
    """Submit so many jobs, and wait until they have succeeded."""
    for _ in range(number):
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])


async def test_missing_events_are_counted_and_then_sent_in_order(running: Running) -> None:
    """Send a new endpoint every earlier event of its types once, after a dry run that sends none."""
    await jobs_done(running, 3)
    made = await endpoint(running, event_types=["job.succeeded"])
    asked = {"since": LONG_AGO, "which": "missing"}
    counted = await post(running, f"/v1/endpoints/{made['id']}/redeliveries", asked | {"dry_run": True}, 200)
    assert (counted["count"], counted["dry_run"], running.sink.received) == (3, True, [])
    batch = await post(running, f"/v1/endpoints/{made['id']}/redeliveries", asked)
    assert batch["count"] == 3
    received = await notifications(running, 3)
    assert sorted(running.sink.events()) == ["job.succeeded"] * 3
    assert len({one.headers["webhook-id"] for one in received}) == 3
    await running.until("/v1/deliveries?status=delivered", lambda found: len(found["data"]) == 3)
    again = await post(running, f"/v1/endpoints/{made['id']}/redeliveries", asked)
    assert (again["count"], again["finished_at"] is not None) == (0, True)


async def test_failed_selects_what_was_not_delivered_since(tmp_path: Path) -> None:
    """Send only events whose deliveries ended without success; with `all` every event."""
    async with relay(tmp_path, clock=SystemClock(), confirm=False, RELAY_RETRY_SCHEDULE_S="0") as running:
        made = await endpoint(running)
        running.sink.answers += [500, 200]
        await jobs_done(running, 1)
        await running.until("/v1/deliveries?status=exhausted", lambda found: len(found["data"]) == 1)
        await running.until("/v1/deliveries?status=delivered", lambda found: len(found["data"]) == 1)
        path = f"/v1/endpoints/{made['id']}/redeliveries"
        counts = {
            which: (await post(running, path, {"since": LONG_AGO, "which": which, "dry_run": True}, 200))["count"]
            for which in ("failed", "missing", "all")
        }
        assert counts == {"failed": 1, "missing": 0, "all": 2}
        await post(running, path, {"since": LONG_AGO, "which": "failed"})
        await notifications(running, 3)
        await running.until("/v1/deliveries?status=delivered", lambda found: len(found["data"]) == 2)
        left = await post(running, path, {"since": LONG_AGO, "which": "failed", "dry_run": True}, 200)
        assert left["count"] == 0


async def test_a_batch_continues_after_a_restart(tmp_path: Path) -> None:
    """Finish a batch after a restart, without leaving out an event."""
    clock = SystemClock()
    async with relay(tmp_path, clock=clock, confirm=False) as running:
        await jobs_done(running, 5)
        made = await endpoint(running, event_types=["job.succeeded"], url="http://127.0.0.1:9/unreachable")
        batch = await post(running, f"/v1/endpoints/{made['id']}/redeliveries", {"since": LONG_AGO, "which": "all"})
        assert batch["count"] == 5
    async with relay(tmp_path, clock=clock, confirm=False) as running:
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"url": running.hook})
        await running.until("/v1/deliveries", lambda found: len(found["data"]) == 5)
        assert {one["redelivery"] for one in (await running.get("/v1/deliveries"))["data"]} == {True}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": LONG_AGO, "until": LONG_AGO}, "until"),
        ({"since": LONG_AGO, "which": "some"}, "which"),
        ({"since": LONG_AGO, "dryrun": True}, "dryrun"),
    ],
)
async def test_a_malformed_batch_is_refused(running: Running, body: Any, path: str) -> None:
    """Answer 422 that names the field."""
    made = await endpoint(running)
    problem = await post(running, f"/v1/endpoints/{made['id']}/redeliveries", body, 422)
    assert [error["path"] for error in problem["errors"]] == [path]


async def test_nothing_is_sent_again_to_a_deleted_endpoint(running: Running) -> None:
    """Answer 409 to a redelivery of its delivery, and 404 on its own routes."""
    made = await endpoint(running)
    delivery = await post(running, f"/v1/endpoints/{made['id']}/tests")
    await notifications(running, 1)
    await running.client.delete(f"/v1/endpoints/{made['id']}")
    await post(running, f"/v1/deliveries/{delivery['id']}/redeliveries", None, 409)
    await post(running, f"/v1/endpoints/{made['id']}/tests", None, 404)
    await post(running, f"/v1/endpoints/{made['id']}/redeliveries", {"since": LONG_AGO}, 404)


async def test_undelivered_sends_everything_missing_once(tmp_path: Path) -> None:
    """Send failed deliveries, missing ones and those waiting for a retry, each once, by one call."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, confirm=False, RELAY_RETRY_SCHEDULE_S="0,3600") as running:
        await jobs_done(running, 1)
        made = await endpoint(running, event_types=["job.succeeded"], schedule_s=[0])
        running.sink.answers = [500]
        await jobs_done(running, 1)
        await running.until("/v1/deliveries?status=exhausted", lambda found: len(found["data"]) == 1)
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"schedule_s": [0, 3600]})
        running.sink.answers = [500]
        await jobs_done(running, 1)
        await running.until(
            "/v1/deliveries?status=pending", lambda found: [d["attempts_made"] for d in found["data"]] == [1]
        )
        await jobs_done(running, 1)
        await running.until("/v1/deliveries?status=delivered", lambda found: len(found["data"]) == 1)
        await clock.advance(1)
        path, lacking = f"/v1/endpoints/{made['id']}/redeliveries", {"which": "undelivered", "since": LONG_AGO}
        running.sink.received.clear()
        counted = await post(running, path, lacking | {"dry_run": True}, 200)
        assert (counted["count"], running.sink.received) == (3, [])
        batch = await post(running, path, lacking)
        assert (batch["count"], batch["which"]) == (3, "undelivered")
        await notifications(running, 3)
        await running.until("/v1/deliveries?status=delivered", lambda found: len(found["data"]) == 4)
        assert len({one.headers["webhook-id"] for one in running.sink.received}) == len(running.sink.received) == 3
        assert len((await running.get("/v1/deliveries"))["data"]) == 5
        assert (await running.get("/v1/deliveries?status=pending"))["data"] == []
        assert (await post(running, path, lacking | {"dry_run": True}, 200))["count"] == 0


async def test_undelivered_needs_no_time_and_skips_what_is_in_flight(tmp_path: Path) -> None:
    """Begin at the endpoint's creation without `since`, and do not make a delivery in flight due again."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, confirm=False) as running, serve(Holding()) as held:
        await jobs_done(running, 1)
        await clock.advance(1)
        made = await endpoint(running, event_types=["job.succeeded"], url=held)
        await jobs_done(running, 1)
        await running.until("/v1/deliveries", lambda found: len(found["data"]) == 1)
        (before,) = (await running.get("/v1/deliveries"))["data"]
        path = f"/v1/endpoints/{made['id']}/redeliveries"
        batch = await post(running, path, {"which": "undelivered"})
        assert (batch["count"], batch["since"]) == (1, made["created_at"])
        await clock.advance(5)
        (after,) = (await running.get("/v1/deliveries"))["data"]
        assert after == before


class Holding:
    """A receiver that never answers."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's signature
        """Wait for ever."""
        await asyncio.Event().wait()


async def test_an_endpoint_can_be_created_disabled(running: Running) -> None:
    """Send nothing to an endpoint created with `status: disabled`; when it is enabled, send the events since."""
    await jobs_done(running, 1)
    made = await endpoint(running, status="disabled", event_types=["job.succeeded"])
    assert (made["status"], made["disabled_reason"]) == ("disabled", "disabled by hand")
    await jobs_done(running, 1)
    assert (await running.get(f"/v1/endpoints/{made['id']}"))["status"] == "disabled"
    assert running.sink.received == []
    answer = await running.client.patch(f"/v1/endpoints/{made['id']}", json={"status": "active"})
    assert answer.json()["status"] == "active"
    await notifications(running, 1)
    assert running.sink.events() == ["job.succeeded"]
    assert (await endpoint(running, status="active"))["status"] == "active"
