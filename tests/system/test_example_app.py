"""The application of docs/examples/app in a real browser: a picture is dropped, its video plays, nothing polls."""

from pathlib import Path

import pytest

from relay.clock import SystemClock
from tests.support.chromium import chromium, tab
from tests.support.oracles import ROOT
from tests.support.ports import free_port
from tests.support.processes import clean, line, process
from tests.support.running import KEY, relay

pytestmark = pytest.mark.anyio
APP = ROOT / "docs" / "examples" / "app"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)


async def test_a_dropped_picture_becomes_a_video(tmp_path: Path) -> None:
    """Upload the picture, submit one job, receive its notification, and show the video on the page that waits."""
    (tmp_path / "picture.png").write_bytes(PNG)
    port = free_port()
    at = f"http://127.0.0.1:{port}"
    async with relay(tmp_path / "relay", clock=SystemClock()) as running:
        running.world.serves_results = True
        environ = clean({"RELAY_URL": running.origin, "RELAY_API_KEY": KEY, "PUBLIC_URL": at, "PYTHONPATH": str(ROOT)})
        arguments = ("-m", "uvicorn", "app:app", "--app-dir", str(APP), "--port", str(port))
        async with process(environ, *arguments) as child, chromium() as browser, tab(browser, running) as opened:
            await line(child, "Uvicorn running")
            asked: list[str] = []
            opened.page.on("request", lambda request: asked.append(request.url))
            await opened.page.goto(at)
            await opened.page.locator("#file").set_input_files(tmp_path / "picture.png")
            await running.world.wait_for(lambda world: len(world.jobs) == 1)
            await opened.page.get_by_text("the video is being made").wait_for()
            asked.clear()
            await running.world.finish(next(iter(running.world.jobs)))
            await opened.page.locator("video").wait_for()
            await opened.page.wait_for_function("document.querySelector('video').readyState >= 2")
            assert {url.rsplit("/", 2)[1] for url in asked} == {"results"}  # nothing was asked for but the video
