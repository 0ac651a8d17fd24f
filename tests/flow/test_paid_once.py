"""What a payment leaves behind: a job that had one is not sent again, says what it cost, and shows where money went."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.jobs.job_requests import Intake
from relay.model.payment import PaymentState
from relay.storage.apply_updates import DEFAULT_PROJECT
from tests.support.paying import PAYEE, PRICE, Seller, ended, paid, selling
from tests.support.running import INPUT, HeldClock, Running

pytestmark = pytest.mark.anyio

CONSENT = {"accept_double_charge": True}


async def again(running: Running, job: dict[str, Any], consent: dict[str, bool] = CONSENT) -> httpx.Response:
    """Return what a request to submit the job once more is answered."""
    return await running.client.post(f"/v1/jobs/{job['id']}/resubmissions", json=consent)


async def unsent(running: Running) -> dict[str, Any]:
    """Return a job whose payment is authorized, and that was canceled before it was sent."""
    intake = Intake(running.app.providers, running.app.policy, 10)
    body = {"provider": "stablestudio", "input": INPUT}
    new = intake.job(body, DEFAULT_PROJECT, running.clock.now_ms())
    await running.app.store.jobs.create(await running.app.payer.prepared(new))
    canceled = await running.client.post(f"/v1/jobs/{new.job.id}/cancellations")
    assert (canceled.status_code, canceled.json()["cost"]["kind"]) == (200, "reserved")
    shown: dict[str, Any] = canceled.json()
    return shown


@pytest.mark.parametrize(
    ("provider", "fault", "node", "why"),
    [
        ("stablestudio", "", True, "it was paid for:"),
        ("x402org", "settle_then_fail", True, "it was paid for, and the result is lost:"),
        ("x402org", "settle_then_fail", False, "it may have been paid for:"),
        ("x402org", "drop", False, "it may have been paid for:"),
        ("stablestudio", "bad_request", False, "it may have been paid for:"),
        ("stablestudio", "bad_request_told", False, "it was paid for, and the result is lost:"),
        ("stablestudio", "down", True, "its authorization was never used, and is void:"),
    ],
)
async def test_a_job_that_had_a_payment_is_not_submitted_again(
    tmp_path: Path, provider: str, fault: str, node: bool, why: str
) -> None:
    """409 `paid_once`, with consent or without: it tells to make a new job, sends nothing and changes nothing."""
    seller = Seller()
    seller.fault = fault
    more = {} if node else {"RELAY_CHAIN_RPC_URL": ""}
    async with selling(tmp_path, seller, HeldClock(), **more) as running:
        job = await paid(running, provider, deadline_s=7200)
        if not fault:
            job = (await running.client.post(f"/v1/jobs/{job['id']}/cancellations")).json()
        elif fault == "down":
            job = await ended(running, job)
        job = await running.get(f"/v1/jobs/{job['id']}")
        sendings = seller.paid_requests
        for consent in (CONSENT, {}):
            answer = await again(running, job, consent)
            assert (answer.status_code, answer.json()["code"]) == (409, "paid_once"), answer.text
            assert answer.json()["detail"].startswith(why)
            assert "whatever accept_double_charge says; make a new job" in answer.json()["detail"]
        assert await running.get(f"/v1/jobs/{job['id']}") == job
        assert seller.paid_requests == sendings


async def test_a_job_whose_authorization_never_left_goes_out_with_it(tmp_path: Path) -> None:
    """Canceled before it was sent, it is submitted again with the one payment that it has; then never more."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock()) as running:
        job = await unsent(running)
        sent = await again(running, job, {})
        assert (sent.status_code, sent.json()["status"]) == (202, "submitted"), sent.text
        assert (seller.moved, seller.paid_requests) == (PRICE, 1)
        assert (await running.get("/v1/spend"))["today"] == "0.330000"
        assert (await running.client.post(f"/v1/jobs/{job['id']}/cancellations")).status_code == 200
        assert (await again(running, job)).json()["code"] == "paid_once"


async def test_an_authorization_that_ran_out_is_not_renewed(tmp_path: Path) -> None:
    """A job that was never sent cannot be sent with a payment that is over, and gets no second one."""
    seller, clock = Seller(), HeldClock()
    async with selling(tmp_path, seller, clock, RELAY_CHAIN_RPC_URL="") as running:
        job = await unsent(running)
        await clock.advance(301)
        answer = await again(running, job)
        assert (answer.status_code, answer.json()["code"]) == (409, "paid_once")
        assert answer.json()["detail"].startswith("its authorization expired unsent:")
        assert seller.paid_requests == 0


async def test_a_job_that_got_no_price_is_submitted_again(tmp_path: Path) -> None:
    """Where nothing was signed there is nothing to pay twice: the price is asked for anew, and paid once."""
    seller = Seller()
    seller.offer = {"payTo": "0x" + "00" * 20}
    async with selling(tmp_path, seller, HeldClock()) as running:
        intake = Intake(running.app.providers, running.app.policy, 10)
        new = intake.job({"provider": "stablestudio", "input": INPUT}, DEFAULT_PROJECT, running.clock.now_ms())
        await running.app.store.jobs.create(new)
        failed = await running.app.submitter.start_and_wait(new.job, 10)
        assert failed.error is not None
        assert failed.error.code == "payment_refused"
        seller.offer = {}
        sent = await again(running, {"id": new.job.id}, {})
        assert (sent.status_code, sent.json()["status"]) == (202, "submitted"), sent.text
        assert (seller.moved, seller.paid_requests) == (PRICE, 1)


@pytest.mark.parametrize(
    ("provider", "fault", "node", "costs"),
    [
        ("stablestudio", "", True, ("final", "0.330000", "final")),
        ("x402org", "", True, ("final", "0.330000", "final")),
        ("x402org", "settle_then_fail", False, ("reserved", "0.330000", "reserved")),
        ("stablestudio", "again_402", True, ("final", "0.330000", "final")),
        ("stablestudio", "bad_request", True, ("reserved", "0.330000", "final")),
        ("stablestudio", "bad_request_told", True, ("final", "0.330000", "final")),
        ("x402org", "down", True, ("reserved", "0.000000", "final")),
        ("stablestudio", "refused", True, ("reserved", "0.000000", "final")),
    ],
)
async def test_what_a_job_cost_is_final_once_it_is_known(
    tmp_path: Path, provider: str, fault: str, node: bool, costs: tuple[str, str, str]
) -> None:
    """Reserved while nobody knows, then what was paid, or nothing; the same as is spent, and as its last event says."""
    before, amount, kind = costs
    seller, clock = Seller(), HeldClock()
    seller.fault = fault
    more = {} if node else {"RELAY_CHAIN_RPC_URL": ""}
    async with selling(tmp_path, seller, clock, **more) as running:
        job = await paid(running, provider, deadline_s=1200)
        assert job["cost"] == {"amount": "0.330000", "unit": "USDC", "kind": before}
        done = await ended(running, job)
        if fault == "bad_request":
            await clock.advance(400)
        known = {"amount": amount, "unit": "USDC", "kind": kind}
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: bool(shown["cost"] == known))
        spend = await running.get("/v1/spend")
        assert (spend["today"], spend["void"] == "0.330000") == (amount, amount == "0.000000")
        assert (spend["unknown"] == "0.330000") == (kind == "reserved")
        last = (await running.get(f"/v1/events?job={job['id']}"))["data"][0]
        assert (last["final"], done["finished_at"] is not None) == (True, True)
        if fault != "bad_request":
            assert last["data"]["job"]["cost"] == known


@pytest.mark.parametrize("provider", ["stablestudio", "x402org"])
@pytest.mark.parametrize("fault", ["bad_request", "bad_request_told"])
async def test_a_refusal_after_the_money_has_moved_shows_where_it_went(
    tmp_path: Path, provider: str, fault: str
) -> None:
    """The job keeps the provider's own error; that it was paid is its reason, its cost, in its timeline, and spent."""
    seller, clock = Seller(), HeldClock()
    seller.fault = fault
    async with selling(tmp_path, seller, clock) as running:
        job = await paid(running, provider, notify=[{"url": running.hook}])
        path, told = f"/v1/jobs/{job['id']}", fault == "bad_request_told"
        assert (job["status"], job["error"]["code"]) == ("failed", "http_400")
        assert (job["reason"], job["cost"]["kind"]) == (("paid_result_lost", "final") if told else (None, "reserved"))
        spend = await running.get("/v1/spend")
        assert (spend["today"], spend["lost" if told else "unknown"]) == ("0.330000", "0.330000")
        await clock.advance(400)
        done = await running.until(path, lambda shown: shown["reason"] == "paid_result_lost")
        assert done["error"] == job["error"]
        assert done["cost"] == {"amount": "0.330000", "unit": "USDC", "kind": "final"}
        assert "too small" in done["error"]["provider_message"]
        spend = await running.get("/v1/spend")
        assert (spend["today"], spend["lost"], spend["unknown"]) == ("0.330000", "0.330000", "0.000000")
        known = (await running.get(f"{path}/timeline"))["data"]
        payments = [line for line in known if line["ref"].startswith("pay_")]
        assert [line["decision"] for line in payments] == [None, "lost"]
        assert (payments[1]["reason"] or "").startswith("it was made, and nothing came of it")
        assert ("(transaction 0x" + "ab" * 32 + ")" in payments[1]["reason"]) == told
        await running.sink.wait_for(lambda sink: "job.failed" in sink.events())
        assert len((await running.get(f"/v1/events?job={job['id']}"))["data"]) == 1
        assert len(seller.ledger) == seller.paid_requests == 1


def says(wanted: str, shown: dict[str, Any]) -> bool:
    """Whether the JSON holds it."""
    return wanted in json.dumps(shown, separators=(",", ":"))


@pytest.mark.parametrize(
    ("fault", "states"),
    [("", ["paid"]), ("refused", ["unknown", "void"]), ("drop", ["lost"])],
)
async def test_the_timeline_says_what_is_known_of_a_payment(tmp_path: Path, fault: str, states: list[str]) -> None:
    """What was authorized and for whom, then what became of it; never the header, with which it can be made."""
    seller, clock = Seller(), HeldClock()
    seller.fault = fault
    async with selling(tmp_path, seller, clock) as running:
        job = await paid(running, "stablestudio", deadline_s=1200)
        path = f"/v1/jobs/{job['id']}/timeline"
        for state in states:
            wanted = f'"decision":"{state}"'
            await running.until(path, partial(says, wanted))
            await clock.advance(400)
        shown = await running.get(path)
        authorized, settled = [line for line in shown["data"] if line["ref"].startswith("pay_")]
        assert authorized["summary"] == f"a payment of 0.330000 USDC to {PAYEE}, authorized"
        assert (authorized["kind"], settled["kind"], settled["decision"]) == ("submission", "submission", states[-1])
        assert not says("signature", shown)


async def test_a_job_that_had_expired_says_that_it_was_paid(tmp_path: Path) -> None:
    """The chain speaks after the deadline: the end stays, with the reason that matters more."""
    seller, clock = Seller(), HeldClock()
    seller.fault = "settle_then_fail"
    seller.rpc_down = True
    async with selling(tmp_path, seller, clock) as running:
        job = await paid(running, "x402org", deadline_s=60)
        done = await ended(running, job)
        assert (done["status"], done["reason"]) == ("expired", "submit_unknown")
        seller.rpc_down = False
        await clock.advance(700)
        path = f"/v1/jobs/{job['id']}"
        done = await running.until(path, lambda shown: shown["reason"] == "paid_result_lost")
        assert (done["status"], done["cost"]["kind"]) == ("expired", "final")


async def test_without_a_node_a_job_of_unknown_cost_is_pruned_and_its_payment_stays(tmp_path: Path) -> None:
    """Nothing will ever be known, so the job goes when its time is over; the ledger keeps what may have been spent."""
    seller, clock = Seller(), HeldClock()
    seller.fault = "settle_then_fail"
    more = {"RELAY_CHAIN_RPC_URL": "", "RELAY_RETENTION_DAYS": "5"}
    async with selling(tmp_path, seller, clock, **more) as running:
        job = await paid(running, "x402org", deadline_s=60)
        await ended(running, job)
        await clock.advance(6 * 24 * 3600)
        gone = await running.client.get(f"/v1/jobs/{job['id']}")
        assert "was pruned on" in gone.json()["detail"]
        assert (await running.get("/v1/spend"))["unknown"] == "0.000000", "today's"
        known = await running.app.store.payments.spending(0)
        assert known[PaymentState.UNKNOWN] == PRICE
