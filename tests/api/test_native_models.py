"""Refusals of native requests for unknown models, and a provider that refuses relay's key."""

from pathlib import Path
from typing import Any

import pytest

from relay.errors import SettingsError
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.sandbox.faults import Faults
from relay.settings import load
from tests.support.running import HeldClock, relay

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"callbackUrl": "https://app.example/x"}, "request.callbackUrl"),
        ({"options": {"deep": {"webhook_url": "https://app.example/x"}}}, "request.options.deep.webhook_url"),
        ({"image_urls": ["http://10.0.0.1/a.png"]}, "request.image_urls[0]"),
        ({"image_urls": [" file:///etc/passwd"]}, "request.image_urls[0]"),
        ({"start": "javascript:alert(1)"}, "request.start"),
    ],
)
async def test_relays_own_rules_hold_for_every_model(tmp_path: Path, change: dict[str, Any], path: str) -> None:
    """Refuse a callback field at any depth, URLs that are not public, and a malformed model name."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        request = {"model": "seedance-9", "prompt": "a"} | change
        answer = await running.client.post("/v1/jobs", json={"provider": "evolink", "request": request})
        assert answer.status_code == 422
        assert path in [error["path"] for error in answer.json()["errors"]]
        assert running.world.submissions == []


@pytest.mark.parametrize("holder", [[1], None, "text"])
async def test_a_holder_of_the_callback_field_is_an_object(tmp_path: Path, holder: object) -> None:
    """Refuse `metadata` that is not an object, null too, if the callback URL is put into it."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        request = {"model": "kling-v3", "metadata": holder}
        answer = await running.client.post("/v1/jobs", json={"provider": "relaydance", "request": request})
        assert [error["path"] for error in answer.json()["errors"]] == ["request.metadata"]


async def test_a_key_refused_at_a_submission_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Log one error, set the metric, and show it in `GET /v1/providers` until the key is accepted."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        running.world.next_faults += [Faults(status_code=401), Faults(status_code=401)]
        await running.submit()
        job = await running.submit()
        found = {one["name"]: one for one in (await running.get("/v1/providers"))["data"]}
        assert found["evolink"]["key_refused_at"] is not None
        assert "401" in found["evolink"]["last_error"]
        assert found["kinovi"]["key_refused_at"] is None
        assert capsys.readouterr().err.count("provider.key_refused") == 1
        assert 'relay_provider_key_refused{provider="evolink"} 1.0' in (await running.client.get("/metrics")).text
        story = await running.get(f"/v1/jobs/{job['id']}/timeline")
        refused = next(line for line in story["data"] if line["decision"] == "refused")
        assert "the provider answered HTTP 401" in refused["reason"]
        await running.submit()
        found = {one["name"]: one for one in (await running.get("/v1/providers"))["data"]}
        assert found["evolink"]["key_refused_at"] is None


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("…", False),
        ("...", False),
        ("a key", False),
        ("sk-live-…", False),
        ("your-key-at-evolink", False),
        ("sk-1", True),
    ],
)
def test_a_placeholder_is_no_key(key: str, good: bool) -> None:
    """Refuse at the start a key that no header can carry, or that is an example's placeholder."""
    environ = {"RELAY_EVOLINK_API_KEY": key, "RELAY_SECRET_KEYS": "a-key-that-is-long-enough-to-sign"}
    if good:
        assert load(environ, (*PROVIDERS, *DEV_PROVIDERS)).provider("evolink").api_key == key
    else:
        with pytest.raises(SettingsError, match="RELAY_EVOLINK_API_KEY must be"):
            load(environ, (*PROVIDERS, *DEV_PROVIDERS))
