"""Callbacks signed by keys that a provider publishes: known ones, new ones, made-up ones, and a place that is down."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import KeyUnknown, Unreadable
from relay.model.provider_http import ProviderResponse
from relay.outbound.jwks import BODY_MAX_BYTES, KEYS_MAX, READS_PER_MINUTE, KeySet, parse_keys
from relay.outbound.provider_client import ProviderClient
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.providers.base import Signing
from relay.sandbox.faults import Faults
from relay.sandbox.keys import PATH, Keys
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.security.signatures import SignatureInvalid, Signed, new_secret, sign
from tests.support.calling_back import DONE, kept
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

SIGNING = [one for one in {**PROVIDERS, **DEV_PROVIDERS}.values() if isinstance(one, Signing)]
DAY_S = 86_400


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock, which the stand-in signs by."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        signs_by_its_clock(started)
        yield started


def signs_by_its_clock(running: Running) -> None:
    """Give the stand-in relay's time."""
    running.world.keys.clock = lambda: running.clock.now_ms() // 1000


async def advance(running: Running, seconds: float) -> None:
    """Move the clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def ended(running: Running, signed: str = "ok") -> dict[str, Any]:
    """Return a job of the sandbox that ended with a callback that is signed so."""
    running.world.next_faults.append(Faults(signed=signed))
    job = await running.submit("sandbox")
    await running.world.finish(job["provider_job_id"])
    return await running.get(f"/v1/jobs/{job['id']}")


async def post(running: Running, how: str = "ok", number: int = 0, **headers: str) -> httpx.Response:
    """Return a callback for the job that was submitted last, signed so now."""
    signature = running.world.keys.headers(DONE, how, number) | headers
    return await running.client.post(running.callback_url(), content=DONE, headers=signature)


async def test_a_signed_end_needs_no_confirmation(running: Running) -> None:
    """The key is looked up with the first callback, and proves what the provider need not be asked about."""
    done = await ended(running)
    assert (done["status"], done["verification"], done["finished_by"]) == ("succeeded", "signature", "callback")
    assert (running.world.keys.asked, running.world.status_checks) == (1, [])


async def test_known_keys_serve_while_their_place_is_down(running: Running) -> None:
    """What was read before is enough, even when it is a day old and cannot be read again."""
    await ended(running)
    running.world.keys.wrong = "down"
    assert (await ended(running))["verification"] == "signature"
    assert running.world.keys.asked == 1
    await advance(running, DAY_S + 1)
    assert (await ended(running))["verification"] == "signature"
    assert running.world.keys.asked == 2


async def test_a_rotated_key_is_looked_up_once(running: Running) -> None:
    """Many callbacks by a new key, at once: one look finds it, and all of them are taken."""
    await ended(running)
    await running.submit("sandbox")
    running.world.keys.rotate()
    answers = await asyncio.gather(*(post(running, number=number) for number in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert running.world.keys.asked == 2
    assert (await kept(running))[0]["verdict"] in ("recorded", "repeated")


async def test_a_key_that_was_withdrawn_is_forgotten_within_a_day(running: Running) -> None:
    """A signature by a key that is not published any more is good until the keys are read again, and not after."""
    await ended(running)
    await running.submit("sandbox")
    keys, former = running.world.keys, Keys(running.world.keys.clock)
    former.key = keys.key
    keys.rotate()

    async def posted() -> httpx.Response:
        return await running.client.post(running.callback_url(), content=DONE, headers=former.headers(DONE, "ok", 0))

    assert (await posted()).status_code == 200
    await advance(running, DAY_S + 1)
    answer = await posted()
    assert (answer.status_code, answer.headers["retry-after"], keys.asked) == (503, "2", 2)


async def test_made_up_keys_make_few_looks(running: Running) -> None:
    """However many there are: 503 and nothing stored, six looks a minute; and a real new key is found after it."""
    await running.submit("sandbox")
    for minute in range(1, 3):
        for number in range(20):
            assert (await post(running, "unknown_key", number)).status_code == 503
        assert running.world.keys.asked == minute * READS_PER_MINUTE
        await advance(running, 60)
    assert await kept(running) == []
    running.world.keys.rotate()
    assert (await post(running)).status_code == 200
    assert running.world.keys.asked == 2 * READS_PER_MINUTE + 1


@pytest.mark.parametrize("wrong", ["down", "hang"])
async def test_without_keys_a_callback_is_to_come_again(running: Running, wrong: str) -> None:
    """503 with Retry-After, and nothing is stored or believed; taken as soon as the keys can be read."""
    job = await running.submit("sandbox")
    running.world.keys.wrong = wrong
    answer = await post(running)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert await kept(running) == []
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    running.world.keys.wrong = ""
    assert (await post(running)).json() == {"received": True}
    done = await running.get(f"/v1/jobs/{job['id']}")
    assert (done["status"], done["verification"]) == ("succeeded", "signature")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no published key"),
        ({"x-sandbox-signature": "00"}, "missing or malformed"),
        ({"x-sandbox-key-id": ""}, "missing or malformed"),
        ({"x-sandbox-timestamp": "१"}, "x-sandbox-timestamp is missing or malformed"),
        ({"x-sandbox-timestamp": "1000000"}, "more than 300 s from now"),
        ({"x-sandbox-request-id": "req-other"}, "no published key"),
    ],
)
async def test_a_forged_signature_is_quarantined(running: Running, headers: dict[str, str], reason: str) -> None:
    """200 and kept, as for a shared secret: the provider is asked at once, and no further look is made."""
    await ended(running)
    await running.submit("sandbox")
    given = running.world.keys.headers(DONE, "ok" if headers else "forged", 1) | headers
    sent = [(name.encode(), value.encode()) for name, value in given.items()]
    answer = await running.client.post(running.callback_url(), content=DONE, headers=sent)
    assert answer.status_code == 200
    callback = (await kept(running))[0]
    assert callback["verdict"] == "quarantined"
    assert reason in callback["reason"]
    await running.world.wait_for(lambda world: len(world.status_checks) == 1)
    assert running.world.keys.asked == 1


async def test_what_is_not_signed_is_worth_its_token(running: Running) -> None:
    """A provider that need not sign is asked to confirm the others, and no key is looked up for them."""
    job = await ended(running, "")
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert (done["verification"], running.world.keys.asked) == ("fetch", 0)


async def test_a_released_callback_does_not_wait_for_keys(tmp_path: Path) -> None:
    """A person's word counts where the keys cannot be read: it goes on as one that nobody signed."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_SANDBOX_CALLBACK_SECRET=new_secret()) as running:
        signs_by_its_clock(running)
        running.world.next_faults.append(Faults(lost=True, check="not_found"))
        job = await running.submit("sandbox")
        await post(running)
        (callback,) = await kept(running)
        assert (callback["verdict"], running.world.keys.asked) == ("quarantined", 0), "a secret goes before keys"
    async with relay(tmp_path, clock=clock, confirm=False) as running:
        running.world.keys.wrong = "down"
        released = (await running.client.post(f"/v1/callbacks/{callback['id']}/releases")).json()
        assert (released["reprocessings"][0]["verdict"], running.world.keys.asked) == ("recorded", 1)
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], done["verification"]) == ("succeeded", "token")


class Unnamed:
    """What an adapter reads where the signature names no key: the body, as the test's key signs it now."""

    def __init__(self, clock: HeldClock) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.clock = clock

    def read(self, _: Mapping[str, str], body: bytes) -> Signed:
        """Signed by the key of the moment."""
        at = self.clock.now_ms() // 1000
        return Signed(key_id=None, message=body, signature=self.key.sign(body), timestamp_s=at)


async def test_where_no_key_is_named_each_is_tried() -> None:
    """None that fits among keys read within the minute is a forgery; where they cannot be read, nobody knows."""
    clock, world = HeldClock(), sandbox(pace_s=None)
    unnamed = Unnamed(clock)
    async with serve(world.app) as origin, ProviderClient() as client:
        keys = KeySet(client, origin, PATH, unnamed.read, clock)
        unnamed.key = world.keys.key
        at_s = clock.now_ms() // 1000
        assert await keys.verify({}, b"body", at_s)
        unnamed.key = Ed25519PrivateKey.generate()
        with pytest.raises(SignatureInvalid):
            await keys.verify({}, b"body", at_s)
        world.keys.wrong = "down"
        await clock.advance(61)
        with pytest.raises(KeyUnknown):
            await keys.verify({}, b"body", at_s + 61)
    await world.close()


def jwk(number: int, **other: Any) -> dict[str, Any]:
    """Return a key as it is published."""
    x = base64.urlsafe_b64encode(number.to_bytes(32)).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": f"k{number}", "use": "sig"} | other


def answered(value: object, status_code: int = 200) -> ProviderResponse:
    """Return what comes back where keys are published."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return ProviderResponse(status_code=status_code, content_type="application/json", body=body)


def test_keys_of_other_kinds_are_passed_over() -> None:
    """What is no ed25519 key does not hide one that is; without an id it goes by its bytes; twenty are read at most."""
    odd = [{"kty": "RSA", "n": "AQAB"}, jwk(1, x="short"), jwk(2, x="?" * 43), jwk(3, x=7), jwk(4, kid=4), None, "k"]
    (bare,) = [one for one in [jwk(5)] if one.pop("kid")]
    assert parse_keys(answered({"keys": [*odd, jwk(6), bare]})) == {"k6": (6).to_bytes(32), bare["x"]: (5).to_bytes(32)}
    assert len(parse_keys(answered({"keys": [jwk(number) for number in range(100)]}))) == KEYS_MAX


@pytest.mark.parametrize(
    "answer",
    [
        answered({"keys": [jwk(1)]}, 503),
        answered({"keys": [jwk(1)]}, 302),
        answered({"keys": []}),
        answered({"keys": {"k": jwk(1)}}),
        answered([jwk(1)]),
        answered(b"<html>"),
        answered(b"[" * 20_000),
        answered({"keys": [jwk(1)], "padding": "x" * BODY_MAX_BYTES}),
    ],
)
def test_what_is_no_set_of_keys_replaces_none(answer: ProviderResponse) -> None:
    """An outage, a redirect, an empty set or a page is not taken for keys."""
    with pytest.raises(Unreadable):
        parse_keys(answer)


texts = st.text(max_size=20) | st.sampled_from(["key-1", "req-1", "1795219200", "0" * 128])
names = st.sampled_from(
    [f"x-sandbox-{name}" for name in ("key-id", "request-id", "timestamp", "signature", "x")]
    + [f"x-fal-webhook-{name}" for name in ("request-id", "user-id", "timestamp", "signature", "x")]
)
HEADERS = {
    "sandbox": {"key-id": "key-1", "request-id": "req-1", "timestamp": "1795219200", "signature": "0" * 128},
    "fal": {"request-id": "req-1", "user-id": "u", "timestamp": "1795219200", "signature": "0" * 128},
}
"""Well-formed headers of each provider that signs by published keys, without what their names begin with."""


@pytest.mark.parametrize("adapter", SIGNING, ids=lambda one: type(one).__name__)
@given(headers=st.dictionaries(names, texts), body=st.binary(max_size=50))
def test_any_headers_are_read(adapter: Signing, headers: dict[str, str], body: bytes) -> None:
    """What is signed, nothing, or SignatureInvalid: no header makes an adapter fail otherwise."""
    assert adapter.keys_url.startswith(("/", "https://"))
    try:
        signed = adapter.signed(headers, body)
    except SignatureInvalid:
        return
    assert signed is None or len(signed.signature) == 64


@pytest.mark.parametrize("adapter", SIGNING, ids=lambda one: type(one).__name__)
@given(body=st.binary(max_size=50), other=st.binary(max_size=50))
def test_a_signature_covers_every_byte_of_the_body(adapter: Signing, body: bytes, other: bytes) -> None:
    """The message that an adapter makes of a body is that of no other body."""
    name = type(adapter).__name__.lower()
    prefix = {"sandbox": "x-sandbox", "fal": "x-fal-webhook"}[name]
    headers = {f"{prefix}-{part}": value for part, value in HEADERS[name].items()}
    messages = {adapter.signed(headers, one).message for one in (body, other)}  # type: ignore[union-attr]
    assert len(messages) == len({body, other})
    assert hashlib.sha256(body).hexdigest().encode() in messages.pop() + b"".join(messages)


async def test_either_of_two_secrets_signs_a_callback(tmp_path: Path) -> None:
    """Verify by any secret of the variable, as in a provider's rotation, and quarantine what another one signed."""
    old, new, other = new_secret(), new_secret(), new_secret()
    async with relay(tmp_path, clock=HeldClock(), RELAY_EVOLINK_CALLBACK_SECRET=f"{old} {new}") as running:
        for secret, verdict in ((other, "quarantined"), (old, "recorded"), (new, "recorded")):
            await running.submit("evolink")
            at_s = running.clock.now_ms() // 1000
            signature = sign([secret], "msg_1", at_s, DONE)
            headers = {"webhook-id": "msg_1", "webhook-timestamp": str(at_s), "webhook-signature": signature}
            answer = await running.client.post(running.callback_url(), content=DONE, headers=headers)
            assert answer.status_code == 200
            assert (await kept(running))[0]["verdict"] == verdict
        jobs = (await running.get("/v1/jobs"))["data"]
        assert [job["verification"] for job in jobs] == ["signature", "signature", "none"]
