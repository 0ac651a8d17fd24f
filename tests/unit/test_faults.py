"""The sandbox's faults, seen from outside: a client submits to a stand-in, and a receiver takes what it sends back."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from starlette.types import Message, Receive, Scope, Send

from relay.sandbox.bodies import DIGITS, LEVELS, of_callback
from relay.sandbox.calling import PIECES
from relay.sandbox.contract import API_KEY
from relay.sandbox.faults import WORDS, Faults, of_names, of_prompt, sentences
from relay.sandbox.keys import Keys
from relay.sandbox.providers import STAND_INS, sandbox
from relay.sandbox.serving import serve
from relay.sandbox.world import Sandbox
from tests.support.quiescence import watched_loop
from tests.support.rows import rows
from tests.support.running import http_client

pytestmark = pytest.mark.anyio

PROMPT = "slow push in"
IMAGE = "https://example.com/a.png"
SUBMIT = {
    "evolink": "/v1/videos/generations",
    "relaydance": "/v1/video/generations",
    "kinovi": "/api/v1/jobs/createTask",
}
STATUS = {
    "evolink": "/v1/tasks/{}",
    "relaydance": "/v1/video/generations/{}",
    "kinovi": "/api/v1/jobs/recordInfo?taskId={}",
}
PUBLISHED = {"evolink": "completed", "relaydance": "succeeded", "kinovi": "success"}
RUNNING = {"evolink": "processing", "relaydance": "running", "kinovi": "generating"}
FAILED = {"evolink": "failed", "relaydance": "failed", "kinovi": "fail"}
ERROR_KEYS = {"evolink": {"error"}, "relaydance": {"error"}, "kinovi": {"message"}}
PROVIDERS = list(SUBMIT)


class Came(msgspec.Struct):
    """A request as it came; `whole` is false when its sender went away in the middle of the body."""

    target: str
    headers: dict[str, str]
    pieces: list[bytes]
    took_s: float
    whole: bool

    @property
    def body(self) -> bytes:
        """All of the body."""
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Receiver:
    """An ASGI app that takes callbacks, and answers 200."""

    def __init__(self) -> None:
        self.came: list[Came] = []
        self.arrived = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One callback."""
        began, pieces, message = time.monotonic(), [], await receive()
        while message["type"] == "http.request" and message.get("more_body"):
            pieces.append(message["body"])
            message = await receive()
        pieces.append(message.get("body", b""))
        target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        whole = message["type"] == "http.request"
        took_s = time.monotonic() - began
        self.came.append(Came(target, headers, [piece for piece in pieces if piece], took_s, whole))
        self.arrived.set()
        started: Message = {"type": "http.response.start", "status": 200, "headers": []}
        await send(started)
        await send({"type": "http.response.body", "body": b""})


class Stage:
    """A sandbox, a client with its key, and a receiver for its callbacks."""

    def __init__(self, world: Sandbox, client: httpx.AsyncClient, receiver: Receiver, hook: str) -> None:
        self.world = world
        self.client = client
        self.receiver = receiver
        self.hook = hook

    async def submit(self, provider: str = "evolink", prompt: str = PROMPT, **faults: Any) -> httpx.Response:
        """Return the provider's answer to a submission with these faults."""
        if faults:
            self.world.next_faults.append(Faults(**faults))
        return await self.client.post(SUBMIT[provider], json=body(provider, self.hook, prompt))

    async def job(self, provider: str = "evolink", **faults: Any) -> str:
        """Return the id, at its provider, of a job with these faults."""
        answer = await self.submit(provider, **faults)
        assert answer.status_code == 200, answer.text
        return list(self.world.jobs)[-1]

    async def ended(self, provider: str = "evolink", **faults: Any) -> list[Came]:
        """Return what comes of a job with these faults until it has ended."""
        await self.world.finish(await self.job(provider, **faults))
        return self.receiver.came

    async def check(self, provider: str, job_id: str) -> httpx.Response:
        """Return the provider's answer to a status check."""
        return await self.client.get(STATUS[provider].format(job_id))

    async def cancel(self, job_id: str) -> httpx.Response:
        """EvoLink's stand-in's answer to a cancellation."""
        return await self.client.post(f"/v1/tasks/{job_id}/cancel")


@asynccontextmanager
async def staged(pace_s: float | None = None, time_scale: float = 0) -> AsyncIterator[Stage]:
    """Everything, running."""
    async with AsyncExitStack() as stack:
        world, receiver = sandbox(pace_s=pace_s, time_scale=time_scale), Receiver()
        stack.push_async_callback(world.close)
        origin = await stack.enter_async_context(serve(world.app))
        hook = await stack.enter_async_context(serve(receiver)) + "/callbacks/any/TOKEN-abcdefgh"
        client = await stack.enter_async_context(http_client(origin, API_KEY))
        yield Stage(world, client, receiver, hook)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Yield a sandbox in which nothing moves until the test moves it."""
    async with staged() as made:
        yield made


def body(provider: str, hook: str, prompt: str) -> dict[str, Any]:
    """Return a good submission."""
    match provider:
        case "evolink":
            model = "seedance-2.0-image-to-video"
            return {"model": model, "prompt": prompt, "image_urls": [IMAGE], "callback_url": hook}
        case "relaydance":
            return {"model": "seedance-1-5-pro", "prompt": prompt, "metadata": {"callback_url": hook}}
        case _:
            return {"model": "seedance-20", "inputs": {"urls": [IMAGE], "prompt": prompt}, "callBackUrl": hook}


def word(shown: dict[str, Any]) -> str:
    """Return the status word of a status answer or a callback."""
    held = shown.get("data") or shown
    return str(held.get("status") or held["state"])


def job_id_in(shown: dict[str, Any]) -> str:
    """Return the job's id in a status answer or a callback."""
    held = shown.get("data") or shown
    return str(held.get("id") or held.get("task_id") or held["taskId"])


def words(came: list[Came]) -> list[str]:
    """Return the status words of callbacks."""
    return [word(one.json) for one in came]


async def test_every_fault_has_one_sentence_and_it_explains_every_word() -> None:
    """What can be set and what is said about it are one table, so neither can be ahead of the other."""
    said = sentences()
    assert tuple(said) == Faults.__struct_fields__
    assert [name for name, sentence in said.items() if not sentence.endswith(".") or sentence.count(". ")] == []
    unsaid = [f"{name}={one}" for name in WORDS for one in WORDS[name] if one and f"`{one}`" not in said[name]]
    assert unsaid == []


@rows("name", WORDS)
async def test_a_word_that_is_not_in_its_list_is_refused_with_the_list(name: str) -> None:
    """Wherever the faults are made, the error names the fault, what was given and every word it knows."""
    wrong: dict[str, Any] = {name: "bogus"}
    with pytest.raises(ValueError, match="bogus"):
        Faults(**wrong)
    with pytest.raises(ValueError, match="bogus") as refused:
        of_prompt(f"[sandbox: {name}=bogus]")
    assert all(one in str(refused.value) for one in (name, *WORDS[name]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lots", "'lots'; it knows cancel, changed"),
        ("duplicate=two", "duplicate"),
        ("duplicate=-1", "duplicate"),
        ("drip_s=nan", "drip_s"),
        ("slow_s=inf", "slow_s"),
        ("lost=perhaps", "lost"),
        ("check=lies", "lie=failed"),
        ("lie=failed", "check=lies"),
    ],
)
async def test_a_directive_that_makes_no_sense_is_refused(stage: Stage, text: str, says: str) -> None:
    """The stand-in answers 400 with the reason, and makes no job."""
    answer = await stage.submit(prompt=f"{PROMPT} [sandbox: {text}]")
    assert answer.status_code == 400
    assert says in answer.json()["detail"]
    assert stage.world.jobs == {}


async def test_a_prompt_asks_for_faults_by_their_names() -> None:
    """Names and values stand as they do in a test; a name alone is set."""
    asked = of_prompt("x [sandbox: lost; duplicate=2; drip_s=0.5; check=lies; lie=on the way] y")
    assert asked == Faults(lost=True, duplicate=2, drip_s=0.5, check="lies", lie="on the way")
    assert of_names({}) == Faults()
    assert of_prompt(PROMPT) is None


async def test_without_a_pace_a_job_waits_to_be_finished(stage: Stage) -> None:
    """Nothing moves by itself; `finish` brings the end, and one callback."""
    job_id = await stage.job()
    assert word((await stage.check("evolink", job_id)).json()) == "pending"
    await stage.world.finish(job_id)
    assert word((await stage.check("evolink", job_id)).json()) == "completed"
    assert words(stage.receiver.came) == ["completed"]


@pytest.mark.parametrize(
    ("faults", "error", "created"),
    [
        ({"submit": "hang"}, httpx.ReadTimeout, 1),
        ({"submit": "reset"}, (httpx.RemoteProtocolError, httpx.ReadError), 0),
        ({"submit": "reset_after"}, (httpx.RemoteProtocolError, httpx.ReadError), 1),
    ],
)
async def test_a_submission_without_an_answer(stage: Stage, faults: Any, error: Any, created: int) -> None:
    """`hang` never answers, the resets close the connection; the job exists or not as the sentence says."""
    stage.client.timeout = httpx.Timeout(0.2)
    with pytest.raises(error):
        await stage.submit(**faults)
    assert len(stage.world.jobs) == created


@pytest.mark.parametrize(("submit", "content"), [("empty", b""), ("id_missing", b'{"status":"submitted"}')])
async def test_a_submission_answered_without_an_id(stage: Stage, submit: str, content: bytes) -> None:
    """The job is created and called back about, but the answer does not say its id."""
    answer = await stage.submit(submit=submit)
    assert (answer.status_code, answer.content) == (200, content)
    await stage.world.finish(next(iter(stage.world.jobs)))
    assert words(stage.receiver.came) == ["completed"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_submission_answered_with_another_id(stage: Stage, provider: str) -> None:
    """The status route knows only the real id, and that is what the callback carries."""
    told = job_id_in((await stage.submit(provider, submit="wrong_id")).json())
    real = next(iter(stage.world.jobs))
    assert told != real
    assert [(await stage.check(provider, one)).status_code for one in (told, real)] == [404, 200]
    await stage.world.finish(real)
    assert [job_id_in(one.json) for one in stage.receiver.came] == [real]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refused_submission(stage: Stage, provider: str) -> None:
    """`status_code` answers in the provider's shape, `html` with a page; neither makes a job."""
    refused = await stage.submit(provider, status_code=429)
    assert (refused.status_code, ERROR_KEYS[provider] <= set(refused.json())) == (429, True)
    pages = [await stage.submit(provider, html=True), await stage.submit(provider, html=True, status_code=503)]
    assert [(page.status_code, "<html>" in page.text) for page in pages] == [(502, True), (503, True)]
    assert stage.world.jobs == {}


@pytest.mark.parametrize(("faults", "jobs"), [({}, 1), ({"status_code": 500}, 0)])
async def test_a_slow_submission(stage: Stage, faults: Any, jobs: int) -> None:
    """The answer, good or bad, comes after `slow_s`; the job is there before it."""
    began = time.monotonic()
    answering = asyncio.create_task(stage.submit(slow_s=0.1, **faults))
    if jobs:
        await stage.world.wait_for(lambda world: len(world.jobs) == jobs)
        assert not answering.done()
    assert (await answering).status_code == faults.get("status_code", 200)
    assert time.monotonic() - began >= 0.1
    assert len(stage.world.jobs) == jobs


async def test_an_early_callback(stage: Stage) -> None:
    """The job has ended and called back when its submission is answered."""
    await stage.submit(early=True)
    assert words(stage.receiver.came) == ["completed"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("outcome", WORDS["outcome"])
async def test_an_outcome(stage: Stage, provider: str, outcome: str) -> None:
    """The callback and the status route tell the end; without an output there is no URL in either."""
    (came,) = await stage.ended(provider, outcome=outcome)
    shown = (await stage.check(provider, next(iter(stage.world.jobs)))).json()
    good = outcome in ("succeeded", "no_output")
    assert (word(shown) == PUBLISHED[provider], word(came.json) == PUBLISHED[provider]) == (good, good)
    assert (".mp4" in str(shown), b".mp4" in came.body) == ((outcome == "succeeded"),) * 2


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("outcome", "flips"), [("succeeded", "failed"), ("failed", "succeeded")])
async def test_an_end_that_flips(stage: Stage, provider: str, outcome: str, flips: str) -> None:
    """After the last callback another one tells the contrary, and the status route with it."""
    came = await stage.ended(provider, outcome=outcome, flips=flips)
    both = {"succeeded": PUBLISHED[provider], "failed": FAILED[provider]}
    assert words(came) == [both[outcome], both[flips]]
    assert word((await stage.check(provider, next(iter(stage.world.jobs)))).json()) == both[flips]


async def test_a_cancellation(stage: Stage) -> None:
    """EvoLink's stand-in answers the canceled task and calls back; what has ended is 409, what is unknown 404."""
    job_id = await stage.job()
    answer = await stage.cancel(job_id)
    assert (answer.status_code, word(answer.json())) == (200, "cancelled")
    await stage.world.wait_for(lambda world: len(world.callbacks) == 1)
    await stage.world.finish(job_id)
    assert words(stage.receiver.came) == ["cancelled"]
    again, unknown = await stage.cancel(job_id), await stage.cancel("task-unified-0")
    assert [(refused.status_code, set(refused.json())) for refused in (again, unknown)] == [
        (409, {"error"}),
        (404, {"error"}),
    ]
    assert stage.world.cancellations == [job_id, job_id, "task-unified-0"]


async def test_a_canceled_job_is_not_revived_by_its_own_life() -> None:
    """A job that was going on by itself stays canceled."""
    async with staged(pace_s=0.05) as stage:
        with watched_loop().time_held():  # or the job may end before its cancellation comes
            job_id, other = await stage.job(), await stage.job()
            assert (await stage.cancel(job_id)).status_code == 200
        await stage.world.wait_for(lambda world: len(world.callbacks) == 2)
        assert [stage.world.jobs[one].state for one in (job_id, other)] == ["canceled", "succeeded"]
        assert sorted(words(stage.receiver.came)) == ["cancelled", "completed"]


async def test_a_cancellation_that_fails(stage: Stage) -> None:
    """`refused` is 409 though the job goes on, `hang` never answers; neither cancels."""
    refused, hanging = await stage.job(cancel="refused"), await stage.job(cancel="hang")
    assert (await stage.cancel(refused)).status_code == 409
    stage.client.timeout = httpx.Timeout(0.2)
    with pytest.raises(httpx.ReadTimeout):
        await stage.cancel(hanging)
    assert [stage.world.jobs[one].state for one in (refused, hanging)] == ["pending", "pending"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_status_check_that_is_answered_badly(stage: Stage, provider: str) -> None:
    """`not_found` has the provider's shape, `html` is a page, `empty` is nothing."""
    shown = [await stage.check(provider, await stage.job(provider, check=c)) for c in ("not_found", "html", "empty")]
    assert [answer.status_code for answer in shown] == [404, 502, 200]
    assert ERROR_KEYS[provider] <= set(shown[0].json())
    assert "<html>" in shown[1].text
    assert shown[2].content == b""


@pytest.mark.parametrize(
    ("check", "error"), [("hang", httpx.ReadTimeout), ("reset", (httpx.RemoteProtocolError, httpx.ReadError))]
)
async def test_a_status_check_without_an_answer(stage: Stage, check: str, error: Any) -> None:
    """`hang` never answers, `reset` closes the connection; both are counted."""
    job_id = await stage.job(check=check)
    stage.client.timeout = httpx.Timeout(0.2)
    with pytest.raises(error):
        await stage.check("evolink", job_id)
    assert stage.world.status_checks == [job_id]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_status_check_that_is_refused(stage: Stage, provider: str) -> None:
    """In the provider's shape; 429 and 503 say when to come back, where that is wanted, and others never do."""
    for status_code, after_s, header in ((429, 7, "7"), (503, 7, "7"), (503, 0, None), (500, 7, None), (401, 0, None)):
        job_id = await stage.job(provider, check_status=status_code, check_retry_after_s=after_s)
        answer = await stage.check(provider, job_id)
        assert (answer.status_code, answer.headers.get("retry-after")) == (status_code, header)
        assert ERROR_KEYS[provider] <= set(answer.json())
    page = await stage.check(provider, await stage.job(provider, check="html", check_status=503))
    assert (page.status_code, "<html>" in page.text) == (503, True)


async def test_a_fault_of_the_first_checks(stage: Stage) -> None:
    """After `check_times` checks of a job the truth is told; other jobs have their own count."""
    job_id, other = await stage.job(check="not_found", check_times=2), await stage.job(check_status=500, check_times=1)
    asked = [job_id, other, job_id, job_id, other]
    assert [(await stage.check("evolink", one)).status_code for one in asked] == [404, 500, 404, 200, 200]
    assert stage.world.status_checks == asked


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_status_route_that_lies(stage: Stage, provider: str) -> None:
    """It claims a state that the job is not in, or says a word that nobody has published."""
    told = {}
    for lie in ("running", "succeeded", "failed", "dreaming"):
        told[lie] = word((await stage.check(provider, await stage.job(provider, check="lies", lie=lie))).json())
    assert told == {
        "running": RUNNING[provider],
        "succeeded": PUBLISHED[provider],
        "failed": FAILED[provider],
        "dreaming": "dreaming",
    }
    assert {job.state for job in stage.world.jobs.values()} == {"pending"}


async def test_checks_and_cancellations_with_a_wrong_key_are_not_counted(stage: Stage) -> None:
    """They are 401 in the provider's shape; an unknown job's check is counted, and 404."""
    stage.client.headers["authorization"] = "Bearer wrong"
    answers = [await stage.check("evolink", "x"), await stage.cancel("x"), await stage.submit()]
    assert [(answer.status_code, set(answer.json())) for answer in answers] == [(401, {"error"})] * 3
    assert (stage.world.status_checks, stage.world.cancellations, stage.world.submissions) == ([], [], [])
    stage.client.headers["authorization"] = f"Bearer {API_KEY}"
    assert (await stage.check("kinovi", "x")).status_code == 404
    assert stage.world.status_checks == ["x"]


async def test_a_lost_callback(stage: Stage) -> None:
    """The job ends, and nothing comes."""
    assert await stage.ended(lost=True, duplicate=2) == []
    assert next(iter(stage.world.jobs.values())).state == "succeeded"


async def test_a_late_callback() -> None:
    """The status route tells the end before the callback does."""
    async with staged(time_scale=0.01) as stage:
        job_id = await stage.job(late_s=10)
        ending = asyncio.create_task(stage.world.finish(job_id))
        await stage.world.wait_for(lambda world: world.jobs[job_id].ended)
        assert word((await stage.check("evolink", job_id)).json()) == "completed"
        assert stage.receiver.came == []
        await ending
        assert words(stage.receiver.came) == ["completed"]


async def test_duplicates_are_byte_for_byte_the_same(stage: Stage) -> None:
    """`duplicate=2` makes three of the last callback."""
    came = await stage.ended(duplicate=2)
    assert (len(came), len({one.body for one in came})) == (3, 1)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_changed_copy_differs_in_the_query_of_its_urls_alone(stage: Stage, provider: str) -> None:
    """The second copy says the same of a URL that was signed anew."""
    first, second = await stage.ended(provider, changed=True)
    assert first.body != second.body
    assert first.body.count(b".mp4?signature=1") == 1
    assert first.body.replace(b"?signature=1", b"?signature=2") == second.body


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_late_copy_says_the_same_times(stage: Stage, provider: str) -> None:
    """Say when the job ended, not when the callback is sent."""
    await stage.ended(provider)
    job = next(iter(stage.world.jobs.values()))
    of_today = f"{int(time.time())}"[:6].encode()
    job.id, job.created_s, job.updated_s = "task-1", 1_500_000_000, 1_500_000_000
    assert of_today not in of_callback(STAND_INS[provider](Keys()), job)


async def test_a_reordered_callback(stage: Stage) -> None:
    """Where the provider tells of every change, a `running` comes after the end."""
    assert words(await stage.ended("relaydance", version="ark", reordered=True)) == ["running", "succeeded", "running"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_unknown_word_comes_before_the_end(stage: Stage, provider: str) -> None:
    """A callback in the published form, with a word that is in no list and without a result."""
    came = await stage.ended(provider, unknown_word="dreaming")
    assert words(came) == ["dreaming", PUBLISHED[provider]]
    assert b".mp4" not in came[0].body


async def test_an_unknown_word_in_every_form_of_a_callback(stage: Stage) -> None:
    """Each published version carries it where its status stands, beside no error."""
    for provider, version in (("kinovi", "state"), ("kinovi", "flat"), ("relaydance", "ark"), ("relaydance", "openai")):
        came = await stage.ended(provider, version=version, unknown_word="dreaming")
        assert words(came)[-2:] == ["dreaming", word(came[-1].json)]
        held = came[-2].json.get("data") or came[-2].json
        assert held["error"] in (None, {"code": "", "message": ""})


async def test_a_forged_callback_comes_beside_the_true_one(stage: Stage) -> None:
    """It goes to the URL with its last letter changed."""
    forged, true = await stage.ended(forged=True)
    assert (forged.body, forged.target[:-1]) == (true.body, true.target[:-1])
    assert forged.target != true.target


async def test_a_callback_about_another_job(stage: Stage) -> None:
    """`wrong_id` names a job that the status route does not know."""
    (came,) = await stage.ended(wrong_id=True)
    assert (await stage.check("evolink", job_id_in(came.json))).status_code == 404


@pytest.mark.parametrize("upset_url", WORDS["upset_url"])
async def test_a_mangled_callback_url(stage: Stage, upset_url: str) -> None:
    """The request goes to the URL as the provider made it."""
    (came,) = await stage.ended(upset_url=upset_url)
    path = "/callbacks/any/TOKEN-abcdefgh"
    targets = {
        "": path,
        "slash": path + "/",
        "query": f"{path}?taskId={next(iter(stage.world.jobs))}",
        "double_slash": "/" + path,
        "truncated": "/callbacks/any/TOKEN-",
    }
    assert came.target == targets[upset_url]
    assert stage.world.callbacks[0].url.endswith(came.target)


async def test_a_huge_callback(stage: Stage) -> None:
    """It has so many bytes more."""
    await stage.ended()
    plain, huge = await stage.ended(huge=50_000)
    assert 50_000 < len(huge.body) - len(plain.body) < 50_100
    assert word(huge.json) == "completed"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_body_that_is_no_object(stage: Stage, provider: str) -> None:
    """Text, nothing, or a list around the published body."""
    came = [(await stage.ended(provider, malformed=kind))[-1] for kind in ("not_json", "empty", "array")]
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(came[0].body)
    assert came[1].body == b""
    assert word(came[2].json[0]) == PUBLISHED[provider]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_status_that_is_said_twice(stage: Stage, provider: str) -> None:
    """The contrary comes first, under the same key of the same object."""
    (came,) = await stage.ended(provider, malformed="twice")
    objects: list[list[Any]] = []

    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append([value for key, value in pairs if key == "status"])
        return dict(pairs)

    json.loads(came.body, object_pairs_hook=kept)
    assert [FAILED[provider], PUBLISHED[provider]] in objects


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_body_with_a_value_that_upsets_readers(stage: Stage, provider: str) -> None:
    """The published body with one value more: too deep, no number, a NUL, half a character, too many digits."""
    kinds = ("deep", "nan", "nul", "surrogate", "bigint")
    deep, nan, nul, surrogate, bigint = [(await stage.ended(provider, malformed=kind))[-1] for kind in kinds]
    assert deep.body.count(b"[") >= LEVELS
    assert nan.json["note"] != nan.json["note"]
    assert (nul.json["note"], surrogate.json["note"]) == ("\0", "\ud800")
    assert b'"note":' + b"9" * DIGITS + b"}" in bigint.body
    assert words([nan, nul, surrogate]) == [PUBLISHED[provider]] * 3


@pytest.mark.parametrize(("malformed", "begins"), [("nul", "\0"), ("surrogate", "\ud800")])
async def test_what_upsets_databases_stands_in_the_providers_error_too(
    stage: Stage, malformed: str, begins: str
) -> None:
    """A failed job's reason begins with it, since that is what a receiver stores."""
    (came,) = await stage.ended(outcome="failed", malformed=malformed)
    assert came.json["error"]["message"].startswith(begins)


@pytest.mark.parametrize(
    ("encoding", "begins", "read"),
    [
        ("gzip", b"\x1f\x8b", lambda raw: gzip.decompress(raw).decode()),
        ("utf-16", b"\xff\xfe", lambda raw: raw.decode("utf-16")),
        ("bom", b"\xef\xbb\xbf{", lambda raw: raw.decode("utf-8-sig")),
    ],
)
async def test_a_body_in_another_encoding(stage: Stage, encoding: str, begins: bytes, read: Any) -> None:
    """Only a compressed body says so in its headers."""
    (came,) = await stage.ended(encoding=encoding)
    assert came.body.startswith(begins)
    assert word(json.loads(read(came.body))) == "completed"
    assert came.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)


async def test_the_content_type_and_the_framing(stage: Stage) -> None:
    """Published: JSON with its length; otherwise what the fault says, in chunks without a length."""
    plain = (await stage.ended())[-1]
    other = (await stage.ended(content_type="text/plain", chunked=True))[-1]
    assert (plain.headers["content-type"], plain.headers["content-length"]) == (
        "application/json",
        str(len(plain.body)),
    )
    assert (other.headers["content-type"], other.headers["transfer-encoding"]) == ("text/plain", "chunked")
    assert "content-length" not in other.headers
    assert words([plain, other]) == ["completed", "completed"]


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_dripping_body(stage: Stage, chunked: bool) -> None:
    """It comes in a few pieces, spread over the time that was given, and is whole in the end."""
    (came,) = await stage.ended(drip_s=0.2, chunked=chunked)
    assert len(came.pieces) == PIECES
    assert came.took_s >= 0.15
    assert (word(came.json), "content-length" in came.headers) == ("completed", not chunked)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_is_cut(stage: Stage, chunked: bool) -> None:
    """The sender goes away in its middle, and does not come again."""
    await stage.ended(cut=True, chunked=chunked)
    async with asyncio.timeout(60):
        await stage.receiver.arrived.wait()
    (came,) = stage.receiver.came
    (sent,) = stage.world.callbacks
    assert (came.whole, sent.status_code) == (False, None)
    assert 0 < len(came.body) < len(sent.body)
    assert sent.body.startswith(came.body)
