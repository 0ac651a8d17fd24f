"""The ledger: what was paid, by page and as CSV, without what is money, and never another project's."""

import csv
import io
from pathlib import Path

import pytest

from relay.clock import rfc3339
from relay.model.payment import PaymentState
from relay.storage.payments import Settlement
from relay.web.api import payments
from tests.api.test_spend import BODY, of
from tests.flow.test_paid_uploads import stand_in, the_clock, uploaded
from tests.support.paying import KEY, PAYEE, PRICE, USDC, Seller, paid, selling
from tests.support.running import HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


async def test_the_ledger_shows_each_payment_without_its_header(tmp_path: Path) -> None:
    """Show what was paid for a job, to whom and by which transaction, and nothing that could pay again."""
    async with selling(tmp_path, Seller(), HeldClock()) as running:
        job = await paid(running, "x402org")
        (shown,) = (await running.get("/v1/payments"))["data"]
        stored = await running.app.store.payments.of_job(job["id"])
        assert stored is not None
        assert shown == {
            "id": stored.id,
            "object": "payment",
            "project": "prj_default",
            "job": job["id"],
            "provider": "x402org",
            "amount": "0.330000",
            "unit": "USDC",
            "state": "paid",
            "created_at": rfc3339(stored.created_at),
            "settled_at": rfc3339(running.app.clock.now_ms()),
            "valid_before": rfc3339(stored.valid_before),
            "transaction": "0x" + "ab" * 32,
            "chain_id": 8453,
            "asset": USDC.lower(),
            "payer": running.app.payer.address,
            "pay_to": PAYEE,
            "nonce": stored.nonce,
        }
        receipts = (await running.client.get("/v1/receipts")).text
        assert stored.header[:40] not in receipts


async def test_the_ledger_is_filtered_and_paged(tmp_path: Path) -> None:
    """Narrow the list by state, provider, job and time, and page through it, newest first."""
    clock = HeldClock()
    async with selling(tmp_path, Seller(), clock, RELAY_SPEND_MAX_PER_DAY="100") as running:
        jobs = []
        for provider in ("x402org", "stablestudio", "x402org"):
            await clock.advance(60)
            jobs.append((await paid(running, provider))["id"])

        async def found(query: str) -> list[str]:
            return [one["job"] for one in (await running.get(f"/v1/payments?{query}"))["data"]]

        assert await found("") == jobs[::-1]
        assert await found("provider=x402org") == [jobs[2], jobs[0]]
        assert await found(f"job={jobs[1]}") == [jobs[1]]
        assert await found("state=paid") == jobs[::-1]
        assert await found("state=lost") == []
        all_of_them = (await running.get("/v1/payments"))["data"]
        second = all_of_them[1]["created_at"]
        assert await found(f"created_after={second}") == [jobs[2]]
        assert await found(f"created_before={second}") == [jobs[0]]
        page = await running.get("/v1/payments?limit=2")
        assert [one["job"] for one in page["data"]] == [jobs[2], jobs[1]]
        assert await found(f"limit=2&cursor={page['next_cursor']}") == [jobs[0]]
        assert (await running.client.get("/v1/payments?state=gone")).status_code == 422


async def test_a_project_sees_its_own_payments(tmp_path: Path) -> None:
    """Show a project its payments alone, and all of them to an operator who asks for all."""
    async with selling(tmp_path, Seller(), HeldClock()) as running:
        films = await of(running, "films", "read", "submit")
        mine = await paid(running, "x402org")
        theirs = (await running.client.post("/v1/jobs", json=BODY, headers=films)).json()
        for path in ("/v1/payments", "/v1/receipts"):
            seen = (await running.client.get(path, headers=films)).text
            assert theirs["id"] in seen
            assert mine["id"] not in seen
            assert theirs["id"] not in (await running.client.get(path)).text
            assert mine["id"] not in (await running.client.get(f"{path}?job={mine['id']}", headers=films)).text
            whole = (await running.client.get(f"{path}?all=true")).text
            assert theirs["id"] in whole
            assert mine["id"] in whole
            refused = await running.client.get(f"{path}?all=true", headers=films)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_receipts_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with CSV whose lines are the ledger's; the rest of more lines than fit follows at the header's cursor."""
    monkeypatch.setattr(payments, "RECEIPTS_MAX", 2)
    monkeypatch.setattr(payments, "PAGE", 1)
    async with selling(tmp_path, Seller(), HeldClock()) as running:
        for _ in range(3):
            await paid(running, "x402org")
        ledger = (await running.get("/v1/payments"))["data"]
        answer = await running.client.get("/v1/receipts")
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="receipts.csv"'
        rest = await running.client.get("/v1/receipts", params={"cursor": answer.headers["next-cursor"]})
        assert "next-cursor" not in rest.headers
        read = [line for part in (answer, rest) for line in csv.DictReader(io.StringIO(part.text))]
        assert [{**line, "object": "payment"} for line in read] == [
            {name: "" if value is None else str(value) for name, value in one.items()} for one in ledger
        ]


@pytest.mark.parametrize("said", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
async def test_a_provider_cannot_put_a_formula_into_receipts(tmp_path: Path, said: str) -> None:
    """Write what a provider says so that a spreadsheet computes nothing of it."""
    seller = Seller()
    seller.fault = "down"
    async with selling(tmp_path, seller, HeldClock(), RELAY_CHAIN_RPC_URL="") as running:
        job = await paid(running, "x402org", deadline_s=600)
        settlement = Settlement(state=PaymentState.PAID, transaction=said)
        await running.app.store.payments.settle(job["id"], running.app.clock.now_ms(), settlement)
        (line,) = csv.DictReader(io.StringIO((await running.client.get("/v1/receipts")).text))
        assert line["transaction"] == f"'{said}"


async def test_a_file_is_in_the_ledger_without_a_job(tmp_path: Path) -> None:
    """List what was paid for a file, with no job."""
    clock = the_clock()
    world, _ = stand_in(clock)
    async with relay(tmp_path, clock=clock, world=world, RELAY_WALLET_KEY=KEY) as running:
        assert (await uploaded(running)).status_code == 200
        (shown,) = (await running.get("/v1/payments"))["data"]
        assert (shown["job"], shown["provider"], shown["amount"]) == (None, "stablestudio", "0.010000")
    await world.close()


@pytest.mark.parametrize("setting", ["RELAY_SPEND_MAX_PER_HOUR", "RELAY_PROJECT_SPEND_MAX_PER_HOUR"])
async def test_an_hour_has_a_cap_of_its_own(tmp_path: Path, setting: str) -> None:
    """Refuse what is over the hour's cap to its last millisecond, and pay again in the next hour."""
    seller, clock, wide = Seller(), HeldClock(), {"RELAY_PROJECT_SPEND_MAX_PER_HOUR": "9"}
    await clock.advance(-(clock.now_ms() / 1000) % 3600)
    async with selling(tmp_path, seller, clock, **(wide | {setting: "0.66"})) as running:

        async def status() -> int:
            return (await running.client.post("/v1/jobs", json=BODY)).status_code

        assert [await status() for _ in range(3)] == [202, 202, 402]
        detail = (await running.client.post("/v1/jobs", json=BODY)).json()["detail"]
        assert setting in detail
        assert "this hour" in detail
        ends_ms = clock.now_ms() - clock.now_ms() % 3_600_000 + 3_600_000
        await clock.advance((ends_ms - 1 - clock.now_ms()) / 1000)
        assert await status() == 402
        await clock.advance(0.001)
        assert await status() == 202
        assert seller.moved == 3 * PRICE


async def test_spend_shows_every_cap(tmp_path: Path) -> None:
    """Show a project its own caps with what is left of them, and an operator those of all projects."""
    caps = {
        "RELAY_SPEND_MAX_PER_HOUR": "5",
        "RELAY_PROJECT_SPEND_MAX_PER_HOUR": "1",
        "RELAY_PROJECT_SPEND_MAX_PER_DAY": "2",
        "RELAY_APPROVAL_ABOVE": "0.75",
    }
    async with selling(tmp_path, Seller(), HeldClock(), **caps) as running:
        await paid(running, "x402org")
        films = await of(running, "films", "read", "submit")
        assert (await running.client.post("/v1/jobs", json=BODY, headers=films)).status_code == 202

        def told(spend: object) -> list[tuple[object, ...]]:
            assert isinstance(spend, dict)
            return [(one["setting"], one["period"], one["max"], one["used"], one["left"]) for one in spend["caps"]]

        mine = await running.get("/v1/spend")
        assert mine["approval_above"] == "0.750000"
        per_job = ("RELAY_SPEND_MAX_PER_JOB", "job", "1.000000", None, None)
        assert told(mine) == [
            per_job,
            ("RELAY_PROJECT_SPEND_MAX_PER_HOUR", "hour", "1.000000", "0.330000", "0.670000"),
            ("RELAY_PROJECT_SPEND_MAX_PER_DAY", "day", "2.000000", "0.330000", "1.670000"),
        ]
        assert told(await running.get("/v1/spend?all=true")) == [
            per_job,
            ("RELAY_SPEND_MAX_PER_HOUR", "hour", "5.000000", "0.660000", "4.340000"),
            ("RELAY_SPEND_MAX_PER_DAY", "day", "10.000000", "0.660000", "9.340000"),
        ]
        now_ms = running.app.clock.now_ms()
        resets = {one["period"]: one["resets_at"] for one in mine["caps"]}
        assert resets == {
            "job": None,
            "hour": rfc3339(now_ms - now_ms % 3_600_000 + 3_600_000),
            "day": rfc3339(now_ms - now_ms % 86_400_000 + 86_400_000),
        }
