"""Paying servers of others: `python -m tests.support.paylab`, while independent x402 servers listen on the ports.

They are a server of version 2, one of version 1, a router with sign-in, and the node of a local chain that has the
USDC contract. Every step says what it saw; a broken promise ends the run with exit 1, no servers with exit 77.
"""

import socket
import sys
import time
from collections.abc import Mapping
from typing import Final

import httpx
import msgspec

from relay.errors import PaymentRefused
from relay.model import ids
from relay.model.provider_http import KEPT_HEADERS, ProviderResponse
from relay.payments.challenge import read_challenge
from relay.payments.outcome import (
    Outcome,
    authorization_state_call,
    classify,
    may_resend,
    read_authorization_state,
)
from relay.payments.policy import BASE_USDC, Policy, choose
from relay.payments.siwx import sign_in
from relay.payments.x402 import Authorization, Wallet, settlement

V2, V1, ROUTER, RPC = (f"http://127.0.0.1:{port}" for port in (4521, 4531, 4541, 4545))
PAYER_KEY: Final = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"  # account 1 of any dev chain
PAYEE: Final = "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc"  # account 2
POLICY: Final = Policy(amount_max=1_000_000, pay_to=frozenset({PAYEE}))
VIDEO: Final = {"prompt": "slow zoom", "image": "https://example.com/a.png", "duration": "5", "resolution": "480p"}
VIDEO_V1: Final = {"image_url": "https://example.com/a.png", "prompt": "slow zoom"}
TIMEOUT_S: Final = 60
NO_SERVERS: Final = 77


class Seen(msgspec.Struct, frozen=True):
    """One job at one server: what was signed for it, and the answer to the payment (None: the connection broke)."""

    authorization: Authorization
    answer: ProviderResponse | None
    moved: int


class Lab:
    """The servers, as one wallet meets them."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.wallet = Wallet(PAYER_KEY)

    def call(
        self, method: str, url: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> ProviderResponse:
        """One request, and its answer with the headers that relay keeps."""
        answer = self.http.request(method, url, json=body, headers=headers)
        return ProviderResponse(
            status_code=answer.status_code,
            content_type=answer.headers.get("content-type", ""),
            body=answer.content,
            headers={name: value for name, value in answer.headers.items() if name in KEPT_HEADERS},
        )

    def send(self, url: str, body: object, authorization: Authorization) -> ProviderResponse | None:
        """Return the request with its payment; None when the connection breaks."""
        try:
            return self.call("POST", url, body, {authorization.header_name: authorization.header_value})
        except httpx.TransportError:
            return None

    def balance(self) -> int:
        """Return what the payer has, by the token's contract."""
        data = "0x70a08231" + self.wallet.address[2:].lower().rjust(64, "0")
        params = [{"to": BASE_USDC, "data": data}, "latest"]
        asked = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": params}
        return int(self.call("POST", RPC, asked).json()["result"], 16)

    def used(self, authorization: Authorization) -> bool | None:
        """Whether the chain knows the nonce."""
        asked = authorization_state_call(authorization.asset, authorization.payer, authorization.nonce)
        return read_authorization_state(self.call("POST", RPC, asked))

    def authorize(self, url: str, body: object) -> Authorization:
        """Return a price asked for and a payment signed for it, for a new job."""
        challenge = read_challenge(self.call("POST", url, body))
        offer = choose(challenge, POLICY)
        return self.wallet.authorize(offer, challenge, POLICY, ids.new_id(ids.JOB), int(time.time()))

    def pay(self, url: str, body: object) -> Seen:
        """One job, paid for once."""
        authorization = self.authorize(url, body)
        before = self.balance()
        answer = self.send(url, body, authorization)
        return Seen(authorization, answer, before - self.balance())


def say(text: str) -> None:
    """Print a line about the progress."""
    sys.stdout.write(text + "\n")


def check(good: bool, promise: str) -> None:
    """End the run where a promise is broken."""
    if not good:
        raise SystemExit(f"BROKEN: {promise}")


def shown(answer: ProviderResponse | None) -> str:
    """Return an answer in a line."""
    return "no answer" if answer is None else f"{answer.status_code} {answer.excerpt[:110]}"


def pays_once(lab: Lab, name: str, url: str, body: object) -> Seen:
    """Return a job is paid for, and the same header again moves nothing."""
    check(lab.used(authorization := lab.authorize(url, body)) is False, "the nonce of a new job is not used")
    say(f"{name}: asks {authorization.amount} for {authorization.pay_to} in {authorization.header_name}")
    seen = lab.pay(url, body)
    made = settlement(seen.answer) if seen.answer else None
    transaction = made.transaction if made else None
    say(f"{name}: {shown(seen.answer)}; moved {seen.moved}, {classify(seen.answer)}, transaction {transaction}")
    check(classify(seen.answer) is Outcome.PAID, "a good payment is paid")
    check(seen.moved == seen.authorization.amount, "exactly the price has moved")
    check(made is not None and made.success and lab.used(seen.authorization) is True, "server and chain say so")
    before = lab.balance()
    again = lab.send(url, body, seen.authorization)
    moved = before - lab.balance()
    say(f"{name}: the same header again: {shown(again)}; moved {moved}, {classify(again)}")
    check(moved == 0, "the same header never moves money twice")
    return seen


def survives(lab: Lab, name: str, origin: str, path: str, body: object, version: int) -> None:
    """Whatever becomes of the answer, the job is paid for at most once, and the chain knows."""
    for fault in ("drop_response", "500_after", "402_after", "500_handler"):
        before = lab.balance()
        lab.call("POST", f"{origin}/__control", {"fault": fault, "times": 1})
        seen = lab.pay(origin + path, body)
        check(classify(seen.answer) is not Outcome.PAID, "a broken answer is not paid")
        used = lab.used(seen.authorization)
        told = f"{name}: {fault}: {shown(seen.answer)}; moved {seen.moved}, {classify(seen.answer)}, chain {used}"
        check(used is (seen.moved > 0), "the chain knows")
        if may_resend(version) or not used:
            again = lab.send(origin + path, body, seen.authorization)
            told += f"; sent again: {shown(again)}, {classify(again)}"
        say(told)
        check(before - lab.balance() == seen.authorization.amount, "one job is paid for once")


def signs_in(lab: Lab, name: str, url: str) -> None:
    """Require that only the wallet that paid reads the job's status for nothing."""
    now_ms = time.time_ns() // 1_000_000
    asked = lab.call("GET", url)
    headers = sign_in(asked, url, lab.wallet, now_ms)
    answer = lab.call("GET", url, headers=headers)
    say(f"{name}: {asked.status_code} without sign-in; signed in: {shown(answer)}")
    check(answer.status_code == 200, "the wallet that paid reads its job")
    again = lab.call("GET", url, headers=headers)
    say(f"{name}: the same sign-in again: {shown(again)}")
    stranger = Wallet("0x" + "5" * 64)
    refused = lab.call("GET", url, headers=sign_in(lab.call("GET", url), url, stranger, now_ms))
    say(f"{name}: another wallet: {shown(refused)}")
    check(refused.status_code >= 400, "another wallet does not read it")
    refuses(lab, name, "GET", url)


def refuses(lab: Lab, name: str, method: str, url: str) -> None:
    """Where there is nothing to buy, nothing is chosen."""
    try:
        choose(read_challenge(lab.call(method, url)), POLICY)
    except PaymentRefused as error:
        say(f"{name}: nothing to pay: {error}")
        return
    check(False, "a sign-in is never paid for")


def silent() -> list[str]:
    """Return the origins where nobody listens."""
    quiet = []
    for origin in (V2, V1, ROUTER, RPC):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", httpx.URL(origin).port)):
                quiet.append(origin)
    return quiet


def main() -> int:
    """Return the whole walk."""
    if quiet := silent():
        say(f"no independent x402 servers to pay: nobody listens at {', '.join(quiet)}")
        return NO_SERVERS
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        lab = Lab(http)
        job_v2 = pays_once(lab, "v2", f"{V2}/api/generate/seedance/i2v", VIDEO)
        pays_once(lab, "v1", f"{V1}/v1/image-to-video", VIDEO_V1)
        job_router = pays_once(lab, "router", f"{ROUTER}/api/generate/seedance/i2v", VIDEO)
        survives(lab, "v2", V2, "/api/generate/seedance/i2v", VIDEO, 2)
        survives(lab, "v1", V1, "/v1/image-to-video", VIDEO_V1, 1)
        for name, origin, job in (("v2", V2, job_v2), ("router", ROUTER, job_router)):
            assert job.answer is not None
            signs_in(lab, name, f"{origin}/api/jobs/{job.answer.json()['jobId']}")
    say("every promise held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
