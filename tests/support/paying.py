"""A provider that takes x402 payments, and the chain behind it: it checks what a real one checks."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.clock import Clock
from relay.sandbox.serving import hang_up, serve
from tests.support.running import HeldClock, Running, relay

KEY = "0x" + "11" * 32
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
PAYEE = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
PRICE = 330_000
VIDEO = "https://cdn.example.com/paid.mp4"
_TYPES = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}


class Seller:
    """StableStudio's and x402.org's routes, and a node that knows which nonces were used.

    `fault` is what goes wrong with the next payments: `down` (500 and nothing moves), `settle_then_fail`, `drop`,
    `again_402`, `refused` (402, nothing moves), `bad_request` (400 after the money has moved, without a word of it) and
    `bad_request_told` (with its receipt); `offer` overrides what the challenge says.
    """

    def __init__(self) -> None:
        self.ledger: dict[str, int] = {}
        self.paid_requests = 0
        self.asked = asyncio.Event()
        self.fault = ""
        self.offer: dict[str, Any] = {}
        self.jobs: dict[str, int] = {}
        self.signed_in = 0
        self.rpc_down = False
        self.working = False
        """Whether every job is still worked on."""
        routes = [
            Route("/api/generate/{model}/i2v", self._studio, methods=["POST"]),
            Route("/api/jobs/{id}", self._status),
            Route("/v1/image-to-video", self._direct, methods=["POST"]),
            Route("/rpc", self._rpc, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    @property
    def moved(self) -> int:
        """What has been paid in all, in atomic units."""
        return sum(self.ledger.values())

    async def _studio(self, request: Request) -> Response:
        """Version 2: the challenge is a header."""
        sent = request.headers.get("payment-signature")
        if sent is None:
            offer = {"scheme": "exact", "network": "eip155:8453", "amount": str(PRICE), "maxTimeoutSeconds": 300}
            challenge = {"x402Version": 2, "resource": {"url": str(request.url)}, "accepts": [self.terms(offer)]}
            return Response("{}", 402, {"payment-required": _encoded(challenge)}, "application/json")
        return await self._pay(request, json.loads(base64.b64decode(sent)), {"type": "seedance-i2v", "success": True})

    async def _direct(self, request: Request) -> Response:
        """Version 1: the challenge is the body, and the result the answer."""
        sent = request.headers.get("x-payment")
        if sent is None:
            offer = {
                "scheme": "exact",
                "network": "base",
                "maxAmountRequired": str(PRICE),
                "resource": str(request.url),
            }
            return JSONResponse({"x402Version": 1, "accepts": [self.terms(offer)]}, 402)
        video = {"video_url": VIDEO, "venice_request_id": "req_1", "source": "venice"}
        return await self._pay(request, json.loads(base64.b64decode(sent)), video)

    def terms(self, offer: dict[str, Any]) -> dict[str, Any]:
        """Return an offer with what both versions have."""
        return offer | {"asset": USDC, "payTo": PAYEE, "extra": {"name": "USD Coin", "version": "2"}} | self.offer

    async def _pay(self, request: Request, sent: dict[str, Any], answer: dict[str, Any]) -> Response:
        """Verify, settle, and answer as well or as badly as the fault says."""
        self.paid_requests += 1
        self.asked.set()
        authorization = sent["payload"]["authorization"]
        domain = {"name": "USD Coin", "version": "2", "chainId": 8453, "verifyingContract": USDC}
        message: dict[str, Any] = {
            n: int(v) if n in ("value", "validAfter", "validBefore") else v for n, v in authorization.items()
        }
        message["nonce"] = bytes.fromhex(authorization["nonce"][2:])
        signable = encode_typed_data(domain, _TYPES, message)
        signer = Account.recover_message(signable, signature=sent["payload"]["signature"])
        assert signer.lower() == authorization["from"].lower(), "the signature is the payer's"
        if self.fault in ("down", "refused"):
            return JSONResponse({"error": "facilitator"}, 500 if self.fault == "down" else 402)
        if authorization["nonce"] in self.ledger:
            return JSONResponse({"error": "invalid_exact_evm_nonce_already_used"}, 402)
        self.ledger[authorization["nonce"]] = int(authorization["value"])
        if self.fault == "drop":
            await hang_up(request)
        if self.fault in ("settle_then_fail", "again_402"):
            return JSONResponse({"error": "upstream"}, 500 if self.fault == "settle_then_fail" else 402)
        if self.fault == "bad_request":
            return JSONResponse({"error": "the image is too small"}, 400)
        settled = {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:8453", "payer": signer}
        headers = {"payment-response": _encoded(settled)}
        if self.fault == "bad_request_told":
            return JSONResponse({"error": "the image is too small"}, 400, headers)
        number = len(self.jobs) + 1
        self.jobs[f"job_{number}"] = 0
        return JSONResponse(answer | ({} if "video_url" in answer else {"jobId": f"job_{number}"}), 200, headers)

    async def _status(self, request: Request) -> Response:
        """Return a job, for whoever signs in."""
        if "sign-in-with-x" not in request.headers:
            host = request.url.hostname
            info = {
                "domain": host,
                "uri": str(request.url),
                "version": "1",
                "chainId": "eip155:8453",
                "type": "eip191",
                "nonce": f"n{self.signed_in:032d}",
                "issuedAt": "2026-11-21T00:00:00.000Z",
                "statement": "Sign in",
            }
            return JSONResponse(
                {"x402Version": 2, "accepts": [], "extensions": {"sign-in-with-x": {"info": info}}}, 402
            )
        self.signed_in += 1
        job = request.path_params["id"]
        if self.working:
            return JSONResponse({"jobId": job, "status": "pending"})
        return JSONResponse({"jobId": job, "status": "complete", "result": {"videoUrl": VIDEO}})

    async def _rpc(self, request: Request) -> Response:
        """`authorizationState(address,bytes32)`."""
        if self.rpc_down:
            return JSONResponse({"error": "busy"}, 503)
        asked = await request.json()
        nonce = "0x" + asked["params"][0]["data"][-64:]
        used = int(nonce in self.ledger)
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": "0x" + f"{used:064x}"})


def _encoded(value: dict[str, Any]) -> str:
    """JSON in base64, as headers carry it."""
    return base64.b64encode(json.dumps(value).encode()).decode()


@asynccontextmanager
async def selling(folder: Path, seller: Seller, clock: Clock, **more: Any) -> AsyncIterator[Running]:
    """Yield a relay with a wallet, whose paid providers are the seller."""
    async with serve(seller.app) as origin:
        environ = {
            "RELAY_WALLET_KEY": KEY,
            "RELAY_STABLESTUDIO_BASE_URL": origin,
            "RELAY_X402ORG_BASE_URL": origin,
            "RELAY_CHAIN_RPC_URL": f"{origin}/rpc",
        }
        async with relay(folder, clock=clock, **environ | more) as running:
            yield running


async def paid(running: Running, provider: str = "stablestudio", **fields: Any) -> dict[str, Any]:
    """Return a job of a paid provider as it is when the submission's answer has come; time passes for its pauses."""
    assert isinstance(running.clock, HeldClock)
    return await running.clock.elapse(running.submit(provider, **fields))


async def ended(running: Running, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job once it is final; time passes, 2000 s at most."""
    shown = job
    for _ in range(200):
        shown = await running.get(f"/v1/jobs/{job['id']}")
        if shown["finished_at"]:
            return shown
        assert isinstance(running.clock, HeldClock)
        await running.clock.advance(10)
    raise TimeoutError(str(shown))
