"""What every adapter keeps, whatever its contract: a new entry of PROVIDERS is tested here without a word."""

import copy
import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import ERRORS_MAX, InvalidInput, Unreadable
from relay.model.job import ErrorClass, Input, JobState, Reference, Report
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.providers.answers import CODES, STATUSES, number
from relay.providers.base import (
    Accepted,
    Provider,
    Refused,
    Unclear,
    at,
    callbacks_expected,
    check_url,
    example_job,
    find_callback_field,
    text_or_none,
    with_callback,
    without_model,
)
from relay.providers.native import check_native, native_from_input
from tests.support.provider_cases import JOB_ID, NOW_MS, answer, bodies, json_values, recordings
from tests.support.rows import rows

CALLBACK_URL = "https://relay.example.com/callbacks/x/token"
FOLLOWING = ("kling", "minimax")
"""The providers whose videos follow their first frame: they refuse an aspect ratio beside one."""
MINIMAL = Input(images=["https://example.com/a.png"], prompt="slow push in")

providers = rows("provider", {**PROVIDERS, **DEV_PROVIDERS}.values())
each = rows("provider", [*PROVIDERS.values(), *DEV_PROVIDERS.values()])
"""For what hypothesis makes: every adapter is given each value, because making one takes longer than checking it."""
many = settings(max_examples=2 * settings().max_examples)
published = rows("provider", PROVIDERS.values())


def applied(provider: Provider, body: Any) -> Report:
    """Return what a body says of a job: as a callback, or where a provider sends none, as its status answer."""
    if callbacks_expected(provider):
        return provider.read_callback(body, NOW_MS)
    return provider.read_status(answer(200, json.dumps(body).encode()), NOW_MS)


def without_callback(body: Any) -> Any:
    """Return a recorded request as a client would send it to relay."""
    while path := find_callback_field(body):
        *holders, name = path.split(".")
        (at(body, *holders) if holders else body).pop(name)
    return body


def test_each_is_listed_under_its_name() -> None:
    """The key in the list is the adapter's own name, and none is listed twice."""
    assert all(name == provider.name for name, provider in {**PROVIDERS, **DEV_PROVIDERS}.items())
    assert not set(PROVIDERS) & set(DEV_PROVIDERS)


@published
def test_it_has_recordings(provider: Provider) -> None:
    """Its requests, callbacks and answers are recorded."""
    for kind in ("requests", "callbacks", "answers"):
        if kind != "callbacks" or callbacks_expected(provider):
            assert recordings(provider.name, kind), kind


@published
def test_every_recorded_request_is_good(provider: Provider) -> None:
    """What the provider publishes as an example passes the adapter's check."""
    for path in recordings(provider.name, "requests"):
        body = without_callback(msgspec.json.decode(path.read_bytes()))
        assert provider.check(body) == [], path.name
        assert find_callback_field(body) is None


@published
def test_every_recorded_callback_is_read(provider: Provider) -> None:
    """Every published callback gives a known state and an id; success gives an output, or a request for it."""
    for path in recordings(provider.name, "callbacks"):
        report = applied(provider, msgspec.json.decode(path.read_bytes()))
        assert report.state is not None, path.name
        assert report.provider_job_id, path.name
        succeeded = report.state is JobState.SUCCEEDED
        fetched = succeeded and provider.result_request(example_job(provider, "1"), report) is not None
        assert bool(report.outputs) or fetched if succeeded else not report.outputs, path.name
        if provider.limits.result_lifetime_s is not None:
            assert all(output.expires_at for output in report.outputs), path.name


@published
def test_a_status_answer_says_what_the_callback_says(provider: Provider) -> None:
    """The same body is read the same way, whichever way it came."""
    for path in recordings(provider.name, "callbacks"):
        body = msgspec.json.decode(path.read_bytes())
        assert provider.read_status(answer(200, body), NOW_MS) == applied(provider, body)


@providers
@rows("status_code", [199, 301, 400, 401, 402, 403, 404, 429, 500, 502])
def test_any_other_status_answer_has_no_status(provider: Provider, status_code: int) -> None:
    """An answer that is no 2xx says nothing about the job, whatever is in its body."""
    for body in (b"", b"<html>", {"status": "failed", "id": "x", "taskId": "x"}):
        with pytest.raises(Unreadable, match=str(status_code)):
            provider.read_status(answer(status_code, body), NOW_MS)


@providers
@rows(
    "body",
    [b"", b"<html>", b"[]", b"null", b'"ok"', b"{}", b'{"id":"a","task_id":"a","taskId":"a"}', b"\xff", b"[" * 9999],
)
def test_a_status_answer_without_a_status_has_no_status(provider: Provider, body: bytes) -> None:
    """A 200 that says nothing of the job's state is Unreadable."""
    with pytest.raises(Unreadable):
        provider.read_status(answer(200, body), NOW_MS)


@providers
def test_the_callback_url_lands_in_its_field(provider: Provider) -> None:
    """The submission carries the callback URL exactly where it belongs, and the given body stays as it was."""
    request = native_from_input(provider, MINIMAL)
    before = copy.deepcopy(request)
    sent, without = provider.submission(request, CALLBACK_URL, JOB_ID), provider.submission(request, None, JOB_ID)
    plain = as_sent(provider, before)
    if provider.callback_field:
        assert at(sent.body, *provider.callback_field.split(".")) == CALLBACK_URL
        assert find_callback_field(sent.body) == provider.callback_field
    else:
        assert sent.body == plain
    assert parse_qs(urlsplit(sent.path).query) == (
        {provider.callback_query: [CALLBACK_URL]} if provider.callback_query else {}
    )
    assert request == before
    assert without.body == plain
    assert sent.method == "POST"
    assert sent.path.startswith(without.path)
    assert without.path.startswith("/")
    assert not provider.path_model or str(before["model"]) in without.path


def as_sent(provider: Provider, body: dict[str, object]) -> dict[str, object]:
    """Return a native body as it is sent without a callback URL: a model may be in the path, relay's id in the body."""
    sent = without_model(body) if provider.path_model else body
    return with_callback(sent, provider.own_id_fields[0], JOB_ID) if provider.own_id_fields else sent


@providers
def test_no_native_body_has_relays_own_id(provider: Provider) -> None:
    """Refuse a body that has relay's id of the job already, for a known model and for an unknown one."""
    request = native_from_input(provider, MINIMAL)
    for field in provider.own_id_fields:
        for model in (request.get("model"), "an-unknown-model"):
            errors = check_native(provider, with_callback(request | {"model": model}, field, "mine"))
            assert field in [error.path for error in errors]


@providers
def test_a_minimal_input_is_enough(provider: Provider) -> None:
    """One image and a prompt make a native body that passes the check and leaves out what was not given."""
    request = native_from_input(provider, MINIMAL)
    assert provider.check(request) == []
    assert b"null" not in msgspec.json.encode(request)


@providers
def test_a_full_input_finds_its_places(provider: Provider) -> None:
    """What every provider takes is translated and passes the check."""
    silent = "audio" not in provider.honours
    known = provider.limits.resolutions
    resolution = "720p" if "720p" in known else known[0]
    full = msgspec.structs.replace(MINIMAL, duration_s=5, resolution=resolution, aspect_ratio="16:9")
    full = full if silent else msgspec.structs.replace(full, audio=True)
    full = msgspec.structs.replace(full, images=[]) if provider.name in FOLLOWING else full
    text = msgspec.json.encode(native_from_input(provider, full)).decode()
    assert all(word in text for word in (resolution, "16:9", "5"))
    assert silent or "true" in text or '"native"' in text


@providers
def test_wrong_values_are_named_as_the_client_wrote_them(provider: Provider) -> None:
    """Errors of a translated input carry the unified names, every one at once."""
    bad = Input(
        images=["ftp://example.com/a", "https://127.0.0.1/b"],
        prompt=None,
        duration_s=99,
        resolution="9k",
        aspect_ratio="2:2",
    )
    with pytest.raises(InvalidInput) as raised:
        native_from_input(provider, bad)
    paths = {error.path for error in raised.value.errors}
    expected = {"input.duration_s", "input.resolution", "input.aspect_ratio"}
    expected |= {"input.images"} if provider.limits.images_max == 1 else {"input.images[0]", "input.images[1]"}
    assert paths == expected | ({"input.prompt"} if provider.limits.prompt_required else set())


@many
@given(
    st.builds(
        Input,
        images=st.lists(st.just("https://example.com/a.png") | st.text(max_size=5), max_size=10),
        prompt=st.none() | st.text(max_size=30),
        duration_s=st.none() | st.integers(-5, 70),
        resolution=st.none() | st.sampled_from(["480p", "720p", "1080p", "4k", "x"]),
        aspect_ratio=st.none() | st.sampled_from(["16:9", "adaptive", "x"]),
        audio=st.none() | st.booleans(),
        model=st.none() | st.text(max_size=5),
        seed=st.none() | st.integers(),
        mode=st.none() | st.sampled_from(["keyframe", "reference", "x"]),
        last_frame=st.none() | st.sampled_from(["https://example.com/b.png", "x"]),
        references=st.lists(
            st.just("https://example.com/c.png")
            | st.builds(
                Reference, url=st.just("https://example.com/d"), kind=st.sampled_from(["image", "video", "audio"])
            ),
            max_size=3,
        ),
        negative_prompt=st.none() | st.text(max_size=5),
        provider_options=st.dictionaries(st.sampled_from(["model", "seed", "inputs", "metadata", "x"]), json_values),
    )
)
@each
def test_any_input_is_translated_or_refused_in_its_own_words(provider: Provider, given_input: Input) -> None:
    """Any unified input becomes a good native body, or is refused naming only fields that the client wrote."""
    try:
        request = native_from_input(provider, given_input)
    except InvalidInput as refused:
        names = [re.split(r"[.\[]", error.path.removeprefix("input."))[0] for error in refused.errors]
        assert names
        assert set(names) <= set(Input.__struct_fields__)
    else:
        assert provider.check(request) == []


@many
@given(json_values | bodies)
@each
def test_any_json_can_be_checked(provider: Provider, body: object) -> None:
    """No body makes the check raise, and every error of it can be sent."""
    errors = provider.check(body)
    assert msgspec.json.encode(errors)
    assert len(errors) <= 4 * ERRORS_MAX


@many
@given(bodies)
@each
def test_any_callback_is_read_or_unreadable(provider: Provider, body: dict[str, Any]) -> None:
    """No object raises anything but Unreadable, and what is read of it can be stored and sent."""
    try:
        report = applied(provider, body)
    except Unreadable:
        return
    assert msgspec.json.encode(report)
    assert not report.outputs or report.state is JobState.SUCCEEDED
    assert all(not check_url(output.url, "") for output in report.outputs)
    assert report.progress is None or 0 <= report.progress <= 100


@many
@given(st.integers(100, 599), st.binary(max_size=30) | bodies.map(lambda body: json.dumps(body).encode()))
@each
def test_any_bytes_are_an_answer(provider: Provider, status_code: int, raw: bytes) -> None:
    """No bytes make the reading of an answer raise anything but Unreadable, and of a submission's nothing at all."""
    assert isinstance(provider.read_submission(answer(status_code, raw)), Accepted | Refused | Unclear)
    try:
        provider.read_status(answer(status_code, raw), NOW_MS)
    except Unreadable as unreadable:
        assert str(unreadable)  # noqa: PT017 -- either outcome is right


@many
@given(st.integers(100, 599), json_values)
@each
def test_only_a_4xx_is_a_no(provider: Provider, status_code: int, body: object) -> None:
    """A submission is refused by 4xx alone, without 408 and 425; everything else without an id is unclear."""
    said = provider.read_submission(answer(status_code, json.dumps(body).encode()))
    refusals = set(range(400, 500)) - {408, 425}
    assert isinstance(said, Refused) == (status_code in refusals)
    assert isinstance(said, Accepted | Unclear) == (status_code not in refusals)
    if isinstance(said, Unclear):
        assert said.error.class_ is ErrorClass.PROVIDER_ERROR
        assert not said.error.retryable


@providers
@rows("status_code", [200, 202, 204, 302, 408, 425, 500, 502, 503, 504])
def test_an_answer_without_an_id_is_unclear(provider: Provider, status_code: int) -> None:
    """Empty, HTML and id-less answers may hide a job; the first 2 KB are kept."""
    page = b"<html>" + b"x" * 5000
    said = provider.read_submission(answer(status_code, page, "text/html"))
    assert isinstance(said, Unclear)
    assert said.error.provider_message == page[:2048].decode()
    assert isinstance(provider.read_submission(answer(status_code, b"")), Unclear)
    assert isinstance(provider.read_submission(answer(status_code, b'{"status":"queued"}')), Unclear)


@providers
def test_an_html_refusal_keeps_its_page(provider: Provider) -> None:
    """A 4xx page from a proxy is a refusal, with its text to read."""
    said = provider.read_submission(answer(403, b"<html>Forbidden</html>", "text/html"))
    assert isinstance(said, Refused)
    assert said.error.class_ is ErrorClass.AUTH
    assert said.error.provider_message == "<html>Forbidden</html>"


@providers
@rows(
    ("status_code", "class_", "retryable"),
    [
        (400, ErrorClass.INVALID_INPUT, False),
        (401, ErrorClass.AUTH, False),
        (402, ErrorClass.INSUFFICIENT_FUNDS, False),
        (403, ErrorClass.AUTH, False),
        (404, ErrorClass.INVALID_INPUT, False),
        (413, ErrorClass.INVALID_INPUT, False),
        (422, ErrorClass.INVALID_INPUT, False),
        (429, ErrorClass.RATE_LIMITED, True),
    ],
)
def test_a_status_code_alone_has_a_class(
    provider: Provider, status_code: int, class_: ErrorClass, retryable: bool
) -> None:
    """Without words a refusal is classed by its status code."""
    said = provider.read_submission(answer(status_code, {}))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.retryable) == (class_, retryable)
    assert said.error.code == f"http_{status_code}"


@providers
def test_a_callback_token_in_an_answer_is_cut_out(provider: Provider) -> None:
    """A provider that repeats the callback URL does not carry its token into an error."""
    for status_code in (400, 500):
        body = {"error": {"message": f"bad callback {CALLBACK_URL}"}, "message": f"bad callback {CALLBACK_URL}"}
        said = provider.read_submission(answer(status_code, body))
        assert isinstance(said, Refused | Unclear)
        assert b"x/token" not in msgspec.json.encode(said.error)


@providers
def test_an_id_cannot_leave_its_place_in_the_path(provider: Provider) -> None:
    """An id with a slash, a question mark or dots asks for no other path."""
    path = provider.status_check(example_job(provider, "a/../b?c=d&e#f")).path
    assert path == provider.status_check(example_job(provider, "ID")).path.replace("ID", "a%2F..%2Fb%3Fc%3Dd%26e%23f")
    odd_ones: list[object] = ["..", " ", "x" * 300, "", None, {}, 1.5, True]
    for odd in odd_ones:
        body = {"id": odd, "task_id": odd, "taskId": odd}
        assert isinstance(provider.read_submission(answer(200, body)), Unclear), odd


@providers
@rows(("word", "state"), [*STATUSES.items(), ("archived", None), ("unknown", None)])
def test_a_status_word_means_the_same_everywhere(provider: Provider, word: str, state: JobState | None) -> None:
    """Every published word in any case gives its state; one that nobody published gives none."""
    for spelled in (word, word.upper(), f" {word.title()} "):
        assert applied(provider, {"status": spelled}).state is state
        assert applied(provider, {"code": 500, "data": {"state": spelled}}).state is state


@rows(
    "url",
    [
        "https://example.com/a.png",
        "http://media.example.com:8080/…?a=b#c",
        "HTTPS://EXAMPLE.COM",
        "https://93.184.216.34/a",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/a",
        "https://xn--bcher-kva.example/a",
        "https://" + "a" * 60 + ".example.com/" + "b" * 1900,
    ],
)
def test_a_public_url_is_good(url: str) -> None:
    """A URL with a public host passes."""
    assert check_url(url, "u") == []


@rows(
    "url",
    [
        None,
        5,
        "",
        "example.com/a.png",
        "//example.com",
        "ftp://example.com/a",
        "javascript:alert(1)",
        "data:image/png;base64,AAAA",
        "https://",
        "https:///a",
        "https://user:pass@example.com/",
        "https://user@example.com/",
        "https://:pass@example.com/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://exam ple.com/",
        "https://example.com/\n",
        "https://example.com\\@evil.example",
        "https://example.com/\ud800",
        "https://localhost/a",
        "https://LOCALHOST./a",
        "https://a.localhost/",
        "https://printer.local/",
        "https://metadata.google.internal/",
        "https://intranet/a",
        "https://127.0.0.1/a",
        "https://127.1/a",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0x7f000001/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[nonsense]/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_what_is_no_public_url_is_refused(url: object) -> None:
    """Other schemes, credentials, local names, private addresses in any spelling and overlong URLs are refused."""
    assert [error.path for error in check_url(url, "u")] == ["u"]


@given(json_values)
def test_any_value_can_be_asked_for_a_url(value: object) -> None:
    """No value makes the check of a URL raise."""
    assert isinstance(check_url(value, "u"), list)


@rows(
    ("request_body", "path"),
    [
        ({"callback_url": None}, "callback_url"),
        ({"callBackUrl": ""}, "callBackUrl"),
        ({"webhook": 1}, "webhook"),
        ({"metadata": {"callbackUrl": ""}}, "metadata.callbackUrl"),
        ({"inputs": {"notify_url": ""}}, "inputs.notify_url"),
        ({"input": {"WEBHOOK-URL": ""}}, "input.WEBHOOK-URL"),
        ({"metadata": {"notify_hook": ""}}, "metadata.notify_hook"),
        ({"webhook_events_filter": ["start"]}, "webhook_events_filter"),
        ({"prompt": "callback_url", "metadata": {"content": [{"callback_url": ""}]}}, None),
        ({"metadata": "callback_url", "notifications": True, "callbacks": []}, None),
        (["callback_url"], None),
        (None, None),
    ],
)
def test_a_clients_own_callback_field_is_found(request_body: object, path: str | None) -> None:
    """A callback field in any known spelling is found where providers look for it, and nowhere else."""
    assert find_callback_field(request_body) == path


@rows(
    ("value", "text"),
    [
        (5, "5"),
        ("5", "5"),
        ("100%", "100"),
        (40.5, "40.5"),
        ("-1", "-1"),
        (True, None),
        (None, None),
        ("", None),
        ("1_0", None),
        ("\uff11\uff12", None),
        ("1e9999", None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        ("9" * 16, None),
        ([], None),
    ],
)
def test_a_number_is_a_number_however_it_is_written(value: object, text: str | None) -> None:
    """Numbers and their plain spellings are read exactly; everything else is none."""
    found = number(value)
    assert (None if found is None else f"{found.normalize():f}") == text


@given(json_values)
def test_text_from_outside_can_always_be_stored(value: object) -> None:
    """Whatever comes, the text of it has no NUL, no lone surrogate, and not too many characters."""
    text = text_or_none(value, 10)
    assert text is None or ("\0" not in text and len(text.encode()) <= 40 and 0 < len(text) <= 10)


def test_error_codes_are_spelled_as_they_are_looked_up() -> None:
    """A code of the table is in lower case, else it would never be found."""
    assert all(code == code.lower() for code in CODES)


@many
@given(
    st.dictionaries(
        st.sampled_from(
            ["options", "metadata", "inputs", "input", "settings", "contents", "content", "image", "prompt"]
        ),
        json_values,
    ),
    st.sampled_from(["model", "model_name", "version"]),
)
@each
def test_any_body_that_passes_the_check_can_be_sent(provider: Provider, body: dict[str, Any], name: str) -> None:
    """Build the submission of every body of an unknown model that relay accepts, with the callback URL in it."""
    request = body | {name: "some-lab/new-model"}
    if check_native(provider, request):
        return
    sent = provider.submission(request, CALLBACK_URL, JOB_ID)
    assert sent.path.startswith("/")
    assert provider.status_check(msgspec.structs.replace(example_job(provider, "1"), request=request)).path
    assert provider.price(request) is None or provider.name == "relaydance"
    assert not provider.callback_field or find_callback_field(sent.body) is not None
