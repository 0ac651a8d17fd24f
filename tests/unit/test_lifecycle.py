"""How a job may move: whatever is heard about it, in whatever order, some things never happen."""

import asyncio
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from relay.lifecycle import checks, operator_actions
from relay.lifecycle import reports as lifecycle
from relay.lifecycle.checks import CheckOutcome, StatusCheck
from relay.lifecycle.reports import DoubtLimits, StatusReport, Transition
from relay.model import ids
from relay.model.job import (
    Disposition,
    ErrorClass,
    EventType,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Output,
    OutputKind,
    Report,
    Verification,
)
from relay.security.encryption import Encryption
from relay.storage.apply_updates import DEFAULT_PROJECT, JobUpdate, ReceivedCallback, UpdateResult
from relay.storage.history import CallbackFilter, EventFilter
from relay.storage.jobs import NewJob
from relay.storage.pages import Listing
from relay.storage.store import Store, StoreOptions
from tests.support.rows import rows

Step = Callable[[Job], Transition]
DEADLINE = 1000
OPTIONS = StoreOptions(lease_ms=25_000, backlog_max=64, callbacks_per_job_max=5, schedule_s=(0, 5))

errors = st.builds(
    JobError,
    class_=st.sampled_from(ErrorClass),
    code=st.sampled_from(["a", "b"]),
    message=st.just("as it was told"),
    retryable=st.booleans(),
    provider_code=st.none() | st.sampled_from(["1", "2"]),
)
outputs = st.lists(
    st.builds(
        Output, kind=st.sampled_from(OutputKind), url=st.sampled_from([f"https://cdn.example/{n}.mp4" for n in "ab"])
    ),
    max_size=2,
).map(tuple)
reports = st.builds(
    Report,
    state=st.none() | st.sampled_from(JobState),
    provider_status=st.sampled_from(["processing", "done", "?"]),
    provider_job_id=st.none() | st.sampled_from(["p1", "p2"]),
    upstream_id=st.booleans(),
    progress=st.none() | st.integers(0, 100),
    outputs=outputs,
    error=st.none() | errors,
)
sources = st.sampled_from([FinishedBy.CALLBACK, FinishedBy.STATUS_CHECK, FinishedBy.SUBMIT_ANSWER])
times = st.integers(0, 2 * DEADLINE)


def applied(report: Report, source: FinishedBy, now_ms: int, confirm: bool = True) -> Step:
    """Return a provider's word; a callback's waits to be confirmed where that is asked for."""
    called_back = source is FinishedBy.CALLBACK
    status_report = StatusReport(
        report=report,
        source=source,
        verification=Verification.TOKEN if called_back else Verification.FETCH,
        callback_id="cb_1" if called_back else None,
        confirm_ms=5_000 if called_back and confirm else None,
    )
    return partial(lifecycle.apply_report, status_report=status_report, now_ms=now_ms)


def asked(
    report: Report | None, finding: CheckOutcome, started_at: int, now_ms: int, asked_id: str | None = None
) -> Step:
    """Return a status check; made under `asked_id` where that matters."""
    finding = CheckOutcome.STATUS if report else finding
    check = StatusCheck(
        asked_id=asked_id,
        finding=finding,
        report=report,
        started_at=started_at,
        again_at=now_ms + 600,
        paused_until=now_ms + 300,
        heartbeat_ms=DEADLINE // 2,
    )
    return partial(checks.decide, check=check, now_ms=now_ms)


findings = st.sampled_from([finding for finding in CheckOutcome if finding is not CheckOutcome.STATUS])
steps = st.one_of(
    st.builds(applied, reports, sources, times, st.booleans()),
    st.builds(asked, st.none() | reports, findings, times, times, st.none() | st.sampled_from(["p1", "p2"])),
    st.builds(lambda now_ms: partial(checks.out_of_time, paused=frozenset(), now_ms=now_ms), times),
    st.builds(lambda yes, now_ms: partial(checks.overdue, askable=yes, now_ms=now_ms), st.booleans(), times),
    st.builds(
        lambda yes, now_ms: partial(operator_actions.canceled, confirmed=yes, now_ms=now_ms), st.booleans(), times
    ),
    st.builds(lambda now_ms: partial(operator_actions.failed, why="enough", now_ms=now_ms), times),
    st.builds(lambda error, now_ms: partial(lifecycle.refused, error=error, now_ms=now_ms), errors, times),
    st.builds(lambda error, now_ms: partial(lifecycle.unclear, error=error, now_ms=now_ms), errors, times),
    st.builds(
        lambda error, retry_at, now_ms: partial(lifecycle.not_sent, error=error, retry_at=retry_at, now_ms=now_ms),
        errors,
        st.none() | times,
        times,
    ),
)


def new_job() -> Job:
    """Return a job that waits to be sent."""
    return Job(
        id=ids.new_id(ids.JOB),
        project_id=DEFAULT_PROJECT,
        provider="evolink",
        state=JobState.PENDING,
        created_at=0,
        updated_at=0,
        deadline_at=DEADLINE,
        request={},
        next_submit_at=0,
    )


def check_move(before: Job, transition: Transition) -> None:
    """Require what holds of every single transition."""
    after = transition.job
    assert after.state.rank >= before.state.rank
    if before.state.final and after.state is not before.state:
        assert after.finished_by in (FinishedBy.CALLBACK, FinishedBy.STATUS_CHECK, FinishedBy.SUBMIT_ANSWER)
        if lifecycle.ended_by_relay(before):
            assert after.late
            assert transition.announce == f"job.{after.state}"
        else:
            assert transition.announce is EventType.JOB_CORRECTED
            assert after.verification is Verification.FETCH, "only the provider's status route corrects its own end"
    elif transition.announce:
        assert transition.announce == f"job.{after.state}"
    assert (after.state is before.state) == (transition.announce is None)
    assert before.state.final or after.late is before.late
    assert transition.announce is None or transition.disposition is Disposition.RECORDED
    assert transition.supersedes == (before.last_final_event if transition.announce and after.state.final else None)
    assert (after.finished_at is not None) == after.state.final
    assert after.state.final == (after.finished_by is not None)
    assert after.next_submit_at is None or after.state is JobState.PENDING
    assert after.next_check_at is None or not after.state.final or after.unconfirmed
    assert after.confirm_by is None or after.unconfirmed or not after.state.final
    assert bool(after.outputs) == (after.state is JobState.SUCCEEDED)
    assert after.error is not None or not (after.state is JobState.FAILED or after.finished_by is FinishedBy.DEADLINE)
    assert after.error is None or after.state is not JobState.SUCCEEDED
    assert before.provider_job_id in (None, after.provider_job_id) or "conflict" in (transition.reason or "")


@given(st.lists(steps, max_size=12))
def test_whatever_is_heard_ranks_only_rise_and_an_end_is_an_end(told: list[Step]) -> None:
    """No rank falls; relay's own end gives way to the provider's, that one to its status; each is announced once."""
    job, ended = new_job(), 0
    for step in told:
        before = msgspec.structs.replace(job)
        transition = step(job)
        assert job == before, "a move makes a new job and leaves the old one as it was"
        check_move(before, transition)
        job = transition.job
        if transition.announce and job.state.final:
            ended += 1
            job = msgspec.structs.replace(job, last_final_event=f"evt_{ended}")


@given(reports, sources, times)
def test_the_same_word_twice_moves_nothing_the_second_time(report: Report, source: FinishedBy, now_ms: int) -> None:
    """Change no state and announce nothing when the same report comes again."""
    step = applied(report, source, now_ms)
    once = step(new_job())
    twice = step(once.job)
    assert (twice.job.state, twice.announce) == (once.job.state, None)


@given(reports, st.text("abc&=", max_size=20), st.text("abc&=", max_size=20))
def test_a_url_that_was_signed_again_is_the_same_word(report: Report, one: str, other: str) -> None:
    """The digest does not see the query of an output's URL, where signatures and expiries stand."""

    def signed(query: str) -> bytes:
        after = [msgspec.structs.replace(output, url=f"{output.url}?{query}") for output in report.outputs]
        return lifecycle.digest(msgspec.structs.replace(report, outputs=tuple(after)))

    assert signed(one) == signed(other)
    assert len(signed(one)) == 16


@given(reports, reports)
def test_another_word_has_another_digest(one: Report, other: Report) -> None:
    """What differs in state, id, progress, result or error is not taken for a repetition."""

    def said(report: Report) -> list[Any]:
        told = [(output.kind, output.url) for output in report.outputs]
        error = report.error and (report.error.provider_code, report.error.provider_message)
        return [report.provider_job_id, report.state or report.provider_status, told, error, report.progress]

    assert (lifecycle.digest(one) == lifecycle.digest(other)) == (said(one) == said(other))


@rows("order", ["check answer", "answer check", "answer"])
def test_a_callback_under_another_id_is_never_believed_before_the_answer(order: str) -> None:
    """A callback that beats the submission's answer, about a job the provider does not know: the answer's id counts."""
    done = Report(
        state=JobState.SUCCEEDED,
        provider_status="done",
        outputs=(Output(kind=OutputKind.VIDEO, url="https://c.example/v"),),
    )
    wrong, right = (msgspec.structs.replace(done, provider_job_id=name) for name in ("wrong", "right"))
    steps = {
        "check": asked(None, CheckOutcome.NOT_FOUND, 20, 30, "wrong"),
        "answer": applied(
            Report(state=JobState.SUBMITTED, provider_status="ok", provider_job_id="right"),
            FinishedBy.SUBMIT_ANSWER,
            30,
        ),
    }
    job = msgspec.structs.replace(new_job(), next_submit_at=None, submission_started_at=0)
    job = applied(wrong, FinishedBy.CALLBACK, 10)(job).job
    for name in order.split():
        transition = steps[name](job)
        assert transition.announce in (None, EventType.JOB_SUBMITTED)
        job = lifecycle.doubted(transition.job, DoubtLimits(), 30) if transition.doubtful else transition.job
    assert job.provider_job_id == "right"
    assert job.next_check_at is not None
    assert job.next_check_at <= 30
    transition = asked(right, CheckOutcome.STATUS, 40, 50, "right")(job)
    assert (transition.announce, transition.job.verification) == (EventType.JOB_SUCCEEDED, Verification.FETCH)


@rows(("made", "pause_ms"), [(1, 0), (2, 100), (3, 200), (4, 300), (60, 300)])
def test_a_doubt_is_checked_later_after_each_check(made: int, pause_ms: int) -> None:
    """Ask immediately while fewer checks were made than are free, then after pauses that double up to the longest."""
    job = msgspec.structs.replace(new_job(), provider_job_id="task-1", checks_made=made, next_check_at=None)
    limits = DoubtLimits(free=2, pause_ms=100, pause_max_ms=300)
    assert lifecycle.doubted(job, limits, 1_000).next_check_at == 1_000 + pause_ms
    assert lifecycle.doubted(msgspec.structs.replace(job, next_check_at=1_001), limits, 1_000).next_check_at == min(
        1_000 + pause_ms, 1_001
    )


class StoredJob(RuleBasedStateMachine):
    """One job in a real SQLite file, told of everything through `record`, alone and many at a time."""

    @initialize()
    def open(self) -> None:
        """Yield a store with one job."""
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        url = f"sqlite:///{Path(self.folder.name)}/relay.db"
        self.store = self.runner.run(Store.open(url, Encryption(["k" * 16]), OPTIONS, 0))
        self.job = new_job()
        self.runner.run(self.store.jobs.create(NewJob(self.job, ())))
        self.told: list[EventType] = []

    @rule(step=steps)
    def decided(self, step: Step) -> None:
        """Something without a callback: a submit answer, a check, a deadline."""
        self.after(self.runner.run(self.record([JobUpdate(job_id=self.job.id, at=1, transition=step)])))

    @rule(told=st.lists(st.tuples(reports, times), min_size=1, max_size=4))
    def called_back(self, told: list[tuple[Report, int]]) -> None:
        """Callbacks that arrive in one turn, and so share a commit."""
        self.after(self.runner.run(self.record([self.callback(report, now_ms) for report, now_ms in told])))

    @rule(report=reports, now_ms=times)
    def called_back_twice(self, report: Report, now_ms: int) -> None:
        """Announce nothing when the same callback comes again."""
        recorded = self.runner.run(self.record([self.callback(report, now_ms), self.callback(report, now_ms)]))
        self.after(recorded)
        assert recorded[1].announced is None

    @invariant()
    def what_is_stored_is_what_was_told(self) -> None:
        """Events are numbered 1, 2, 3 …, one for each move, and the last one has the job's state."""
        wanted = EventFilter(job_id=self.job.id)
        events = self.runner.run(
            self.store.events.page(DEFAULT_PROJECT, Listing(before=None, limit=100), wanted, 1)
        ).items[::-1]
        assert [event.sequence for event in events] == list(range(1, self.job.sequence + 1))
        assert [event.type for event in events] == self.told
        if events:
            body = msgspec.json.decode(events[-1].body)
            assert body["data"]["job"]["status"] == self.job.state
            assert body["type"] == events[-1].type
            assert events[-1].type in (f"job.{self.job.state}", "job.corrected")
            final = [event.id for event in events if event.final]
            assert body["data"]["supersedes"] == (final[-2] if events[-1].final and len(final) > 1 else None)
        callbacks = self.runner.run(
            self.store.callbacks.page(
                DEFAULT_PROJECT, Listing(before=None, limit=100), CallbackFilter(job_id=self.job.id)
            )
        ).items
        assert len(callbacks) == min(self.job.callbacks_seen, OPTIONS.callbacks_per_job_max)

    def teardown(self) -> None:
        """Close what `open` opened."""
        if hasattr(self, "runner"):
            self.runner.run(self.store.close())
            self.runner.close()
            self.folder.cleanup()

    def after(self, recorded: list[UpdateResult]) -> None:
        """Take over what became of the job, which is also what a reader finds."""
        for one in recorded:
            assert one.job is not None
            assert one.job.state.rank >= self.job.state.rank
            self.job = one.job
            self.told += [one.announced] if one.announced else []
        assert self.runner.run(self.store.jobs.get(self.job.id, DEFAULT_PROJECT)) == self.job

    async def record(self, updates: list[JobUpdate]) -> list[UpdateResult]:
        """Record all of them in one turn."""
        return await asyncio.gather(*(self.store.jobs.record(update) for update in updates))

    def callback(self, report: Report, now_ms: int) -> JobUpdate:
        """Return a callback as it is received."""
        digest = lifecycle.digest(report)
        made = ids.new_id(ids.CALLBACK)
        received = ReceivedCallback(
            id=made, provider="evolink", received_at=now_ms, headers=(), body=b"{}", size=2, digest=digest
        )
        return JobUpdate(
            job_id=self.job.id, at=now_ms, transition=applied(report, FinishedBy.CALLBACK, now_ms), received=received
        )


TestStoredJob = StoredJob.TestCase
TestStoredJob.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
