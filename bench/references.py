"""What relay is measured against in the same run: a bare Starlette, and a naive relay that commits every request.

`python -m bench.references bare|naive PORT [FILE]` serves one of them with the same server as relay.
"""

import json
import sys
import time
from pathlib import Path
from uuid import uuid4

import aiosqlite
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS callbacks (id TEXT PRIMARY KEY, job TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (job, body));
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, job TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, event TEXT NOT NULL, due REAL NOT NULL);
"""


async def _health(_: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def _bare(request: Request) -> Response:
    """The least that a receiver could do."""
    await request.body()
    return JSONResponse({"received": True})


class Naive:
    """Four statements and a commit for each callback, on one connection, as a first version would be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: aiosqlite.Connection | None = None

    async def receive(self, request: Request) -> Response:
        """A callback, its job, its event, and the outbox."""
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
        await database.execute("INSERT INTO outbox VALUES (?, ?, ?)", (str(uuid4()), event, time.time()))
        await database.commit()
        return JSONResponse({"received": True})

    async def _open(self) -> aiosqlite.Connection:
        """The file, with the settings that relay has too."""
        self._database = await aiosqlite.connect(self._path)
        await self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {_SCHEMA}")
        return self._database


def main(kind: str, port: int, file: str | None = None) -> None:
    """Serves until it is ended."""
    handler = Naive(Path(file or "naive.db")).receive if kind == "naive" else _bare
    routes = [Route("/callbacks/{provider}/{token}", handler, methods=["POST"]), Route("/healthz", _health)]
    app = Starlette(routes=[*routes, Route("/readyz", _health)])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, http="httptools", loop="uvloop", access_log=False, log_config=None, ws="none"
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4])
