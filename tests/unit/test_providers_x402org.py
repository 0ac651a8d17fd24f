"""x402.org's contract, from its published page: the video in the answer, or where to ask for it, nowhere else."""

import json
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput, JobUnknown, Unreadable
from relay.model.job import ErrorClass, Input, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, Refused, Unclear
from relay.providers.native import native_from_input
from relay.providers.x402org import MODEL, X402Org
from tests.support.provider_cases import JOB_ID, NOW_MS, answer, asked, json_values, recorded, scalars
from tests.support.rows import rows

X402 = X402Org()
IMAGE = "https://example.com/a.png"
VIDEO = "https://cdn.example.com/out.mp4"

_SAID = "job_id poll_url id video_url venice_request_id fal_request_id status state source duration error result data"
_NAMES = _SAID.split()
_WORDS = st.sampled_from([VIDEO, "PROCESSING", "completed", "failed", "5s", "venice", "/v1/jobs/1", "req_1"])
bodies = st.dictionaries(
    st.sampled_from(_NAMES),
    st.recursive(
        scalars | _WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner)
    ),
    max_size=6,
)


def complaints(**fields: object) -> dict[str, str]:
    """Return the errors of a body with these fields, by path; a None takes a field away."""
    given = {"image_url": IMAGE, **fields}
    return {e.path: e.message for e in X402.check({k: v for k, v in given.items() if v is not None})}


def polled(poll_url: object) -> str | None:
    """Where a job with this poll URL would be asked about."""
    said = X402.read_submission(answer(200, {"job_id": "job_1", "poll_url": poll_url}))
    assert isinstance(said, Accepted)
    return said.report.status_path


def test_it_is_paid_and_asked_every_ten_seconds() -> None:
    """It has no callback field, and nobody says how long its results live."""
    assert X402.callback_field == ""
    assert (X402.limits.paid, X402.limits.poll_s, X402.limits.result_lifetime_s) == (True, 10, None)
    assert (X402.limits.images_max, X402.limits.prompt_required, X402.limits.expected_s) == (1, False, 60)


@rows(
    ("fields", "path", "word"),
    [
        ({"image_url": None}, "image_url", "is required"),
        ({"image_url": "https://192.168.0.1/a"}, "image_url", "public"),
        ({"image_url": [IMAGE]}, "image_url", "string"),
        ({"duration": 5}, "duration", '"5s"'),
        ({"duration": "5"}, "duration", '"5s"'),
        ({"duration": "7s"}, "duration", '"10s"'),
        ({"resolution": "1080p"}, "resolution", '"720p"'),
        ({"aspect_ratio": "21:9"}, "aspect_ratio", '"4:3"'),
        ({"model": ""}, "model", "1 to 200"),
        ({"prompt": 5}, "prompt", "string"),
        ({"seed": 5}, "seed", "is not a field here"),
    ],
)
def test_each_limit_is_named(fields: dict[str, object], path: str, word: str) -> None:
    """A value outside a published limit is refused with the limit."""
    found = complaints(**fields)
    assert list(found) == [path]
    assert word in found[path]


def test_a_full_input_becomes_its_words() -> None:
    """Seconds carry their unit."""
    full = Input(images=[IMAGE], prompt="p", duration_s=10, resolution="480p", aspect_ratio="4:3", model=MODEL)
    assert native_from_input(X402, full) == {
        "image_url": IMAGE,
        "prompt": "p",
        "duration": "10s",
        "resolution": "480p",
        "aspect_ratio": "4:3",
        "model": MODEL,
    }


@rows(
    ("fields", "path"),
    [
        ({"images": [IMAGE, IMAGE]}, "input.images"),
        ({"images": []}, "input.images"),
        ({"duration_s": 6}, "input.duration_s"),
        ({"resolution": "1080p"}, "input.resolution"),
        ({"audio": True}, "input.audio"),
        ({"seed": 1}, "input.seed"),
        ({"mode": "keyframe"}, "input.mode"),
    ],
)
def test_what_has_no_place_is_refused_in_the_clients_words(fields: dict[str, Any], path: str) -> None:
    """Each error names a unified field; nothing is dropped in silence."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(X402, msgspec.structs.replace(Input(images=[IMAGE]), **fields))
    assert [error.path for error in raised.value.errors] == [path]


def test_requests_go_where_the_page_says() -> None:
    """No key goes along, and no callback URL; a job without a path of its own is asked about by a guess."""
    body: dict[str, object] = {"image_url": IMAGE}
    sent = X402.submission(body, "https://r.example/callbacks/x", JOB_ID)
    assert sent == ProviderRequest(method="POST", path="/v1/image-to-video", body=body, bearer=False)
    assert X402.status_check(asked("a/b")) == ProviderRequest(method="GET", path="/v1/jobs/a%2Fb", bearer=False)
    named = X402.status_check(asked("a", status_path="/poll?job=a"))
    assert named == ProviderRequest(method="GET", path="/poll?job=a", bearer=False)


def test_the_published_answer_is_the_result() -> None:
    """A synchronous answer ends the job at once."""
    said = X402.read_submission(answer(200, recorded("x402org", "answers", "sync")))
    assert isinstance(said, Accepted)
    assert said.report.outputs == (Output(kind=OutputKind.VIDEO, url=VIDEO, duration_s=5.0),)
    assert (said.report.state, said.report.provider_job_id) == (JobState.SUCCEEDED, "req_1")
    assert (said.report.error, said.report.status_path) == (None, None)


@rows(
    ("body", "provider_job_id"),
    [
        ({"video_url": VIDEO, "fal_request_id": "f1", "source": "cache"}, "f1"),
        ({"video_url": VIDEO, "job_id": "j1", "venice_request_id": "v1"}, "j1"),
        ({"video_url": VIDEO}, None),
        ({"result": {"video_url": VIDEO}, "status": "PROCESSING"}, None),
    ],
)
def test_a_video_is_a_success_whatever_else_is_said(body: dict[str, object], provider_job_id: str | None) -> None:
    """No id is needed where the result is there."""
    said = X402.read_submission(answer(200, body))
    assert isinstance(said, Accepted)
    assert (said.report.state, said.report.provider_job_id) == (JobState.SUCCEEDED, provider_job_id)
    assert [output.url for output in said.report.outputs] == [VIDEO]


@rows(
    ("said", "note"),
    [
        ({"source": "venice", "venice_request_id": "req_1"}, "source venice, venice_request_id req_1"),
        ({"source": "cache", "fal_request_id": 7, "job_id": "j1"}, "source cache, fal_request_id 7"),
        ({"source": "x" * 300}, f"source {'x' * 100}"),
        ({"source": ["venice"], "venice_request_id": None}, None),
        ({}, None),
    ],
)
def test_where_a_video_came_from_is_noted(said: dict[str, object], note: str | None) -> None:
    """The origin and the upstream's id, as far as they are told, from the submission's answer and from a check's."""
    body = {"video_url": VIDEO} | said
    accepted = X402.read_submission(answer(200, body))
    assert isinstance(accepted, Accepted)
    assert accepted.report.note == note
    assert X402.read_status(answer(200, body), NOW_MS).note == note


@rows("status_code", [200, 202])
def test_a_job_that_takes_longer_says_where_to_ask(status_code: int) -> None:
    """The path of the poll URL is kept, without its host."""
    said = X402.read_submission(answer(status_code, recorded("x402org", "answers", "async")))
    path = "/v1/jobs/job_1"
    assert said == Accepted(
        Report(state=JobState.SUBMITTED, provider_status="", provider_job_id="job_1", status_path=path)
    )


@rows(
    ("poll_url", "path"),
    [
        ("https://x402.org/v1/jobs/job_1", "/v1/jobs/job_1"),
        ("https://X402.ORG/poll?id=1&t=a%2Fb", "/poll?id=1&t=a%2Fb"),
        ("https://x402.agentutility.ai/jobs/1", "/jobs/1"),
        ("HTTPS://x402.org/a", "/a"),
        ("/v1/jobs/job_1?t=1", "/v1/jobs/job_1?t=1"),
    ],
)
def test_a_poll_url_of_its_own_is_followed(poll_url: str, path: str) -> None:
    """The provider's two hosts and a bare path give a path behind the configured origin."""
    assert polled(poll_url) == path


@rows(
    "poll_url",
    [
        *(None, 5, [], {}, "", "job_1", "?a=1", "#", "https://x402.org", "https://x402.org?a=1"),
        *("https://evil.example/v1/jobs/1", "https://x402.org.evil.example/a", "https://evilx402.org/a"),
        *("https://user@x402.org/a", "https://x402.org:pass@evil.example/a", "https://x402.org@evil.example/a"),
        *("https://x402.org:8443/a", "https://x402.org:443/a", "https://x402.org./a", "https://[::1]/a", "https://[/a"),
        *("//evil.example/a", "//x402.org/a", "https:////evil.example/a", "https:/x402.org/a", "https:x402.org/a"),
        *("https://x402.org//evil.example/a", "/\\evil.example/a", "\\\\evil.example\\a", "https:\\\\x402.org\\a"),
        *("https://x402.org\\@evil.example/a", "https://evil.example\\x402.org/a", "https://x402.org/a\\..\\b"),
        *(
            "javascript:alert(1)",
            "javascript://x402.org/%0aalert(1)",
            "data:,x",
            "file:///etc/passwd",
            "ftp://x402.org/a",
        ),
        *("http://x402.org/a", "http://127.0.0.1/a", "https://169.254.169.254/latest", "https://127.0.0.1:80/a"),
        *("https://x402%2eorg/a", "https://x402.org%2f@evil.example/a", "https://x402.org%00.evil.example/a"),
        *(
            "https://x402.org%40evil.example/a",
            "https://%78402.org/a",
            "https://x402。org/a",
            "https://\uff58402.org/a",
        ),
        *("https://x402.org/a\r\nHost: evil.example", "https://x402.org\t/a", "\thttps://x402.org/a", " /a", "/a b"),
        *("https://x402.org/a#/b", "https://x402.org/\x00", "https://x402.org/\ud800", "/" + "a" * 600),
    ],
)
def test_any_other_poll_url_is_never_followed(poll_url: object) -> None:
    """Another host, port or scheme, a user, a trick of slashes, percents or letters: the job is taken, the path not."""
    raw = json.dumps({"job_id": "job_1", "poll_url": poll_url}).encode()
    said = X402.read_submission(answer(200, raw))
    if isinstance(said, Accepted):
        assert said.report.status_path is None
    else:
        assert isinstance(said, Unclear)  # half a surrogate pair is no JSON for relay
        assert "\\ud800" in raw.decode()


@given(st.text(max_size=60) | st.text("x402.org/\\@:#?%2e htps\t", max_size=40).map(lambda text: f"https://{text}"))
def test_a_path_that_is_kept_stays_at_the_provider(poll_url: str) -> None:
    """Whatever the URL, what is kept is one path behind any origin, and leads to no other host."""
    path = polled(poll_url)
    if path is not None:
        whole = urlsplit(f"https://origin.example{path}")
        assert (whole.scheme, whole.netloc) == ("https", "origin.example")
        assert path.startswith("/")
        assert not path.startswith("//")
        assert path.isascii()
        assert path.isprintable()


@rows(
    ("body", "state"),
    [
        ({"job_id": "j", "status": "PROCESSING", "average_execution_time": 145000}, JobState.RUNNING),
        ({"job_id": "j", "status": "queued"}, JobState.SUBMITTED),
        ({"job_id": "j", "status": "COMPLETED", "video_url": VIDEO}, JobState.SUCCEEDED),
        ({"job_id": "j", "video_url": VIDEO}, JobState.SUCCEEDED),
        ({"job_id": "j", "status": "failed", "error": "no"}, JobState.FAILED),
        ({"job_id": "j", "error": {"message": "no"}}, JobState.FAILED),
        ({"job_id": "j", "status": "thinking"}, None),
    ],
)
def test_a_poll_tells_the_state(body: dict[str, object], state: JobState | None) -> None:
    """A video is the end, an error is one too, and the words are everybody's."""
    report = X402.read_status(answer(200, body), NOW_MS)
    assert (report.state, report.provider_job_id) == (state, "j")
    assert bool(report.outputs) == (state is JobState.SUCCEEDED)
    assert (report.error is not None) == (state is JobState.FAILED)
    assert all(output.expires_at is None for output in report.outputs)


@rows("url", ["//127.0.0.1/a.mp4", "the render failed", "", 5, None])
def test_a_video_that_nobody_can_fetch_is_none(url: object) -> None:
    """Only a URL is a result."""
    report = X402.read_status(answer(200, {"status": "PROCESSING", "video_url": url}), NOW_MS)
    assert (report.state, report.outputs) == (JobState.RUNNING, ())


def test_a_status_is_never_paid_for() -> None:
    """A 402 says no status, whatever it asks for; an unknown job is one that may be lost."""
    with pytest.raises(Unreadable, match="sign-in or a payment") as raised:
        X402.read_status(answer(402, {"x402Version": 1, "accepts": [{"scheme": "exact"}]}), NOW_MS)
    assert not isinstance(raised.value, JobUnknown)
    with pytest.raises(JobUnknown):
        X402.read_status(answer(404, {"error": "not_found"}), NOW_MS)


def test_nobody_calls_back() -> None:
    """Even its own answer in a callback is not read."""
    with pytest.raises(Unreadable, match="no callbacks"):
        X402.read_callback(recorded("x402org", "answers", "sync"), NOW_MS)
    assert X402.cancellation(asked("job_1")) is None


@rows(
    ("status_code", "body", "class_"),
    [
        (402, {"x402Version": 1, "error": "X-PAYMENT header is required"}, ErrorClass.INSUFFICIENT_FUNDS),
        (400, {"error": "invalid image_url"}, ErrorClass.INVALID_INPUT),
        (422, {"error": "Content violates the policy"}, ErrorClass.CONTENT_REJECTED),
        (429, {"error": "slow down"}, ErrorClass.RATE_LIMITED),
    ],
)
def test_a_refusal_has_its_class(status_code: int, body: object, class_: ErrorClass) -> None:
    """A 4xx is a no; what became of the money is for whoever paid to say."""
    said = X402.read_submission(answer(status_code, body))
    assert isinstance(said, Refused)
    assert said.error.class_ is class_


@given(bodies | json_values)
def test_any_answer_is_read_or_unreadable(body: Any) -> None:
    """No body makes a reading raise anything but Unreadable, and what is read can be stored."""
    raw = json.dumps(body).encode()
    assert isinstance(X402.read_submission(answer(200, raw)), Accepted | Unclear)
    try:
        report = X402.read_status(answer(200, raw), NOW_MS)
    except Unreadable:
        return
    assert msgspec.json.encode(report)
    assert bool(report.outputs) <= (report.state is JobState.SUCCEEDED)
