"""A file that is paid for: whatever fails after the payment, the same upload goes on with it and never pays twice."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from relay.sandbox.providers import sandbox
from relay.sandbox.uploads import FileStores
from relay.sandbox.world import Sandbox
from tests.support.paying import KEY
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 30
CENT = "0.010000"
DOWN = ["facilitator_down"] * 3


async def uploaded(running: Running, key: str | None = None, data: bytes = PNG) -> httpx.Response:
    """Return the answer to a file for StableStudio; time passes for the pauses between two sendings."""
    headers = {"idempotency-key": key} if key else {}
    files = {"file": ("photo.png", data, "image/png")}
    posting = running.client.post("/v1/files", files=files, data={"provider": "stablestudio"}, headers=headers)
    assert isinstance(running.clock, HeldClock)
    return await running.clock.elapse(posting)


def stand_in(clock: HeldClock, *faults: str) -> tuple[Sandbox, FileStores]:
    """Return the sandbox by the test's clock, with what goes wrong first."""
    world = sandbox(time_scale=0)
    world.files.till.now_s = lambda: clock.now_ms() // 1000
    world.files.faults = list(faults)
    return world, world.files


def the_clock() -> HeldClock:
    """Held, at the time of the day: the sandbox's jobs go by that."""
    return HeldClock(round(time.time() * 1000))


@pytest.mark.parametrize("key", ["k", None])
@pytest.mark.parametrize(
    ("faults", "puts"),
    [
        (["refuse"], 1),
        (DOWN, 1),
        (["refused"] * 3, 1),
        (["refuse put"], 2),
        (["reset"], 2),
        (["refuse confirm"], 1),
        (["refuse put", "refuse put", "refuse confirm"], 3),
    ],
    ids=lambda given: given[-1] if isinstance(given, list) else None,
)
async def test_an_upload_that_failed_after_paying_goes_on(
    tmp_path: Path, faults: list[str], puts: int, key: str | None
) -> None:
    """Also after a restart, at the step that failed: one transfer, and the file is put where it belongs once."""
    clock = the_clock()
    world, files = stand_in(clock, *faults)
    failures = 0
    while True:
        async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
            answer = await uploaded(running, key)
            spent = (await running.get("/v1/spend"))["today"]
        if answer.status_code == 200:
            break
        failures += 1
        assert (answer.status_code, answer.json()["code"], spent) == (502, "upload_failed", CENT), answer.text
    assert failures == (
        1 if "refuse put" not in faults else faults.count("refuse put") + faults.count("refuse confirm")
    )
    assert (list(files.till.ledger.values()), len(files.kept), spent) == ([10_000], 1, CENT)
    assert files.steps.count("stablestudio put") == puts
    await world.close()


@pytest.mark.parametrize("fault", ["settle_then_fail", "drop_after_settle", "again_402"])
async def test_what_was_paid_and_lost_is_paid_again_by_nobody_but_the_client(tmp_path: Path, fault: str) -> None:
    """409 `paid_once`, as often as it is tried; another Idempotency-Key, or another day, is another upload."""
    clock = the_clock()
    world, files = stand_in(clock, fault)
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        for _ in range(3):
            answer = await uploaded(running)
            assert (answer.status_code, answer.json()["code"]) == (409, "paid_once"), answer.text
            assert "Idempotency-Key" in answer.json()["detail"]
        spend = await running.get("/v1/spend")
        assert (len(files.till.ledger), spend["lost"], spend["paid"]) == (1, CENT, "0.000000")
        assert (await uploaded(running, "another")).status_code == 200
        assert len(files.till.ledger) == 2
        await clock.advance(24 * 3600)
        assert (await uploaded(running)).status_code == 200
        assert len(files.till.ledger) == 3
    await world.close()


@pytest.mark.parametrize("later", [0, 400])
async def test_killed_while_it_paid_the_money_moves_once(tmp_path: Path, later: int) -> None:
    """The next try signs with the same nonce, if at all, and is told by the provider that it was used."""
    clock = the_clock()
    world, files = stand_in(clock, "hang")
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        hanging = asyncio.ensure_future(uploaded(running))
        await files.hanging.wait()
    await asyncio.gather(hanging, return_exceptions=True)
    await clock.advance(later)
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        answer = await uploaded(running)
        assert (answer.status_code, answer.json()["code"]) == (409, "paid_once"), answer.text
        spend = await running.get("/v1/spend")
        assert (len(files.till.ledger), spend["today"], spend["lost"]) == (1, CENT, CENT)
    await world.close()


async def test_an_authorization_that_ran_out_is_made_anew_with_its_nonce(tmp_path: Path) -> None:
    """Where nothing moved the next try pays, and the ledger has one payment for both."""
    clock = the_clock()
    world, files = stand_in(clock, *DOWN)
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        assert (await uploaded(running)).status_code == 502
        await clock.advance(400)
        assert (await uploaded(running)).status_code == 200
        spend = await running.get("/v1/spend")
        assert (len(files.till.ledger), spend["today"], spend["paid"]) == (1, CENT, CENT)
    await world.close()


async def test_a_token_that_ran_out_is_bought_anew(tmp_path: Path) -> None:
    """What was bought is good for five minutes; after that it is another thing, with a nonce of its own."""
    clock = the_clock()
    world, files = stand_in(clock, "refuse put")
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        assert (await uploaded(running)).status_code == 502
        await clock.advance(301)
        assert (await uploaded(running)).status_code == 200
        assert (list(files.till.ledger.values()), len(files.kept)) == ([10_000] * 2, 1)
    await world.close()


@pytest.mark.parametrize("key", ["k", None])
async def test_the_same_upload_is_bought_once_in_five_minutes(tmp_path: Path, key: str | None) -> None:
    """Two at once, and again when it is through: one URL, one transfer; other bytes, or later, are another upload."""
    clock = the_clock()
    world, files = stand_in(clock)
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        answers = [*await asyncio.gather(uploaded(running, key), uploaded(running, key)), await uploaded(running, key)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert len({answer.json()["url"] for answer in answers}) == len(files.kept) == len(files.till.ledger) == 1
        assert (await uploaded(running, data=PNG + b"!")).status_code == 200
        assert len(files.till.ledger) == 2
        await clock.advance(301)
        later = await uploaded(running, key)
        assert later.headers.get("idempotent-replayed") == ("true" if key else None)
        assert len(files.till.ledger) == (2 if key else 3)
    await world.close()


async def test_an_upload_is_bought_within_the_caps(tmp_path: Path) -> None:
    """402 `spend_cap_reached` where the day's is reached, and nothing is paid."""
    clock = the_clock()
    world, files = stand_in(clock)
    setting = {"RELAY_SPEND_MAX_PER_DAY": "0.01", "RELAY_WALLET_KEY": KEY}
    async with relay(tmp_path, clock=clock, world=world, **setting) as running:  # type: ignore[arg-type]
        assert (await uploaded(running)).status_code == 200
        answer = await uploaded(running, data=PNG + b"!")
        assert (answer.status_code, answer.json()["code"]) == (402, "spend_cap_reached")
        assert len(files.till.ledger) == 1
    await world.close()
