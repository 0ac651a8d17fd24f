"""The paid stand-ins, seen from outside: what they ask, what they take, what has moved, and who may ask about a job.

Payments and sign-ins are made here with eth-account alone; at the end relay's own wallet pays, and a whole relay does.
"""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data

from relay.clock import SystemClock
from relay.model.job import JobState
from relay.model.provider_http import KEPT_HEADERS, ProviderResponse
from relay.payments.challenge import read_challenge
from relay.payments.policy import Policy, choose
from relay.payments.siwx import sign_in
from relay.payments.x402 import Wallet, settlement
from relay.providers.base import Accepted
from relay.providers.stablestudio import StableStudio as StudioAdapter
from relay.providers.x402org import X402Org as X402Adapter
from relay.sandbox.contract import PaidStandIn
from relay.sandbox.faults import WORDS, Faults
from relay.sandbox.payment import PAY_TO, TIMEOUT_S, USED, WRONG_PAY_TO
from relay.sandbox.serving import serve
from relay.sandbox.stablestudio import StableStudio
from relay.sandbox.world import Sandbox
from relay.sandbox.x402org import PRICE, X402Org
from tests.support.provider_cases import asked
from tests.support.running import http_client, relay

pytestmark = pytest.mark.anyio

KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"  # account 1 of any development chain
OTHER_KEY = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"  # account 2
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
IMAGE = "https://example.com/a.png"
NOW_S = 1_795_219_200
STUDIO, FAST, X402 = "/api/generate/seedance/i2v", "/api/generate/seedance-fast/i2v", "/v1/image-to-video"
BODIES: dict[str, dict[str, Any]] = {
    STUDIO: {"image": IMAGE, "prompt": "p", "duration": "5", "resolution": "720p"},
    FAST: {"urls": [IMAGE], "urlMediaTypes": ["image"], "prompt": "p", "mode": "keyframe", "outputResolution": "480p"},
    X402: {"image_url": IMAGE, "prompt": "p"},
}
WIRE = {1: ("X-PAYMENT", "x-payment-response"), 2: ("PAYMENT-SIGNATURE", "payment-response")}
CHALLENGES = ("wrong_amount", "wrong_payee", "wrong_chain", "wrong_domain")
UNSETTLED, SETTLED = ("facilitator_down", "refused"), ("settle_then_fail", "drop_after_settle", "again_402")
TRANSFER = [
    ("from", "address"),
    ("to", "address"),
    ("value", "uint256"),
    ("validAfter", "uint256"),
    ("validBefore", "uint256"),
    ("nonce", "bytes32"),
]
Json = dict[str, Any]


def to_header(value: object) -> str:
    """JSON in base64."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def of_header(text: str) -> Json:
    """Return what a header holds."""
    held: Json = json.loads(base64.b64decode(text, validate=True))
    return held


def challenge_of(answer: httpx.Response) -> Json:
    """Return the challenge of a 402, from where its version puts it."""
    assert answer.status_code == 402, answer.text
    held = answer.headers.get("payment-required")
    if held is None:
        shown: Json = answer.json()
        assert shown["x402Version"] == 1
        return shown
    assert answer.json() == {}
    assert of_header(held)["x402Version"] == 2
    return of_header(held)


def transfer(entry: Json, nonce: int = 1, key: str = KEY, domain: Json | None = None, **changed: Any) -> Json:
    """Return a signed payload for one entry of `accepts`; what is changed is signed so."""
    authorization = {
        "from": Account.from_key(key).address,
        "to": entry["payTo"],
        "value": entry.get("amount") or entry["maxAmountRequired"],
        "validAfter": str(NOW_S - 600),
        "validBefore": str(NOW_S + entry["maxTimeoutSeconds"]),
        "nonce": f"0x{nonce:064x}",
        **changed,
    }
    chain_id = 84532 if "84532" in entry["network"] or "sepolia" in entry["network"] else 8453
    token = {"name": "USD Coin" if chain_id == 8453 else "USDC", "version": "2", "chainId": chain_id}
    signable = encode_typed_data(
        token | {"verifyingContract": entry["asset"]} | (domain or {}),
        {"TransferWithAuthorization": [{"name": name, "type": kind} for name, kind in TRANSFER]},
        authorization | {name: int(authorization[name]) for name in ("value", "validAfter", "validBefore")},
    )
    signature = "0x" + bytes(Account.from_key(key).sign_message(signable).signature).hex()
    return {"signature": signature, "authorization": authorization}


def enveloped(challenge: Json, payload: Json, **changed: Any) -> dict[str, str]:
    """Return the payment header for a challenge."""
    entry, version = challenge["accepts"][0], challenge["x402Version"]
    if version == 1:
        said = {"x402Version": 1, "scheme": entry["scheme"], "network": entry["network"], "payload": payload}
    else:
        said = {"x402Version": 2, "accepted": entry, "resource": challenge["resource"], "payload": payload}
    return {WIRE[version][0]: to_header(said | changed)}


class Stage:
    """The paid stand-ins on one origin, their clock, and a client without a key."""

    def __init__(self, world: Sandbox, client: httpx.AsyncClient, tills: dict[str, PaidStandIn]) -> None:
        self.world = world
        self.client = client
        self.tills = tills
        self.now_s = NOW_S

    async def send(self, path: str, headers: dict[str, str] | None = None, **changed: Any) -> httpx.Response:
        """Return a submission."""
        return await self.client.post(path, json=BODIES[path] | changed, headers=headers)

    async def ask(self, path: str, **changed: Any) -> Json:
        """Return what an unpaid submission is asked for."""
        return challenge_of(await self.send(path, **changed))

    async def pay(self, path: str, nonce: int = 1, key: str = KEY) -> httpx.Response:
        """Return a submission that pays what it is asked for."""
        challenge = await self.ask(path)
        return await self.send(path, enveloped(challenge, transfer(challenge["accepts"][0], nonce, key)))

    def ledger(self, path: str) -> dict[str, int]:
        """Return what has moved at a stand-in."""
        return self.tills[path].till.ledger

    async def check(self, job_id: str, key: str = KEY) -> httpx.Response:
        """StableStudio's status, with a sign-in."""
        asked = await self.client.get(f"/api/jobs/{job_id}")
        return await self.sign(job_id, info_of(asked), key)

    async def sign(self, job_id: str, info: Json, key: str = KEY, **changed: Any) -> httpx.Response:
        """Return a status check, signed for this challenge."""
        return await self.client.get(f"/api/jobs/{job_id}", headers=signed_in(info, key, **changed))


def info_of(answer: httpx.Response) -> Json:
    """Return what a sign-in is asked to sign."""
    assert answer.status_code == 402, answer.text
    shown = answer.json()
    assert shown["accepts"] == []
    info: Json = shown["extensions"]["sign-in-with-x"]["info"]
    return info


def signed_in(info: Json, key: str = KEY, **changed: Any) -> dict[str, str]:
    """Return the sign-in header; what is changed is changed after signing."""
    address = Account.from_key(key).address
    lines = [
        f"{info['domain']} wants you to sign in with your Ethereum account:",
        address,
        "",
        info["statement"],
        "",
        f"URI: {info['uri']}",
        "Version: 1",
        "Chain ID: 8453",
        f"Nonce: {info['nonce']}",
        f"Issued At: {info['issuedAt']}",
        f"Expiration Time: {info['expirationTime']}",
        "Resources:",
        *(f"- {one}" for one in info["resources"]),
    ]
    signed = Account.from_key(key).sign_message(encode_defunct(text="\n".join(lines)))
    said = info | {"address": address, "signatureScheme": "eip191", "signature": "0x" + bytes(signed.signature).hex()}
    return {"SIGN-IN-WITH-X": to_header(said | changed)}


@asynccontextmanager
async def staged(pace_s: float | None = None, version: int = 1) -> AsyncIterator[Stage]:
    """Everything, running."""
    async with AsyncExitStack() as stack:
        held: list[Stage] = []
        studio = StableStudio(lambda: held[0].now_s)
        seller = X402Org(lambda: held[0].now_s, version=version)
        world = Sandbox({"stablestudio": studio, "x402org": seller}, pace_s=pace_s, time_scale=0)
        stack.push_async_callback(world.close)
        origin = await stack.enter_async_context(serve(world.app))
        client = await stack.enter_async_context(http_client(origin, None))
        held.append(Stage(world, client, {STUDIO: studio, FAST: studio, X402: seller}))
        yield held[0]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Yield a sandbox in which nothing moves until the test moves it."""
    async with staged() as made:
        yield made


async def test_version_1_asks_in_the_body(stage: Stage) -> None:
    """x402.org's 402 has the published fields and a flat price."""
    answer = await stage.send(X402)
    assert challenge_of(answer) == {
        "x402Version": 1,
        "error": "X-PAYMENT header is required",
        "accepts": [
            {
                "scheme": "exact",
                "network": "base",
                "maxAmountRequired": "200000",
                "asset": USDC,
                "payTo": PAY_TO,
                "resource": str(answer.url),
                "description": "Image to video",
                "mimeType": "application/json",
                "outputSchema": None,
                "maxTimeoutSeconds": TIMEOUT_S,
                "extra": {"name": "USD Coin", "version": "2"},
            }
        ],
    }


async def test_version_2_asks_in_a_header(stage: Stage) -> None:
    """StableStudio's 402 has an empty object for a body, and all else in its header."""
    answer = await stage.send(STUDIO)
    challenge = challenge_of(answer)
    assert challenge["resource"]["url"] == str(answer.url)
    assert challenge["accepts"] == [
        {
            "scheme": "exact",
            "network": "eip155:8453",
            "amount": "536250",
            "asset": USDC,
            "payTo": PAY_TO,
            "maxTimeoutSeconds": TIMEOUT_S,
            "extra": {"name": "USD Coin", "version": "2"},
        }
    ]


@pytest.mark.parametrize(
    ("path", "changed", "amount"),
    [
        (STUDIO, {"duration": "4", "resolution": "480p"}, 330_000),
        (STUDIO, {"duration": "12", "resolution": "1080p"}, 990_000),
        (FAST, {"duration": "4"}, 40_000),
        (FAST, {"duration": "12", "outputResolution": "1080p"}, 120_000),
    ],
)
async def test_a_body_has_its_price(stage: Stage, path: str, changed: Json, amount: int) -> None:
    """The ends are the published ones, and the same body costs the same each time."""
    assert [(await stage.ask(path, **changed))["accepts"][0]["amount"] for _ in range(2)] == [str(amount)] * 2


@pytest.mark.parametrize("path", [STUDIO, FAST, X402])
async def test_what_is_asked_for_is_paid_once(stage: Stage, path: str) -> None:
    """A good payment makes a job, and its receipt names payer and network; an unpaid one makes nothing."""
    challenge = await stage.ask(path)
    assert (stage.world.jobs, stage.world.submissions, stage.ledger(path)) == ({}, [], {})
    answer = await stage.pay(path, nonce=7)
    assert answer.status_code == 200, answer.text
    entry = challenge["accepts"][0]
    receipt = of_header(answer.headers[WIRE[challenge["x402Version"]][1]])
    assert (receipt["success"], receipt["network"]) == (True, entry["network"])
    assert receipt["payer"] == Account.from_key(KEY).address
    assert stage.ledger(path) == {f"0x{7:064x}": int(entry.get("amount") or entry["maxAmountRequired"])}
    assert stage.world.submissions == [BODIES[path]]
    assert [job.owner for job in stage.world.jobs.values()] == [Account.from_key(KEY).address]
    assert stage.tills[path].till.asked == 2


async def test_version_2_of_x402_org_is_the_same_shop() -> None:
    """What its own examples do: the challenge in a header."""
    async with staged(version=2) as stage:
        assert (await stage.ask(X402))["accepts"][0]["amount"] == str(PRICE)
        assert (await stage.pay(X402)).status_code == 200
        assert list(stage.ledger(X402).values()) == [PRICE]


Change = Callable[[Json], tuple[Json, Json]]
"""From an entry, the payload that is sent, and what is changed around it."""
WRONG: dict[str, Change] = {
    "invalid_exact_evm_payload_authorization_value_mismatch": lambda entry: (transfer(entry, value="1"), {}),
    "invalid_exact_evm_payload_recipient_mismatch": lambda entry: (transfer(entry, to=WRONG_PAY_TO), {}),
    "invalid_exact_evm_payload_authorization_valid_before": lambda e: (transfer(e, validBefore=str(NOW_S + 5)), {}),
    "invalid_exact_evm_payload_authorization_valid_after": lambda e: (transfer(e, validAfter=str(NOW_S + 1)), {}),
    "invalid_scheme": lambda entry: (transfer(entry), {"scheme": "upto", "accepted": entry | {"scheme": "upto"}}),
    "invalid_network": lambda e: (transfer(e), {"network": "polygon", "accepted": e | {"network": "eip155:137"}}),
    "invalid_x402_version": lambda entry: (transfer(entry), {"x402Version": 3}),
    "invalid_payload": lambda entry: (transfer(entry) | {"authorization": {"from": 5}}, {}),
}
FORGED: dict[str, Callable[[Json], Json]] = {
    "another name": lambda entry: transfer(entry, domain={"name": "USDC"}),
    "another version": lambda entry: transfer(entry, domain={"version": "1"}),
    "another chain": lambda entry: transfer(entry, domain={"chainId": 84532}),
    "another token": lambda entry: transfer(entry, domain={"verifyingContract": PAY_TO}),
    "another signer": lambda e: transfer(e) | {"signature": transfer(e, key=OTHER_KEY)["signature"]},
    "another nonce": lambda e: transfer(e) | {"signature": transfer(e, nonce=2)["signature"]},
    "no signature": lambda entry: transfer(entry) | {"signature": "0x"},
    "no point of the curve": lambda entry: transfer(entry) | {"signature": "0x" + "ff" * 65},
}


def error_of(answer: httpx.Response) -> str:
    """Why a payment was not taken; a header of version 2 says it twice."""
    challenge = challenge_of(answer)
    if challenge["x402Version"] == 2:
        failed = of_header(answer.headers["payment-response"])
        assert (failed["success"], failed["errorReason"]) == (False, challenge["error"])
    return str(challenge["error"])


@pytest.mark.parametrize("path", [STUDIO, X402])
@pytest.mark.parametrize("error", WRONG)
async def test_a_payment_that_is_not_what_was_asked(stage: Stage, path: str, error: str) -> None:
    """It is refused with the published code, nothing moves, and nothing is made."""
    challenge = await stage.ask(path)
    payload, around = WRONG[error](challenge["accepts"][0])
    answer = await stage.send(path, enveloped(challenge, payload, **around))
    assert error_of(answer) == error
    assert (stage.ledger(path), stage.world.jobs) == ({}, {})


@pytest.mark.parametrize("path", [STUDIO, X402])
@pytest.mark.parametrize("forged", FORGED)
async def test_a_signature_is_for_the_tokens_own_domain(stage: Stage, path: str, forged: str) -> None:
    """Another domain, signer or text is no payment."""
    challenge = await stage.ask(path)
    answer = await stage.send(path, enveloped(challenge, FORGED[forged](challenge["accepts"][0])))
    assert error_of(answer) == "invalid_exact_evm_payload_signature"
    assert (stage.ledger(path), stage.world.jobs) == ({}, {})


@pytest.mark.parametrize("path", [STUDIO, X402])
@pytest.mark.parametrize("text", ["", "x", "!!", "bnVsbA==", "W10="])
async def test_a_header_that_is_no_payment_is_malformed(stage: Stage, path: str, text: str) -> None:
    """It is a 400, and no challenge."""
    answer = await stage.send(path, {"X-PAYMENT": text, "PAYMENT-SIGNATURE": text})
    assert (answer.status_code, stage.world.jobs) == (400, {})


async def test_version_2_repeats_what_it_was_asked(stage: Stage) -> None:
    """An `accepted` that is not the entry of this very body is refused: a cheap quote pays no dear video."""
    cheap = await stage.ask(STUDIO, duration="4", resolution="480p")
    answer = await stage.send(STUDIO, enveloped(cheap, transfer(cheap["accepts"][0])))
    assert error_of(answer) == "invalid_payment_requirements"


async def test_a_nonce_is_good_once(stage: Stage) -> None:
    """Version 2 refuses it before anything is made; version 1 makes the video again, and then cannot settle."""
    assert (await stage.pay(STUDIO)).status_code == 200
    assert error_of(await stage.pay(STUDIO)) == USED
    assert (len(stage.world.jobs), len(stage.ledger(STUDIO))) == (1, 1)
    assert (await stage.pay(X402)).status_code == 200
    assert error_of(await stage.pay(X402)) == USED
    assert (len(stage.world.jobs), len(stage.ledger(X402))) == (3, 1)


async def test_a_bad_body_at_the_one_that_prices_it(stage: Stage) -> None:
    """StableStudio refuses it before it asks for money."""
    for changed in ({"duration": 5}, {"image": "x"}, {"resolution": "4k"}, {"model": "seedance"}, {"seed": "7"}):
        answer = await stage.send(STUDIO, **changed)
        assert (answer.status_code, answer.json()["success"]) == (400, False), changed
    missing = await stage.client.post("/api/generate/other/i2v", json=BODIES[STUDIO])
    assert (missing.status_code, stage.tills[STUDIO].till.asked) == (404, 0)


async def test_a_bad_body_at_the_one_with_a_flat_price(stage: Stage) -> None:
    """x402.org takes the money first: a 4xx after that is about the body, and the receipt stands beside it."""
    challenge = await stage.ask(X402, duration="7s")
    answer = await stage.send(X402, enveloped(challenge, transfer(challenge["accepts"][0])), duration="7s")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid duration"})
    assert of_header(answer.headers["x-payment-response"])["success"] is True
    assert (list(stage.ledger(X402).values()), stage.world.jobs) == ([PRICE], {})


@pytest.mark.parametrize("path", [STUDIO, X402])
@pytest.mark.parametrize("pay", CHALLENGES)
async def test_a_challenge_that_is_wrong_in_one_thing(stage: Stage, path: str, pay: str) -> None:
    """All else in it is as it should be."""
    good = (await stage.ask(path))["accepts"][0]
    stage.world.next_faults.append(Faults(pay=pay))
    bad = (await stage.ask(path))["accepts"][0]
    changed = {name for name in good if good[name] != bad[name]}
    price = "amount" if path == STUDIO else "maxAmountRequired"
    assert (
        changed
        == {
            "wrong_amount": {price},
            "wrong_payee": {"payTo"},
            "wrong_chain": {"network", "asset", "extra"},
            "wrong_domain": {"extra"},
        }[pay]
    )
    assert pay != "wrong_amount" or int(bad[price]) == 1000 * int(good[price])


@pytest.mark.parametrize("path", [STUDIO, X402])
@pytest.mark.parametrize("pay", ["wrong_amount", "wrong_payee", "wrong_chain"])
async def test_whoever_pays_a_wrong_challenge_has_paid_it(stage: Stage, path: str, pay: str) -> None:
    """The ledger has what was asked, so a test sees a wallet that signs anything."""
    stage.world.next_faults.append(Faults(pay=pay))
    asked = (await stage.ask(path))["accepts"][0]
    assert (await stage.pay(path)).status_code == 200
    assert list(stage.ledger(path).values()) == [int(asked.get("amount") or asked["maxAmountRequired"])]


@pytest.mark.parametrize("path", [STUDIO, X402])
async def test_the_token_does_not_care_what_a_challenge_calls_it(stage: Stage, path: str) -> None:
    """With `wrong_domain`, what is signed for the name in the challenge is worth nothing."""
    stage.world.next_faults.append(Faults(pay="wrong_domain"))
    challenge = await stage.ask(path)
    entry = challenge["accepts"][0]
    answer = await stage.send(path, enveloped(challenge, transfer(entry, domain={"name": entry["extra"]["name"]})))
    assert error_of(answer) == "invalid_exact_evm_payload_signature"


@pytest.mark.parametrize("path", [STUDIO, X402])
@pytest.mark.parametrize(("pay", "status_code"), [("facilitator_down", 502), ("refused", 402)])
async def test_a_payment_that_does_not_move(stage: Stage, path: str, pay: str, status_code: int) -> None:
    """Nothing is in the ledger and nothing is made; the same header is as bad the second time."""
    challenge = await stage.ask(path)
    headers = enveloped(challenge, transfer(challenge["accepts"][0]))
    stage.world.next_faults.append(Faults(pay=pay))
    answers = [await stage.send(path, headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status_code] * 2
    assert pay != "refused" or [error_of(answer) for answer in answers] == ["insufficient_funds"] * 2
    assert (stage.ledger(path), stage.world.jobs, stage.world.next_faults) == ({}, {}, [])


@pytest.mark.parametrize("path", [STUDIO, X402])
@pytest.mark.parametrize(("pay", "status_code"), [("settle_then_fail", 500), ("again_402", 402)])
async def test_a_payment_that_moves_without_a_word(stage: Stage, path: str, pay: str, status_code: int) -> None:
    """The money has moved and the job is made, and neither is said; the same header is then a used one."""
    challenge = await stage.ask(path)
    headers = enveloped(challenge, transfer(challenge["accepts"][0]))
    stage.world.next_faults.append(Faults(pay=pay))
    answer = await stage.send(path, headers)
    assert answer.status_code == status_code
    assert not {"payment-response", "x-payment-response"} & set(answer.headers)
    assert (len(stage.ledger(path)), len(stage.world.jobs)) == (1, 1)
    assert error_of(await stage.send(path, headers)) == USED
    assert len(stage.ledger(path)) == 1


@pytest.mark.parametrize("path", [STUDIO, X402])
async def test_a_payment_that_moves_and_is_cut_off(stage: Stage, path: str) -> None:
    """The connection is reset after the money has moved."""
    challenge = await stage.ask(path)
    headers = enveloped(challenge, transfer(challenge["accepts"][0]))
    stage.world.next_faults.append(Faults(pay="drop_after_settle"))
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await stage.send(path, headers)
    assert (len(stage.ledger(path)), len(stage.world.jobs)) == (1, 1)


@pytest.mark.parametrize(("pay", "second"), [("facilitator_down", 200), ("refused", 200), ("settle_then_fail", 402)])
async def test_a_fault_of_the_first_sendings(stage: Stage, pay: str, second: int) -> None:
    """After `pay_times` the same header is treated well, which helps where nothing had moved; others always are."""
    challenge = await stage.ask(STUDIO)
    headers = enveloped(challenge, transfer(challenge["accepts"][0]))
    stage.world.next_faults.append(Faults(pay=pay, pay_times=1))
    await stage.send(STUDIO, headers)
    assert (await stage.send(STUDIO, headers)).status_code == second
    assert (await stage.pay(STUDIO, nonce=2)).status_code == 200
    assert len(stage.ledger(STUDIO)) == 2


async def test_every_word_of_the_switch_is_told_apart() -> None:
    """The lists of this file are the switchboard's."""
    assert set(WORDS["pay"]) == {"ok", *CHALLENGES, *UNSETTLED, *SETTLED}


@pytest.mark.parametrize("path", [STUDIO, X402])
async def test_a_prompt_asks_for_payment_faults_too(stage: Stage, path: str) -> None:
    """As with every other fault; here the quote and the payment are of one prompt."""
    prompt = "p [sandbox: pay=again_402]"
    challenge = await stage.ask(path, prompt=prompt)
    answer = await stage.send(path, enveloped(challenge, transfer(challenge["accepts"][0])), prompt=prompt)
    assert (answer.status_code, len(stage.ledger(path))) == (402, 1)


async def test_a_refused_submission_is_not_charged_where_the_handler_comes_first(stage: Stage) -> None:
    """A refusal of StableStudio leaves the money where it is; x402.org's 4xx does not, and only its 5xx does."""
    for path, status_code, moved in ((STUDIO, 429, 0), (STUDIO, 503, 0), (X402, 429, 1), (X402, 503, 1)):
        stage.world.next_faults.append(Faults(status_code=status_code))
        answer = await stage.pay(path, nonce=status_code)
        assert (answer.status_code, len(stage.ledger(path))) == (status_code, moved)
    assert stage.world.jobs == {}


async def test_a_job_is_shown_to_the_wallet_that_paid(stage: Stage) -> None:
    """Only a signed check is counted, and a new one needs a new challenge."""
    job_id = (await stage.pay(STUDIO)).json()["jobId"]
    shown = await stage.check(job_id)
    assert (shown.status_code, shown.json()) == (200, {"jobId": job_id, "status": "pending"})
    await stage.world.finish(job_id)
    assert (await stage.check(job_id)).json() == {
        "jobId": job_id,
        "status": "complete",
        "result": {
            "videoUrl": f"https://cdn.example.com/sandbox/{job_id}.mp4",
            "thumbnailUrl": f"https://cdn.example.com/sandbox/{job_id}.png",
        },
    }
    assert stage.world.status_checks == [job_id] * 2
    assert stage.world.callbacks == []


async def test_another_wallet_sees_nothing(stage: Stage) -> None:
    """It is a 403; a job that nobody knows is a 404 for everybody."""
    job_id = (await stage.pay(STUDIO)).json()["jobId"]
    assert (await stage.check(job_id, OTHER_KEY)).status_code == 403
    assert (await stage.check("job_0")).status_code == 404
    assert stage.world.jobs[job_id].checks == 0


async def test_a_sign_in_is_good_once_and_for_five_minutes(stage: Stage) -> None:
    """A used nonce, one that is over and one of somebody's own are a new challenge with the reason."""
    job_id = (await stage.pay(STUDIO)).json()["jobId"]
    path = f"/api/jobs/{job_id}"
    first, late = [info_of(await stage.client.get(path)) for _ in range(2)]
    assert (first["domain"], first["uri"]) == ("127.0.0.1", f"{stage.client.base_url}{path}".replace("//api", "/api"))
    assert (await stage.sign(job_id, first)).status_code == 200
    again = await stage.sign(job_id, first)
    own = await stage.sign(job_id, first | {"nonce": "a" * 32})
    stage.now_s += 300
    over = await stage.sign(job_id, late)
    assert [answer.json()["code"] for answer in (again, own, over)] == [
        "siwx_nonce_used",
        "siwx_malformed",
        "siwx_expired",
    ]
    assert (await stage.sign(job_id, info_of(over))).status_code == 200


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"signature": "0x" + "00" * 65}, "siwx_invalid_signature"),
        ({"signature": None}, "siwx_invalid_signature"),
        ({"address": PAY_TO}, "siwx_invalid_signature"),
        ({"address": Account.from_key(KEY).address.lower()}, "siwx_invalid_signature"),
        ({"address": 5}, "siwx_malformed"),
        ({"domain": "evil.example"}, "siwx_malformed"),
        ({"chainId": "eip155:1"}, "siwx_malformed"),
        ({"resources": []}, "siwx_malformed"),
    ],
)
async def test_a_sign_in_that_is_changed(stage: Stage, changed: Json, code: str) -> None:
    """Every field is echoed as it was, and the signature is that of the address."""
    job_id = (await stage.pay(STUDIO)).json()["jobId"]
    info = info_of(await stage.client.get(f"/api/jobs/{job_id}"))
    answer = await stage.sign(job_id, info, **changed)
    assert (answer.status_code, answer.json()["code"]) == (402, code)
    assert stage.world.status_checks == []


async def test_a_sign_in_is_for_one_job(stage: Stage) -> None:
    """What was signed for one URL does not open another."""
    first, second = [(await stage.pay(STUDIO, nonce)).json()["jobId"] for nonce in (1, 2)]
    info = info_of(await stage.client.get(f"/api/jobs/{first}"))
    assert (await stage.sign(second, info)).json()["code"] == "siwx_malformed"
    for text in ("", "!!", "W10=", to_header({"nonce": 5})):
        answer = await stage.client.get(f"/api/jobs/{first}", headers={"SIGN-IN-WITH-X": text})
        assert answer.json()["code"] == "siwx_malformed"


async def test_x402_org_answers_with_the_video(stage: Stage) -> None:
    """The published fields; the job has ended."""
    answer = (await stage.pay(X402)).json()
    (job,) = stage.world.jobs.values()
    assert (job.state, answer["venice_request_id"]) == ("succeeded", job.id)
    assert set(answer) == {
        *("video_url", "duration", "aspect_ratio", "resolution", "model", "prompt", "venice_request_id", "source")
    }


async def test_x402_org_answers_with_where_to_ask(stage: Stage) -> None:
    """With `version=async` the video comes later, on a route that is open to everybody."""
    stage.world.next_faults.append(Faults(version="async"))
    answer = (await stage.pay(X402)).json()
    assert set(answer) == {"job_id", "poll_url"}
    path = answer["poll_url"].removeprefix("https://x402.org")
    assert (await stage.client.get(path)).json() == {"job_id": answer["job_id"], "status": "PROCESSING"}
    await stage.world.finish(answer["job_id"])
    assert (await stage.client.get(path)).json()["video_url"].endswith(".mp4")
    assert stage.world.status_checks == [answer["job_id"]] * 2


async def test_x402_org_takes_the_time_of_its_job() -> None:
    """With a pace the answer comes when the job has ended."""
    async with staged(pace_s=0.1) as stage:
        began = time.monotonic()
        assert "video_url" in (await stage.pay(X402)).json()
        assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize(
    ("path", "faults", "state"),
    [
        (STUDIO, {}, JobState.SUBMITTED),
        (FAST, {}, JobState.SUBMITTED),
        (X402, {}, JobState.SUCCEEDED),
        (X402, {"version": "async"}, JobState.SUBMITTED),
        (X402, {"outcome": "failed"}, JobState.FAILED),
    ],
)
async def test_the_adapters_read_what_the_stand_ins_say(
    stage: Stage, path: str, faults: dict[str, Any], state: JobState
) -> None:
    """Two readings of the same pages agree about answers, running jobs and ends."""
    adapter = X402Adapter() if path == X402 else StudioAdapter()
    stage.world.next_faults.append(Faults(**faults))
    said = adapter.read_submission(seen(await stage.pay(path)))
    assert isinstance(said, Accepted)
    assert said.report.state is state
    job_id = said.report.provider_job_id
    assert job_id == next(iter(stage.world.jobs))
    if state is not JobState.SUBMITTED:
        return
    ends = {"running": JobState.RUNNING, "failed": JobState.FAILED, "succeeded": JobState.SUCCEEDED}
    for turned, expected in ends.items():
        stage.world.jobs[job_id].state = turned
        if path == X402:
            answer = await stage.client.get(
                adapter.status_check(asked(job_id, status_path=said.report.status_path)).path
            )
        else:
            answer = await stage.check(job_id)
        report = adapter.read_status(seen(answer), NOW_S * 1000)
        assert (report.state, report.provider_job_id) == (expected, job_id)
        assert bool(report.outputs) == (expected is JobState.SUCCEEDED)


def seen(answer: httpx.Response) -> ProviderResponse:
    """Return an answer as relay's client hands it on."""
    headers = {name: value for name, value in answer.headers.items() if name in KEPT_HEADERS}
    type_ = answer.headers.get("content-type", "")
    return ProviderResponse(status_code=answer.status_code, content_type=type_, body=answer.content, headers=headers)


@pytest.mark.parametrize("path", [STUDIO, X402])
async def test_relays_own_wallet_is_taken(stage: Stage, path: str) -> None:
    """What relay signs by its reading of the pages is what these stand-ins want by theirs."""
    wallet, policy = Wallet(KEY), Policy(amount_max=1_000_000, pay_to=frozenset({PAY_TO}))
    challenge = read_challenge(seen(await stage.send(path)))
    signed = wallet.authorize(choose(challenge, policy), challenge, policy, "job_1", NOW_S)
    answer = await stage.send(path, {signed.header_name: signed.header_value})
    assert answer.status_code == 200, answer.text
    made = settlement(seen(answer))
    assert made is not None
    assert (made.success, made.payer) == (True, wallet.address)
    assert stage.ledger(path) == {signed.nonce: signed.amount}
    if path == STUDIO:
        asked = await stage.client.get(f"/api/jobs/{answer.json()['jobId']}")
        headers = sign_in(seen(asked), str(asked.url), wallet, NOW_S * 1000)
        assert (await stage.client.get(str(asked.url), headers=headers)).status_code == 200


@pytest.mark.parametrize("provider", ["stablestudio", "x402org"])
async def test_a_whole_relay_pays_once(tmp_path: Path, provider: str) -> None:
    """From the client's request to a video that one payment of the asked price has bought."""
    stand_ins: dict[str, StableStudio | X402Org] = {"stablestudio": StableStudio(), "x402org": X402Org()}
    world = Sandbox({**stand_ins}, pace_s=0.05, time_scale=0)
    pay_to = {f"RELAY_{provider.upper()}_PAY_TO": PAY_TO}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(world.close)
        held = relay(tmp_path, clock=SystemClock(), world=world, RELAY_WALLET_KEY=KEY, **pay_to)  # type: ignore[arg-type]
        running = await stack.enter_async_context(held)
        path = f"/v1/jobs/{(await running.submit(provider))['id']}"
        await world.wait_for(lambda world: all(job.ended for job in world.jobs.values()))
        await running.client.post(f"{path}/status-checks")
        job = await running.until(path, lambda shown: shown["status"] == "succeeded")
    assert (len(stand_ins[provider].till.ledger), len(world.jobs)) == (1, 1)
    assert job["outputs"][0]["url"].endswith(".mp4")
