"""`relay simulate`: have a stand-in provider of a running `relay dev` misbehave, and print what relay does about it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import click
import httpx

from relay.cli.remote.connection import EXIT_AGAIN, Refused, chosen, refused
from relay.cli.remote.options import Finite
from relay.errors import RelayError, SettingsError
from relay.model.job import JobState
from relay.sandbox.faults import WORDS, Faults, of_names, of_prompt, sentences

DEFAULT_API_KEY: Final = "relay-dev-key"
INPUT: Final = {"images": ["https://example.com/a.png"], "duration_s": 5}
PORT_MAX: Final = 65_535
POLL_S: Final = 0.3
REQUEST_S: Final = 30
CONCURRENT_MAX: Final = 12
AFTER_END_S: Final = 2.0
AFTER_END: Final = ("duplicate", "changed", "reordered", "flips")
"""Faults that act after the job's end, so that its timeline is followed AFTER_END_S longer."""

_CLOSED_LISTS: Final = ("submit", "outcome", "check", "encoding", "malformed", "signed", "upset_url")
SCENARIOS: Final = (
    *("", "slow_s=3", "early", "html", "status_code=400", "status_code=402", "status_code=429", "status_code=500"),
    *("lost", "late_s=3", "duplicate=2", "changed", "unknown_word=dreaming", "forged", "wrong_id", "flips=failed"),
    *("huge=2000000", "content_type=text/plain", "chunked", "drip_s=2", "cut", "version=minimal"),
    *("check_status=503", "check=lies lie=failed", "check=lies lie=dreaming"),
    *(
        f"{name}={word}"
        for name in _CLOSED_LISTS
        for word in WORDS[name]
        if word != Faults.__struct_defaults__[Faults.__struct_fields__.index(name)] and word != "lies"
    ),
)
"""What `--all` runs: one fault each, and every value of the closed lists that `sandbox` supports."""
ALONE: Final = ("check_status=429 check_retry_after_s=2",)
"""Run last, because relay then pauses the whole provider; 401, after which it pauses for a minute, is not run."""

Json = dict[str, Any]


@click.command("simulate")
@click.argument("faults", nargs=-1, metavar="[FAULT[=VALUE]]...")
@click.option("--list", "listed", is_flag=True, help="Print what each fault does.")
@click.option("--all", "every", is_flag=True, help="One job for each fault, in a table.")
@click.option(
    "--for",
    "for_s",
    type=Finite(0.1, 3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest time to follow a job.",
)
def command(faults: tuple[str, ...], listed: bool, every: bool, for_s: float) -> None:
    """Submit a job whose provider misbehaves, to a running `relay dev`, and follow it.

    For instance: relay simulate lost duplicate=2

    The exit status is 0 once the job was followed, however it ended: many scenarios end with a failed job.
    """
    if listed:
        for name, sentence in sentences().items():
            click.echo(f"{name:<20} {sentence}")
        return
    if every and faults:
        raise click.UsageError("--all runs every fault by itself: name none beside it")
    asyncio.run(_every(for_s) if every else _one(faults, for_s))


async def _one(faults: Sequence[str], for_s: float) -> None:
    """Submit one job and print its timeline, line by line."""
    prompt, wanted = directive(faults)
    after_s = AFTER_END_S if any(getattr(wanted, name) for name in AFTER_END) else 0.0
    async with _relay_dev() as client:
        job = await _submit(client, prompt)
        click.echo(f"{job['id']}  {prompt}")
        job = await _follow(client, job["id"], for_s, after_s, click.echo)
    outcome = "  ".join(f"{name} {job[name] or '–'}" for name in ("reason", "finished_by", "verification"))
    click.echo(f"{job['id']}  {job['status']}  {outcome}")
    if not JobState(job["status"]).final:
        click.echo(f"not final after {for_s:g} s; --for follows it longer")


async def _every(for_s: float) -> None:
    """Run every scenario, some concurrently; print a row for each, in the order of the list.

    Raise Refused after the last row if a job could not be submitted or followed.
    """
    errors: list[RelayError] = []
    width = max(map(len, (*SCENARIOS, *ALONE))) + 2
    places = asyncio.Semaphore(CONCURRENT_MAX)
    async with _relay_dev() as client:
        scenario = partial(_scenario, client, places, for_s, width, errors)
        click.echo(_row(width, "fault", "status", "reason", "finished by", "verification", "seconds"))
        for row in [asyncio.create_task(scenario(name)) for name in SCENARIOS]:
            click.echo(await row)
        for name in ALONE:
            click.echo(await scenario(name))
    if errors:
        count = f"{len(errors)} of {len(SCENARIOS) + len(ALONE)} jobs were not submitted and followed"
        raise Refused(f"{count}: their rows say why", getattr(errors[0], "exit_status", 1))


async def _scenario(
    client: httpx.AsyncClient, places: asyncio.Semaphore, for_s: float, width: int, errors: list[RelayError], name: str
) -> str:
    """Run a scenario; return its row, which holds the error if relay refuses it, and add that to `errors`."""
    prompt, _ = directive(name.split())
    async with places:
        began = time.monotonic()
        try:
            job = await _submit(client, prompt)
            job = await _follow(client, job["id"], for_s, 0.0, lambda _: None)
        except RelayError as error:
            errors.append(error)
            return _row(width, name or "(none)", str(error))
        seconds = f"{time.monotonic() - began:.1f}"
        outcome = (job[part] or "–" for part in ("status", "reason", "finished_by", "verification"))
        return _row(width, name or "(none)", *outcome, seconds)


def _row(width: int, fault: str, status: str, *more: str) -> str:
    """Return a row of the table."""
    return f"{fault:<{width}}{status:<11}{''.join(f'{cell:<19}' for cell in more)}".rstrip()


def directive(faults: Sequence[str]) -> tuple[str, Faults]:
    """Return the prompt that asks for the faults, and the faults; raise BadParameter if the sandbox knows no such."""
    pairs = [fault.partition("=") for fault in faults]
    try:
        wanted = of_names({name: value or "true" for name, _, value in pairs})
        text = f"[sandbox: {'; '.join(faults)}]"
        if faults and of_prompt(text) != wanted:
            raise ValueError("a fault's value cannot hold ; or ], and all faults together at most 280 characters")
    except ValueError as error:
        raise click.BadParameter(f"{error} (relay simulate --list says what each does)", param_hint="FAULT") from None
    return f"slow push in {text}" if faults else "slow push in", wanted


@asynccontextmanager
async def _relay_dev() -> AsyncIterator[httpx.AsyncClient]:
    """Open a client of the running relay; raise RelayError if it has no sandbox, so that no real provider is called.

    Raise SettingsError for a URL or a key that no request can have.
    """
    profile = chosen(None, None)
    origin = profile.url
    headers = {"authorization": f"Bearer {profile.api_key or DEFAULT_API_KEY}", "relay-via": "cli"}
    try:
        url = httpx.URL(origin)
        client = httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=REQUEST_S)
    except (httpx.InvalidURL, UnicodeEncodeError):
        raise SettingsError("RELAY_URL must be an http(s) URL, and RELAY_API_KEY plain ASCII") from None
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > PORT_MAX:
        raise SettingsError("RELAY_URL must be an http(s) URL such as http://127.0.0.1:8000")
    async with client:
        providers = (await _ask(client, "GET", "/v1/providers"))["data"]
        if "sandbox" not in (provider["name"] for provider in providers):
            raise RelayError(f"the relay at {origin} has no provider `sandbox`: faults are simulated with `relay dev`")
        yield client


async def _submit(client: httpx.AsyncClient, prompt: str) -> Json:
    """Submit a job to the sandbox; return it."""
    return await _ask(client, "POST", "/v1/jobs", {"provider": "sandbox", "input": INPUT | {"prompt": prompt}})


async def _follow(
    client: httpx.AsyncClient, job_id: str, for_s: float, after_s: float, say: Callable[[str], None]
) -> Json:
    """Return the job `after_s` after it became final, or after `for_s`; call `say` with each line of its timeline."""
    seen: set[str] = set()
    until, final = time.monotonic() + for_s, False
    while True:
        job = await _ask(client, "GET", f"/v1/jobs/{job_id}")
        for line in map(_line, (await _ask(client, "GET", f"/v1/jobs/{job_id}/timeline"))["data"]):
            if line not in seen:
                seen.add(line)
                say(line)
        if JobState(job["status"]).final and not final:
            until, final = min(until, time.monotonic() + after_s), True
        if time.monotonic() >= until:
            return job
        await asyncio.sleep(POLL_S)


def _line(entry: Json) -> str:
    """Return a line of a job's timeline."""
    decided = f" → {entry['decision']}" if entry["decision"] else ""
    why = f" ({entry['reason']})" if entry["reason"] else ""
    return f"{entry['at'][11:23]}  {entry['kind']:<11} {entry['summary']}{decided}{why}"


async def _ask(client: httpx.AsyncClient, method: str, path: str, body: Json | None = None) -> Json:
    """Return relay's answer; raise Refused, with the exit status of every command, if there is none, or an error."""
    try:
        answer = await client.request(method, path, json=body)
    except httpx.HTTPError as error:
        where = f"no relay answers at {client.base_url} ({type(error).__name__})"
        raise Refused(f"{where}: start `relay dev`, or set RELAY_URL", EXIT_AGAIN) from None
    if answer.is_error:
        raise refused(answer)
    try:
        found = answer.json()
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(f"the server at {client.base_url} is not relay: it sent no JSON object", 1)
    return found
