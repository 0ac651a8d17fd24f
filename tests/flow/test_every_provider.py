"""What holds for each provider of the list: a request that relay does not know arrives as it is, and has its quote."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.providers import PROVIDERS
from relay.providers.base import Provider, callbacks_expected
from tests.support.paying import KEY
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

BODY = (
    '{"whatever":{"z":[true,null,1.5,-7],"ä":"„ü"},"model":"seedance-9","image":"https://example.com/a.png",'
    '"input":{"prompt":"a wave","seconds":"20"},"empty":{"list":[],"text":""},"large":9007199254740993}'
)
"""A body of no provider, compact, its members in no provider's order."""
providers = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda one: one.name)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock, with a wallet for the providers that are paid job by job."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_WALLET_KEY=KEY) as started:
        yield started


def model_of(provider: Provider) -> str:
    """Return the name of a model that no provider has, in the form of those that this one has."""
    return "acme/seedance-9" if "/" in provider.limits.models[0] else "seedance-9"


def body_of(provider: Provider) -> bytes:
    """Return the body with the provider's unknown model."""
    return BODY.replace("seedance-9", model_of(provider)).encode()


@providers
async def test_an_unknown_model_reaches_it_byte_for_byte(running: Running, provider: Provider) -> None:
    """Send a native request of an unknown model unchanged but for the callback URL behind it, and mark the job.

    A model that the provider has in its path is there, and not in the body.
    """
    model, sent = model_of(provider), body_of(provider)
    fields = b'{"provider":"%b","request":%b}' % (provider.name.encode(), sent)
    answer = await running.client.post("/v1/jobs", content=fields, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["checked"]) == (202, "partly"), answer.text
    path, raw = running.world.received[0]
    received: dict[str, Any] = msgspec.json.decode(raw)
    if "model" not in received:
        assert f"/{model}" in path
        sent = sent.replace(b'"model":"%b",' % model.encode(), b"")
    added = {name: value for name, value in received.items() if name not in msgspec.json.decode(sent)}
    assert raw == (sent[:-1] + b"," + msgspec.json.encode(added)[1:] if added else sent)
    callback = provider.callback_field.partition(".")[0]
    assert bool(added) == bool(callback)
    assert all(name.startswith(callback) for name in added)
    timeline = await running.get(f"/v1/jobs/{answer.json()['id']}/timeline")
    assert timeline["data"][0]["reason"] == f'checked: "partly"; relay does not know the model {model}'


@providers
async def test_an_unknown_model_has_an_unknown_price(running: Running, provider: Provider) -> None:
    """Quote a request of an unknown model without an amount, unless the provider itself names a price for it."""
    body = {"request": msgspec.json.decode(body_of(provider)), "providers": [provider.name]}
    (quote,) = (await running.client.post("/v1/quotes", json=body)).json()["data"]
    if provider.limits.paid:
        assert quote["basis"] == ("quote" if quote["amount"] else None)
        return
    assert (quote["amount"], quote["usd"], quote["basis"]) == (None, None, None)
    assert (quote["accepted"], quote["reason"]) == (True, f"relay does not know the model {model_of(provider)}")


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a wave"},
        {"prompt": "a wave", "images": ["https://example.com/a.png"], "duration_s": 5, "resolution": "720p"},
        {"prompt": "a wave", "images": ["https://example.com/a.png"], "last_frame": "https://example.com/b.png"},
        {"prompt": "a wave", "references": ["https://example.com/a.png"], "negative_prompt": "fog", "seed": 7},
    ],
    ids=["text", "image", "last_frame", "references"],
)
async def test_every_provider_is_quoted_in_one_call(running: Running, given: dict[str, Any]) -> None:
    """Quote all providers at once: cheapest first, then those without a price, each with the reason."""
    quotes = (await running.client.post("/v1/quotes", json={"input": given})).json()["data"]
    assert {*PROVIDERS, "sandbox"} == {quote["provider"] for quote in quotes}
    accepted = [quote["accepted"] for quote in quotes]
    assert accepted == sorted(accepted, reverse=True)
    dollars = [None if quote["usd"] is None else float(quote["usd"]) for quote in quotes if quote["accepted"]]
    priced = [usd for usd in dollars if usd is not None]
    assert dollars == sorted(priced) + [None] * (len(dollars) - len(priced))
    for quote in quotes:
        assert (quote["amount"] is None) == bool(quote["reason"])
        assert quote["accepted"] != bool(quote["errors"])
    refused = {quote["provider"]: quote["errors"] for quote in quotes if not quote["accepted"]}
    for name, provider in PROVIDERS.items():
        for field in ("last_frame", "negative_prompt", "references", "seed"):
            if field in given and field not in provider.honours:
                message = f"{provider.title} does not support {field}"
                assert {"path": f"input.{field}", "message": message} in refused[name]
    assert running.world.submissions == []


async def test_a_provider_is_shown_with_what_it_knows(running: Running) -> None:
    """Show each provider's models, their own limits, the fields that it honours, and that it accepts other models."""
    shown = {one["name"]: one for one in (await running.get("/v1/providers"))["data"]}
    for name, provider in PROVIDERS.items():
        one = shown[name]
        assert (one["models"], one["other_models"]) == (list(provider.limits.models), True)
        assert set(one["limits_by_model"]) == set(provider.limits.by_model) <= set(one["models"])
        assert one["honours"] == sorted(provider.honours)
        assert one["finished_by"] == ("callback" if callbacks_expected(provider) else "status_check")
