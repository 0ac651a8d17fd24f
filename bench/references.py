"""What relay is measured against in the same run, served the same way as relay itself.

`python -m bench.references bare PORT`: a Starlette route that reads the body and answers.
`python -m bench.references naive PORT FILE [URL …]`: a relay as a first version would be written: a commit for each
callback, one shared httpx client, a task and a commit for each delivery.
`python -m bench.references posts PORT NUMBER URL …`: on POST /go nothing but POSTs, with relay's own sender.
`python -m bench.references aiohttp PORT NUMBER URL …`: the same with aiohttp, behind the same guard, deadline and cap.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from uuid import uuid4

import aiosqlite
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

IN_FLIGHT = 64
BODY_BYTES = 1500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS callbacks (id TEXT PRIMARY KEY, job TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (job, body));
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, job TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, event TEXT NOT NULL, url TEXT, due REAL, status INTEGER);
"""


async def _health(_: Request) -> Response:
    """Return the process answers."""
    return JSONResponse({"status": "ok"})


async def _bare(request: Request) -> Response:
    """Return the least that a receiver could do."""
    await request.body()
    return JSONResponse({"received": True})


class Naive:
    """Everything when it comes, on one connection."""

    def __init__(self, path: Path, urls: list[str]) -> None:
        self._path = path
        self._urls = urls
        self._database: aiosqlite.Connection | None = None
        self._opening = asyncio.Lock()
        self._client = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(30, pool=None))
        self._sending: set[asyncio.Task[None]] = set()

    async def receive(self, request: Request) -> Response:
        """Return a callback, its job, its event, and the outbox."""
        body = await request.body()
        said = json.loads(body)
        database = self._database or await self._open()
        event = str(uuid4())
        await database.execute("INSERT OR IGNORE INTO callbacks VALUES (?, ?, ?)", (str(uuid4()), said["id"], body))
        await database.execute(
            "INSERT INTO jobs VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state",
            (said["id"], said["status"], time.time()),
        )
        await database.execute("INSERT INTO events VALUES (?, ?, ?)", (event, said["id"], body))
        outbox = [(str(uuid4()), event, url, time.time(), None) for url in self._urls or [""]]
        await database.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", outbox)
        await database.commit()
        for row in outbox if self._urls else ():
            task = asyncio.create_task(self._send(row[0], row[2], said))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return JSONResponse({"received": True})

    async def _send(self, outbox_id: str, url: str, said: object) -> None:
        """One delivery."""
        answer = await self._client.post(url, json=said)
        assert self._database is not None
        await self._database.execute("UPDATE outbox SET status = ? WHERE id = ?", (answer.status_code, outbox_id))
        await self._database.commit()

    async def _open(self) -> aiosqlite.Connection:
        """Return the file, with the settings that relay has too."""
        async with self._opening:
            if self._database is None:
                database = await aiosqlite.connect(self._path)
                await database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {_SCHEMA}")
                self._database = database
            return self._database


async def _posts(_: Request, number: int, urls: list[str]) -> Response:
    """So many POSTs, IN_FLIGHT at a time, by the client that relay sends with."""
    from relay.outbound.resolver import Resolver  # noqa: PLC0415
    from relay.outbound.trust import tls_context  # noqa: PLC0415
    from relay.outbound.webhook_sender import WebhookSender  # noqa: PLC0415
    from relay.security.url_policy import AddressPolicy  # noqa: PLC0415
    from relay.settings import parse_networks  # noqa: PLC0415

    body = json.dumps({"timestamp": "2026-11-21T00:00:00.000Z", "data": "x" * BODY_BYTES}).encode()
    left = islice(cycle(urls), number)
    policy = AddressPolicy(parse_networks("127.0.0.0/8"), True, frozenset())
    async with WebhookSender(policy, Resolver(), tls_context(), connections_max=256) as sender:

        async def work() -> None:
            for url in left:
                await sender.post(url, {"content-type": "application/json"}, body, 30)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return JSONResponse({"sent": number})


async def _aiohttp(_: Request, number: int, urls: list[str]) -> Response:
    """As `_posts`, with the client that most Python programs would take."""
    from bench.senders import aiohttp_posts  # noqa: PLC0415
    from relay.security.url_policy import AddressPolicy  # noqa: PLC0415
    from relay.settings import parse_networks  # noqa: PLC0415

    body = json.dumps({"timestamp": "2026-11-21T00:00:00.000Z", "data": "x" * BODY_BYTES}).encode()
    left = islice(cycle(urls), number)
    async with aiohttp_posts(AddressPolicy(parse_networks("127.0.0.0/8"), True, frozenset()), None, body) as post:

        async def work() -> None:
            for url in left:
                await post(url)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return JSONResponse({"sent": number})


def main(kind: str, port: int, *words: str) -> None:
    """Serve until it is ended."""
    handlers: dict[str, Callable[[], Callable[[Request], Awaitable[Response]]]] = {
        "bare": lambda: _bare,
        "naive": lambda: Naive(Path(words[0]), list(words[1:])).receive,
        "posts": lambda: partial(_posts, number=int(words[0]), urls=list(words[1:])),
        "aiohttp": lambda: partial(_aiohttp, number=int(words[0]), urls=list(words[1:])),
    }
    handler = handlers[kind]()
    routes = [
        Route("/callbacks/{provider}/{token}", handler, methods=["POST"]),
        Route("/go", handler, methods=["POST"]),
        Route("/healthz", _health),
        Route("/readyz", _health),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_config=None,
        ws="none",
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
