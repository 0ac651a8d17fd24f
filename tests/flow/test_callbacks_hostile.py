"""What strangers and broken providers put into a callback: a good token is always answered, a bad one opens nothing."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.security.callback_tokens import CallbackTokens
from tests.support.calling_back import DONE, kept, post, state
from tests.support.running import SECRET_KEY, START_MS, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

LATER_MS = START_MS + 1_000_000
NO_JOB = "job_" + "0" * 26
OPEN = DONE[:-1]

UNREADABLE = {
    "nothing": b"",
    "blanks": b" \r\n ",
    "text": b"completed",
    "a form": b"status=completed&results=https%3A%2F%2Fcdn.example.com%2Fa.mp4",
    "half of it": OPEN,
    "an array": b"[" + OPEN + b"}]",
    "no status": b'{"hello":"world"}',
    "UTF-16": (DONE).decode().encode("utf-16"),
    "Latin-1": OPEN + b',"note":"\xe9"}',
    "a NUL": OPEN + b',"note":"\x00"}',
    "half of a surrogate pair": OPEN + b',"note":"\xed\xa0\x80"}',
    "NaN": OPEN + b',"progress":NaN}',
    "infinity": OPEN + b',"progress":1e999}',
    "5000 digits": OPEN + b',"n":' + b"9" * 5000 + b"}",
    "100,000 levels": b"[" * 100_000,
    "100,000 levels in it": OPEN + b',"a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "two states": b'{"status":"failed",' + DONE[1:],
    "two results": OPEN + b',"Results":[],"results":[]}',
}
READABLE = {
    "a BOM": b"\xef\xbb\xbf" + DONE,
    "half of an escaped surrogate pair": OPEN + b',"note":"\\ud800"}',
    "an escaped NUL": OPEN + b',"note":"\\u0000"}',
    "another key twice": OPEN + b',"note":1,"note":2}',
    "blanks around it": b"\r\n " + OPEN + b"} \n",
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, confirm=False) as started:
        yield started


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_an_unreadable_body_is_kept_byte_for_byte(running: Running, kind: str) -> None:
    """Whatever the body is, a good token gets 200; it is kept as `unreadable` with a reason, and the job stays."""
    job = await running.submit()
    answer = await post(running, UNREADABLE[kind])
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    (callback,) = await kept(running)
    assert (callback["verdict"], callback["job"], bool(callback["reason"])) == ("unreadable", job["id"], True)
    assert (base64.b64decode(callback["body"]), callback["size"]) == (UNREADABLE[kind], len(UNREADABLE[kind]))
    assert await state(running, job) == "submitted"


@pytest.mark.parametrize("kind", READABLE)
async def test_an_odd_body_with_one_meaning_is_read(running: Running, kind: str) -> None:
    """What can be read in one way only is read, whatever the content type says, and kept byte for byte."""
    job = await running.submit()
    kind_of_content = {"content-type": "application/x-www-form-urlencoded"}
    assert (await post(running, READABLE[kind], **kind_of_content)).status_code == 200
    (callback,) = await kept(running)
    assert (callback["verdict"], base64.b64decode(callback["body"])) == ("recorded", READABLE[kind])
    assert await state(running, job) == "succeeded"


async def test_a_compressed_body_is_not_inflated(running: Running) -> None:
    """A gzip body is `unreadable`, kept as it came, with the header that says what it is."""
    job, body = await running.submit(), gzip.compress(DONE)
    assert (await post(running, body, **{"content-encoding": "gzip"})).status_code == 200
    (callback,) = await kept(running)
    assert (callback["verdict"], base64.b64decode(callback["body"])) == ("unreadable", body)
    assert ["content-encoding", "gzip"] in callback["headers"]
    assert await state(running, job) == "submitted"


@pytest.mark.parametrize(
    ("environment", "reason"), [("default", "there is no such job here"), ("staging", "another environment")]
)
@pytest.mark.parametrize("body", [DONE, b"unreadable"])
async def test_a_job_that_is_not_here_leaves_an_orphan(
    running: Running, environment: str, reason: str, body: bytes
) -> None:
    """A good token without its job, or of another environment, is 200, kept as `orphaned` and says why."""
    job = await running.submit()
    unknown = NO_JOB if environment == "default" else job["id"]
    token = CallbackTokens([SECRET_KEY], environment).make("evolink", unknown, LATER_MS)
    assert (await post(running, body, f"/callbacks/evolink/{token}")).status_code == 200
    (callback,) = (await running.get("/v1/callbacks?verdict=orphaned"))["data"]
    assert (callback["job"], reason in callback["reason"]) == (unknown, True)
    shown = await running.get(f"/v1/callbacks/{callback['id']}")
    assert base64.b64decode(shown["body"]) == body
    assert await state(running, job) == "submitted"


async def test_a_provider_that_relay_has_no_more_is_kept(running: Running) -> None:
    """A good token of a provider that this version does not know is 200, and its callback is evidence."""
    job = await running.submit()
    token = CallbackTokens([SECRET_KEY], "default").make("forgotten", job["id"], LATER_MS)
    assert (await post(running, DONE, f"/callbacks/forgotten/{token}")).status_code == 200
    assert [callback["verdict"] for callback in await kept(running)] == ["unreadable"]


def refused(url: str) -> dict[str, str]:
    """Return callback URLs that are not quite a good one."""
    start, _, token = url.rpartition("/")
    flipped = "A" if token[40] != "A" else "B"
    expired = CallbackTokens([SECRET_KEY], "default").make("evolink", NO_JOB, START_MS)
    other_environment = CallbackTokens(["another-key-0123"], "default").make("evolink", NO_JOB, LATER_MS)
    return {
        "wrong": f"{start}/{token[:40]}{flipped}{token[41:]}",
        "truncated": url[:-1],
        "longer": f"{url}A",
        "of another key": f"{start}/{other_environment}",
        "expired": f"{start}/{expired}",
        "another provider's": url.replace("/evolink/", "/kinovi/"),
        "odd characters": f"{start}/%E2%98%83%00%0A%FF'\"<script>",
        "very long": f"{start}/{'A' * 5000}",
        "missing": start,
        "empty": f"{start}/",
        "one level deeper": f"{url}/more",
        "nothing": "/callbacks/",
        "no token, all parts": "/callbacks/%2e%2e/%2e%2e",
    }


async def test_a_bad_token_opens_nothing(running: Running) -> None:
    """Every kind of bad token is the same 404, without a redirect; nothing is stored and nothing moves."""
    job = await running.submit()
    urls = refused(running.callback_url())
    answers = {kind: await post(running, DONE, url) for kind, url in urls.items()}
    assert {kind: answer.status_code for kind, answer in answers.items()} == dict.fromkeys(urls, 404)
    assert len({(answer.content, *sorted(answer.headers)) for answer in answers.values()}) == 1
    assert await kept(running) == []
    assert await state(running, job) == "submitted"


async def test_a_token_dies_with_its_grace(tmp_path: Path) -> None:
    """The URL works until the job's deadline and the grace have passed, and is 404 then."""
    clock = HeldClock()
    async with relay(tmp_path, confirm=False, clock=clock, RELAY_CALLBACK_GRACE_S="60") as running:
        job = await running.submit(deadline_s=600)
        await clock.advance(659)
        assert (await post(running, DONE)).status_code == 200
        await clock.advance(1)
        assert (await post(running, DONE)).status_code == 404
        assert {callback["job"] for callback in await kept(running)} == {job["id"]}
        assert len(await kept(running)) == 1


async def test_the_token_is_told_to_nobody(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """No answer, no stored callback and no line of the log holds the token, whatever happened to the request."""
    job = await running.submit()
    url = running.callback_url()
    token = url.rpartition("/")[2]
    answers = [await post(running, body) for body in (DONE, b"", b" " * (2**20 + 1))]
    answers += [await post(running, b"{}", changed) for changed in (f"{url}A", url.replace("evolink", "kinovi"))]
    shown = [str(await kept(running)), str(await running.get(f"/v1/jobs/{job['id']}/timeline"))]
    said = "".join([*(f"{answer.headers}{answer.text}" for answer in answers), *shown, *capsys.readouterr()])
    assert job["id"] in said
    assert token not in said


async def test_a_job_keeps_so_many_bytes_of_callbacks(tmp_path: Path) -> None:
    """Keep callbacks up to RELAY_CALLBACK_BYTES_PER_JOB_MAX; answer and apply the others, and ask the provider."""
    async with relay(
        tmp_path,
        confirm=False,
        RELAY_CALLBACK_BYTES_PER_JOB_MAX="5000",
        RELAY_CALLBACK_BODY_MAX_BYTES="2000",
    ) as running:
        job = await running.submit()
        path, listed = f"/v1/jobs/{job['id']}", f"/v1/callbacks?job={job['id']}"
        kept_before, here = 0, []
        for progress in range(1, 8):
            body = b'{"status":"processing","progress":%d,"pad":"%b"}' % (progress, b"x" * 1400)
            assert (await post(running, body)).status_code == 200
            assert (await running.get(path))["progress"] == progress
            here = (await running.get(listed))["data"]
            if len(here) == kept_before:
                break
            timeline = (await running.get(f"{path}/timeline"))["data"]
            assert not [line for line in timeline if line["kind"] == "check"]
            kept_before = len(here)
        assert 2 <= kept_before <= 3
        held = sum(one["size"] + len(json.dumps(one["headers"], separators=(",", ":"))) for one in here)
        assert 5000 - 2000 < held <= 5000
        await running.until(f"{path}/timeline", lambda shown: any(line["kind"] == "check" for line in shown["data"]))
        both = await asyncio.gather(*(post(running, DONE + b" " * 1900) for _ in range(2)))
        assert [one.status_code for one in both] == [200, 200]
        shown = await running.until(path, lambda one: one["status"] == "succeeded")
        assert shown["finished_by"] == "callback"
        assert len((await running.get(listed))["data"]) == kept_before


async def test_an_orphan_keeps_so_many_bytes_too(tmp_path: Path) -> None:
    """Keep no more bytes about a job that is not here than about one that is."""
    async with relay(
        tmp_path,
        confirm=False,
        RELAY_CALLBACK_BYTES_PER_JOB_MAX="5000",
        RELAY_CALLBACK_BODY_MAX_BYTES="2000",
    ) as running:
        url = f"/callbacks/evolink/{CallbackTokens([SECRET_KEY], 'default').make('evolink', NO_JOB, LATER_MS)}"
        for _ in range(6):
            assert (await post(running, b"x" * 1500, url)).status_code == 200
        assert 1 <= len((await running.get("/v1/callbacks?verdict=orphaned"))["data"]) <= 3
