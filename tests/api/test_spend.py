"""Spending: each project has its own cap and sees its own sum; the operator sees all."""

from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_paid_uploads import CENT, stand_in, the_clock, uploaded
from tests.support.paying import KEY, PRICE, Seller, ended, paid, selling
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

BODY = {"provider": "x402org", "input": INPUT}


async def of(running: Running, project: str, *scopes: str) -> dict[str, str]:
    """Return the Authorization header of a new key of a project."""
    text = (await running.app.store.access.create_api_key(project, "", scopes, 1)).text
    return {"authorization": f"Bearer {text}"}


async def test_a_key_sees_the_spending_of_its_own_project(tmp_path: Path) -> None:
    """Show a project what it paid, without the wallet and other projects' sums; show all of it to the operator."""
    async with selling(tmp_path, Seller(), HeldClock()) as running:
        films = await of(running, "films", "read", "submit")
        await paid(running, "x402org")
        mine = await running.get("/v1/spend")
        assert (mine["today"], mine["paid"], mine["wallet"]) == ("0.330000", "0.330000", None)
        theirs = (await running.client.get("/v1/spend", headers=films)).json()
        assert (theirs["today"], theirs["left_today"], theirs["wallet"]) == ("0.000000", "10.000000", None)
        assert theirs["providers"] == []
        assert (await running.client.post("/v1/jobs", json=BODY, headers=films)).status_code == 202
        theirs = (await running.client.get("/v1/spend", headers=films)).json()
        assert (theirs["today"], theirs["providers"][0]["jobs"]) == ("0.330000", 1)
        whole = await running.get("/v1/spend?all=true")
        assert (whole["today"], whole["left_today"]) == ("0.660000", "9.340000")
        assert whole["wallet"] == running.app.payer.address
        assert [(one["provider"], one["final"], one["jobs"]) for one in whole["providers"]] == [
            ("x402org", "0.660000", 2)
        ]
        for headers in (films, await of(running, "films", "admin"), await of(running, "default", "read")):
            refused = await running.client.get("/v1/spend?all=true", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await running.client.get("/v1/spend?all=maybe")).status_code == 422


@pytest.mark.parametrize(("cap", "jobs"), [("0.66", 2), ("0.659999", 1)])
async def test_a_project_cannot_spend_what_the_others_need(tmp_path: Path, cap: str, jobs: int) -> None:
    """Refuse a project's job one atomic unit over its daily cap; another project still buys."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), RELAY_PROJECT_SPEND_MAX_PER_DAY=cap) as running:
        codes = [(await running.client.post("/v1/jobs", json=BODY)).status_code for _ in range(3)]
        assert codes == [202] * jobs + [402] * (3 - jobs)
        refused = (await running.client.post("/v1/jobs", json=BODY)).json()
        assert refused["code"] == "spend_cap_reached"
        assert "RELAY_PROJECT_SPEND_MAX_PER_DAY" in refused["detail"]
        films = await of(running, "films", "submit")
        assert (await running.client.post("/v1/jobs", json=BODY, headers=films)).status_code == 202
        assert seller.moved == (jobs + 1) * PRICE


@pytest.mark.parametrize(("cap", "jobs"), [("0.66", 2), ("0.659999", 1)])
async def test_all_projects_together_have_a_cap(tmp_path: Path, cap: str, jobs: int) -> None:
    """Refuse a job over the cap of all projects, without naming what the others spent."""
    seller = Seller()
    caps = {"RELAY_SPEND_MAX_PER_DAY": cap, "RELAY_PROJECT_SPEND_MAX_PER_DAY": "5"}
    async with selling(tmp_path, seller, HeldClock(), **caps) as running:
        keys = [await of(running, project, "submit") for project in ("films", "games", "songs")]
        answers = [await running.client.post("/v1/jobs", json=BODY, headers=headers) for headers in keys]
        assert [answer.status_code for answer in answers] == [202] * jobs + [402] * (3 - jobs)
        assert "RELAY_SPEND_MAX_PER_DAY" in answers[-1].json()["detail"]
        assert seller.moved == jobs * PRICE


async def test_credits_count_and_are_final_when_the_job_has_ended(tmp_path: Path) -> None:
    """Show EvoLink's credits as `reserved` while the job is open, and as `final` when it has ended."""

    def kinds(spend: dict[str, Any]) -> list[tuple[str, ...]]:
        return [(one["provider"], one["unit"], one["reserved"], one["final"]) for one in spend["providers"]]

    async with relay(tmp_path) as running:
        job = await running.submit()
        assert job["cost"] == {"amount": "50", "unit": "credits", "kind": "reserved"}
        other = await running.submit()
        assert kinds(await running.get("/v1/spend")) == [("evolink", "credits", "100.000000", "0.000000")]
        await running.world.finish(job["provider_job_id"])
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["finished_at"])
        assert done["cost"] == {"amount": "50", "unit": "credits", "kind": "final"}
        assert kinds(await running.get("/v1/spend")) == [("evolink", "credits", "50.000000", "50.000000")]
        await running.client.post(f"/v1/jobs/{other['id']}/cancellations")
        tomorrow = await running.get("/v1/spend?since=2100-01-01")
        assert tomorrow["providers"] == []


async def test_paid_files_count(tmp_path: Path) -> None:
    """Count payments for files beside those for jobs."""
    clock = the_clock()
    world, _ = stand_in(clock)
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        assert (await uploaded(running)).status_code == 200
        (spent,) = (await running.get("/v1/spend"))["providers"]
        assert (spent["provider"], spent["unit"], spent["final"], spent["jobs"]) == ("stablestudio", "USDC", CENT, 0)
    await world.close()


async def test_an_unsettled_payment_is_reserved(tmp_path: Path) -> None:
    """Keep an x402 payment with an unknown outcome `reserved`, also when its job has ended."""
    seller = Seller()
    seller.fault = "bad_request"
    async with selling(tmp_path, seller, HeldClock(), RELAY_CHAIN_RPC_URL="") as running:
        done = await ended(running, await paid(running, "stablestudio", deadline_s=600))
        assert (done["status"], done["cost"]["kind"]) == ("failed", "reserved")
        (spent,) = (await running.get("/v1/spend"))["providers"]
        assert (spent["reserved"], spent["final"]) == ("0.330000", "0.000000")
