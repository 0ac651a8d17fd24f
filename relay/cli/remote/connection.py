"""Connect a command to a running relay: where it is, which key, and which exit status an error has."""

import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click
import httpx
import msgspec

from relay.client import requests
from relay.client.requests import AGAIN, TRIES_MAX, Messages
from relay.errors import RelayError, SettingsError
from relay.outbound.trust import tls_context

Json = dict[str, Any]

EXIT_NOT_FOUND, EXIT_AUTH, EXIT_AGAIN = 3, 4, 75
"""EX_TEMPFAIL of sysexits.h is 75; 1 is any other refusal, 2 a wrong use of the command, 78 a wrong setting."""
DEFAULT_URL: Final = "http://127.0.0.1:8000"
WHERE: Final = " (start relay there, or say where it is: --url, RELAY_URL, or relay login)"
TIMEOUT_S: Final = 35.0
SILENCE_S: Final = 45.0
"""A stream without even a comment for so long is lost: relay sends one every 15 s."""
PAGE: Final = 200
BEFORE_ALL: Final = "evt_0"
"""The id of no event, older than any: a stream goes on after it with the first event there is."""
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""No proxy is used to these."""
_PRIVATE: Final = 0o600
_PATH: Final = re.compile(r"(/[A-Za-z0-9_-]+)+")
"""What an id cannot turn into another path."""


class Refused(RelayError):
    """relay refused the request, or did not answer; `exit_status` is the command's.

    `retry_after_s` is how long relay asks to wait before another try, None if it does not.
    """

    def __init__(self, text: str, exit_status: int, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.exit_status = exit_status
        self.retry_after_s = retry_after_s


class Profile(msgspec.Struct, frozen=True):
    """Where a relay is, and the key for it."""

    url: str
    api_key: str = ""


def profiles_path() -> Path:
    """Return the file of the profiles: `RELAY_PROFILES`, or a file in the user's folder for settings."""
    given = os.environ.get("RELAY_PROFILES")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(given) if given else base / "relay" / "profiles.json"


def read_profiles() -> dict[str, Profile]:
    """Return the stored profiles; raise SettingsError for a file that others may read, or that is none."""
    path = profiles_path()
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsError(f"{path} holds API keys, and other users may read it: chmod 600 {path}")
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"cannot read the profiles of {path}: {error.strerror or error}") from None
    try:
        return msgspec.json.decode(content, type=dict[str, Profile])
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path} is no file of profiles: {error}") from None


def write_profile(name: str, profile: Profile) -> Path:
    """Store a profile, in a file that only its owner may read, and return its path."""
    path, profiles = profiles_path(), read_profiles() | {name: profile}
    with whole_file(path) as part:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE), "wb") as file:
            part.chmod(_PRIVATE)
            file.write(msgspec.json.format(msgspec.json.encode(profiles)))
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which is at `path` only once it is whole; leave nothing behind a failure.

    Of a link the file that it leads to is replaced. What is no plain file, such as /dev/stdout, is written itself.
    Raise Refused, which names the file, if it cannot be written.
    """
    path = path.resolve()
    itself = path.exists() and not path.is_file()
    part = path if itself else path.with_name(f"{path.name}.part")
    try:
        yield part
        if not itself:
            part.replace(path)
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror or error}", 1) from None
    finally:
        if not itself:
            with suppress(OSError):  # it is there after a failure alone
                part.unlink()


def chosen(url: str | None, profile: str | None) -> Profile:
    """Return where to connect: an option wins over the environment, and that over the profile `default`."""
    stored = read_profiles()
    if profile is not None:
        if profile not in stored:
            raise SettingsError(f"there is no profile {profile!r} in {profiles_path()}: make it with relay login")
        found = stored[profile]
        return Profile(url or found.url, found.api_key)
    environ_url, environ_key = os.environ.get("RELAY_URL", ""), os.environ.get("RELAY_API_KEY", "")
    default = stored.get("default", Profile(DEFAULT_URL))
    where = url or environ_url or default.url
    # A stored key is sent to the relay that it was stored for, and to no other.
    key = environ_key or (default.api_key if where == default.url else "")
    return Profile(where.rstrip("/"), key)


class Remote:
    """A running relay, over HTTP. What may help is tried again, under one Idempotency-Key."""

    def __init__(self, profile: Profile) -> None:
        headers = {"authorization": f"Bearer {profile.api_key}"} if profile.api_key else {}
        self.url = profile.url
        try:
            url = httpx.URL(profile.url)
            if url.scheme not in ("http", "https") or not url.host:
                raise httpx.InvalidURL("it must begin with http:// or https://, and a host")
            self._http = httpx.Client(
                base_url=url,
                headers=headers | {"relay-via": "cli"},
                timeout=TIMEOUT_S,
                trust_env=url.host not in LOOPBACK,
                verify=tls_context() if url.scheme == "https" else False,
            )
        except httpx.InvalidURL as error:
            raise SettingsError(f"{profile.url!r} is no URL of a relay: {error}") from None
        except UnicodeEncodeError:
            raise SettingsError("an API key is plain ASCII") from None

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a GET."""
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """Return the JSON of a POST."""
        return self.request("POST", path, body=body if body is not None else {}, headers=headers)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON of an answer, None of one without a body; raise Refused for a problem."""
        response = self.answer(method, path, query=query, body=body, headers=headers)
        return None if response.status_code == httpx.codes.NO_CONTENT else self._object(response)

    def answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return an answer as relay sent it; raise Refused for a problem, and UsageError for an id that is none."""
        if not _PATH.fullmatch(path):
            raise click.UsageError(f"{path!r} is no path of the API: an id is letters, digits, dashes and underscores")
        given = requests.writing(method, path, body).headers if method != "GET" else {}
        content = None if body is None else msgspec.json.encode(body)
        options = {"params": requests.query(**dict(query or {})), "headers": dict(given) | dict(headers or {})}
        for tried in range(1, TRIES_MAX + 1):
            last = tried == TRIES_MAX
            try:
                response = self._http.request(method, path, content=content, **options)  # type: ignore[arg-type]
            except httpx.HTTPError as error:
                if last:
                    raise self._unreachable(error) from None
                time.sleep(requests.pause_s(tried, None))
                continue
            if response.is_success:
                return response
            if response.status_code not in AGAIN or last:
                raise refused(response)
            time.sleep(requests.pause_s(tried, response.headers.get("retry-after")))
        raise AssertionError  # unreachable: the last try returned or raised

    def upload(self, path: str, fields: dict[str, str], file: tuple[str, bytes, str]) -> Any:
        """Return the JSON of a form with a file."""
        given = requests.uploading(path, fields, file)
        try:
            response = self._http.post(path, data=fields, files={"file": file}, headers=dict(given.headers))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if not response.is_success:
            raise refused(response)
        return self._object(response)

    def download(self, path: str, to: Path) -> int:
        """Write what a path leads to into a file, and return its bytes; a redirect is followed without the key.

        The file is there only once it is whole. Raise Refused for a problem, for a result's URL that does not answer,
        and for a file that cannot be written.
        """
        if not _PATH.fullmatch(path):
            raise click.UsageError(f"{path!r} is no path of the API: an id is letters, digits, dashes and underscores")
        try:
            with whole_file(to) as part, self._http.stream("GET", path) as response:
                location = response.headers.get("location")
                return _write(response, part) if location is None else _fetch(location, part)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def pages(self, path: str, query: Mapping[str, Any], limit: int) -> Iterator[Json]:
        """Yield so many items of a list at most."""
        cursor: str | None = None
        left = limit
        while left > 0:
            page = self.get(path, dict(query) | {"cursor": cursor, "limit": min(left, PAGE)})
            for item in page["data"][:left]:
                left -= 1
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def events(self, after: str | None = None, kind: str | None = None) -> Iterator[tuple[str, bytes] | None]:
        """Yield each event's id and body as they come, without end; None whenever the stream is open anew.

        A lost connection is made again, from the last event on; before the first one, from the newest event of now.
        """
        if after is None:
            newest = self.get("/v1/events", {"limit": 1})["data"]
            after = newest[0]["id"] if newest else BEFORE_ALL
        tried = 0
        while True:
            tried += 1
            asked_s = None
            try:
                for message in self._stream(after, kind):
                    tried = 0
                    if message is not None:
                        after = message[0]
                    yield message
            except httpx.HTTPError as error:
                if tried >= TRIES_MAX:
                    click.echo(f"relay: no connection: {error}; trying again", err=True)
            except Refused as error:
                if error.exit_status != EXIT_AGAIN:
                    raise
                if tried >= TRIES_MAX:
                    click.echo(f"relay: {error}; trying again", err=True)
                asked_s = error.retry_after_s
            time.sleep(requests.pause_s(min(tried, TRIES_MAX), None) if asked_s is None else asked_s)

    def _stream(self, after: str | None, kind: str | None) -> Iterator[tuple[str, bytes] | None]:
        """Yield None once the stream is open, then its messages until it ends."""
        options: Json = {"params": requests.query(type=kind), "headers": requests.position(after)}
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        with self._http.stream("GET", "/v1/events/stream", timeout=timeout, **options) as response:
            if not response.is_success:
                response.read()
                raise refused(response)
            yield None
            messages = Messages(after)
            for chunk in response.iter_raw():
                for message in messages.feed(chunk):
                    yield message.id, message.data

    def _object(self, response: httpx.Response) -> Json:
        """Return the JSON object of an answer; raise Refused for what no relay answers."""
        try:
            found = json.loads(response.content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Refused(f"{self.url} answers, but not as a relay does: is it the URL of one?", 1)
        return found

    def _unreachable(self, error: httpx.HTTPError) -> Refused:
        """Return the error for a relay that does not answer."""
        why = str(error) or type(error).__name__
        return Refused(f"{self.url} does not answer: {why}{WHERE}", EXIT_AGAIN)


def _fetch(url: str, part: Path) -> int:
    """Write the result at a provider's or a bucket's URL into a file, and return its bytes; raise Refused.

    An error names the host alone: the rest of the URL may hold a signature, with which anyone can read the result.
    """
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, verify=tls_context()) as elsewhere,
            elsewhere.stream("GET", url) as found,
        ):
            if not found.is_success:
                status = EXIT_AGAIN if found.status_code in AGAIN else 1
                raise Refused(f"the result's URL answered HTTP {found.status_code}", status)
            return _write(found, part)
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        host = error.request.url.host  # of the redirect that failed, if the URL led on to another host
        raise Refused(f"the result's URL at {host} does not answer: {why} (try again)", EXIT_AGAIN) from None


def _write(response: httpx.Response, part: Path) -> int:
    """Write the body of an answer into a file, and return its bytes; raise Refused for a problem."""
    if not response.is_success:
        response.read()
        raise refused(response)
    with part.open("wb") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
        return file.tell()


def refused(response: httpx.Response) -> Refused:
    """Return the error of an answer, and the exit status that its HTTP status has.

    Each wrong field is named once: `detail` names the first ones already.
    """
    problem = requests.problem(response.status_code, response.content, response.headers.get("retry-after"))
    lines = [f"{problem.detail} ({response.status_code} {problem.code})"]
    if response.status_code == 401:
        lines[0] += "; the command line takes the key from RELAY_API_KEY or relay login"
    told = [f"{one.path}: {one.message}" for one in problem.errors]
    lines += [f"  {text}" for text in told if text not in problem.detail]
    statuses = dict.fromkeys(AGAIN, EXIT_AGAIN) | {401: EXIT_AUTH, 403: EXIT_AUTH, 404: EXIT_NOT_FOUND}
    return Refused("\n".join(lines), statuses.get(response.status_code, 1), problem.retry_after_s)


@contextmanager
def progress(label: str, length: int) -> Iterator[Any]:
    """Yield a bar for long work, on standard error; invisible where that is no terminal."""
    errors: Any = sys.stderr
    with click.progressbar(length=length, label=label, file=errors, hidden=not errors.isatty()) as bar:
        yield bar
