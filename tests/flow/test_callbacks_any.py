"""Any callback at all: whatever its bytes, headers and path are, relay answers, and not with an error of its own."""

import base64
import json
import socket
import string
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote_from_bytes, urlsplit

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calling_back import post
from tests.support.provider_cases import RECORDINGS, bodies, json_values
from tests.support.running import Running, relay

PROVIDERS = ("evolink", "kinovi", "relaydance")
RECORDED = {name: [path.read_bytes() for path in RECORDINGS.glob(f"{name}/callbacks/*.json")] for name in PROVIDERS}
visible = st.text(string.ascii_letters + string.digits + string.punctuation + " ", max_size=40).map(str.strip)
headers = st.dictionaries(st.text(string.ascii_lowercase + string.digits, min_size=1).map("x-{}".format), visible)
types = st.sampled_from(
    ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-16", "?", ""]
)
encodings = st.sampled_from(["identity", "gzip", "br", "identity, gzip", "?", ""])
raw = st.binary(max_size=500) | st.sampled_from([body for recorded in RECORDED.values() for body in recorded]).flatmap(
    lambda body: st.tuples(st.integers(0, len(body)), st.integers(0, len(body)), st.binary(max_size=4)).map(
        lambda cut: body[: min(cut[:2])] + cut[2] + body[max(cut[:2]) :]
    )
)


class Background:
    """A relay in a thread of its own, since hypothesis runs plain functions only."""

    def __init__(self, portal: BlockingPortal, running: Running) -> None:
        self.running = running
        self._portal = portal

    def submit(self, provider: str) -> dict[str, Any]:
        """Return a new job."""
        job: dict[str, Any] = self._portal.call(self.running.submit, provider)
        return job

    def get(self, path: str) -> dict[str, Any]:
        """Return what a GET shows."""
        shown: dict[str, Any] = self._portal.call(self.running.get, path)
        return shown

    def post(self, body: bytes, **given_headers: str) -> httpx.Response:
        """Return a callback about the last job."""
        return self._portal.call(partial(post, self.running, body, **given_headers))

    def status_line(self, method: bytes, path: bytes, given_headers: dict[str, str]) -> bytes:
        """How a request is answered whose path is sent as it is."""
        at = urlsplit(self.running.origin)
        lines = [method + b" " + path + b" HTTP/1.1", b"host: relay", b"connection: close", b"content-length: 0"]
        lines += [f"{name}: {value}".encode() for name, value in given_headers.items()]
        with socket.create_connection((at.hostname, at.port), timeout=10) as connection, connection.makefile() as read:
            connection.sendall(b"\r\n".join([*lines, b"", b""]))
            return read.readline().encode()


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    """One relay for all examples, which keeps every callback."""
    started = relay(tmp_path_factory.mktemp("any"), RELAY_CALLBACKS_PER_JOB_MAX="100000")
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(started) as running:
        yield Background(portal, running)


@st.composite
def mutated(draw: st.DrawFn, provider: str) -> object:
    """Return a recorded callback in which some things are left out, replaced or added."""
    body = json.loads(draw(st.sampled_from(RECORDED[provider])))
    for _ in range(draw(st.integers(1, 4))):
        places = [body, *(value for value in body.values() if isinstance(value, dict))]
        place = draw(st.sampled_from(places))
        name = draw(st.sampled_from([*place, "status", "extra"]))
        if draw(st.booleans()):
            place[name] = draw(json_values)
        else:
            place.pop(name, None)
    return body


@given(body=raw, content_type=types, encoding=encodings, extra=headers)
def test_any_bytes_are_received(
    background: Background, body: bytes, content_type: str, encoding: str, extra: dict[str, str]
) -> None:
    """Any body with any headers is 200 for a good token, and is kept byte for byte."""
    if not background.running.world.jobs:
        background.submit("evolink")
    sent = extra | {"content-type": content_type, "content-encoding": encoding}
    answer = background.post(body, **sent)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    (listed,) = background.get("/v1/callbacks?limit=1")["data"]
    callback = background.get(f"/v1/callbacks/{listed['id']}")
    assert base64.b64decode(callback["body"]) == body


@given(data=st.data())
def test_any_json_is_received(background: Background, data: st.DataObject) -> None:
    """Callbacks that are nearly right are 200; what is shown of the job fits together, and no event comes twice."""
    provider = data.draw(st.sampled_from(PROVIDERS))
    job = background.submit(provider)
    for body in data.draw(st.lists(mutated(provider) | bodies, min_size=1, max_size=3)):
        answer = background.post(json.dumps(body).encode())
        assert (answer.status_code, answer.json()) == (200, {"received": True})
    heard = background.get(f"/v1/jobs/{job['id']}")
    events = [event["type"] for event in background.get(f"/v1/events?job={job['id']}")["data"]]
    assert events[0] == f"job.{heard['status']}"
    assert len(events) == len(set(events))
    assert heard["finished_by"] == ("callback" if heard["status"] not in ("submitted", "running") else None)
    assert bool(heard["outputs"]) == (heard["status"] == "succeeded")
    assert background.get(f"/v1/jobs/{job['id']}/timeline")["data"]


@given(
    method=st.sampled_from([b"POST", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH"]),
    path=st.binary(max_size=60)
    | st.binary(max_size=30).map(quote_from_bytes).map(str.encode)
    | visible.map(str.encode),
    provider=st.sampled_from([b"", b"evolink/", b"/evolink//"]),
    extra=headers,
)
def test_any_path_is_answered(
    background: Background, method: bytes, path: bytes, provider: bytes, extra: dict[str, str]
) -> None:
    """Under /callbacks/ no path, method or header leads to a redirect or to an error of relay's own."""
    status_line = background.status_line(method, b"/callbacks/" + provider + path, extra)
    good = (b"200", b"400") if method in (b"GET", b"HEAD", b"OPTIONS") else (b"400", b"404", b"405")
    assert status_line.split(b" ")[1] in good
