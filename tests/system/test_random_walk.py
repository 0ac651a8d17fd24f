"""A random walk over everything that can go wrong: faults, restarts, downtime, forged callbacks, people, time passing.

Whatever happened, at the end of time every job has ended and says why, nobody was asked twice to create one, and its
events tell one story without a gap.
"""

import asyncio
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.sandbox.faults import FINAL, Faults
from relay.sandbox.providers import sandbox
from tests.support.ports import free_port
from tests.support.quiescence import WatchedLoop
from tests.support.running import HeldClock, Running, relay

JOBS_MAX = 5
ENVIRON: dict[str, Any] = {
    "RELAY_SUBMIT_TIMEOUT_S": "0.3",
    "RELAY_SUBMIT_WAIT_S": "1",
    "RELAY_STATUS_CHECK_FIRST_S": "60",
}
EVENTS_OF_ENDS = {"job.succeeded", "job.failed", "job.canceled", "job.expired"}

CHECKS: list[dict[str, Any]] = [{}, {}, *({"check": word} for word in ("not_found", "html", "reset", "empty"))]
CHECKS += [{"check": "lies", "lie": lie} for lie in ("running", "failed", "pondering")]


def _faults(checking: dict[str, Any], **others: Any) -> Faults:
    """Return the faults of a job, with those of its status checks, which go together."""
    return Faults(**checking, **others)


faults = st.builds(
    _faults,
    st.sampled_from(CHECKS),
    submit=st.sampled_from(["ok", "ok", "ok", "hang", "reset", "reset_after", "empty", "id_missing", "wrong_id"]),
    status_code=st.sampled_from([200, 200, 200, 200, 402, 429, 500, 503]),
    early=st.sampled_from([False, False, True]),
    outcome=st.sampled_from([*FINAL, "succeeded", "no_output"]),
    flips=st.sampled_from(["", "", *FINAL]),
    check_times=st.sampled_from([0, 1, 2]),
    lost=st.sampled_from([False, False, True]),
    duplicate=st.sampled_from([0, 0, 2]),
    changed=st.booleans(),
    reordered=st.booleans(),
    unknown_word=st.sampled_from(["", "", "pondering"]),
    forged=st.booleans(),
    wrong_id=st.sampled_from([False, False, True]),
    malformed=st.sampled_from(["", "", "not_json", "twice", "nul", "bigint"]),
    cancel=st.sampled_from(["ok", "refused"]),
)
numbers = st.integers(0, JOBS_MAX - 1)


class Walk(RuleBasedStateMachine):
    """A relay in a loop of its own, and a sandbox that outlives its restarts."""

    @initialize()
    def begin(self) -> None:
        """Start the world and the first relay."""
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner(loop_factory=WatchedLoop)
        self.clock, self.port = HeldClock(), free_port()
        self.world = self.runner.run(_made())
        self.jobs: list[dict[str, Any]] = []
        self.running: Running | None = None
        self.start()

    def start(self) -> None:
        """Open relay, on the same database and the same port as before."""
        self.stack = AsyncExitStack()
        entered = self.stack.enter_async_context(
            relay(Path(self.folder.name), clock=self.clock, world=self.world, port=self.port, **ENVIRON)
        )
        self.running = self.runner.run(entered)

    @precondition(lambda self: self.running is not None)
    @rule()
    def stop(self) -> None:
        """relay goes away; callbacks meet nobody."""
        self.running = None
        self.runner.run(self.stack.aclose())

    @precondition(lambda self: self.running is None)
    @rule()
    def come_back(self) -> None:
        """relay is there again."""
        self.start()

    @precondition(lambda self: self.running is not None and len(self.jobs) < JOBS_MAX)
    @rule(provider=st.sampled_from(["evolink", "relaydance", "kinovi", "sandbox"]), wrong=faults)
    def submit(self, provider: str, wrong: Faults) -> None:
        """Submit a job with faults of its own."""
        assert self.running is not None
        self.world.next_faults.append(wrong)
        self.jobs.append(self.runner.run(self.running.submit(provider)))

    @precondition(lambda self: len(self.world.jobs) > 0)
    @rule(number=numbers)
    def finish(self, number: int) -> None:
        """End a job at the provider, whether or not relay runs."""
        known = list(self.world.jobs)
        self.runner.run(self.world.finish(known[number % len(known)]))

    @precondition(lambda self: self.running is not None and len(self.world.jobs) > 0)
    @rule(number=numbers, word=st.sampled_from(["completed", "failed", "processing"]))
    def forge(self, number: int, word: str) -> None:
        """Somebody who has the token claims something."""
        assert self.running is not None
        known = list(self.world.jobs.values())
        url = known[number % len(known)].callback_url
        body = {"status": word, "results": ["https://forger.example.com/a.mp4"]}
        self.runner.run(self.running.client.post(str(url), json=body))

    @precondition(lambda self: self.running is not None and len(self.jobs) > 0)
    @rule(number=numbers, verb=st.sampled_from(["cancellations", "status-checks"]))
    def intervene(self, number: int, verb: str) -> None:
        """Cancel a job, or ask for a status check of it."""
        assert self.running is not None
        job = self.jobs[number % len(self.jobs)]
        answer: httpx.Response = self.runner.run(self.running.client.post(f"/v1/jobs/{job['id']}/{verb}"))
        assert answer.status_code in (200, 409), answer.text

    @rule(seconds=st.sampled_from([1, 5, 60, 600, 4000]))
    def wait(self, seconds: int) -> None:
        """Time passes, with or without relay."""
        self.runner.run(self.clock.advance(seconds))

    @invariant()
    def nobody_is_asked_twice(self) -> None:
        """Require that a provider saw each callback URL in one submission at most."""
        if hasattr(self, "world"):
            urls = Counter(str(_callback_url(body)) for body in self.world.submissions)
            assert not [url for url, times in urls.items() if times > 1]

    def teardown(self) -> None:
        """Lets all the time pass that there is, and reads every job's story."""
        if not hasattr(self, "runner"):
            return
        if self.running is None:
            self.start()
        assert self.running is not None
        self.runner.run(self.ended(self.running))
        self.runner.run(self.stack.aclose())
        self.runner.run(self.world.close())
        self.runner.close()
        self.folder.cleanup()

    async def ended(self, running: Running) -> None:
        """Every job is final with a reason, its events are numbered without a gap, each end is told once."""
        for _ in range(40):
            if not [job for job in (await running.get("/v1/jobs"))["data"] if job["status"] not in FINAL_STATES]:
                break
            await self.clock.advance(600)
        for _ in range(3):  # a second end about a job that has ended is asked about for ten minutes
            await self.clock.advance(700)
        for job in (await running.get("/v1/jobs"))["data"]:
            assert job["status"] in FINAL_STATES, job
            assert job["outputs"] or job["error"] or job["status"] in ("canceled", "expired"), job
            assert job["finished_by"], job
            assert "forger" not in str(job["outputs"]) or job["verification"] == "token", job
            events = (await running.get(f"/v1/events?job={job['id']}"))["data"][::-1]
            assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
            finals = [event for event in events if event["final"]]
            assert finals, events
            assert finals[-1]["data"]["job"]["status"] == job["status"], (job, events)
            for before, after in zip([None, *finals], finals, strict=False):
                assert after["data"]["supersedes"] == (before["id"] if before else None)
                assert before is None or before["data"]["job"]["status"] != after["data"]["job"]["status"]
            plain = Counter(event["type"] for event in finals if event["type"] in EVENTS_OF_ENDS)
            assert max(plain.values()) == 1, events


FINAL_STATES = {*FINAL, "expired"}


async def _made() -> Any:
    """Return the sandbox, in the loop it will live in."""
    return sandbox(pace_s=None, time_scale=0)


def _callback_url(body: dict[str, Any]) -> object:
    """Return the callback URL of a submission, wherever its provider wants it."""
    return body.get("callback_url") or body.get("callBackUrl") or body.get("metadata", {}).get("callback_url")


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
