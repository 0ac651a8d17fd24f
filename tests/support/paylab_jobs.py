"""Jobs that are paid for at independent servers: `python -m tests.support.paylab_jobs`, beside tests/support/paylab.py.

A whole relay submits through `POST /v1/jobs`, pays, asks until the job has ended, notifies; the chain says what moved.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from relay.clock import SystemClock
from tests.support.paylab import PAYEE, PAYER_KEY, ROUTER, RPC, V1, V2
from tests.support.running import Running, relay

_INPUT = {"images": ["https://example.com/a.png"], "prompt": "A cat slowly turning its head", "duration_s": 5}
SERVERS = {
    "stablestudio at v2": ("stablestudio", V2),
    "stablestudio at the router": ("stablestudio", ROUTER),
    "x402org at v1": ("x402org", V1),
}


def _say(text: str) -> None:
    """Print a line about the progress."""
    sys.stdout.write(f"{text}\n")


def balance(address: str) -> int:
    """Return what an address holds, in atomic units."""
    data = "0x70a08231" + address.lower().removeprefix("0x").rjust(64, "0")
    call = {"to": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "data": data}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}
    return int(httpx.post(RPC, json=asked, trust_env=False).json()["result"], 16)


async def told(running: Running, name: str, provider: str) -> None:
    """One job from its quote to its notification."""
    body = {"provider": provider, "input": _INPUT | {"resolution": "720p"}, "notify": [{"url": running.hook}]}
    quote = (await running.client.post("/v1/quotes", json={"input": body["input"], "providers": [provider]})).json()
    before = balance(PAYEE)
    answer = await running.client.post("/v1/jobs", json=body, headers={"prefer": "wait=25"})
    job: dict[str, Any] = answer.json()
    assert answer.status_code in (200, 202), answer.text
    for _ in range(3):
        if job["status"] in ("succeeded", "failed"):
            break
        path = f"/v1/jobs/{job['id']}"
        job = (await running.client.get(path, headers={"prefer": "wait=25"})).json()
    moved = balance(PAYEE) - before
    spend = await running.get("/v1/spend")
    _say(f"{name}: quoted {quote['data'][0]['amount']} {quote['data'][0]['unit']}, moved {moved}, {job['status']}")
    _say(f"    by {job['finished_by']}, {job['verification']}; spent today {spend['today']} of {spend['max_per_day']}")
    assert moved == round(float(quote["data"][0]["amount"]) * 1_000_000), "the balance moved by the quote, once"
    assert job["status"] == "succeeded", job
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    _say(f"    told: {', '.join(running.sink.events())}")


async def main() -> None:
    """Each server with a relay of its own."""
    for name, (provider, origin) in SERVERS.items():
        with tempfile.TemporaryDirectory() as folder:
            environ = {
                f"RELAY_{provider.upper()}_BASE_URL": origin,
                "RELAY_WALLET_KEY": PAYER_KEY,
                "RELAY_CHAIN_RPC_URL": RPC,
                f"RELAY_{provider.upper()}_PAY_TO": PAYEE,
            }
            async with relay(Path(folder), clock=SystemClock(), **environ) as running:  # type: ignore[arg-type]
                await told(running, name, provider)
    _say("every job was paid once")


if __name__ == "__main__":
    try:
        httpx.get(V2, trust_env=False)
    except httpx.TransportError:
        _say("no independent x402 servers listen on these ports; see tests/support/paylab.py")
        sys.exit(77)
    asyncio.run(main())
