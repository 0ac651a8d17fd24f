"""Callbacks as tests send them, and what relay shows of them."""

from typing import Any

import httpx

from tests.running import Running

MP4 = "https://cdn.example.com/videos/out.mp4"
DONE = b'{"status":"completed","results":["https://cdn.example.com/videos/out.mp4"]}'


async def post(running: Running, body: bytes, url: str | None = None, **headers: str) -> httpx.Response:
    """Sends a callback, to the URL of the last job where no other is given."""
    return await running.client.post(url or running.callback_url(), content=body, headers=headers)


async def kept(running: Running) -> list[dict[str, Any]]:
    """Every callback that is stored, newest first."""
    callbacks: list[dict[str, Any]] = (await running.get("/v1/callbacks"))["data"]
    return callbacks


async def state(running: Running, job: dict[str, Any]) -> str:
    """The job's state."""
    return str((await running.get(f"/v1/jobs/{job['id']}"))["status"])
