"""Result URLs: told as the provider gave them, since the video was paid for; what is no URL is kept in the error."""

import time
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.model.job import JobState, Output, OutputKind, Report
from relay.model.result_urls import (
    TEXT_MAX_CHARS,
    URL_MAX_CHARS,
    first,
    is_public,
    is_url,
    judged,
    opener,
    trimmed,
    warning,
)
from relay.sandbox.serving import serve
from tests.support.calling_back import MP4, post
from tests.support.rows import rows
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

VIDEO = "https://media.example.com/clip.mp4"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay whose operator opened 127.0.0.0/8, where its provider's gateway is too."""
    async with relay(tmp_path, confirm=False) as started:
        yield started


def done(*urls: str) -> bytes:
    """EvoLink's callback with these results."""
    return msgspec.json.encode({"status": "completed", "results": list(urls)})


async def ended(running: Running, *urls: str) -> dict[str, Any]:
    """Return a job that its callback ended with these results."""
    job = await running.submit()
    await post(running, done(*urls))
    return await running.get(f"/v1/jobs/{job['id']}")


ODD = [
    VIDEO + "?X-Amz-Security-Token=" + "a" * 4000,
    "https://media.example.com/my clip.mp4",
    "https://media.example.com/a\u00a0b\u200b.mp4",
    "https://médias.example.com/视频.mp4#t=0,5",
    "https://media.example.com/a|b[1].mp4",
    "HTTPS://media.example.com./c.mp4",
    "http://media.example.com/c.mp4",
    "http://127.0.0.1:9000/bucket/c.mp4",
]


@pytest.mark.parametrize("url", ODD)
@pytest.mark.parametrize("edges", ["{}", " {}\n", "\u200b{}\u00a0\t"])
async def test_a_result_is_told_as_it_was_given(running: Running, url: str, edges: str) -> None:
    """Succeed with the provider's URL, trimmed, however odd the rest of it is."""
    job = await ended(running, edges.format(url))
    assert (job["status"], [one["url"] for one in job["outputs"]]) == ("succeeded", [url])


async def test_a_result_is_told_whole_or_not_at_all(running: Running) -> None:
    """Tell a URL of the longest form as it is, and nothing of one that is longer, whose start would be a URL too."""
    longest = VIDEO.ljust(URL_MAX_CHARS, "a")
    job = await ended(running, longest + "a", longest)
    assert (job["status"], [one["url"] for one in job["outputs"]]) == ("succeeded", [longest])


@pytest.mark.parametrize("url", [one for one in ODD if warning(one)])
async def test_an_odd_result_has_a_warning(running: Running, url: str) -> None:
    """Say in the timeline why a client may be unable to fetch a result."""
    job = await ended(running, url)
    entries = (await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"]
    (end,) = [entry for entry in entries if entry["kind"] == "state" and entry["decision"] == "succeeded"]
    assert "result 0: it" in end["reason"]


@pytest.mark.parametrize(
    "text",
    [
        "//media.example.com/c.mp4",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "the render failed",
        "https://",
        VIDEO.ljust(URL_MAX_CHARS + 1, "a"),
    ],
    ids=lambda text: text[:24],
)
async def test_text_that_is_no_url_is_kept_in_the_error(tmp_path: Path, text: str) -> None:
    """Fail with no_output after two checks, and tell what stood in the place of the result."""

    async def made(_: Request) -> Response:
        return JSONResponse({"id": "task-1", "status": "pending"})

    async def finished(_: Request) -> Response:
        return JSONResponse({"id": "task-1", "status": "completed", "results": [text]})

    routes = [Route("/v1/videos/generations", made, methods=["POST"]), Route("/v1/tasks/task-1", finished)]
    clock = HeldClock()
    async with serve(Starlette(routes=routes)) as origin:
        given_: dict[str, Any] = {"RELAY_EVOLINK_BASE_URL": origin}
        async with relay(tmp_path, clock=clock, **given_) as running:
            job = await running.submit()
            for _ in range(2):
                await clock.advance(600)
                await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
            shown = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "failed")
    assert (shown["error"]["code"], shown["error"]["provider_message"]) == ("no_output", text[:TEXT_MAX_CHARS])


def report(*urls: str) -> Report:
    """Return a success with these videos."""
    outputs = tuple(Output(kind=OutputKind.VIDEO, url=url) for url in urls)
    return Report(state=JobState.SUCCEEDED, provider_status="completed", outputs=outputs)


@rows(
    ("origin", "networks", "url", "told"),
    [
        ("https://api.evolink.ai", (), "http://10.0.0.1/c.mp4", False),
        ("https://api.evolink.ai", ("10.0.0.0/24",), "http://10.0.0.255/c.mp4", True),
        ("https://api.evolink.ai", ("10.0.0.0/24",), "http://10.0.1.0/c.mp4", False),
        ("https://api.evolink.ai", ("fd00::/8",), "http://[fd00::1]/c.mp4", True),
        ("http://10.0.0.1:8080", (), "http://10.0.0.1/c.mp4", True),
        ("http://10.0.0.1:8080", (), "http://10.0.0.2/c.mp4", False),
        ("http://gateway.internal", (), "http://minio.internal/c.mp4", True),
        ("https://api.evolink.ai", ("10.0.0.0/24",), "http://minio.internal/c.mp4", False),
        ("https://api.evolink.ai", (), "https://2130706433/c.mp4", False),
    ],
)
def test_a_private_host_needs_the_operators_word(origin: str, networks: tuple[str, ...], url: str, told: bool) -> None:
    """Tell a result in a private network where the operator opened that, or the provider itself is there."""
    found = judged(report(url, MP4), opener(origin, tuple(map(ip_network, networks))))
    assert [one.url for one in found.outputs] == ([url, MP4] if told else [MP4])
    assert found.unusable == (() if told else (url,))


def test_a_picture_alone_is_no_result() -> None:
    """Drop a thumbnail whose video is refused: it must not make the job succeed."""
    thumbnail = Output(kind=OutputKind.THUMBNAIL, url="https://media.example.com/t.png")
    given_ = msgspec.structs.replace(report("http://10.0.0.1/c.mp4"))
    both = msgspec.structs.replace(given_, outputs=(*given_.outputs, thumbnail))
    assert judged(both, lambda _: False).outputs == ()


def test_a_url_has_a_longest_form() -> None:
    """Take a URL of 16,384 characters, and none that is longer."""
    url = VIDEO.ljust(URL_MAX_CHARS, "a")
    assert (is_url(url), is_url(url + "a")) == (True, False)


def test_the_likeliest_place_is_taken() -> None:
    """Prefer a public URL to a private one, and that to text."""
    places = report("not yet", "https://10.0.0.1/a", VIDEO).outputs
    assert [one.url for one in first(places)] == [VIDEO]
    assert [one.url for one in first(places[:2])] == ["https://10.0.0.1/a"]
    assert [one.url for one in first(places[:1])] == ["not yet"]


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    """Judge any text without an error, and trim nothing from its middle."""
    assert trimmed(text) in text
    assert trimmed(trimmed(text)) == trimmed(text)
    if not is_url(text):
        return
    assert text[:4].lower() == "http"
    warning(text)
    is_public(text)


@rows("blank", [" ", "\u3000", "\u200b", "\x1f"])
def test_trimming_takes_time_by_length_alone(blank: str) -> None:
    """Trim a megabyte of blanks within a text in less than a second: a search for the end took the square of it."""
    text = f"https://a.example/{blank * 1_000_000}a"
    began = time.process_time()
    assert trimmed(f"{blank}{text}{blank}") == text
    assert time.process_time() - began < 1


@given(st.text(st.sampled_from(" \n\x00\x1f\x20\x85\xa0\xad\u2003\u2028\u200b\u3000\ufeffax/")))
def test_what_is_trimmed_is_blank_or_invisible(text: str) -> None:
    """Take every space, control and invisible character from both ends, and nothing else."""
    kept = trimmed(text)
    start = text.find(kept)
    taken = text[:start] + text[start + len(kept) :] if kept else text
    assert all(one <= " " or one.isspace() or one in "\xad\u200b\ufeff" for one in taken)
    assert not any(one <= " " or one.isspace() or one in "\xad\u200b\ufeff" for one in kept[:1] + kept[-1:])
