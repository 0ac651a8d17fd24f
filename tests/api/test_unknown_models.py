"""Native requests for models that relay does not know: sent unchanged, and marked as not fully checked."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.providers import PROVIDERS
from relay.providers.native import MODEL_MAX_CHARS, check_native, unknown_model
from tests.support.rows import rows
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

EVOLINK = {
    "model": "seedance-3.0-image-to-video",
    "prompt": "slow push in",
    "image_urls": ["https://example.com/a.png"] * 3,
    "duration": 20,
    "camera": {"fixed": True, "path": [1, 2.5]},
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


def test_a_known_model_is_checked_as_before() -> None:
    """Name every wrong field of a model that relay knows."""
    wrong = {**EVOLINK, "model": "seedance-2.0-image-to-video"}
    paths = {error.path for error in check_native(PROVIDERS["evolink"], wrong)}
    assert {"duration", "image_urls", "camera"} <= paths


@rows("name", sorted(PROVIDERS))
@rows("model", ["seedance-3.0-image-to-video", "seedance-25", "kling/v3.0:pro", "veo-4-text-to-video"])
def test_any_provider_accepts_a_new_model(name: str, model: str) -> None:
    """Accept a model that relay does not know, with any fields and without images."""
    if PROVIDERS[name].path_model:
        model = f"some-lab/{model.replace(':', '-').replace('/', '-')}"
    request = {"model": model, "prompt": "a wave", "whatever": {"new": [True, None, 1.5]}}
    assert unknown_model(PROVIDERS[name], request) == model
    assert check_native(PROVIDERS[name], request) == []


@rows("model", ["", " ", "../admin", "a//b", "a b", "a?b", "é", "/a", "a/", 5, None, ["a"]])
def test_a_malformed_name_is_checked_fully(model: object) -> None:
    """Check a request with a malformed model name against the published schema."""
    assert unknown_model(PROVIDERS["evolink"], {"model": model}) is None
    assert check_native(PROVIDERS["evolink"], {**EVOLINK, "model": model})


def test_a_models_name_has_a_longest_form() -> None:
    """Accept a name of 200 characters, and none that is longer."""
    assert unknown_model(PROVIDERS["evolink"], {"model": "a" * MODEL_MAX_CHARS})
    assert unknown_model(PROVIDERS["evolink"], {"model": "a" * (MODEL_MAX_CHARS + 1)}) is None


@rows("url", ["http://127.0.0.1/a.png", "https://u:p@example.com/a", " HTTP://169.254.169.254/"])
def test_its_urls_are_public_ones(url: str) -> None:
    """Refuse a private or malformed URL anywhere in the body, and name the place."""
    errors = check_native(PROVIDERS["evolink"], {**EVOLINK, "extra": [{"deep": url}]})
    assert [error.path for error in errors] == ["extra[0].deep"]


async def test_a_new_model_is_sent_unchanged(running: Running) -> None:
    """Send the native body unchanged but for the callback URL; say in the timeline that it was checked partly."""
    answer = await running.client.post("/v1/jobs", json={"provider": "evolink", "request": EVOLINK})
    assert (answer.status_code, answer.json()["checked"]) == (202, "partly")
    sent: dict[str, Any] = dict(running.world.submissions[-1])
    assert sent.pop("callback_url").startswith(running.origin)
    assert sent == EVOLINK
    timeline = await running.get(f"/v1/jobs/{answer.json()['id']}/timeline")
    assert (
        timeline["data"][0]["reason"] == 'checked: "partly"; relay does not know the model seedance-3.0-image-to-video'
    )


async def test_a_known_model_has_no_mark(running: Running) -> None:
    """Say nothing of the check of a request that was checked whole, native or unified."""
    body = {"model": "seedance-2.0-image-to-video", "prompt": "a", "image_urls": ["https://example.com/a.png"]}
    for fields in ({"request": body}, {"input": {"images": ["https://example.com/a.png"], "prompt": "a"}}):
        answer = await running.client.post("/v1/jobs", json={"provider": "evolink", **fields})
        assert answer.status_code == 202
        assert "checked" not in answer.json()
        timeline = await running.get(f"/v1/jobs/{answer.json()['id']}/timeline")
        assert timeline["data"][0]["reason"] is None


async def test_a_callback_field_is_still_reserved(running: Running) -> None:
    """Refuse a client's own callback URL whatever the model is."""
    request = {**EVOLINK, "callback_url": "https://attacker.example/"}
    answer = await running.client.post("/v1/jobs", json={"provider": "evolink", "request": request})
    assert (answer.status_code, answer.json()["code"]) == (422, "callback_field_reserved")


async def test_its_price_is_not_known(running: Running) -> None:
    """Quote an unknown model as accepted, without an amount, and say that providers accept other models."""
    answer = await running.client.post("/v1/quotes", json={"request": EVOLINK, "providers": ["evolink"]})
    (quote,) = answer.json()["data"]
    assert (quote["accepted"], quote["amount"], quote["basis"], quote["errors"]) == (True, None, None, [])
    assert all(provider["other_models"] for provider in (await running.get("/v1/providers"))["data"])
