"""Secrets that others send back are cut out, in every escaped form, before anything is stored; all else stays."""

import asyncio
import base64
import json
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from relay.sandbox.serving import serve
from relay.security import strict_json
from relay.security.callback_tokens import CallbackTokens
from relay.security.redaction import CUT, STEP_BYTES, Redactor
from tests.support.rows import rows
from tests.support.running import INPUT, SECRET_KEY, START_MS, relay

pytestmark = pytest.mark.anyio

KEY, ODD_KEY = "sk-live-4f1c9a7e2b8d", "p4ss/w0rd+with=signs"
TOKENS = CallbackTokens([SECRET_KEY], "default")
TOKEN = TOKENS.make("evolink", "job_01m8f3vjmce6qrc7d421042hvh", START_MS)
REDACTOR = Redactor((KEY, ODD_KEY, None, "short"), TOKENS.prefix)


def percent(text: str) -> str:
    """Every character percent-encoded."""
    return "".join(f"%{ord(char):02X}" for char in text)


def unicode_escapes(text: str) -> str:
    """Every character as JSON may escape it."""
    return "".join(f"\\u{ord(char):04x}" for char in text)


def entities(text: str) -> str:
    """Every character as HTML may escape it."""
    return "".join(f"&#x{ord(char):X};" if at % 2 else f"&#{ord(char)};" for at, char in enumerate(text))


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda secret: secret,
    "percent": percent,
    "percent twice": lambda secret: quote(percent(secret), safe=""),
    "quoted": lambda secret: quote(secret, safe=""),
    "json": unicode_escapes,
    "json twice": lambda secret: unicode_escapes(secret).replace("\\", "\\\\"),
    "slashes": lambda secret: secret.replace("/", "\\/"),
    "html": entities,
    "base64": lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
    "base64 shifted": lambda secret: base64.b64encode(f"user:x{secret};".encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(f"xuser:x{secret}".encode()).decode(),
}


@rows("form", FORMS)
@rows("secret", [KEY, ODD_KEY, TOKEN])
def test_a_secret_is_cut_in_every_form(form: str, secret: str) -> None:
    """Cut it out of text and out of a body that is no JSON, and leave what stands around it."""
    written = FORMS[form](secret)
    text = f"refused: {written} is no good"
    assert REDACTOR.text(text) == f"refused: {CUT} is no good"
    assert REDACTOR.raw(text.encode() + b"\xff") == f"refused: {CUT} is no good".encode() + b"\xff"
    assert REDACTOR.body(f"<p>{text}".encode()) == f"<p>refused: {CUT} is no good".encode()


@given(st.lists(st.sampled_from([str, percent, unicode_escapes, entities]), min_size=79, max_size=79))
def test_each_letter_may_be_escaped_in_another_way(ways: list) -> None:  # type: ignore[type-arg]
    """Cut a token and a key of which any letters are escaped in any mix of ways."""
    for secret in (TOKEN, KEY):
        written = "".join(way(char) for way, char in zip(ways, secret, strict=False))
        assert REDACTOR.text(f"<{written}>") == f"<{CUT}>"


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=20))
def test_json_stays_what_it_is(value: object) -> None:
    """Keep each byte of a body without secrets; with one in it, it is the same JSON with the secret cut out."""
    raw = json.dumps({"value": value}).encode()
    assert REDACTOR.body(raw) == raw
    with_key = json.dumps({"value": value, "text": f"a {KEY}", KEY: 1}).encode()
    assert msgspec.json.decode(REDACTOR.body(with_key)) == {"value": value, "text": f"a {CUT}", CUT: 1}


@given(
    st.sampled_from(sorted(FORMS)),
    st.sampled_from([KEY, ODD_KEY, TOKEN]),
    st.integers(-700, 3),
    st.sampled_from("xWA."),
)
async def test_a_secret_is_found_across_the_steps(form: str, secret: str, offset: int, around: str) -> None:
    """Find a secret wherever it lies in a large body, across the border of two steps too; find none where none is."""
    secret_bytes = FORMS[form](secret).encode()
    body = around.encode() * (STEP_BYTES + offset) + b" " + secret_bytes + b" " + around.encode()
    assert await REDACTOR.may_hold_secret_stepwise(body)
    assert await REDACTOR.body_stepwise(body) == REDACTOR.body(body) != body
    assert not await REDACTOR.may_hold_secret_stepwise(around.encode() * 2 * STEP_BYTES)


AROUND = ("", "refused: ", "<p>", "\u20ac \U0001f3ac", '", "', "\\n", "%20", "&#32;", "\0", "\n\n")
ESCAPED: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "quoted": lambda secret: quote(secret, safe=""),
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json twice": lambda secret: json.dumps(secret)[1:-1].replace("\\", "\\\\"),
    "html": entities,
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
}


@given(
    st.text(min_size=8, max_size=40), st.sampled_from(sorted(ESCAPED)), st.sampled_from(AROUND), st.sampled_from(AROUND)
)
@example("правильныйконьбатареяскрепкажёлудь", "as it is", "", "")
@example("правильныйконьбатареяскрепкажёлудь", "json twice", "", "")
@example("éèêëàâäôöûü", "percent", "", "")
@example("a-secret&", "html", "", "")
@example("\U0001f511\U0001f512\U0001f513\U0001f510" * 2, "json", "<p>", "")
@example("\u00b5\u00b6\u00b7\u00b8\u00b9\u00ba\u00bb\u00bc", "as it is", "\0", "\0")
async def test_a_secret_of_any_letters_is_found_wherever_it_stands(
    secret: str, form: str, before: str, behind: str
) -> None:
    """Find and cut a secret of any letters, in any form, at the beginning, amid or at the end of a body or text."""
    assume(not set(before + behind + CUT) & set(secret))
    assume(form != "base64" or not any(map(str.isalnum, before[-1:] + behind[:1])))  # it would belong to the base64
    assume(not form.startswith("json") or (secret.isprintable() and "\\" not in secret))
    redactor, written = Redactor([secret], TOKENS.prefix), ESCAPED[form](secret)
    text, clean = before + written + behind, before + CUT + behind
    assert redactor.may_hold_secret(text.encode())
    assert await redactor.may_hold_secret_stepwise(text.encode())
    assert redactor.text(text) == clean
    assert redactor.raw(b"\xff\xd0" + text.encode() + b"\xe2\x82") == b"\xff\xd0" + clean.encode() + b"\xe2\x82"
    body = json.dumps({"text": text}).encode()
    assert msgspec.json.decode(redactor.body(body)) == {"text": clean}


@given(st.text(st.characters(), min_size=8, max_size=40), st.text(st.characters()), st.binary())
async def test_a_secret_of_any_letters_breaks_nothing(secret: str, text: str, raw: bytes) -> None:
    """Search any text and any bytes for a secret of any characters, even half a surrogate pair, without an error."""
    redactor = Redactor([secret], TOKENS.prefix)
    assert redactor.text(text) == text or secret in text
    assert redactor.raw(raw) == await redactor.body_stepwise(raw) == raw or redactor.may_hold_secret(raw)


async def test_other_work_goes_on_while_a_large_body_is_searched() -> None:
    """Give the event loop a turn after each step, so that a megabyte of a secret's letters stops nobody for long."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(other())
    large = TOKENS.prefix[2].encode() * (16 * STEP_BYTES)
    assert not await REDACTOR.may_hold_secret_stepwise(large)
    assert turns == 16
    assert await REDACTOR.body_stepwise(large) is large
    working.cancel()
    assert turns == 32


@rows(("secret", "cut"), [("1234567", False), ("12345678", True)])
def test_words_are_no_secrets(secret: str, cut: bool) -> None:
    """Cut strings of eight characters and more: shorter ones stand in harmless texts too."""
    assert (Redactor([secret], TOKENS.prefix).text(f"a {secret}") == f"a {CUT}") is cut


def test_a_usual_callback_costs_nearly_nothing() -> None:
    """Look through a callback with escapes and presigned URLs in less time than it takes to parse it."""
    redactor = Redactor((KEY, None), TOKENS.prefix)
    url = "https://cdn.example/a%2Fb.mp4?X-Amz-Credential=AKIA%2F20261121%2Fauto%2Fs3%2Faws4_request&x=%3D\\u0026y=1"
    about = {"prompt": "slow push in, caf\u00e9 " * 9, "log": [1, 2] * 50}
    body = json.dumps({"id": "task_1", "results": [url] * 3, **about}).encode()
    assert not redactor.may_hold_secret(body)
    looked_s = min(timeit.repeat(lambda: redactor.may_hold_secret(body), number=20, repeat=50))
    parsed_s = min(timeit.repeat(lambda: strict_json.parse(body), number=20, repeat=50))
    assert looked_s < parsed_s, f"{looked_s / 20 * 1e6:.1f} µs, and {parsed_s / 20 * 1e6:.1f} µs to parse it"


async def test_a_refusal_that_repeats_the_key_and_the_callback_url(tmp_path: Path) -> None:
    """Keep them out of the job, its timeline, the notification and the database, whatever the provider's page says."""

    async def refuse(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        request = Request(scope, receive)
        sent = (await request.body()).decode()
        url = json.loads(sent)["callback_url"]
        token = url.rsplit("/", 1)[1]
        said = [url, url.replace("/", "\\/"), quote(url, safe=""), unicode_escapes(url), token, percent(token)]
        said += [base64.b64encode(f"x{token}".encode()).decode(), request.headers["authorization"], KEY]
        message = "no: " + " | ".join(said)
        await Response(json.dumps({"error": {"code": "unauthorized", "message": message}}), 401)(scope, receive, send)

    async with (
        serve(refuse) as provider,
        relay(tmp_path, RELAY_EVOLINK_BASE_URL=provider, RELAY_EVOLINK_API_KEY=KEY) as running,
    ):
        await running.client.post("/v1/endpoints", json={"url": running.hook})
        job = await running.submit(input=INPUT)
        await running.sink.wait_for(lambda sink: sink.events() == ["job.failed"])
        timeline = await running.get(f"/v1/jobs/{job['id']}/timeline")
        evidence = await running.app.store.jobs.evidence(job["id"])
        told = running.sink.received[0].body.decode()
    assert job["error"]["class"] == "auth"
    assert CUT in job["error"]["message"]
    for shown in (json.dumps(job), json.dumps(timeline), told, str(evidence.calls)):
        assert KEY not in shown
        assert TOKENS.prefix not in shown
        assert percent(TOKENS.prefix) not in shown
    held = b"".join(path.read_bytes() for path in tmp_path.glob("relay.db*"))  # noqa: ASYNC240
    assert KEY.encode() not in held
    assert TOKENS.prefix.encode() not in held


async def test_a_callback_that_repeats_its_own_url(tmp_path: Path) -> None:
    """Keep its bytes as they came, and show and pass on none of the token."""
    async with relay(tmp_path, confirm=False) as running:
        job = await running.submit()
        url = running.callback_url()
        token = url.rsplit("/", 1)[1]
        body = {
            "id": job["provider_job_id"],
            "status": "failed",
            "error": {"code": "service_error", "message": f"could not call {url}"},
            "callback": quote(url, safe=""),
        }
        answer = await running.client.post(url, json=body, headers={"x-original-url": f"/callbacks/evolink/{token}"})
        assert answer.status_code == 200
        job = await running.get(f"/v1/jobs/{job['id']}")
        (listed,) = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]
        shown = await running.get(f"/v1/callbacks/{listed['id']}")
        stored = await running.app.store.callbacks.get(listed["id"], "prj_default")
    assert job["error"]["message"] == f"the provider reports: could not call {url[: -len(token)]}{CUT}"
    assert token not in json.dumps([job, listed, shown])
    assert token.encode() not in base64.b64decode(shown["body"])
    assert shown["body_text"].count(CUT) == 2
    assert stored is not None
    assert stored.body.count(token.encode()) == 2


async def test_a_receiver_that_repeats_its_headers(tmp_path: Path) -> None:
    """Cut an endpoint's secret and its header values of 8 characters and more out of the excerpt of its answer."""

    async def echo(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        headers = dict(Request(scope, receive).headers)
        said = " ".join(headers[name] for name in ("x-key", "x-eight", "x-seven"))
        await Response(f"500 for {said} and {secrets[0]}", 500)(scope, receive, send)

    secrets: list[str] = []
    async with serve(echo) as receiver, relay(tmp_path) as running:
        body = {
            "url": f"{receiver}/hook",
            "headers": {"x-key": "very-secret-header", "x-eight": "qwertyui", "x-seven": "asdfghj"},
        }
        made = (await running.client.post("/v1/endpoints", json=body)).json()
        secrets.append(made["secret"])
        await running.client.post(f"/v1/endpoints/{made['id']}/tests")
        (delivery,) = (
            await running.until("/v1/deliveries", lambda found: found["data"] and found["data"][0]["attempts_made"])
        )["data"]
        (attempt,) = (await running.get(f"/v1/deliveries/{delivery['id']}"))["attempts"]
    assert attempt["response_excerpt"] == f"500 for {CUT} {CUT} asdfghj and {CUT}"


@rows(
    "text",
    [
        "\\u0061" + "\\" * 1_000_000,
        "/%61" + "\\" * 1_000_000,
        f"{base64.b64encode(f'xx{KEY}'.encode()).decode()}!{'A' * 1_000_000}",
        "%61%" + "25" * 500_000,
        "&#61;&#" + "0" * 1_000_000,
    ],
)
def test_looking_takes_time_by_length_alone(text: str) -> None:
    """Look through a megabyte that is made to be slow in seconds; it took the square of its length, hours."""
    began = time.process_time()
    REDACTOR.text(text)
    assert time.process_time() - began < 3


@rows("slashes", [1, 3, 15, 16])
def test_a_secret_is_cut_however_often_it_was_escaped(slashes: int) -> None:
    """Cut a key whose letters are JSON escapes that were escaped again, up to four times."""
    escaped = "".join("\\" * slashes + f"u{ord(char):04x}" for char in KEY)
    assert REDACTOR.text(f"a {escaped} b") == f"a {CUT} b"
