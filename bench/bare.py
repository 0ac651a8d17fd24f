"""The least that Starlette on uvicorn starts with: `python -m bench.bare PORT`, to measure a cold start against."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def _health(_: Request) -> Response:
    """Return the process answers."""
    return JSONResponse({"status": "ok"})


if __name__ == "__main__":
    _app = Starlette(routes=[Route("/healthz", _health), Route("/readyz", _health)])
    uvicorn.run(
        _app, host="127.0.0.1", port=int(sys.argv[1]), http="httptools", loop="uvloop", log_config=None, ws="none"
    )
