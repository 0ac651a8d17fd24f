"""Jobs as hypothesis draws them: each state with each timer, as the checks of the table allow."""

from hypothesis import strategies as st

from relay.model.job import (
    Cost,
    ErrorClass,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Output,
    OutputKind,
    Reason,
    Report,
    UnconfirmedResult,
    Verification,
)

TEXTS = st.none() | st.sampled_from(["", "task-1", 'a "quoted" \\ name', "ünï\n\tcode 🎬"])
TIMES = st.none() | st.integers(1, 9)
JSON: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    [{}, {"prompt": 'say "hi"\n', "images": ["https://e.example/a?b=1&c=2"], "seed": 1.5, "n": None}]
)
OUTPUTS = (
    Output(kind=OutputKind.VIDEO, url="https://e.example/a.mp4", duration_s=5.04, expires_at="2026-12-01T00:00:00Z"),
)
ERRORS = st.none() | st.builds(
    JobError,
    class_=st.sampled_from(ErrorClass),
    code=st.just("c"),
    message=st.just('not "here"'),
    retryable=st.booleans(),
    provider_code=TEXTS,
)
REPORTS = st.builds(
    Report,
    state=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED]),
    provider_status=st.just("done"),
    outputs=st.sampled_from([(), OUTPUTS]),
    progress=TIMES,
)
CLAIMS = st.none() | st.builds(
    UnconfirmedResult, report=REPORTS, callback_id=TEXTS, at=st.integers(1, 9), tries=st.integers(0, 2)
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Return a job as the checks of the earlier table allow it: each state, and each timer."""
    state = draw(st.sampled_from(JobState))
    unconfirmed = draw(CLAIMS)
    confirm_by = draw(TIMES)
    checked = not state.final or (unconfirmed is not None and confirm_by is not None)
    return Job(
        id="",
        project_id=draw(st.sampled_from(["prj_default", "prj_other"])),
        provider=draw(st.sampled_from(["evolink", "kinovi"])),
        state=state,
        created_at=draw(st.integers(1, 9)),
        updated_at=draw(st.integers(1, 9)),
        deadline_at=draw(st.integers(1, 9)),
        request=draw(JSON),
        input=draw(st.none() | JSON),
        metadata=draw(JSON),
        model=draw(TEXTS),
        provider_job_id=draw(TEXTS),
        reason=draw(st.none() | st.sampled_from(Reason)),
        progress=draw(TIMES),
        outputs=draw(st.sampled_from([(), OUTPUTS])),
        error=draw(ERRORS),
        cost=draw(st.none() | st.just(Cost(amount="0.55", unit="USDC", kind="final"))),
        finished_by=draw(st.none() | st.sampled_from(FinishedBy)),
        verification=draw(st.sampled_from(Verification)),
        late=draw(st.booleans()),
        sequence=draw(st.integers(0, 9)),
        last_final_event=draw(TEXTS),
        callbacks_seen=draw(st.integers(0, 9)),
        submitted_at=draw(TIMES),
        finished_at=draw(st.integers(1, 9)) if state.final else None,
        next_submit_at=draw(TIMES) if state is JobState.PENDING else None,
        submission_started_at=draw(TIMES),
        submissions_made=draw(st.integers(0, 9)),
        next_check_at=draw(TIMES) if checked else None,
        checks_made=draw(st.integers(0, 9)),
        last_report_at=draw(TIMES),
        not_found_seen=draw(st.integers(0, 9)),
        unconfirmed=unconfirmed,
        confirm_by=confirm_by,
        status_path=draw(TEXTS),
        expiring_at=draw(TIMES) if state is JobState.SUCCEEDED else None,
        max_cost=draw(TIMES),
    )
