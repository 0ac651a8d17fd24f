"""A whole relay in the test's loop: real servers on free ports, a SQLite file, the sandbox, a sink, a held clock."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from relay import settings
from relay.app import App, opened
from relay.clock import Clock
from relay.outbound.trust import tls_context
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.providers.base import Provider
from relay.sandbox.contract import API_KEY
from relay.sandbox.providers import base_urls, sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.sandbox.world import Sandbox
from relay.storage.engine.database_url import sqlite_path
from relay.storage.store import open_migrated
from relay.web.server import server
from tests.support.held_ids import made_by
from tests.support.postgres import Server
from tests.support.quiescence import WatchedLoop, quiet, watched_loop

KEY = "an-admin-key-for-the-tests"
SECRET_KEY = "a-key-that-is-long-enough-to-sign"
UVICORN_TICK_S = 0.1
START_MS = 1_795_219_200_000
Result = TypeVar("Result")
INPUT = {"images": ["https://example.com/a.png"], "prompt": "slow push in", "duration_s": 5}


class HeldClock:
    """Time that stands still until a test advances it: both clocks together, or the wall clock alone."""

    def __init__(self, at_ms: int = START_MS) -> None:
        self._now_ms = at_ms
        self._monotonic_ms = 7_000_000  # not the wall clock's, so that who takes one for the other is found out
        self._waiters: set[tuple[int, asyncio.Future[None]]] = set()

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._now_ms

    def monotonic_ms(self) -> int:
        """Milliseconds that `advance` alone moves."""
        return self._monotonic_ms

    async def wait(self, event: asyncio.Event, *, until_monotonic_ms: int | None) -> None:
        """Return when the event is set, or the clock was moved that far."""
        if until_monotonic_ms is not None and until_monotonic_ms <= self._monotonic_ms:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        waiter = (until_monotonic_ms if until_monotonic_ms is not None else 1 << 62, woken)
        waiting = asyncio.ensure_future(event.wait())
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiting, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.discard(waiter)
            waiting.cancel()

    async def sleep(self, duration_ms: int) -> None:
        """Return when the clock was advanced by that many milliseconds."""
        await self.wait(asyncio.Event(), until_monotonic_ms=self._monotonic_ms + duration_ms)

    async def advance(self, seconds: float) -> None:
        """Advance both clocks once everything waits, and return when everything that this woke waits again."""
        await quiet()
        self._now_ms += round(seconds * 1000)
        self._monotonic_ms += round(seconds * 1000)
        for until_monotonic_ms, woken in list(self._waiters):
            if until_monotonic_ms <= self._monotonic_ms and not woken.done():
                woken.set_result(None)
        await quiet()

    def waits_ms(self) -> int:
        """Return for how long everything waits, unless something happens."""
        return min(until_monotonic_ms for until_monotonic_ms, _ in self._waiters) - self._monotonic_ms

    async def elapse(self, awaited: Awaitable[Result], within_s: float = 3600) -> Result:
        """Return what it gives; whenever everything waits, time goes on to the next moment that something waits for.

        TimeoutError where that is not enough time for it.
        """
        running, ends_at = asyncio.ensure_future(awaited), self._monotonic_ms + within_s * 1000
        while True:
            await quiet()
            if running.done():
                return running.result()
            if self._monotonic_ms + self.waits_ms() > ends_at:
                running.cancel()
                raise TimeoutError(f"not done after {within_s} s of the held clock")
            await self.advance(self.waits_ms() / 1000)

    def set_back(self, seconds: float) -> None:
        """Set the wall clock back, or forward where negative, as NTP does: no time passes by that."""
        self._now_ms -= round(seconds * 1000)


class Running:
    """A relay and everything around it."""

    def __init__(
        self, *, app: App, origin: str, client: httpx.AsyncClient, world: Sandbox, sink: Sink, hook: str, clock: Clock
    ) -> None:
        self.app = app
        self.origin = origin
        self.client = client
        self.world = world
        self.sink = sink
        self.hook = hook
        self.clock = clock

    async def submit(self, provider: str = "evolink", **fields: Any) -> dict[str, Any]:
        """Return a job that relay took in; `input` is a good one unless `request` or `input` is given."""
        body = {"provider": provider} | ({} if "request" in fields else {"input": INPUT}) | fields
        answer = await self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def get(self, path: str) -> dict[str, Any]:
        """Return what a GET shows."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def callback_url(self, number: int = -1) -> str:
        """Return the callback URL that a provider was given, of the job it made last."""
        url = list(self.world.jobs.values())[number].callback_url
        assert url is not None
        return url

    async def until(
        self, path: str, reached: Callable[[dict[str, Any]], bool], timeout_s: float = 60
    ) -> dict[str, Any]:
        """Return what a GET shows once it has come so far; TimeoutError with what it shows when it never does."""
        shown: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while not reached(shown := await self.get(path)):  # noqa: ASYNC110 - what is awaited is behind HTTP
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise TimeoutError(f"{path} stays {shown}") from None
        return shown


@asynccontextmanager
async def relay(
    folder: Path,
    *,
    clock: Clock | None = None,
    pace_s: float | None = None,
    confirm: bool = True,
    world: Sandbox | None = None,
    adapters: Mapping[str, Provider] | None = None,
    port: int = 0,
    dispatches: bool = True,
    unhurried: bool = False,
    **environ: str,
) -> AsyncIterator[Running]:
    """relay, running; names in `environ` are settings, added to those that a test needs.

    `adapters` take the place of those of the same names.
    `confirm=False` has callbacks believed as they are: for those that a test sends, of which the sandbox knows nothing.
    Without `dispatches` it serves requests only. A `world` that is given is the sandbox, and outlives this relay.
    `unhurried`: while it stops, no time passes for the event loop's timers, so that it writes all that it would write
    within its limits, however busy the machine is.
    """
    if not confirm:
        environ = {f"RELAY_{name.upper()}_CONFIRM": "never" for name in (*PROVIDERS, *DEV_PROVIDERS)} | environ
    async with AsyncExitStack() as stack:
        sink = Sink()
        if world is None:
            world = sandbox(pace_s=pace_s, time_scale=0)
            stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        hook = await stack.enter_async_context(serve(sink)) + "/hook"
        listening = stack.enter_context(
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        )  # or asyncio delays answers
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
        origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
        loaded = settings.load(environment(folder, origin, providers_at) | environ, (*PROVIDERS, *DEV_PROVIDERS))
        held = clock or HeldClock()
        stack.enter_context(made_by(held.now_ms))
        time_held = stack.enter_context(ExitStack())
        app = await stack.enter_async_context(
            opened(loaded, {**PROVIDERS, **DEV_PROVIDERS, **(adapters or {})}, held, dispatches=dispatches)
        )
        if unhurried:
            stack.callback(lambda: time_held.enter_context(watched_loop().time_held()))
        http = server(app, "127.0.0.1", 0)
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        stack.push_async_callback(_stop, http, serving)
        client = await stack.enter_async_context(http_client(origin))
        yield Running(app=app, origin=origin, client=client, world=world, sink=sink, hook=hook, clock=held)


def http_client(origin: str, key: str | None = KEY, timeout_s: float = 30) -> httpx.AsyncClient:
    """Return a client of a relay; `key=None` sends no API key."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=origin, headers=headers, verify=tls_context(), trust_env=False, timeout=timeout_s)


class Databases:
    """Where the tests' relays keep their data: a SQLite file in the test's folder, or a real PostgreSQL.

    Each begins as a copy of a template, because running the migrations takes longer than many a test.
    """

    def __init__(self) -> None:
        self.postgres: Server | None = None
        self._template = ""
        self._made: dict[Path, str] = {}

    async def make_template(self, folder: Path) -> None:
        """Make the template: on PostgreSQL, if there is one, and else in the folder."""
        self._template = self.postgres.database() if self.postgres else f"sqlite:///{folder}/template.db"
        await (await open_migrated(self._template, START_MS, 0)).close()

    def empty(self, folder: Path) -> str:
        """Return a database without a table."""
        return self.postgres.database() if self.postgres else f"sqlite:///{folder}/empty.db"

    def url(self, folder: Path) -> str:
        """Return the database of a folder, the same for each relay that is started in it."""
        if folder not in self._made:
            if self.postgres is not None:
                self._made[folder] = self.postgres.database(self._template)
            else:
                self._made[folder] = f"sqlite:///{folder}/relay.db"
                folder.mkdir(exist_ok=True)
                if not (folder / "relay.db").exists():
                    shutil.copy(sqlite_path(self._template), folder / "relay.db")
        return self._made[folder]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Drop the databases that the block makes on a server, when it ends; files are pytest's to remove."""
        before = set(self._made)
        yield
        if self.postgres is not None:
            for folder in set(self._made) - before:
                self.postgres.drop(self._made.pop(folder))


DATABASES = Databases()


def environment(folder: Path, origin: str, providers_at: str) -> dict[str, str]:
    """Return the settings of a relay on this machine, with the sandbox behind every provider."""
    environ = {
        "DATABASE_URL": DATABASES.url(folder),
        "RELAY_PUBLIC_URL": origin,
        "RELAY_SECRET_KEYS": SECRET_KEY,
        "RELAY_API_KEY": KEY,
        "RELAY_ALLOW_HTTP": "1",
        "RELAY_ALLOW_NETWORKS": "127.0.0.0/8,::1/128",
        "RELAY_SHUTDOWN_S": "1",
    }
    for name, base_url in base_urls(providers_at).items():
        environ[f"RELAY_{name.upper()}_API_KEY"] = API_KEY
        environ[f"RELAY_{name.upper()}_BASE_URL"] = base_url
    return environ


async def _stop(http: Any, serving: "asyncio.Task[None]") -> None:
    """Stop the server, without the two tenths of a second that uvicorn waits for: some thousand servers are stopped."""
    http.should_exit = True
    loop = asyncio.get_running_loop()
    if isinstance(loop, WatchedLoop):
        await loop.skip(UVICORN_TICK_S)
        await loop.skip(UVICORN_TICK_S)
    await serving
