"""The AI SDK generates with relay: docs/examples/ai-sdk as printed, with the official package."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.sandbox.faults import Faults
from tests.support.oracles import ROOT
from tests.support.ports import free_port
from tests.support.running import KEY, Running, relay

pytestmark = pytest.mark.anyio
EXAMPLE = ROOT / "docs" / "examples" / "ai-sdk"
DOWNLOAD = "async ({ url }) => ({ data: new Uint8Array(await (await fetch(url)).arrayBuffer()), mediaType: undefined })"
"""The SDK's own download refuses the addresses of this machine."""


def lay_out(folder: Path, compiled: Path, node_packages: Path) -> None:
    """Put the example into a folder, with relay's client and the SDK as packages beside it."""
    client = folder / "node_modules" / "callback-relay"
    client.mkdir(parents=True)
    for package in (node_packages / "node_modules").iterdir():
        (client.parent / package.name).symlink_to(package)
    for file in compiled.glob("*.js"):
        (client / file.name).symlink_to(file)
    (client / "package.json").write_text('{"type": "module", "main": "index.js"}')
    (folder / "relay-video.mjs").write_text((EXAMPLE / "relay-video.mjs").read_text())
    printed = (EXAMPLE / "generate.mjs").read_text()
    (folder / "generate.mjs").write_text(printed.replace("  webhook,\n", f"  webhook,\n  download: {DOWNLOAD},\n"))


async def generated(running: Running, compiled: Path, node_packages: Path, folder: Path) -> tuple[int | None, str]:
    """Return the exit code and the output of the example, which ends when the provider has made the video."""
    lay_out(folder, compiled, node_packages)
    port = free_port()
    environ = os.environ | {"PORT": str(port), "PUBLIC_URL": f"http://127.0.0.1:{port}"}
    environ |= {"RELAY_URL": running.origin, "RELAY_API_KEY": KEY, "AI_SDK_LOG_WARNINGS": "false"}
    arguments = ("node", "generate.mjs", "slow push in", "https://example.com/a.png")
    node = await asyncio.create_subprocess_exec(
        *arguments, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        await running.world.wait_for(lambda world: len(world.jobs) == 1, 30)
        (job,) = running.world.jobs
        await running.world.finish(job)
        out, _ = await asyncio.wait_for(node.communicate(), 60)
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    return node.returncode, out.decode()


async def test_a_video_arrives_by_the_webhook(compiled: Path, node_packages: Path, tmp_path: Path) -> None:
    """Submit one job, wait for relay's signed notification, and download the video."""
    async with relay(tmp_path / "relay", clock=SystemClock()) as running:
        running.world.serves_results = True
        code, out = await generated(running, compiled, node_packages, tmp_path)
        assert (code, out.splitlines()[-1:]) == (0, ["video/mp4, 2743 bytes"]), out
        (sent,) = running.world.submissions
        assert (sent["prompt"], sent["duration"], sent["image_urls"]) == (
            "slow push in",
            5,
            ["https://example.com/a.png"],
        )


async def test_a_failure_is_the_sdks_error(compiled: Path, node_packages: Path, tmp_path: Path) -> None:
    """Throw with the message of the job's error."""
    async with relay(tmp_path / "relay", clock=SystemClock()) as running:
        running.world.next_faults.append(Faults(outcome="failed"))
        code, out = await generated(running, compiled, node_packages, tmp_path)
        (listed,) = (await running.get("/v1/jobs"))["data"]
        assert code == 1
        assert listed["error"]["message"] in out
