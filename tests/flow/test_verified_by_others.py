"""Official libraries as judges: what relay really sends verifies with all of them, in Python and in Node."""

from pathlib import Path

import pytest
import standardwebhooks

from relay.clock import SystemClock
from tests.support.oracles import Library, NodeVerify
from tests.support.running import relay

pytestmark = pytest.mark.anyio


async def test_every_official_library_accepts_every_notification(tmp_path: Path, node_verify: NodeVerify) -> None:
    """Five endpoints with secrets of their own get one event; each notification verifies with its own secret alone."""
    import svix  # noqa: PLC0415 - not every worker needs what takes so long to load

    async with relay(tmp_path, clock=SystemClock()) as running:
        job = await running.submit(notify=[{"url": f"{running.hook}/{number}"} for number in range(5)])
        secrets = {f"/hook/{number}": one["secret"] for number, one in enumerate(job["notify"])}
        await running.world.finish(job["provider_job_id"])
        await running.sink.wait_for(lambda sink: len(sink.received) == 10)
        libraries: tuple[Library, ...] = ("standardwebhooks", "svix")
        for received in running.sink.received:
            secret = secrets[received.path]
            standardwebhooks.Webhook(secret).verify(received.body, received.headers)
            svix.webhooks.Webhook(secret).verify(received.body, received.headers)
        last = running.sink.received[-1]
        for library in libraries:
            assert node_verify(secrets[last.path], last.headers, last.body, library)
            assert not node_verify(secrets[last.path], last.headers, last.body + b" ", library)
        other = next(secret for path, secret in secrets.items() if path != last.path)
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(other).verify(last.body, last.headers)
