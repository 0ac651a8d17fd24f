"""Jobs that are paid for: never twice, never more than allowed, and what is not known is shown as such."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from relay.cli import load_settings
from relay.jobs.job_requests import Intake
from relay.storage.apply_updates import DEFAULT_PROJECT
from tests.support.paying import KEY, PAYEE, PRICE, VIDEO, Seller, ended, paid, selling
from tests.support.provider_cases import recorded, recordings
from tests.support.running import INPUT, HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

FAULTS = ("down", "refused", "settle_then_fail", "drop", "again_402")


@pytest.mark.parametrize("provider", ["stablestudio", "x402org"])
async def test_a_job_is_paid_once_and_told(tmp_path: Path, provider: str) -> None:
    """Quote, authorization, payment, sign-in, result, notification: and the money moved once."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock()) as running:
        job = await paid(running, provider, notify=[{"url": running.hook}])
        done = await ended(running, job)
        assert (done["status"], done["outputs"][0]["url"]) == ("succeeded", VIDEO)
        assert (seller.moved, seller.paid_requests) == (PRICE, 1)
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        spend = await running.get("/v1/spend")
        assert (spend["paid"], spend["today"], spend["unknown"]) == ("0.330000", "0.330000", "0.000000")
        assert KEY not in str(done) + str(spend)


@pytest.mark.parametrize("provider", ["stablestudio", "x402org"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_fails_money_moves_once_at_most(tmp_path: Path, provider: str, fault: str) -> None:
    """The job ends with a reason, at most one transfer was made, and the record is what the chain says."""
    seller = Seller()
    seller.fault = fault
    async with selling(tmp_path, seller, HeldClock()) as running:
        done = await ended(running, await paid(running, provider, deadline_s=7200))
        assert len(seller.ledger) <= 1
        spend = await running.get("/v1/spend")
        if seller.moved:
            assert (done["status"], done["reason"]) == ("failed", "paid_result_lost")
            assert float(spend["paid"]) + float(spend["lost"]) == PRICE / 1_000_000
        else:
            assert (done["status"], done["error"]["code"]) == ("failed", "payment_void")
            assert (spend["void"], spend["today"]) == ("0.330000", "0.000000")
        assert spend["unknown"] == spend["reserved"] == "0.000000"


async def test_a_seller_that_recovers_gets_the_same_payment_again(tmp_path: Path) -> None:
    """A server that is down for a moment is sent the identical header again, and the job goes on."""
    seller = Seller()
    seller.fault = "down"
    async with selling(tmp_path, seller, HeldClock()) as running:
        waiting = asyncio.create_task(running.submit("stablestudio"))
        await seller.asked.wait()
        seller.fault = ""
        assert isinstance(running.clock, HeldClock)
        assert (await running.clock.elapse(waiting))["status"] == "submitted"
        assert (seller.moved, seller.paid_requests) == (PRICE, 2)


async def test_without_a_node_what_is_unknown_stays_unknown(tmp_path: Path) -> None:
    """Nothing is guessed: the amount counts as spent, and the job says that nobody knows."""
    seller = Seller()
    seller.fault = "settle_then_fail"
    async with selling(tmp_path, seller, HeldClock(), RELAY_CHAIN_RPC_URL="") as running:
        job = await paid(running, "x402org", deadline_s=600)
        assert (job["status"], job["reason"]) == ("pending", "submit_unknown")
        done = await ended(running, job)
        assert (done["status"], done["reason"]) == ("expired", "submit_unknown")
        spend = await running.get("/v1/spend")
        assert (spend["unknown"], spend["today"]) == ("0.330000", "0.330000")


@pytest.mark.parametrize(
    "offer",
    [
        {"payTo": "0x" + "99" * 20},
        {"asset": "0x" + "88" * 20},
        {"network": "eip155:1"},
        {"scheme": "upto"},
        {"extra": {"name": "Other Coin", "version": "2"}},
        {"extra": {"name": "USD Coin", "version": "2", "assetTransferMethod": "permit2"}},
        {"amount": "-1"},
    ],
    ids=["payee", "asset", "chain", "scheme", "domain", "permit2", "amount"],
)
async def test_what_is_against_the_rules_is_not_paid(tmp_path: Path, offer: dict[str, Any]) -> None:
    """402 `payment_refused` before anything is signed, and no job."""
    seller = Seller()
    seller.offer = offer
    async with selling(tmp_path, seller, HeldClock(), RELAY_STABLESTUDIO_PAY_TO=PAYEE) as running:
        answer = await running.client.post("/v1/jobs", json={"provider": "stablestudio", "input": INPUT})
        assert (answer.status_code, answer.json()["code"]) == (402, "payment_refused"), answer.text
        assert (seller.paid_requests, (await running.get("/v1/jobs"))["data"]) == (0, [])


async def test_a_job_over_its_cap_is_refused(tmp_path: Path) -> None:
    """402 `spend_cap_reached` names the amount and the setting; no job, nothing signed."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), RELAY_SPEND_MAX_PER_JOB="0.20") as running:
        answer = await running.client.post("/v1/jobs", json={"provider": "stablestudio", "input": INPUT})
        assert (answer.status_code, answer.json()["code"]) == (402, "spend_cap_reached")
        assert "0.330000" in answer.json()["detail"]
        assert (await running.get("/v1/jobs"))["data"] == []


async def test_ten_at_once_cannot_overspend_the_day(tmp_path: Path) -> None:
    """With room for three, three of ten are paid and seven are 402."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), RELAY_SPEND_MAX_PER_DAY="1.00") as running:
        body = {"provider": "x402org", "input": INPUT}
        answers = await asyncio.gather(*(running.client.post("/v1/jobs", json=body) for _ in range(10)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [202] * 3 + [402] * 7
        assert seller.moved == 3 * PRICE
        spend = await running.get("/v1/spend")
        assert (spend["today"], spend["left_today"]) == ("0.990000", "0.010000")


async def test_a_quote_buys_nothing(tmp_path: Path) -> None:
    """All five are quoted, cheapest first, and nothing is paid; a provider that does not take the input says why."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock()) as running:
        body = {"input": INPUT | {"resolution": "720p"}}
        quotes = (await running.client.post("/v1/quotes", json=body)).json()["data"]
        usd = [float(quote["usd"]) for quote in quotes if quote["usd"]]
        assert usd == sorted(usd)
        by = {quote["provider"]: quote for quote in quotes}
        assert {"evolink", "relaydance", "kinovi", "stablestudio", "x402org"} <= set(by)
        assert (by["stablestudio"]["amount"], by["stablestudio"]["basis"]) == ("0.330000", "quote")
        assert (by["evolink"]["amount"], by["evolink"]["basis"]) == ("0.992500", "table")
        long = await running.client.post("/v1/quotes", json={"input": INPUT | {"duration_s": 14}})
        refused = {quote["provider"] for quote in long.json()["data"] if not quote["accepted"]}
        assert {"stablestudio", "x402org"} <= refused
        assert (seller.paid_requests, seller.moved) == (0, 0)


async def test_the_cheapest_is_chosen_within_a_limit(tmp_path: Path) -> None:
    """`provider: cheapest` takes the one that costs least, and 402 where even that is over `max_cost`."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock()) as running:
        body = {"provider": "cheapest", "input": INPUT | {"resolution": "720p"}}
        answer = await running.client.post("/v1/jobs", json=body | {"max_cost": "0.40"})
        assert (answer.status_code, answer.json()["provider"]) == (202, "stablestudio"), answer.text
        dear = await running.client.post("/v1/jobs", json=body | {"max_cost": "0.10"})
        assert (dear.status_code, dear.json()["code"]) == (402, "spend_cap_reached")


async def test_a_restart_between_signing_and_sending_pays_once_at_most(tmp_path: Path) -> None:
    """The same job's nonce is the same after a restart, so the seller that was paid already refuses a second one."""
    seller, clock = Seller(), HeldClock()
    seller.fault = "drop"
    async with selling(tmp_path, seller, clock, RELAY_SUBMIT_WAIT_S="0") as running:
        await running.submit("stablestudio")
        await seller.asked.wait()
    seller.fault = ""
    async with selling(tmp_path, seller, clock) as running:
        (job,) = (await running.get("/v1/jobs"))["data"]
        await ended(running, job)
        assert (len(seller.ledger), seller.moved) == (1, PRICE)


async def test_without_a_wallet_a_paid_provider_names_the_setting(tmp_path: Path) -> None:
    """422 `provider_not_configured`; the provider's row says that it is not configured."""
    async with relay(tmp_path) as running:
        answer = await running.client.post("/v1/jobs", json={"provider": "x402org", "input": INPUT})
        assert (answer.status_code, answer.json()["code"]) == (422, "provider_not_configured")
        assert "RELAY_WALLET_KEY" in answer.json()["detail"]


@pytest.mark.parametrize("provider", ["stablestudio", "x402org"])
async def test_the_sandboxs_own_stand_ins_are_paid_too(tmp_path: Path, provider: str) -> None:
    """A second reading of the same pages: its challenge, its check of the signature, its sign-in."""
    clock = HeldClock(round(time.time() * 1000))
    async with relay(tmp_path, clock=clock, pace_s=0.05, RELAY_WALLET_KEY=KEY) as running:
        job = await paid(running, provider, notify=[{"url": running.hook}])
        done = await ended(running, job)
        assert done["status"] == "succeeded", done
        assert len(running.world.submissions) == 1
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())


async def test_where_x402_orgs_video_came_from_is_in_the_timeline(tmp_path: Path) -> None:
    """The `source` and the `venice_request_id` of the answer stand in the line of the call that brought it."""
    clock = HeldClock(round(time.time() * 1000))
    async with relay(tmp_path, clock=clock, pace_s=0.05, RELAY_WALLET_KEY=KEY) as running:
        for version, kind in (("sync", "submission"), ("async", "check")):
            job = await ended(
                running, await paid(running, "x402org", input=INPUT | {"prompt": f"[sandbox: version={version}]"})
            )
            lines = (await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"]
            noted = [line for line in lines if "source venice" in line["summary"]]
            assert [line["kind"] for line in noted] == [kind]
            assert ("venice_request_id " + job["provider_job_id"] in noted[0]["summary"]) == (version == "sync")


EXAMPLES = [(p, path.stem) for p in ("stablestudio", "x402org") for path in recordings(p, "requests")]


@pytest.mark.parametrize(("provider", "name"), EXAMPLES, ids=lambda part: part)
async def test_the_providers_own_examples_are_bought_unchanged(tmp_path: Path, provider: str, name: str) -> None:
    """The body of each published page, as `request`, reaches the provider as it is, and a notification comes back."""
    clock, request = HeldClock(round(time.time() * 1000)), recorded(provider, "requests", name)
    async with relay(tmp_path, clock=clock, pace_s=0.05, RELAY_WALLET_KEY=KEY) as running:
        job = await paid(running, provider, request=request, notify=[{"url": running.hook}])
        assert (await ended(running, job))["status"] == "succeeded"
        assert running.world.submissions == [request]
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())


async def test_an_authorization_that_ran_out_unsent_is_void(tmp_path: Path) -> None:
    """A job that could not be sent while its authorization was good fails, and its amount is free again in time."""
    seller, clock = Seller(), HeldClock()
    async with selling(tmp_path, seller, clock) as running:
        prepared = running.app.payer.prepared
        intake = Intake(running.app.providers, running.app.policy, 10)
        body = {"provider": "x402org", "input": INPUT}
        new = intake.job(body, DEFAULT_PROJECT, clock.now_ms())
        await running.app.store.jobs.create(await prepared(new))
        await clock.advance(3000)
        job = await running.until(f"/v1/jobs/{new.job.id}", lambda shown: shown["status"] == "failed")
        assert (job["error"]["code"], seller.paid_requests) == ("authorization_expired", 0)
        await running.until("/v1/spend", lambda spend: spend["void"] == "0.330000")


def test_the_wallets_key_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the settings are read neither the environment nor anything that is printed has the key."""
    monkeypatch.setenv("RELAY_WALLET_KEY", KEY)
    loaded = load_settings()
    assert loaded.wallet_key == KEY
    assert "RELAY_WALLET_KEY" not in os.environ
    assert KEY not in repr(loaded) + str(loaded)
