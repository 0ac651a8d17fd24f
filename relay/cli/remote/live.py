"""`relay tail` and `relay listen`: follow events as they happen, and re-post them to a program on this machine."""

import json
import os
import re
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import click
import httpx

from relay.cli.remote.connection import Json
from relay.cli.remote.options import id_of, typed
from relay.cli.remote.output import Session, in_a_line, pairs, printable, remote
from relay.errors import SettingsError
from relay.model import ids
from relay.security import signatures

FORWARD_TIMEOUT_S: Final = 15.0
TRIES_MAX: Final = 3
"""So often an event is posted to a program that does not answer 2xx; then the next one comes."""
PAUSE_S: Final = 1.0
_AFTER: Final = click.option(
    "--after",
    type=id_of(ids.EVENT, optional=True),
    metavar="EVENT",
    help="Begin behind this event, instead of now.",
)


@click.command("tail")
@typed
@click.option("--provider")
@click.option("--job", type=id_of(ids.JOB), metavar="JOB")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE")
@_AFTER
@remote
def tail(session: Session, after: str | None, kind: str | None, **given: Any) -> None:
    """Print events as they happen, a line each, until Ctrl-C; a lost connection is made again without a gap."""
    wanted = pairs(given["metadata"], "--metadata")
    with suppress(KeyboardInterrupt):
        for message in session.remote.events(after, kind):
            if message is None:
                session.say("connected")
                continue
            event = json.loads(message[1])
            if _matches(event, given["provider"], given["job"], wanted):
                _print(session, event)


def _matches(event: Json, provider: str | None, job_id: str | None, metadata: Mapping[str, str]) -> bool:
    """Return whether an event is about what was asked for."""
    job = event["data"].get("job") or {}
    return (
        provider in (None, job.get("provider"))
        and job_id in (None, job.get("id"))
        and all(str(job.get("metadata", {}).get(key)) == value for key, value in metadata.items())
    )


def _print(session: Session, event: Json) -> None:
    """Print an event: a line for people, or its JSON in one line."""
    if session.output != "table":
        click.echo(in_a_line(event))
        return
    job = event["data"].get("job")
    about = f"{job['id']}  {job['provider']}  {job['status']}" if job else ""
    click.echo(printable(f"{event['timestamp']}  {event['type']:<19}  {event['id']}  {about}".rstrip()))


@click.command("listen")
@click.option("--forward-to", required=True, metavar="URL", help="Such as http://localhost:3000/hook.")
@typed
@_AFTER
@click.option("--secret", metavar="WHSEC", envvar="RELAY_LISTEN_SECRET", help="Sign with this; else with a new one.")
@remote
def listen(session: Session, forward_to: str, kind: str | None, after: str | None, secret: str | None) -> None:
    """Re-post events to a program on this machine, signed as relay signs them, until Ctrl-C.

    It needs no public address: events come over the event stream. On a terminal, r sends the last event again, d shows
    it, and o opens its job in the dashboard.
    """
    made = secret or signatures.new_secret()
    try:
        signatures.check_secret(made)
    except ValueError as error:
        raise SettingsError(f"--secret {error}") from None
    if not re.match(r"https?://[^/]", forward_to, re.IGNORECASE):
        raise click.BadParameter("must begin with http:// or https://, and a host", param_hint="--forward-to")
    session.say(f"signing with {made}")
    session.say(f"forwarding to {forward_to}")
    forwarder = Forwarder(session, forward_to, made)
    with suppress(KeyboardInterrupt), keys_pressed(forwarder.act):
        for message in session.remote.events(after, kind):
            if message is None:
                session.say("connected")
            else:
                forwarder.forward(*message)


@contextmanager
def keys_pressed(act: Callable[[str], None]) -> Iterator[None]:
    """Act on each key that is pressed on the terminal; without one do nothing.

    The terminal passes each key on without Enter, while Ctrl-C interrupts as ever; at the end it is as it was before.
    """
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        """Act on the keys until the terminal is gone."""
        with suppress(OSError):
            while key := os.read(descriptor, 1):
                act(key.decode("ascii", "replace"))

    tty.setcbreak(descriptor)
    threading.Thread(target=read, daemon=True).start()
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Forwarder:
    """Posts events to a local URL, one after the other, each at most `TRIES_MAX` times."""

    def __init__(self, session: Session, url: str, secret: str) -> None:
        self._session = session
        self._url = url
        self._secret = secret
        self._http = httpx.Client(timeout=FORWARD_TIMEOUT_S, trust_env=False)
        self._last: tuple[str, bytes] | None = None

    def forward(self, event_id: str, body: bytes) -> None:
        """Post an event until it is accepted; print a line for each attempt."""
        self._last = (event_id, body)
        kind = json.loads(body)["type"]
        for attempt in range(1, TRIES_MAX + 1):
            answer = self._post(event_id, body, attempt)
            click.echo(printable(f"{kind:<19}  {event_id}  {answer}"))
            if answer.startswith("2"):
                return
            if attempt < TRIES_MAX:
                time.sleep(PAUSE_S)

    def _post(self, event_id: str, body: bytes, attempt: int) -> str:
        """Post once; return the status, or why there is none."""
        now_s = int(time.time())
        headers = {
            "content-type": "application/json",
            signatures.ID_HEADER: event_id,
            signatures.TIMESTAMP_HEADER: str(now_s),
            signatures.SIGNATURE_HEADER: signatures.sign([self._secret], event_id, now_s, body),
            "relay-attempt": str(attempt),
            "relay-hop": "1",
        }
        try:
            return str(self._http.post(self._url, content=body, headers=headers).status_code)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"no answer: {str(error) or type(error).__name__}"

    def act(self, key: str) -> None:
        """Do what a key stands for with the last event; nothing before the first one."""
        if self._last is None:
            return
        event_id, body = self._last
        match key.lower():
            case "r":
                click.echo(printable(f"again                {event_id}  {self._post(event_id, body, 1)}"))
            case "d":
                click.echo(printable(json.dumps(json.loads(body), indent=2, ensure_ascii=False)))
            case "o":
                job = json.loads(body)["data"].get("job")
                click.launch(f"{self._session.remote.url}/jobs/{job['id']}" if job else self._session.remote.url)
