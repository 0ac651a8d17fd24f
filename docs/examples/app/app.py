"""A page where one drops a picture and sees the video arrive. No part of it polls.

pip install starlette uvicorn python-multipart, and relay for its client;
RELAY_URL=… RELAY_API_KEY=… PUBLIC_URL=… uvicorn app:app
"""

import asyncio
import json
import os
import secrets
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from relay.client import AsyncRelay, RelayError, SignatureInvalid, verify

PROVIDER = os.environ.get("PROVIDER", "evolink")
PUBLIC_URL = os.environ["PUBLIC_URL"]  # where relay reaches this application
SECRET = "whsec_" + b64encode(secrets.token_bytes(32)).decode()  # keep it in your settings, beside other secrets
ENDS = ["job.succeeded", "job.failed", "job.canceled", "job.expired"]
PICTURE_MAX_BYTES = 10_000_000


class Page:
    """What is new for one page, oldest first; an application of more than one process keeps this in its database."""

    def __init__(self) -> None:
        self.news: list[str] = []
        self.changed = asyncio.Condition()


pages: defaultdict[str, Page] = defaultdict(Page)


async def picture(request: Request) -> Response:
    """Upload the dropped picture, and submit a job that notifies this application."""
    relay: AsyncRelay = request.app.state.relay
    async with request.form(max_part_size=PICTURE_MAX_BYTES) as form:
        dropped, page = form["picture"], str(form["page"])
        content, kind = await dropped.read(), dropped.content_type
        prompt = str(form["prompt"])
    try:
        file = await relay.upload(PROVIDER, content, filename="picture", content_type=kind)
        job = await relay.submit(
            PROVIDER,
            {"images": [file.url], "prompt": prompt, "duration_s": 5},
            notify=[{"url": f"{PUBLIC_URL}/hook", "event_types": ENDS, "secret": SECRET}],
            metadata={"page": page},
        )
    except RelayError as error:
        return JSONResponse({"error": str(error)}, 422)
    return JSONResponse({"job": job.id}, 202)


async def hook(request: Request) -> Response:
    """Receive relay's notification, and pass it to the page that submitted the job."""
    try:
        event = verify(request.headers, await request.body(), SECRET)
    except SignatureInvalid:
        return Response(status_code=400)
    job = event.data["job"]
    page = pages[job["metadata"]["page"]]
    videos = [output["url"] for output in job["outputs"] if output["kind"] == "video"]
    async with page.changed:
        page.news.append(
            json.dumps({"job": job["id"], "status": job["status"], "video": videos[0] if videos else None})
        )
        page.changed.notify_all()
    return Response(status_code=204)


async def news(request: Request) -> Response:
    """Send a page what is new about its jobs, as server-sent events, from the last one that it received on."""
    page = pages[request.path_params["page"]]
    number = int(request.headers.get("last-event-id", "0"))

    async def lines() -> AsyncIterator[str]:
        nonlocal number
        while True:
            async with page.changed:
                while len(page.news) == number:
                    await page.changed.wait()
            number += 1
            yield f"id: {number}\ndata: {page.news[number - 1]}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the client of relay."""
    async with AsyncRelay(os.environ["RELAY_URL"], os.environ["RELAY_API_KEY"]) as app.state.relay:
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/pictures", picture, methods=["POST"]),
        Route("/hook", hook, methods=["POST"]),
        Route("/news/{page}", news),
        Mount("/", StaticFiles(directory=Path(__file__).with_name("static"), html=True)),
    ],
)
