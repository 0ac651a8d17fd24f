"""Callbacks as tests send them, and what relay shows of them."""

import asyncio
from typing import Any

import httpx

from tests.support.running import Running

MP4 = "https://cdn.example.com/videos/out.mp4"
DONE = b'{"status":"completed","results":["https://cdn.example.com/videos/out.mp4"]}'


async def post(running: Running, body: bytes, url: str | None = None, **headers: str) -> httpx.Response:
    """Send a callback in one piece, as most providers do, to the URL of the last job where no other is given."""
    request = running.client.build_request("POST", url or running.callback_url(), content=body, headers=headers)
    request.headers["connection"] = "close"
    reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
    head = [b"POST %b HTTP/1.1" % request.url.raw_path, *(b"%b: %b" % header for header in request.headers.raw)]
    writer.write(b"\r\n".join([*head, b"", body]))
    answered = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in answered[1:-2])]
    content = await reader.read()
    writer.close()
    return httpx.Response(int(answered[0][9:12]), headers=fields, content=content, request=request)


async def kept(running: Running, limit: int = 50) -> list[dict[str, Any]]:
    """Return so many of the callbacks that are stored, newest first, with their bodies."""
    listed = (await running.get(f"/v1/callbacks?limit={limit}"))["data"]
    return [await running.get(f"/v1/callbacks/{one['id']}") for one in listed]


async def state(running: Running, job: dict[str, Any]) -> str:
    """Return the job's state."""
    return str((await running.get(f"/v1/jobs/{job['id']}"))["status"])
