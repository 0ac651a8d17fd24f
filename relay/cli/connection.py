"""Connects a command to a running relay over HTTP: where it is, with which key, and what an error means for a script.

`RELAY_URL` and `RELAY_API_KEY` come before the profile, which `relay login` writes, readable by its owner alone. A key of
the profile is sent to the URL of the profile and to no other.
"""

import contextlib
import functools
import json
import os
import ssl
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
import httpx
import msgspec

from relay import client
from relay.cli import EXIT_AGAIN, EXIT_AUTH, EXIT_NOT_FOUND, CommandFailed
from relay.cli import output as printing
from relay.client.requests import Request, writing
from relay.errors import SettingsError
from relay.outbound.trust import tls_context

DEFAULT_URL: Final = "http://127.0.0.1:8000"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
HEADERS: Final = {"relay-via": "cli"}
"""The audit shows from where a change came."""
PAGE_MAX: Final = 200
PORT_MAX: Final = 65_535
STATUSES: Final = {401: EXIT_AUTH, 403: EXIT_AUTH, 404: EXIT_NOT_FOUND, 429: EXIT_AGAIN, 503: EXIT_AGAIN}
"""The exit statuses of relay's refusals; any other is 1."""

Json = dict[str, Any]
Command = Callable[..., None]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A relay and a key for it."""

    url: str
    api_key: str | None


def profile_file() -> Path:
    """Return where the profile is stored."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "relay" / "profile.json"


def stored_profile() -> Profile | None:
    """Return the stored profile; raise SettingsError if another user may read it, or if it is not one."""
    path = profile_file()
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise SettingsError(f"{path} holds a key, and others may read it: chmod 600 {path}")
            return msgspec.json.decode(file.read(), type=Profile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({type(error).__name__}): run `relay login` again") from None


def store_profile(profile: Profile) -> Path:
    """Write the profile with mode 0600; return its file."""
    path = profile_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)  # with mode 0600
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(msgspec.json.encode(profile))
        Path(name).replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None
    return path


def chosen() -> Profile:
    """Return the relay and the key to use; raise SettingsError if the URL is none."""
    url, api_key = os.environ.get("RELAY_URL"), os.environ.get("RELAY_API_KEY")
    if not url or not api_key:
        stored = stored_profile()
        url = url or (stored.url if stored else DEFAULT_URL)
        api_key = api_key or (stored.api_key if stored and stored.url == url.rstrip("/") else None)
    return Profile(checked_url(url), api_key)


def checked_url(text: str) -> str:
    """Return an origin without a slash at its end; raise SettingsError unless it is an http(s) URL."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > PORT_MAX or url.userinfo:
        raise SettingsError(f"RELAY_URL must be an http(s) URL such as {DEFAULT_URL}")
    return text.rstrip("/")


def transport_options(url: str) -> dict[str, Any]:
    """Return what an httpx client needs for this relay: relay's own trust, and no proxy to this machine."""
    local = httpx.URL(url).host in LOOPBACK
    verify: ssl.SSLContext | bool = tls_context() if url.startswith("https:") else False
    return {"headers": HEADERS, "verify": verify, "trust_env": not local}


def key_of(profile: Profile) -> str:
    """Return the profile's key; raise CommandFailed if there is none, or if it cannot be a header."""
    if profile.api_key is None:
        raise CommandFailed(f"no key for {profile.url}: run `relay login`, or set RELAY_API_KEY", EXIT_AUTH)
    if not profile.api_key.isascii() or not profile.api_key.isprintable():
        raise CommandFailed("RELAY_API_KEY must be plain ASCII", EXIT_AUTH)
    return profile.api_key


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise the client's errors as CommandFailed, with the exit status that is theirs."""
    try:
        yield
    except client.RelayError as error:
        fields = "".join(f"\n  {one.path}: {one.message}" for one in error.errors)
        status = STATUSES.get(error.status, 1)
        raise CommandFailed(f"{error.detail}{fields} ({error.status} {error.code})", status) from None
    except (client.RelayUnavailable, httpx.TransportError, TimeoutError) as error:
        raise CommandFailed(str(error) or type(error).__name__, EXIT_AGAIN) from None


class Connection:
    """A running relay, and the form in which the command prints."""

    def __init__(self, relay: client.Relay, url: str, form: str) -> None:
        self.relay = relay
        self.url = url
        self.form = form

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return what a GET answers."""
        return json.loads(self.relay.fetch(Request(method="GET", path=path, query=dict(query or {}))))

    def write(self, method: str, path: str, body: Any = None, idempotency_key: str | None = None) -> Any:
        """Return what a request that changes something answers."""
        answer = self.relay.fetch(writing(method, path, body, idempotency_key))
        return json.loads(answer) if answer else None

    def rows(self, path: str, query: Mapping[str, str], limit: int) -> tuple[list[Json], str | None]:
        """Return up to `limit` items of a list, from as many pages as that takes, and the cursor of the next ones."""
        found: list[Json] = []
        wanted = dict(query)
        while True:
            page = self.get(path, wanted | {"limit": str(min(limit - len(found), PAGE_MAX))})
            found += page["data"]
            cursor = page.get("next_cursor")
            if cursor is None or len(found) >= limit:
                return found, cursor
            wanted["cursor"] = cursor

    def print(self, found: Json) -> None:
        """Print one thing."""
        printing.one(found, self.form)

    def print_rows(self, rows: list[Json], columns: Mapping[str, str], cursor: str | None = None) -> None:
        """Print a list; `columns` are titles, and where each one's values are."""
        printing.rows(rows, columns, self.form, cursor)


def path_of(*parts: str) -> str:
    """Return a path of the API; what a user gave cannot lead elsewhere."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="The form of what is printed on standard output.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def connected(function: Command) -> Command:
    """Give a command `--output`, and a Connection as its first argument."""

    @output_option
    @functools.wraps(function)
    def run(output: str, **given: Any) -> None:
        profile = chosen()
        key = key_of(profile)
        with (
            translated(),
            httpx.Client(**transport_options(profile.url)) as http,
            client.Relay(profile.url, key, http=http) as relay,
        ):
            function(Connection(relay, profile.url, output), **given)

    return run
