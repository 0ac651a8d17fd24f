"""`relay dev`: run relay, stand-in providers and a subscriber on this machine, and show one job step by step.

It needs no API key and no tunnel, calls no real provider, and touches no database but its own: what the environment
says of an installation, such as a sourced relay.env, is left out.
"""

import asyncio
import importlib.util
import json
import logging
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import httpx
import msgspec

from relay import __version__, log, settings
from relay.cli import tune_gc
from relay.clock import parse_rfc3339
from relay.errors import RelayError
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.sandbox.contract import API_KEY
from relay.sandbox.providers import base_urls, sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Received, Sink
from relay.sandbox.world import Sandbox
from relay.security import signatures
from relay.storage.engine.database_url import shown

if TYPE_CHECKING:
    from relay.app import App
    from relay.web.server import Server

DEV_API_KEY = "relay-dev-key"
DEV_WALLET_KEY = "0x" + "01" * 32  # public and empty: the stand-ins check signatures only, without a chain
LOOPBACK = "127.0.0.0/8,::1/128"
FIRST_JOB_S = 20.0
_PROVIDERS = (*PROVIDERS, *DEV_PROVIDERS)
_INSTALLATION = frozenset({"DATABASE_URL", "RELAY_HOST", "RELAY_PUBLIC_URL"})
"""What belongs to an installation, beside its secrets and all that is about providers."""
INPUT = {"images": ["https://example.com/a.png"], "prompt": "slow push in", "duration_s": 5}


@click.command("dev")
@click.option("--once", is_flag=True, help="Stop after the first job.")
@click.option("--logs", is_flag=True, help="Show relay's log too.")
def command(once: bool, logs: bool) -> None:
    """Run relay with stand-in providers and a sink, and show the steps of one job."""
    import uvloop

    log.configure("console", logging.INFO if logs else logging.WARNING)
    with (
        tempfile.TemporaryDirectory(prefix="relay-dev-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_dev(Path(folder), once))


async def _dev(folder: Path, once: bool) -> None:
    """Start everything, show the first job, and show further notifications until a signal; with `once` stop there."""
    from relay.app import opened
    from relay.cli.stopping import signals
    from relay.shutdown import Stop
    from relay.web.server import server

    async with AsyncExitStack() as stack:
        world = sandbox(pace_s=1.2)
        world.serves_results = True
        stack.push_async_callback(world.close)
        sink = Sink()
        providers_at = await stack.enter_async_context(serve(world.app))
        sink_at = await stack.enter_async_context(serve(sink)) + "/hook"
        environ = environment(os.environ, providers_at, folder)
        loaded = settings.load(environ, (*PROVIDERS, *DEV_PROVIDERS))
        # The key is public, which the setting would refuse; it serves this machine only.
        loaded = msgspec.structs.replace(loaded, api_key=DEV_API_KEY)
        stop = Stop(loaded.shutdown_s)
        starting = stack.enter_context(signals(stop, loaded.shutdown_s))
        app = await stack.enter_async_context(opened(loaded, {**PROVIDERS, **DEV_PROVIDERS}, stop=stop))
        starting.over()
        tune_gc()
        http = server(app, loaded.host, loaded.port)
        serving = asyncio.create_task(http.serve())
        try:
            await _listening(http, serving)
            port = http.servers[0].sockets[0].getsockname()[1]
            origin = f"http://127.0.0.1:{port}"
            async with _client(origin) as client:
                _print_addresses(app, origin, sink_at)
                secret = await _subscribe(client, sink_at)
                await _unless_stopped(_first_job(client, world, sink, secret), app.draining)
                if not app.draining.is_set():
                    await _print_next_steps(client, once)
                if not once:
                    await _print_notifications(sink, secret, serving)
        finally:
            http.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


def environment(given: Mapping[str, str], providers_at: str, folder: Path) -> dict[str, str]:
    """Return the environment with the settings of development in place of those that belong to an installation."""
    port = given.get("PORT") or "8000"
    port = str(_free_port()) if port == "0" else port
    environ = {
        "RELAY_ALLOW_HTTP": "1",
        "RELAY_ALLOW_NETWORKS": LOOPBACK,
        "RELAY_STATUS_CHECK_FIRST_S": "3",
        "RELAY_SHUTDOWN_S": "1",  # so that Ctrl-C does not wait for a stand-in that hangs
        **{name: value for name, value in given.items() if value and not _of_installation(name, value)},
        "RELAY_HOST": "127.0.0.1",
        "RELAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "DATABASE_URL": f"sqlite:///{folder}/relay.db",
        "RELAY_SECRET_KEYS": secrets.token_urlsafe(32),
        "PORT": port,
    }
    if importlib.util.find_spec("eth_account"):
        environ["RELAY_WALLET_KEY"] = DEV_WALLET_KEY
    stand_ins = base_urls(providers_at)
    for name in _PROVIDERS:
        environ[f"RELAY_{name.upper()}_API_KEY"] = API_KEY
        environ[f"RELAY_{name.upper()}_BASE_URL"] = stand_ins[name]
    return environ


def _of_installation(name: str, value: str) -> bool:
    """Return whether a variable says what an installation is: its database, its secrets, and its accounts anywhere.

    A folder for copies is none, so that the archive can be tried.
    """
    if name == "RELAY_ARCHIVE_URL":
        return not value.startswith("file:")
    bare = name.removesuffix(settings.FILE)
    of_provider = any(bare.startswith(f"RELAY_{provider.upper()}_") for provider in _PROVIDERS)
    return of_provider or bare in _INSTALLATION or bare in settings.secret_names(())


def _free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _listening(http: "Server", serving: "asyncio.Task[None]") -> None:
    """Return when the server listens; raise its error if it cannot, for example because the port is in use."""
    while not http.started:
        if serving.done():
            await serving
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _client(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    """Open an API client like that of an application."""
    headers = {"authorization": f"Bearer {DEV_API_KEY}"}
    async with httpx.AsyncClient(base_url=origin, headers=headers, trust_env=False, timeout=30) as client:
        yield client


async def _subscribe(client: httpx.AsyncClient, sink_at: str) -> str:
    """Make the sink an endpoint for every event; return its secret."""
    answer = await client.post("/v1/endpoints", json={"url": sink_at, "event_types": ["*"], "description": "relay dev"})
    return str(answer.raise_for_status().json()["secret"])


async def _unless_stopped(showing: Coroutine[Any, Any, None], draining: asyncio.Event) -> None:
    """Run `showing`; cancel it, without an error, when the shutdown begins."""
    shown, stopped = asyncio.create_task(showing), asyncio.create_task(draining.wait())
    await asyncio.wait([shown, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if draining.is_set():
        shown.cancel()
        await asyncio.gather(shown, return_exceptions=True)
    else:
        await shown


async def _first_job(client: httpx.AsyncClient, world: Sandbox, sink: Sink, secret: str) -> None:
    """Submit one job, and print each step with its time."""
    click.echo("\nOne job, from submission to notification:")
    started = time.monotonic()
    answer = await client.post("/v1/jobs", json={"provider": "sandbox", "input": INPUT})
    job = answer.raise_for_status().json()
    ids = f"{job['id']}, at the provider {job['provider_job_id']}"
    steps = [(time.monotonic(), f"submitted    POST /v1/jobs → {answer.status_code}  {ids}")]
    try:
        await world.wait_for(lambda w: any(one.job_id == job["provider_job_id"] for one in w.callbacks), FIRST_JOB_S)
        await sink.wait_for(lambda s: any(_about(one, job["id"], "job.succeeded") for one in s.received), FIRST_JOB_S)
    except TimeoutError:
        raise RelayError("the first job did not come through; run with --logs to see why") from None
    for sent in (one for one in world.callbacks if one.job_id == job["provider_job_id"]):
        stored = f"{len(sent.body)} bytes, stored before the answer"
        steps.append((sent.at, f"called back  POST /callbacks/sandbox/… → {sent.status_code}, {stored}"))
    since_boot = time.monotonic() - time.time()
    timeline = (await client.get(f"/v1/jobs/{job['id']}/timeline")).json()["data"]
    steps += [
        (parse_rfc3339(entry["at"]) / 1000 + since_boot, f"confirmed    {entry['summary']}")
        for entry in timeline
        if entry["kind"] == "check"
    ]
    steps += [(one.at, f"notified     {_summary(one, secret)}") for one in sink.received if _about(one, job["id"])]
    for at, text in sorted(steps):
        click.echo(f"{(at - started) * 1000:7.0f} ms  {text}")
    job = (await client.get(f"/v1/jobs/{job['id']}")).json()
    click.echo(f"    done      GET /v1/jobs/{job['id']} → {job['status']}  {job['outputs'][0]['url']}")


def _about(received: Received, job_id: str, kind: str | None = None) -> bool:
    """Return whether a notification is about this job, and of this type if one is given."""
    body = json.loads(received.body)
    return body["data"]["job"]["id"] == job_id and kind in (None, body["type"])


def _summary(received: Received, secret: str) -> str:
    """Return a notification in one line."""
    body = json.loads(received.body)
    try:
        signatures.verify(secret, received.headers, received.body, int(time.time()))
        verified = "signature verified"
    except RelayError as error:
        verified = f"signature NOT verified: {error}"
    return f"{body['type']}  {body['id']}, number {body['data']['sequence']} of its job, {verified}"


async def _print_notifications(sink: Sink, secret: str, serving: "asyncio.Task[None]") -> None:
    """Print a line for each further notification, until the server stops."""
    printed = len(sink.received)
    while not serving.done():
        waiting = asyncio.create_task(sink.wait_for(lambda s: len(s.received) > printed, 3600))  # noqa: B023
        await asyncio.wait([waiting, serving], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for received in sink.received[printed:]:
            click.echo(f"notified     {_summary(received, secret)}")
        printed = len(sink.received)


def _print_addresses(app: "App", origin: str, sink_at: str) -> None:
    """Print the addresses, the providers that there are stand-ins for, and what of the environment is left out."""
    stand_ins = [provider.adapter.name for provider in app.providers.values() if provider.usable]
    click.echo(f"relay {__version__} on {origin}   database {shown(app.settings.database_url)}")
    click.echo(f"  stand-ins  {', '.join(stand_ins)}   free; each result is the same short clip")
    click.echo(f"  sink       {sink_at}   receives every notification and checks its signature")
    if app.settings.dashboard:
        click.echo(f"  pages      {origin}/   sign in with {DEV_API_KEY}")
    if left_out := sorted(name for name, value in os.environ.items() if value and _of_installation(name, value)):
        click.echo(f"  left out   {', '.join(left_out)}   of this environment: they belong to an installation")


async def _print_next_steps(client: httpx.AsyncClient, once: bool) -> None:
    """Print what to do next, as commands to copy."""
    origin = str(client.base_url).rstrip("/")
    job_id = (await client.get("/v1/jobs?limit=1")).json()["data"][0]["id"]
    auth = f"-H 'authorization: Bearer {DEV_API_KEY}'"
    job = json.dumps({"provider": "evolink", "input": INPUT})
    endpoint = json.dumps({"url": "http://127.0.0.1:3000/hook", "event_types": ["job.*"]})
    commands = {
        "Submit a job": f"curl {origin}/v1/jobs {auth} -d '{job}'",
        "What happened to a job, and what comes next": f"curl {origin}/v1/jobs/{job_id}/timeline {auth}",
        "Notify your own application (the answer holds the secret to verify with)": (
            f"curl {origin}/v1/endpoints {auth} -d '{endpoint}'"
        ),
        "The command line (--help names every command)": (
            f"RELAY_URL={origin} RELAY_API_KEY={DEV_API_KEY} {sys.executable} -m relay jobs list"
        ),
        "Have a provider misbehave (--list names every fault)": (
            f"RELAY_URL={origin} {sys.executable} -m relay simulate lost duplicate=2"
        ),
    }
    if once:
        click.echo("\nrelay stops here. Without --once it goes on, and you can:\n")
    else:
        click.echo("\nYour turn. Every notification is shown here; Ctrl-C stops relay.\n")
    for title, text in commands.items():
        click.echo(f"{title}:\n  {text}")
    click.echo()
