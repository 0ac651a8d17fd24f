"""What only some adapters ask of the flow: handshakes, results in two steps, look-ups by relay's id, careful cancels.

Each test has EvoLink's adapter and stand-in with one more thing, so that what is tested is the flow and no provider.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.errors import Unreadable
from relay.lifecycle.checks import NOT_FOUND_AGE_MS, NOT_FOUND_TRIES
from relay.lifecycle.lookups import PAUSE_MAX_MS, PAUSE_MS
from relay.model.job import JobState, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import evolink as adapters
from relay.providers.base import SubmittedJob
from relay.sandbox import evolink as stand_ins
from relay.sandbox.contract import FurtherRoute, ProviderJob
from relay.sandbox.faults import Faults
from relay.sandbox.world import Sandbox
from relay.security.redaction import STEP_BYTES
from tests.support.calling_back import kept, post
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

CHALLENGE = {"challenge": "a 1 \u00e9"}
OWN_ID = "x-own-id"
CHECKED_S = 600
"""A job without a callback is checked within so many seconds."""


WorldOf = Callable[[stand_ins.EvoLink], Sandbox]


@pytest.fixture
async def world_of() -> AsyncIterator[WorldOf]:
    """Yield what makes a sandbox with one stand-in alone; its jobs end when a test ends them."""
    made: list[Sandbox] = []

    def make(stand_in: stand_ins.EvoLink) -> Sandbox:
        made.append(Sandbox({"evolink": stand_in}, pace_s=None, time_scale=0))
        return made[-1]

    yield make
    for world in made:
        await world.close()


def entries(timeline: dict[str, Any], kind: str) -> list[tuple[str, str | None, str | None]]:
    """Return the entries of a kind: summary, decision and reason of each."""
    return [(one["summary"], one["decision"], one["reason"]) for one in timeline["data"] if one["kind"] == kind]


# Handshakes


class Challenged(adapters.EvoLink):
    """EvoLink, if it tested callback URLs."""

    def reply(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the challenge as it came."""
        return {"challenge": body["challenge"]} if isinstance(body.get("challenge"), str) else None


class Challenging(stand_ins.EvoLink):
    """Posts a challenge during the submission, and refuses a URL that does not return it."""

    def handshake(self, job: ProviderJob) -> dict[str, Any] | None:  # noqa: ARG002 - the contract's signature
        """Return the challenge."""
        return CHALLENGE

    def handshake_failed(self, job: ProviderJob) -> Response | None:  # noqa: ARG002 - the contract's signature
        """Return a refusal."""
        return JSONResponse({"error": {"code": "callback_url", "message": "it does not answer"}}, 400)


async def test_a_handshake_is_answered_while_the_submission_is_open(tmp_path: Path, world_of: WorldOf) -> None:
    """Return the challenge before the provider has answered the submission, and leave the job to go on."""
    async with relay(
        tmp_path, clock=HeldClock(), world=world_of(Challenging()), adapters={"evolink": Challenged()}
    ) as running:
        job = await running.submit("evolink")
        assert (job["status"], job["provider_job_id"] is not None) == ("submitted", True)
        (callback,) = await kept(running)
        assert (callback["verdict"], callback["reason"], callback["job"]) == ("recorded", "handshake", job["id"])
        await running.world.finish(job["provider_job_id"])
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert done["finished_by"] == "callback"


async def test_a_provider_that_gets_no_reply_refuses(tmp_path: Path, world_of: WorldOf) -> None:
    """Show that the stand-in tells a reply from relay's usual answer, which an adapter without `reply` gives."""
    async with relay(tmp_path, clock=HeldClock(), world=world_of(Challenging())) as running:
        job = await running.submit("evolink")
        assert (job["status"], job["error"]["class"]) == ("failed", "invalid_input")


@pytest.mark.parametrize("padding", [0, STEP_BYTES])
async def test_both_entrances_answer_a_handshake(tmp_path: Path, padding: int) -> None:
    """Return the same JSON from the direct way and from ASGI, which a large body takes, and move nothing."""
    body = msgspec.json.encode(CHALLENGE | {"padding": "x" * padding})
    async with relay(tmp_path, clock=HeldClock(), adapters={"evolink": Challenged()}) as running:
        job = await running.submit("evolink")
        for _ in range(2):
            answer = await post(running, body)
            assert (answer.status_code, answer.json()) == (200, CHALLENGE)
            assert answer.headers["content-type"] == "application/json"
        assert [(one["verdict"], one["reason"]) for one in await kept(running)] == [("recorded", "handshake")] * 2
        after = await running.get(f"/v1/jobs/{job['id']}")
        assert (after["status"], after["updated_at"]) == (job["status"], job["updated_at"])
        assert len((await running.get(f"/v1/events?job={job['id']}"))["data"]) == 1


async def test_a_handshake_needs_a_token(tmp_path: Path) -> None:
    """Answer 404 without the challenge to one with a wrong token, and the usual answer to another body."""
    async with relay(tmp_path, clock=HeldClock(), adapters={"evolink": Challenged()}) as running:
        await running.submit("evolink")
        refused = await post(running, msgspec.json.encode(CHALLENGE), url=running.callback_url()[:-1])
        assert (refused.status_code, b"challenge" in refused.content) == (404, False)
        usual = await post(running, b'{"challenge":5,"status":"processing"}')
        assert usual.json() == {"received": True}


# Results in two steps


class TwoSteps(adapters.EvoLink):
    """EvoLink, if its status answers had no result."""

    def result_request(self, job: SubmittedJob, report: Report) -> ProviderRequest | None:
        """Return the request for the files of a job that succeeded."""
        if report.state is not JobState.SUCCEEDED or report.outputs:
            return None
        return ProviderRequest(method="GET", path=f"/v1/files/{job.quoted_id}")

    def read_result(self, response: ProviderResponse, report: Report, now_ms: int) -> Report:
        """Return the report with the files' URLs."""
        return msgspec.structs.replace(self.read_status(response, now_ms), provider_status=report.provider_status)


class Files(stand_ins.EvoLink):
    """Sends no callback, and answers a status check without the result; `broken` is the status of the other answer."""

    def __init__(self) -> None:
        self.broken = 200
        self.asked = 0

    def announces(self, job: ProviderJob) -> bool:  # noqa: ARG002 - the contract's signature
        """Return False."""
        return False

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the status without the result."""
        return {name: value for name, value in super().status(job).items() if name != "results"}

    def further_routes(self) -> Sequence[FurtherRoute]:
        """Return the route of the files."""
        return (("GET", "/v1/files/{id}", self._files),)

    async def _files(self, jobs: Mapping[str, ProviderJob], request: Request) -> Response:
        """Return the status with the result."""
        assert self.authorized(request)
        self.asked += 1
        return JSONResponse(super().status(jobs[request.path_params["id"]]), self.broken)


@pytest.mark.parametrize("broken", [0, 404, 500])
async def test_a_result_is_fetched_in_a_second_step(tmp_path: Path, world_of: WorldOf, broken: int) -> None:
    """End the job with the second answer's result, both calls in the timeline; ask again if that answer is an error."""
    files, clock = Files(), HeldClock()
    async with relay(tmp_path, clock=clock, world=world_of(files), adapters={"evolink": TwoSteps()}) as running:
        job = await running.submit("evolink")
        await running.world.finish(job["provider_job_id"])
        files.broken = broken or 200
        if broken:
            waits = await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
            assert (waits.json()["status"], files.asked) == ("submitted", 1)
            files.broken = 200
        await clock.advance(CHECKED_S)
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], done["finished_by"], len(done["outputs"])) == ("succeeded", "status_check", 1)
        calls = entries(await running.get(f"/v1/jobs/{job['id']}/timeline"), "check")
        assert [decision for _, decision, _ in calls][-2:] == ["succeeded: the result is fetched", "succeeded"]
        assert [summary.partition(" at ")[0] for summary, _, _ in calls][-2:] == ["check", "result"]
        assert files.asked == (2 if broken else 1)


# Look-ups by relay's own id


class Findable(adapters.EvoLink):
    """EvoLink, if it kept a client's own id and could be asked by it."""

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return the request with relay's id."""
        made = super().submission(request, callback_url, job_id)
        return msgspec.structs.replace(made, headers={OWN_ID: job_id})

    def find(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return the request for the jobs with an id."""
        assert job.provider_job_id is None
        return ProviderRequest(method="GET", path=f"/v1/lookups?own={job.job_id}")

    def read_found(self, response: ProviderResponse, job: SubmittedJob, now_ms: int) -> Report | None:
        """Return the report of the one job."""
        assert job.provider_job_id is None
        body = response.json()
        if response.status_code != 200 or not isinstance(body.get("tasks"), list):
            raise Unreadable(f"HTTP {response.status_code}")
        tasks = body["tasks"]
        return self.read_callback(tasks[0], now_ms) if tasks else None


class Keeps(stand_ins.EvoLink):
    """Keeps relay's id of each job; `down` answers look-ups 503, `forgets` with no job. It sends no callback."""

    def __init__(self) -> None:
        self.own: dict[str, str] = {}
        self.looked_up: list[str] = []
        self.down = self.forgets = False

    def announces(self, job: ProviderJob) -> bool:  # noqa: ARG002 - the contract's signature
        """Return False."""
        return False

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return the job, whose own id is kept."""
        job = super().accept(body, number, request)
        assert request.headers[OWN_ID] not in self.own, "no id is submitted twice"
        self.own[request.headers[OWN_ID]] = job.id
        return job

    def further_routes(self) -> Sequence[FurtherRoute]:
        """Return the route of look-ups."""
        return (("GET", "/v1/lookups", self._look_up),)

    async def _look_up(self, jobs: Mapping[str, ProviderJob], request: Request) -> Response:
        """Return the jobs with an own id."""
        own = request.query_params["own"]
        self.looked_up.append(own)
        found = jobs.get(self.own.get(own, ""))
        tasks = [] if found is None or self.forgets else [self.status(found)]
        return JSONResponse({"tasks": tasks}, 503 if self.down else 200)


async def unclear(running: Running, submit: str) -> dict[str, Any]:
    """Return a job whose submission was cut off before or after the provider made the job."""
    running.world.next_faults.append(Faults(submit=submit))
    job = await running.submit("evolink")
    shown = await running.get(f"/v1/jobs/{job['id']}")
    assert (shown["status"], shown["reason"], shown["provider_job_id"]) == ("pending", "submit_unknown", None)
    return shown


async def test_an_unclear_submission_is_healed_by_a_lookup(tmp_path: Path, world_of: WorldOf) -> None:
    """Find the job by relay's id, go on with it to its result by status checks, and create no second one."""
    stand_in, clock = Keeps(), HeldClock()
    async with relay(tmp_path, clock=clock, world=world_of(stand_in), adapters={"evolink": Findable()}) as running:
        job = await unclear(running, "reset_after")
        timeline = await running.get(f"/v1/jobs/{job['id']}/timeline")
        assert "by relay's own id" in timeline["next"]["what"]
        await clock.advance(PAUSE_MS / 1000 - 0.001)
        assert stand_in.looked_up == []
        await clock.advance(0.001)
        found = await running.get(f"/v1/jobs/{job['id']}")
        (provider_job_id,) = running.world.jobs
        assert (found["status"], found["reason"], found["error"]) == ("submitted", None, None)
        assert (found["provider_job_id"], stand_in.looked_up) == (provider_job_id, [job["id"]])
        await running.world.finish(provider_job_id)
        await clock.advance(CHECKED_S)
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], done["finished_by"], done["verification"]) == ("succeeded", "status_check", "fetch")
        assert (len(running.world.submissions), len(running.world.callbacks)) == (1, 0)


async def test_a_lookup_finds_a_job_that_has_ended(tmp_path: Path, world_of: WorldOf) -> None:
    """End the job with the result that the look-up brings."""
    stand_in, clock = Keeps(), HeldClock()
    async with relay(tmp_path, clock=clock, world=world_of(stand_in), adapters={"evolink": Findable()}) as running:
        job = await unclear(running, "reset_after")
        await running.world.finish(next(iter(running.world.jobs)))
        await clock.advance(PAUSE_MS / 1000)
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], len(done["outputs"])) == ("succeeded", 1)


async def test_a_job_that_was_never_created_fails_after_ten_minutes(tmp_path: Path, world_of: WorldOf) -> None:
    """Look up at growing pauses, and fail the job after ten minutes, so that it may be submitted again for nothing."""
    stand_in, clock = Keeps(), HeldClock()
    async with relay(tmp_path, clock=clock, world=world_of(stand_in), adapters={"evolink": Findable()}) as running:
        job = await unclear(running, "reset")
        began_ms, asked_at = clock.now_ms(), []
        while (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "pending":
            assert clock.now_ms() - began_ms < NOT_FOUND_AGE_MS + PAUSE_MAX_MS
            before = len(stand_in.looked_up)
            await clock.advance(PAUSE_MS / 1000)
            if len(stand_in.looked_up) > before:
                asked_at.append(clock.now_ms() - began_ms)
        assert asked_at[:6] == [5_000, 10_000, 20_000, 40_000, 80_000, 140_000]
        assert asked_at[-2] < NOT_FOUND_AGE_MS <= asked_at[-1]
        assert len(asked_at) > NOT_FOUND_TRIES
        failed = await running.get(f"/v1/jobs/{job['id']}")
        error = failed["error"]
        assert (failed["status"], error["code"], error["retryable"]) == ("failed", "not_created", True)
        again = await running.client.post(f"/v1/jobs/{job['id']}/resubmissions", json={})
        assert (again.status_code, again.json()["status"]) == (202, "submitted")
        assert (len(running.world.jobs), len(stand_in.own)) == (1, 1)
        assert set(stand_in.own).isdisjoint(stand_in.looked_up)


async def test_a_lookup_without_a_status_decides_nothing(tmp_path: Path, world_of: WorldOf) -> None:
    """Look up again after an error, however long it lasts, and heal the job as soon as the provider answers."""
    stand_in, clock = Keeps(), HeldClock()
    async with relay(tmp_path, clock=clock, world=world_of(stand_in), adapters={"evolink": Findable()}) as running:
        job = await unclear(running, "reset_after")
        stand_in.down = True
        for _ in range(12):
            await clock.advance(PAUSE_MAX_MS / 1000)
        assert len(stand_in.looked_up) > NOT_FOUND_TRIES
        assert (await running.get(f"/v1/jobs/{job['id']}"))["reason"] == "submit_unknown"
        stand_in.down = False
        await clock.advance(PAUSE_MAX_MS / 1000)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
        lookups = entries(await running.get(f"/v1/jobs/{job['id']}/timeline"), "check")
        assert {summary.partition(" at ")[0] for summary, _, _ in lookups} == {"lookup"}


async def test_a_callback_before_the_lookup_is_enough(tmp_path: Path, world_of: WorldOf) -> None:
    """Look nothing up once a callback has brought the provider's id."""
    stand_in, clock = Keeps(), HeldClock()
    async with relay(tmp_path, clock=clock, world=world_of(stand_in), adapters={"evolink": Findable()}) as running:
        job = await unclear(running, "reset_after")
        ((provider_job_id, made),) = running.world.jobs.items()
        assert made.callback_url is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.post(made.callback_url, json=stand_in.status(made) | {"status": "processing"})
        await clock.advance(PAUSE_MAX_MS / 1000)
        shown = await running.get(f"/v1/jobs/{job['id']}")
        assert (shown["status"], shown["provider_job_id"]) == ("running", provider_job_id)
        assert stand_in.looked_up == []


async def test_a_client_may_have_an_unclear_job_looked_up(tmp_path: Path, world_of: WorldOf) -> None:
    """Look the job up on a client's request for a status check, which needs the provider's id elsewhere."""
    stand_in = Keeps()
    async with relay(
        tmp_path, clock=HeldClock(), world=world_of(stand_in), adapters={"evolink": Findable()}
    ) as running:
        job = await unclear(running, "reset_after")
        checked = await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        assert (checked.status_code, checked.json()["status"]) == (200, "submitted")
        assert stand_in.looked_up == [job["id"]]


async def test_lookups_go_on_after_a_restart(tmp_path: Path, world_of: WorldOf) -> None:
    """Heal a job whose process was gone before the first look-up, because the look-up is a row and no timer."""
    stand_in, clock = Keeps(), HeldClock()
    world = world_of(stand_in)
    async with relay(tmp_path, clock=clock, world=world, adapters={"evolink": Findable()}) as running:
        job = await unclear(running, "reset_after")
    async with relay(tmp_path, clock=clock, world=world, adapters={"evolink": Findable()}) as running:
        await clock.advance(PAUSE_MAX_MS / 1000)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    assert len(world.submissions) == 1


async def test_an_interrupted_submission_is_looked_up(tmp_path: Path, world_of: WorldOf) -> None:
    """Heal a job whose process ended while it was being submitted."""
    stand_in, clock = Keeps(), HeldClock()
    world = world_of(stand_in)
    async with relay(tmp_path, clock=clock, world=world, adapters={"evolink": Findable()}) as running:
        world.next_faults.append(Faults(submit="hang"))
        answer = await clock.elapse(running.client.post("/v1/jobs", json=_body()))
        job = answer.json()
        await world.wait_for(lambda one: len(one.jobs) == 1)
    async with relay(tmp_path, clock=clock, world=world, adapters={"evolink": Findable()}) as running:
        for _ in range(5):
            await clock.advance(PAUSE_MAX_MS / 1000)
        shown = await running.get(f"/v1/jobs/{job['id']}")
        assert (shown["status"], stand_in.looked_up) == ("submitted", [job["id"]])
    assert len(world.submissions) == 1


def _body() -> dict[str, Any]:
    """Return a job for EvoLink."""
    wanted = {"images": ["https://example.com/a.png"], "prompt": "slow push in", "duration_s": 5}
    return {"provider": "evolink", "input": wanted}


# Cancellations


class Careful(adapters.EvoLink):
    """EvoLink, if a cancellation erased a job that has ended."""

    check_before_cancellation = True

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return the cancellation of a job that has not begun."""
        if job.provider_status != "pending":
            return None
        return ProviderRequest(method="POST", path=f"/v1/tasks/{job.quoted_id}/cancel", body={})

    def canceled(self, response: ProviderResponse) -> bool:
        """Return whether the answer has the status."""
        return bool(response.json()["status"] == "cancelled")


class Erases(stand_ins.EvoLink):
    """Forgets an ended job that is canceled; `asks` has a cancellation answered as one that may come too late."""

    asks = False

    def cancel_effect(self, job: ProviderJob) -> str:
        """Return what becomes of the job."""
        return "erased" if job.ended else "canceled"

    def cancel_answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the status, or another one."""
        return super().cancel_answer(job) | ({"status": "processing"} if self.asks else {})


async def test_a_cancellation_that_would_erase_a_job_is_not_sent(tmp_path: Path, world_of: WorldOf) -> None:
    """Ask for the status first: refuse where the provider has ended the job, whose result then arrives."""
    world = world_of(Erases())
    async with relay(tmp_path, clock=HeldClock(), world=world, adapters={"evolink": Careful()}) as running:
        world.next_faults.append(Faults(lost=True))
        job = await running.submit("evolink")
        await world.finish(job["provider_job_id"])
        answer = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        assert answer.status_code == 409
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert (done["finished_by"], world.cancellations) == ("status_check", [])


@pytest.mark.parametrize(("asks", "reason"), [(False, None), (True, "detached")])
async def test_a_waiting_job_is_canceled_after_its_status(
    tmp_path: Path, world_of: WorldOf, asks: bool, reason: str | None
) -> None:
    """Send the cancellation of a job that waits, both calls in the timeline; detach it if the answer proves nothing."""
    stand_in = Erases()
    stand_in.asks = asks
    world = world_of(stand_in)
    async with relay(tmp_path, clock=HeldClock(), world=world, adapters={"evolink": Careful()}) as running:
        world.next_faults.append(Faults(lost=True))
        job = await running.submit("evolink")
        answer = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        assert answer.status_code == 200, answer.text
        assert (answer.json()["status"], answer.json()["reason"]) == ("canceled", reason)
        assert world.cancellations == [job["provider_job_id"]]
        timeline = await running.get(f"/v1/jobs/{job['id']}/timeline")
        assert entries(timeline, "check")[0][1] == "pending, before it is canceled"


@pytest.mark.parametrize("check", ["html", "not_found"])
async def test_nothing_is_canceled_without_a_status(tmp_path: Path, world_of: WorldOf, check: str) -> None:
    """Detach a job from its provider if the provider does not say what state it is in."""
    world = world_of(Erases())
    async with relay(tmp_path, clock=HeldClock(), world=world, adapters={"evolink": Careful()}) as running:
        world.next_faults.append(Faults(check=check))
        job = await running.submit("evolink")
        answer = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        assert (answer.json()["status"], answer.json()["reason"]) == ("canceled", "detached")
        assert world.cancellations == []
