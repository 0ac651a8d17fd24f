"""What relay is measured against in the same run, served the same way as relay itself.

`python -m bench.references bare PORT`: a Starlette route that reads the body and answers; RelayDance's files too.
`python -m bench.references CLIENT PORT NUMBER URL …`: on POST /go nothing but POSTs, by relay's own sender (`posts`) or
by `aiohttp`, behind the same guard, deadline and cap.
"""

import asyncio
import json
import sys
from itertools import cycle, islice

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

IN_FLIGHT = 64
BODY_BYTES = 1500


async def _health(_: Request) -> Response:
    """Return the process answers."""
    return JSONResponse({"status": "ok"})


async def _bare(request: Request) -> Response:
    """Return the least that a receiver could do."""
    await request.body()
    return JSONResponse({"received": True})


async def _file(request: Request) -> Response:
    """Read a file as it comes, keep nothing of it, and answer as RelayDance does."""
    async for _ in request.stream():
        pass
    return JSONResponse({"id": "file_1", "url": "https://files.relaydance.com/file_1/a.png"})


async def _go(_: Request) -> Response:
    """Send so many POSTs, IN_FLIGHT at a time."""
    client, number, urls = sys.argv[1], int(sys.argv[3]), sys.argv[4:]
    body = json.dumps({"timestamp": "2026-11-21T00:00:00.000Z", "data": "x" * BODY_BYTES}).encode()
    left, policy = islice(cycle(urls), number), AddressPolicy(parse_networks("127.0.0.0/8"), True, frozenset())
    async with (aiohttp_posts if client == "aiohttp" else relay_posts)(policy, None, body) as post:

        async def work() -> None:
            for url in left:
                await post(url)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return JSONResponse({"sent": number})


if __name__ == "__main__":
    if sys.argv[1] != "bare":
        from bench.senders import aiohttp_posts, relay_posts
        from relay.security.url_policy import AddressPolicy
        from relay.settings import parse_networks
    _app = Starlette(
        routes=[
            Route("/callbacks/{provider}/{token}", _bare, methods=["POST"]),
            Route("/v1/files", _file, methods=["POST"]),
            Route("/go", _go, methods=["POST"]),
            Route("/healthz", _health),
            Route("/readyz", _health),
        ]
    )
    _options = {"http": "httptools", "loop": "uvloop", "access_log": False, "log_config": None, "ws": "none"}
    uvicorn.run(_app, host="127.0.0.1", port=int(sys.argv[2]), **_options)  # type: ignore[arg-type]
