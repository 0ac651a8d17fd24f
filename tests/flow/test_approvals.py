"""Approvals: a job that costs more than an amount waits, unsigned and unsent, until an admin key decides."""

from pathlib import Path
from typing import Any

import pytest

from relay.clock import parse_time
from relay.providers.relaydance import WITH_AUDIO
from tests.flow.test_max_cost import Rising
from tests.flow.test_paid_uploads import stand_in, the_clock, uploaded
from tests.support.paying import KEY, PRICE, Seller, ended, selling
from tests.support.ports import free_port
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

ABOVE = {"RELAY_APPROVAL_ABOVE": "0.329999"}
"""One atomic unit less than the seller's price."""
PRICES: dict[str, Any] = {"RELAY_RELAYDANCE_PRICES": f"{WITH_AUDIO}=0.50"}


async def submitted(running: Running, provider: str = "x402org", **more: Any) -> dict[str, Any]:
    """Return a new job as the client sees it."""
    assert isinstance(running.clock, HeldClock)
    body = {"provider": provider, "input": INPUT} | more
    answer = await running.clock.elapse(running.client.post("/v1/jobs", json=body))
    assert answer.status_code == 202, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def decided(running: Running, job: dict[str, Any], **fields: Any) -> Any:
    """Return the answer to a decision."""
    assert isinstance(running.clock, HeldClock)
    return await running.clock.elapse(running.client.post(f"/v1/jobs/{job['id']}/approvals", json=fields))


async def with_scopes(running: Running, *scopes: str) -> dict[str, str]:
    """Return the Authorization header of a new key."""
    text = (await running.app.store.access.create_api_key("default", "", scopes, 1)).text
    return {"authorization": f"Bearer {text}"}


@pytest.mark.parametrize("provider", ["stablestudio", "x402org"])
async def test_a_job_above_the_amount_is_paid_once_approved(tmp_path: Path, provider: str) -> None:
    """Sign and send nothing of a job before its price is approved, and pay it once after that."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), **ABOVE) as running:
        job = await submitted(running, provider)
        assert (job["status"], job["reason"], job["cost"]) == ("pending", "awaiting_approval", None)
        asked = job["approval"]
        assert (asked["amount"], asked["unit"], asked["decided_at"], asked["approved"]) == (
            "0.330000",
            "USD",
            None,
            None,
        )
        assert (seller.paid_requests, (await running.get("/v1/spend"))["today"]) == (0, "0.000000")
        timeline = await running.get(f"/v1/jobs/{job['id']}/timeline")
        assert "approves what the job costs" in timeline["next"]["what"]
        assert timeline["next"]["at"] == job["deadline_at"]
        (waiting,) = (await running.get("/v1/jobs?reason=awaiting_approval"))["data"]
        assert waiting["id"] == job["id"]
        answer = await decided(running, job, approve=True, reason="the client has paid")
        assert answer.status_code == 202, answer.text
        assert (seller.paid_requests, seller.moved) == (1, PRICE)
        done = await ended(running, job)
        assert (done["status"], done["cost"]["amount"]) == ("succeeded", "0.330000")
        assert (done["approval"]["approved"], done["approval"]["by"]) == (True, "RELAY_API_KEY")
        assert done["approval"]["reason"] == "the client has paid"
        again = await decided(running, job, approve=True)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert seller.moved == PRICE


async def test_the_amount_itself_needs_no_approval(tmp_path: Path) -> None:
    """Send a job of exactly the amount without asking, and show no approval of it."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), RELAY_APPROVAL_ABOVE="0.33") as running:
        job = await submitted(running)
        assert "approval" not in job
        assert seller.moved == PRICE


async def test_a_refused_job_fails_and_waits_again_when_it_is_submitted_again(tmp_path: Path) -> None:
    """Fail a job that is not approved, with the reason; a resubmission by a `submit` key needs an approval again."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), **ABOVE) as running:
        job = await submitted(running)
        answer = await decided(running, job, approve=False, reason="too dear")
        assert answer.status_code == 200, answer.text
        failed = answer.json()
        assert (failed["status"], failed["finished_by"], failed["error"]["code"]) == (
            "failed",
            "operator",
            "not_approved",
        )
        assert "too dear" in failed["error"]["message"]
        assert failed["approval"]["approved"] is False
        headers = await with_scopes(running, "submit")
        path = f"/v1/jobs/{job['id']}/resubmissions"
        again = await running.client.post(path, json={}, headers=headers)
        assert again.status_code == 202, again.text
        shown = await running.get(f"/v1/jobs/{job['id']}")
        assert (shown["status"], shown["reason"]) == ("pending", "awaiting_approval")
        assert shown["approval"]["approved"] is None
        assert (seller.paid_requests, seller.moved) == (0, 0)


async def test_only_an_admin_key_decides(tmp_path: Path) -> None:
    """Refuse the approval of a key that may submit and read, 403."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), **ABOVE) as running:
        job = await submitted(running)
        headers = await with_scopes(running, "submit", "read")
        path = f"/v1/jobs/{job['id']}/approvals"
        answer = await running.client.post(path, json={"approve": True}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert (await running.client.post(path, json={})).status_code == 422
        assert (await running.get(f"/v1/jobs/{job['id']}"))["reason"] == "awaiting_approval"
        assert seller.paid_requests == 0


@pytest.mark.parametrize("early_ms", [1, 0])
async def test_a_job_without_a_decision_expires_at_its_deadline(tmp_path: Path, early_ms: int) -> None:
    """Let a job wait until its deadline and no longer; what is expired cannot be approved."""
    seller, clock = Seller(), HeldClock()
    async with selling(tmp_path, seller, clock, **ABOVE) as running:
        job = await submitted(running, deadline_s=600)
        created = await running.app.store.jobs.get(job["id"], "prj_default")
        assert created is not None
        await clock.advance((created.deadline_at - clock.now_ms() - early_ms) / 1000)
        shown = await running.get(f"/v1/jobs/{job['id']}")
        assert shown["status"] == ("pending" if early_ms else "expired")
        if not early_ms:
            assert (await decided(running, job, approve=True)).status_code == 409
            assert seller.paid_requests == 0


async def test_a_waiting_job_can_be_canceled(tmp_path: Path) -> None:
    """Cancel a job that waits as one that was never sent."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), **ABOVE) as running:
        job = await submitted(running)
        canceled = (await running.client.post(f"/v1/jobs/{job['id']}/cancellations")).json()
        assert (canceled["status"], canceled["reason"]) == ("canceled", None)
        assert (await decided(running, job, approve=True)).status_code == 409
        assert seller.paid_requests == 0


async def test_a_job_waits_through_a_restart(tmp_path: Path) -> None:
    """Keep a job waiting when relay stops, and pay it once when it is approved after that."""
    seller, clock = Seller(), HeldClock()
    async with selling(tmp_path, seller, clock, **ABOVE) as running:
        job = await submitted(running, deadline_s=7200)
    async with selling(tmp_path, seller, clock, **ABOVE) as running:
        await clock.advance(60)
        assert seller.paid_requests == 0
        assert (await decided(running, job, approve=True)).status_code == 202
        assert (await ended(running, job))["status"] == "succeeded"
        assert seller.moved == PRICE


@pytest.mark.parametrize(("second", "moved"), [(PRICE, PRICE), (PRICE + 1, 0)])
async def test_an_approval_is_for_its_price_or_less(tmp_path: Path, second: int, moved: int) -> None:
    """Ask again, unpaid, where the provider wants more than was approved when the job is sent."""
    seller = Rising(PRICE, second)
    async with selling(tmp_path, seller, HeldClock(), **ABOVE) as running:
        job = await submitted(running)
        assert (await decided(running, job, approve=True)).status_code == 202
        assert seller.moved == moved
        shown = await running.get(f"/v1/jobs/{job['id']}")
        if not moved:
            assert (shown["reason"], shown["approval"]["amount"]) == ("awaiting_approval", "0.330001")
            assert shown["approval"]["approved"] is None
            assert (await decided(running, job, approve=True)).status_code == 202
            assert seller.moved == second


async def test_an_approval_over_a_cap_is_refused_and_the_job_waits_on(tmp_path: Path) -> None:
    """Answer 402 to an approval that no cap has room for; when the day is over it can be approved."""
    seller, clock = Seller(), HeldClock()
    caps = {"RELAY_SPEND_MAX_PER_DAY": "0.5", "RELAY_APPROVAL_ABOVE": "0.2"}
    async with selling(tmp_path, seller, clock, **caps) as running:
        first, second = [await submitted(running, deadline_s=90_000) for _ in range(2)]
        assert (await decided(running, first, approve=True)).status_code == 202
        answer = await decided(running, second, approve=True)
        assert (answer.status_code, answer.json()["code"]) == (402, "spend_cap_reached")
        assert (await running.get(f"/v1/jobs/{second['id']}"))["reason"] == "awaiting_approval"
        assert seller.moved == PRICE
        (cap,) = [one for one in (await running.get("/v1/spend?all=true"))["caps"] if one["period"] == "day"]
        assert (cap["used"], cap["left"]) == ("0.330000", "0.170000")
        await clock.advance((parse_time(cap["resets_at"], 0) - clock.now_ms()) / 1000)
        assert (await decided(running, second, approve=True)).status_code == 202
        assert seller.moved == 2 * PRICE


async def test_a_price_that_comes_later_is_asked_about_before_it_is_signed(tmp_path: Path) -> None:
    """Hold a job whose provider gave no price when it came, as soon as the price is known."""
    seller, clock = Seller(), HeldClock()
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with selling(tmp_path, seller, clock, RELAY_STABLESTUDIO_BASE_URL=nowhere, **ABOVE) as running:
        job = await submitted(running, "stablestudio", deadline_s=7200)
        assert (job["status"], job["reason"]) == ("pending", None)
    async with selling(tmp_path, seller, clock, **ABOVE) as running:
        await clock.advance(120)
        shown = await running.get(f"/v1/jobs/{job['id']}")
        assert (shown["reason"], shown["approval"]["amount"]) == ("awaiting_approval", "0.330000"), shown
        assert (seller.paid_requests, seller.moved) == (0, 0)
        assert (await decided(running, job, approve=True)).status_code == 202
        assert (await ended(running, job))["status"] == "succeeded"


@pytest.mark.parametrize(("above", "waits"), [("0.5", False), ("0.499999", True)])
async def test_a_job_that_is_charged_to_an_account_waits_by_the_published_price(
    tmp_path: Path, above: str, waits: bool
) -> None:
    """Compare the price of the operator's table with the amount, and send the job when it is approved."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_APPROVAL_ABOVE=above, **PRICES) as running:
        job = await submitted(running, "relaydance")
        assert ("approval" in job, bool(running.world.submissions)) == (waits, not waits)
        if waits:
            assert job["approval"]["amount"] == "0.500000"
            answer = await decided(running, job, approve=True)
            assert answer.status_code == 202, answer.text
            assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
            assert len(running.world.submissions) == 1


async def test_a_job_of_unknown_price_waits(tmp_path: Path) -> None:
    """Hold a job whose price relay cannot know, since it may be any; an approval sends it."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_APPROVAL_ABOVE="1000") as running:
        job = await submitted(running, "relaydance")
        assert (job["reason"], job["approval"]["amount"]) == ("awaiting_approval", None)
        assert (await decided(running, job, approve=True)).status_code == 202
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"


async def test_an_approval_is_for_one_submission(tmp_path: Path) -> None:
    """Ask again before a job that was approved and sent once is submitted again."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_APPROVAL_ABOVE="0.1", **PRICES) as running:
        job = await submitted(running, "relaydance")
        await decided(running, job, approve=True)
        await running.client.post(f"/v1/jobs/{job['id']}/failures", json={"reason": "lost"})
        sent = len(running.world.submissions)
        path = f"/v1/jobs/{job['id']}/resubmissions"
        again = await running.client.post(path, json={"accept_double_charge": True})
        assert again.status_code == 202, again.text
        assert (await running.get(f"/v1/jobs/{job['id']}"))["reason"] == "awaiting_approval"
        assert len(running.world.submissions) == sent


async def test_a_file_above_the_amount_is_not_bought(tmp_path: Path) -> None:
    """Refuse a file that costs more than the amount, 402: no key can approve it."""
    clock = the_clock()
    world, _ = stand_in(clock)
    async with relay(
        tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY, RELAY_APPROVAL_ABOVE="0.009999"
    ) as running:
        answer = await uploaded(running)
        assert (answer.status_code, answer.json()["code"]) == (402, "spend_cap_reached")
        assert "RELAY_APPROVAL_ABOVE" in answer.json()["detail"]
        assert (await running.get("/v1/payments"))["data"] == []
    await world.close()
