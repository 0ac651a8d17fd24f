"""What a request may cost at most: it is stored with its job, and bounds everything that is signed for it."""

from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_paid_uploads import CENT, PNG, stand_in, the_clock
from tests.support.paying import KEY, PRICE, Seller, ended, paid, selling
from tests.support.ports import free_port
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


class Rising(Seller):
    """A seller whose price is another one each time that it is asked; the last one stays."""

    def __init__(self, *prices: int) -> None:
        super().__init__()
        self.prices = list(prices)

    def terms(self, offer: dict[str, Any]) -> dict[str, Any]:
        """Return the offer with the next price."""
        price = self.prices.pop(0) if len(self.prices) > 1 else self.prices[0]
        named = "amount" if "amount" in offer else "maxAmountRequired"
        return super().terms(offer | {named: str(price)})


async def asked(running: Running, provider: str, max_cost: str) -> Any:
    """Return the answer to a job with this bound; time passes for the pauses between two sendings."""
    body = {"provider": provider, "input": INPUT, "max_cost": max_cost}
    assert isinstance(running.clock, HeldClock)
    return await running.clock.elapse(running.client.post("/v1/jobs", json=body))


@pytest.mark.parametrize("provider", ["stablestudio", "x402org"])
async def test_a_price_that_rises_after_the_first_quote_is_not_signed(tmp_path: Path, provider: str) -> None:
    """Refuse a second quote of 0.90 under a `max_cost` of 0.05 that the first one of 0.01 kept: 402, nothing moves."""
    seller = Rising(10_000, 900_000)
    async with selling(tmp_path, seller, HeldClock()) as running:
        answer = await asked(running, provider, "0.05")
        assert (answer.status_code, answer.json()["code"]) == (402, "spend_cap_reached"), answer.text
        assert "more than its max_cost of 0.050000" in answer.json()["detail"]
        assert (seller.paid_requests, seller.moved) == (0, 0)
        assert (await running.get("/v1/jobs"))["data"] == []


@pytest.mark.parametrize(("max_cost", "moved"), [("0.330000", PRICE), ("0.329999", 0)])
async def test_the_bound_itself_is_paid_and_an_atomic_unit_more_is_not(
    tmp_path: Path, max_cost: str, moved: int
) -> None:
    """Pay a price that is the `max_cost`, and not one that is a millionth over it."""
    seller = Rising(1, PRICE)
    async with selling(tmp_path, seller, HeldClock()) as running:
        answer = await asked(running, "x402org", max_cost)
        assert answer.status_code == (202 if moved else 402), answer.text
        assert seller.moved == moved


async def test_the_bound_holds_after_a_restart(tmp_path: Path) -> None:
    """Keep the bound with a job that had no price when it came: the price that is told after a restart is refused."""
    seller, clock = Rising(900_000), HeldClock()
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with selling(tmp_path, seller, clock, RELAY_STABLESTUDIO_BASE_URL=nowhere) as running:
        job = await paid(running, max_cost="0.05", deadline_s=7200)
        assert job["status"] == "pending"
    async with selling(tmp_path, seller, clock) as running:
        job = await ended(running, job)
        assert (job["status"], job["error"]["code"]) == ("failed", "spend_cap_reached"), job
        assert (seller.paid_requests, seller.moved) == (0, 0)


async def test_a_resubmission_keeps_the_bound(tmp_path: Path) -> None:
    """Refuse to submit a job again, 402, where its provider asks for more than its `max_cost` by now."""

    def priced(price: str, model: str = "seedance-2.0") -> Any:
        return {"RELAY_RELAYDANCE_PRICES": f"{model}={price}"}

    body = {"provider": "relaydance", "input": INPUT, "max_cost": "0.50"}
    async with relay(tmp_path, **priced("0.40")) as running:
        job = (await running.client.post("/v1/jobs", json=body)).json()
        assert job["status"] == "submitted", job
        await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        model = job["model"]
    for price, status in (("0.51", 402), ("0.50", 202)):
        async with relay(tmp_path, **priced(price, model)) as running:
            consent = {"accept_double_charge": True}
            again = await running.client.post(f"/v1/jobs/{job['id']}/resubmissions", json=consent)
            assert again.status_code == status, again.text


@pytest.mark.parametrize(("max_cost", "status", "spent"), [(CENT, 200, CENT), ("0.009999", 402, "0.000000")])
async def test_an_upload_has_a_bound_too(tmp_path: Path, max_cost: str, status: int, spent: str) -> None:
    """Pay for a file what its form's `max_cost` allows, and not a millionth more."""
    clock = the_clock()
    world, _ = stand_in(clock)
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        files = {"file": ("photo.png", PNG, "image/png")}
        data = {"provider": "stablestudio", "max_cost": max_cost}
        answer = await running.client.post("/v1/files", files=files, data=data)
        assert answer.status_code == status, answer.text
        assert (await running.get("/v1/spend"))["today"] == spent
        bad = await running.client.post("/v1/files", files=files, data=data | {"max_cost": "much"})
        assert (bad.status_code, bad.json()["errors"][0]["path"]) == (422, "max_cost")
    await world.close()
