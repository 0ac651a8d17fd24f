"""Callbacks signed with a shared secret: each scheme signed, forged, replayed and unsigned."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from relay.sandbox import shared_secrets
from relay.sandbox.contract import SECRET
from relay.sandbox.faults import Faults
from relay.sandbox.keys import Keys
from relay.sandbox.providers import STAND_INS
from relay.security.signatures import AGE_MAX_S, new_secret
from tests.support.calling_back import kept
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

SECRETS = {"replicate": shared_secrets.WEBHOOK_SECRET, "openrouter": SECRET, "kie": SECRET}
"""The secret of each provider that signs so, in its own form."""
OTHERS = {"replicate": new_secret(), "openrouter": "another-secret", "kie": "another-secret"}
WEAK = ("kie",)
"""Providers whose signature does not cover the body."""

signers = pytest.mark.parametrize("provider", SECRETS)
whole = pytest.mark.parametrize("provider", [name for name in SECRETS if name not in WEAK])
weak = pytest.mark.parametrize("provider", WEAK)


@asynccontextmanager
async def signing(folder: Path, provider: str, secret: str | None = None) -> AsyncIterator[Running]:
    """Yield a relay on a held clock that has the provider's secret, and a stand-in that signs by the same clock."""
    variable = f"RELAY_{provider.upper()}_CALLBACK_SECRET"
    environ: dict[str, Any] = {variable: SECRETS[provider] if secret is None else secret}
    async with relay(folder, clock=HeldClock(), RELAY_STATUS_CHECK_FIRST_S="30", **environ) as running:
        running.world.keys.clock = lambda: running.clock.now_ms() // 1000
        yield running


async def submit(running: Running, provider: str, **faults: Any) -> dict[str, Any]:
    """Return a submitted job with these faults."""
    running.world.next_faults.append(Faults(**faults))
    return await running.submit(provider, notify=[{"url": running.hook}])


async def advance(running: Running, seconds: float) -> None:
    """Advance the clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def post(running: Running, provider: str, raw: bytes | None = None, how: str = "ok") -> httpx.Response:
    """Return the answer to the callback of the last job's success, signed now; `raw` replaces the body after that."""
    job = list(running.world.jobs.values())[-1]
    ended = msgspec.structs.replace(job, state="succeeded", faults=Faults(signed=how))
    stand_in = STAND_INS[provider](Keys())
    body = msgspec.json.encode(stand_in.callback(ended))
    headers = stand_in.sign(body, ended, running.clock.now_ms() // 1000)
    return await running.client.post(running.callback_url(), content=raw or body, headers=headers)


@whole
async def test_a_signed_end_needs_no_confirmation(tmp_path: Path, provider: str) -> None:
    """A signed callback ends the job, its subscriber is notified, and the provider is never asked."""
    async with signing(tmp_path, provider) as running:
        job = await submit(running, provider, signed="ok")
        await running.world.finish(job["provider_job_id"])
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], done["finished_by"], done["verification"]) == ("succeeded", "callback", "signature")
        assert done["outputs"][0]["kind"] == "video"
        assert running.world.status_checks == []


@weak
async def test_a_signature_without_the_body_is_confirmed(tmp_path: Path, provider: str) -> None:
    """A signature that covers only who sent the callback lets it in, and the provider is asked before the end."""
    async with signing(tmp_path, provider) as running:
        job = await submit(running, provider, signed="ok")
        await running.world.finish(job["provider_job_id"])
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["finished_by"], done["verification"]) == ("callback", "fetch")
        assert running.world.status_checks == [job["provider_job_id"]]


@weak
async def test_a_body_that_a_weak_signature_leaves_open_ends_nothing(tmp_path: Path, provider: str) -> None:
    """A signed callback whose result was replaced is stored, and the job ends with what the provider says."""
    async with signing(tmp_path, provider) as running:
        job = await submit(running, provider, lost=True)
        ended = msgspec.structs.replace(running.world.jobs[job["provider_job_id"]], state="succeeded")
        body = msgspec.json.encode(STAND_INS[provider](Keys()).callback(ended))
        changed = body.replace(b"https://cdn.example.com/", b"https://evil.example.com/")
        await running.world.finish(job["provider_job_id"])
        assert changed != body
        assert (await post(running, provider, changed)).status_code == 200
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert done["verification"] == "fetch"
        assert "evil" not in done["outputs"][0]["url"]


@signers
async def test_without_a_secret_the_end_is_confirmed(tmp_path: Path, provider: str) -> None:
    """Where the operator set no secret, a signature is not looked at, and a status check confirms the end."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        job = await submit(running, provider, signed="unknown_key")
        await running.world.finish(job["provider_job_id"])
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["finished_by"], done["verification"]) == ("callback", "fetch")
        assert running.world.status_checks == [job["provider_job_id"]]


@signers
async def test_a_lost_callback_is_replaced_by_a_status_check(tmp_path: Path, provider: str) -> None:
    """With every callback suppressed the first status check ends the job and notifies the subscriber."""
    async with signing(tmp_path, provider) as running:
        job = await submit(running, provider, lost=True)
        await running.world.finish(job["provider_job_id"])
        await advance(running, 30)
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["finished_by"], done["verification"]) == ("status_check", "fetch")
        assert done["outputs"]


@signers
@pytest.mark.parametrize("signed", ["forged", "unknown_key", ""])
async def test_a_callback_that_is_not_proven_is_quarantined(tmp_path: Path, provider: str, signed: str) -> None:
    """With a forged, a foreign or no signature a callback changes nothing, and the provider is asked instead."""
    async with signing(tmp_path, provider) as running:
        job = await submit(running, provider, signed=signed)
        await running.world.finish(job["provider_job_id"])
        assert [one["verdict"] for one in await kept(running)] == ["quarantined"]
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert (done["finished_by"], done["verification"]) == ("status_check", "fetch")


@whole
async def test_a_changed_body_is_not_proven(tmp_path: Path, provider: str) -> None:
    """One more blank behind the signed body quarantines the callback; the body as it was signed is applied."""
    async with signing(tmp_path, provider) as running:
        job = await submit(running, provider, lost=True)
        stand_in, world_job = STAND_INS[provider](Keys()), running.world.jobs[job["provider_job_id"]]
        body = stand_in.callback(msgspec.structs.replace(world_job, state="succeeded"))
        assert (await post(running, provider, msgspec.json.encode(body) + b" ")).status_code == 200
        assert [one["verdict"] for one in await kept(running)] == ["quarantined"]
        assert (await post(running, provider)).status_code == 200
        assert (await running.get(f"/v1/jobs/{job['id']}"))["verification"] == "signature"


@signers
@pytest.mark.parametrize(("later_s", "verdict"), [(AGE_MAX_S, "recorded"), (AGE_MAX_S + 1, "quarantined")])
async def test_a_replayed_callback_is_not_proven(tmp_path: Path, provider: str, later_s: int, verdict: str) -> None:
    """A signed callback that arrives more than five minutes after it was signed is quarantined."""
    async with signing(tmp_path, provider) as running:
        await submit(running, provider, lost=True, check="hang")
        ended = msgspec.structs.replace(list(running.world.jobs.values())[-1], state="succeeded")
        ended.faults = Faults(signed="ok")
        stand_in = STAND_INS[provider](Keys())
        body = msgspec.json.encode(stand_in.callback(ended))
        headers = stand_in.sign(body, ended, running.clock.now_ms() // 1000 - later_s)
        answer = await running.client.post(running.callback_url(), content=body, headers=headers)
        assert answer.status_code == 200
        assert [one["verdict"] for one in await kept(running)] == [verdict]


@whole
async def test_one_of_several_secrets_is_enough(tmp_path: Path, provider: str) -> None:
    """During a rotation the operator sets both secrets, and a callback signed with either is proven."""
    async with signing(tmp_path, provider, f"{OTHERS[provider]} {SECRETS[provider]}") as running:
        job = await submit(running, provider, signed="ok")
        await running.world.finish(job["provider_job_id"])
        assert (await running.get(f"/v1/jobs/{job['id']}"))["verification"] == "signature"


@signers
async def test_another_secret_proves_nothing(tmp_path: Path, provider: str) -> None:
    """A callback signed with a secret that the operator did not set is quarantined, and the provider is asked."""
    async with signing(tmp_path, provider, OTHERS[provider]) as running:
        job = await submit(running, provider, signed="ok")
        await running.world.finish(job["provider_job_id"])
        assert [one["verdict"] for one in await kept(running)] == ["quarantined"]
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert (done["finished_by"], done["verification"]) == ("status_check", "fetch")


@signers
async def test_no_secret_is_logged(tmp_path: Path, provider: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the secret nor the token of the callback URL, which some providers repeat, reaches the log or the job."""
    async with signing(tmp_path, provider) as running:
        job = await submit(running, provider, signed="ok")
        await running.world.finish(job["provider_job_id"])
        token = running.callback_url().rpartition("/")[2]
        shown = (await running.client.get(f"/v1/jobs/{job['id']}/timeline")).text
        shown += (await running.client.get(f"/v1/jobs/{job['id']}")).text + "".join(capsys.readouterr())
        assert job["id"] in shown
        assert not [secret for secret in (token, SECRETS[provider]) if secret in shown]
