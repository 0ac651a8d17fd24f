"""Targets of what providers send: callbacks, answers and key sets, through every adapter of `PROVIDERS`."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec

from relay.callbacks.parse import parse
from relay.context import ConfiguredProvider
from relay.errors import Unreadable
from relay.model import result_urls
from relay.model.job import JobState, Report
from relay.model.provider_http import ProviderResponse
from relay.model.text import kept
from relay.outbound.jwks import KEYS_MAX, parse_keys
from relay.providers import DEV_PROVIDERS, PROVIDERS, answers
from relay.providers.base import (
    Accepted,
    Provider,
    Refused,
    Signing,
    Unclear,
    callbacks_expected,
    can_find,
    example_job,
)
from relay.security.redaction import CUT, Redactor
from relay.security.signatures import SignatureInvalid
from tests.fuzz.target import Choices, Target
from tests.fuzz.texts import REDACTOR, TOKEN
from tests.support.provider_cases import NOW_MS, RECORDINGS, answer

ADAPTERS: Final[Mapping[str, Provider]] = {**PROVIDERS, **DEV_PROVIDERS}
_STATUSES: Final = (200, 201, 202, 204, 301, 400, 401, 402, 403, 404, 408, 409, 422, 425, 429, 500, 502, 503, 199, 599)
_TYPES: Final = ("application/json", "text/html", "text/plain; charset=utf-16", "")
_PATH: Final = re.compile(r"/(?:[!-~]*[!-~])?")
_CALLBACK_URL: Final = f"https://relay.example/callbacks/x/{TOKEN}"


def storable(value: object) -> None:
    """Raise AssertionError unless each text within can be stored by both databases, and all of it can be sent."""
    msgspec.json.encode(value)
    for text in texts(msgspec.to_builtins(value)):
        assert kept(text) == text, text


def texts(value: Any) -> Iterator[str]:
    """Yield the texts within builtins."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from texts(name)
            yield from texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)


def reported(report: Report) -> str:
    """Raise AssertionError unless a report holds what the flow relies on; return its state."""
    storable(report)
    assert all(result_urls.is_url(output.url) for output in report.outputs)
    assert not report.outputs or report.state == "succeeded"
    assert report.progress is None or 0 <= report.progress <= 100
    assert report.provider_job_id is None or answers.identifier(report.provider_job_id) == report.provider_job_id
    if report.status_path is not None:
        assert _PATH.fullmatch(report.status_path)
        assert not report.status_path.startswith("//")
    return str(report.state)


def callback(provider: Provider, redactor: Redactor, data: bytes) -> str:
    """Check that a callback is read, or unreadable with a reason; its report repeats no callback token."""
    configured = ConfiguredProvider(adapter=provider, origin="https://api.example", api_key="k", redactor=redactor)
    parsed = parse(configured, {}, data, NOW_MS)
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = msgspec.json.decode(data)
        msgspec.json.encode(provider.reply(body) if isinstance(body, dict) else None)
    if parsed.reply is not None:
        assert (parsed.report, parsed.unreadable) == (None, None)
        return "reply"
    if parsed.report is None:
        assert parsed.unreadable
        assert kept(parsed.unreadable) == parsed.unreadable
        return "unreadable"
    assert TOKEN.encode() not in msgspec.json.encode(parsed.report)
    assert all(result_urls.warning(output.url) != "its host is private" for output in parsed.report.outputs)
    return reported(parsed.report)


def answered(provider: Provider, data: bytes) -> str:
    """Check what is made of an answer to a submission, or of a status route."""
    choices = Choices(data)
    kind, status = choices.below(4), _STATUSES[choices.below(len(_STATUSES))]
    content_type, encoding = _TYPES[choices.below(len(_TYPES))], choices.below(8)
    given = answer(status, choices.rest(), content_type)
    if encoding == 7:
        given = msgspec.structs.replace(given, fault="is longer than 5 bytes")
    asked_s = provider.retry_after_s(given)
    assert asked_s is None or 0 <= asked_s < float("inf")
    assert not (provider.canceled(given) and provider.too_late(given))
    match kind:
        case 0:
            return checked(provider, given, partial(provider.read_status, given, NOW_MS))
        case 1:
            return submitted(provider, given)
        case 2:
            done = Report(state=JobState.SUCCEEDED, provider_status="done", provider_job_id="a")
            return checked(provider, given, partial(provider.read_result, given, done, NOW_MS), result=True)
        case _:
            return checked(provider, given, partial(provider.read_found, given, example_job(provider, "a"), NOW_MS))


def _worded(error: Exception, outcome: str) -> str:
    """Return an outcome; raise AssertionError unless the error says something that can be stored."""
    text = str(error)
    assert text
    assert kept(text) == text
    return outcome


def submitted(provider: Provider, given: ProviderResponse) -> str:
    """Check that only a 4xx, or an error inside a 2xx, is a refusal, and only a 2xx with an id an acceptance.

    A 4xx is unclear only at a provider that can be asked for the job.
    """
    said = provider.read_submission(given)
    storable(said)
    refusals = {*range(400, 500)} - {408, 425}
    inside = 200 <= given.status_code < 300
    assert not isinstance(said, Refused) or given.status_code in refusals or inside
    assert isinstance(said, Refused) or given.status_code not in refusals or can_find(provider)
    if isinstance(said, Accepted):
        reported(said.report)
        assert 200 <= given.status_code < 300
    else:
        assert isinstance(said, Refused | Unclear)
    return type(said).__name__


def checked(
    provider: Provider, given: ProviderResponse, read: Callable[[], Report | None], *, result: bool = False
) -> str:
    """Check that no answer but a whole 2xx has a status of a job, or says that there surely is none.

    The `result` of a failed job may be the error of its model, with that error's status.
    """
    try:
        report = read()
    except Unreadable as error:
        return _worded(error, "no status")
    if report is None:
        assert given.fault is None
        return "surely none"
    assert 200 <= given.status_code < 300 or (result and report.state == "failed")
    assert given.fault is None
    return "status " + reported(report)


def requested(provider: Provider, data: bytes) -> str:
    """Check that a native body without an error becomes a request with the callback URL."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "no JSON"
    errors = provider.check(body)
    msgspec.json.encode(errors)
    if errors:
        return "refused"
    made = provider.submission(body, _CALLBACK_URL, "job_1")
    msgspec.json.encode(made)
    assert made.path.startswith("/")
    if provider.callback_field:
        assert _CALLBACK_URL.encode() in msgspec.json.encode(made.body)
    if provider.callback_query:
        assert quote(_CALLBACK_URL, safe="") in made.path
    msgspec.json.encode(provider.price(body))
    return "good"


def asked(provider: Provider, data: bytes) -> str:
    """Check that whatever id a provider gives a job, it is asked about by one whole path, with the id in one part."""
    name = answers.identifier(kept(data.decode("utf-8", "replace")))
    if name is None:
        return "no id"
    job = example_job(provider, name)
    for request in (provider.status_check(job), provider.cancellation(job), provider.find(job)):
        if request is None:
            continue
        assert _PATH.fullmatch(request.path), request.path
        route = request.path.partition("?")[0]
        assert not {".", ".."} & set(route.split("/")), request.path
    return "a request"


def key_set(data: bytes) -> str:
    """Check that a set of published keys has ed25519 keys of 32 bytes, a bounded number of them, or is unreadable."""
    try:
        keys = parse_keys(answer(200, data))
    except Unreadable:
        return "unreadable"
    assert 0 < len(keys) <= KEYS_MAX
    assert all(len(key) == 32 for key in keys.values())
    return "keys"


def signed_callback(provider: Signing, data: bytes) -> str:
    """Check that the headers of a signature are read, missing or malformed, and never anything else."""
    head, _, body = data.partition(b"\n\n")
    headers = dict(line.partition(": ")[::2] for line in head.decode("latin-1").lower().split("\n"))
    try:
        found = provider.signed(headers, body)
    except SignatureInvalid:
        return "malformed"
    return "missing" if found is None else "read"


def recorded(name: str, kind: str) -> list[bytes]:
    """Return the recorded bodies of a provider."""
    return [path.read_bytes() for path in sorted((RECORDINGS / name / kind).glob("*.json"))]


def words(name: str) -> list[bytes]:
    """Return the names and the short values in a provider's recordings."""
    found: set[str] = set()
    for kind in ("callbacks", "answers", "requests"):
        for body in recorded(name, kind):
            found.update(text for text in texts(msgspec.json.decode(body)) if len(text) < 200)
    return [text.encode() for text in sorted(found)]


def targets() -> Iterator[Target]:
    """Yield the targets of each adapter."""
    hidden = [TOKEN.encode(), _CALLBACK_URL.encode(), CUT.encode()]
    for name, provider in ADAPTERS.items():
        named = words(name)
        bodies = recorded(name, "callbacks") + recorded(name, "answers") or [b'{"id":"a","status":"completed"}']
        if callbacks_expected(provider):
            check = partial(callback, provider, REDACTOR)
            yield Target(name=f"callbacks-{name}", check=check, seeds=bodies, words=named + hidden, structured=True)
        heads = [bytes([kind, status, 0, 0]) for kind in range(4) for status in (0, 0, 5, 14, 15)]
        seeds = [head + body for head in heads[::3] for body in bodies]
        yield Target(
            name=f"answers-{name}", check=partial(answered, provider), seeds=seeds, words=named, structured=True
        )
        requests = recorded(name, "requests") or [b"{}"]
        yield Target(
            name=f"requests-{name}", check=partial(requested, provider), seeds=requests, words=named, structured=True
        )
        yield Target(
            name=f"checks-{name}",
            check=partial(asked, provider),
            seeds=[b"task-1", b"task-1/../v1/tasks?wait=1", b"..", b"."],
            words=[
                b"/",
                b"..",
                b"/../",
                b"?",
                b"#",
                b"%2f",
                b"%0d%0a",
                b"\r\n",
                b" ",
                b"\n/",
                b"@",
                b"//",
                "é".encode(),
            ],
            outcomes=frozenset({"a request"}),
        )
        if isinstance(provider, Signing):
            names = ("key-id", "request-id", "user-id", "timestamp", "signature")
            values = ("a", "b", "c", "1790000000", "0" * 128)
            prefix = "x-fal-webhook" if name == "fal" else f"x-{name}"
            lines = [f"{prefix}-{header}: {value}" for header, value in zip(names, values, strict=True)]
            seed = "\n".join(lines).encode() + b"\n\n{}"
            yield Target(
                name=f"signed-{name}",
                check=partial(signed_callback, provider),
                seeds=[seed],
                words=[b": ", b"\n"],
                outcomes=frozenset({"read"}),
            )
    jwk = b'{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"' + b"A" * 43 + b'"}]}'
    yield Target(
        name="key-sets",
        check=key_set,
        seeds=[jwk],
        words=[b"kty", b"crv", b"kid", b"x", b"keys", b"OKP", b"="],
        structured=True,
        outcomes=frozenset({"keys"}),
    )


TARGETS: Final = tuple(targets())
