"""The dashboard's pure parts: a job's timeline with its rails, its first sentence, the forms of times and ids."""

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from relay.clock import rfc3339
from relay.web.dashboard import answer, formats, story
from relay.web.dashboard.job import indented
from relay.web.dashboard.story import LANES, Evidence, lines
from tests.support.rows import rows

AT = 1_795_219_200_000
JOB: dict[str, Any] = {
    "id": "job_1",
    "provider": "evolink",
    "status": "succeeded",
    "reason": None,
    "progress": None,
    "late": False,
    "outputs": [],
    "error": None,
    "finished_by": "callback",
    "verification": "fetch",
    "submitted_at": rfc3339(AT),
    "created_at": rfc3339(AT),
    "finished_at": rfc3339(AT + 1000),
    "updated_at": rfc3339(AT + 1000),
    "deadline_at": rfc3339(AT + 3_600_000),
    "provider_job_id": "p",
}


def evidence(deliveries: list[tuple[int, str, list[str]]], events: int = 1) -> Evidence:
    """Return a job with so many events, and deliveries of endpoint numbers, states and outcomes of attempts."""
    made_events: list[dict[str, Any]] = [
        {
            "id": f"evt_{n}",
            "type": "job.succeeded",
            "sequence": n + 1,
            "final": n == events - 1,
            "timestamp": rfc3339(AT + 1000 * (n + 1)),
            "data": {"job": JOB},
        }
        for n in range(events)
    ]
    made: list[dict[str, Any]] = []
    entries = [entry(AT, "state", "job_1", "pending")]
    for number, (endpoint, state, outcomes) in enumerate(deliveries):
        event = number % events
        attempts: list[dict[str, Any]] = [
            {
                "id": f"att_{number}_{n}",
                "number": n + 1,
                "outcome": outcome,
                "duration_ms": 5,
                "status_code": 200 if outcome == "ok" else 503,
                "error": None,
                "started_at": rfc3339(AT + 1000 * (event + 1) + 10 * (n + 1) + number),
            }
            for n, outcome in enumerate(outcomes)
        ]
        due = rfc3339(AT + 900_000) if state == "pending" else None
        made.append(
            {
                "id": f"dlv_{number}",
                "event": f"evt_{event}",
                "endpoint": f"ep_{endpoint}",
                "status": state,
                "attempts_made": len(outcomes),
                "next_attempt_at": due,
                "redelivery": False,
                "attempts": attempts,
                "created_at": rfc3339(AT + 1000),
                "finished_at": None if due else rfc3339(AT + 2000),
            }
        )
        entries += [entry(formats.ms_of(one["started_at"]), "attempt", one["id"], one["outcome"]) for one in attempts]
    entries += [
        entry(formats.ms_of(one["timestamp"]), "event", one["id"], None, f"{one['type']}, number 1 of this job")
        for one in made_events
    ]
    waits = any(one["status"] == "pending" for one in made)
    return Evidence(
        job=JOB,
        timeline=sorted(entries, key=lambda one: str(one["at"])),
        next={"what": "the next attempt of a delivery", "at": rfc3339(AT + 900_000)} if waits else None,
        deliveries=made,
        events=made_events,
        callbacks=[],
        endpoints={},
    )


def entry(at_ms: int, kind: str, ref: str, decision: str | None, summary: str = "") -> dict[str, Any]:
    """Return an entry of the API's timeline."""
    return {"at": rfc3339(at_ms), "kind": kind, "ref": ref, "decision": decision, "reason": None, "summary": summary}


deliveries = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["pending", "delivered", "exhausted"]),
        st.lists(st.sampled_from(["ok", "bad_status"]), max_size=3),
    ),
    max_size=8,
)


@given(deliveries, st.integers(1, 3))
def test_each_line_has_one_dot_in_its_own_lane(drawn: list[tuple[int, str, list[str]]], events: int) -> None:
    """Draw a cell for each lane, one dot for a line that has happened, and only on a rail that is there."""
    for line in lines(evidence(drawn, events)):
        assert len(line.rail) == LANES
        dots = [lane for lane, cell in enumerate(line.rail) if "dot" in cell.split()]
        if line.future:
            assert dots or not drawn
        else:
            assert dots == [line.lane]


@given(deliveries, st.integers(1, 3))
def test_rails_have_no_loose_ends(drawn: list[tuple[int, str, list[str]]], events: int) -> None:
    """Continue in each lane what goes down from a line on the next one, and begin nothing in the middle."""
    found = lines(evidence(drawn, events))
    down, up = {"l", "b", "s"}, {"l", "e"}
    for lane in range(LANES):
        cells = [set(line.rail[lane].split()) for line in found]
        for above, below in pairwise(cells):
            assert bool(above & down) == bool(below & (up | {"p"})), (lane, [line.rail for line in found])
        assert not cells[-1] & down


@given(deliveries)
def test_branches_leave_from_the_line_of_their_event(drawn: list[tuple[int, str, list[str]]]) -> None:
    """Draw a horizontal line from the job's lane to each lane that begins, on the event's line alone."""
    for line in lines(evidence(drawn)):
        begins = [lane for lane, cell in enumerate(line.rail) if "b" in cell.split()]
        if begins:
            assert line.event
            assert "h" in line.rail[0].split()
            assert "v" in line.rail[max(begins)].split()
            assert all("w" in line.rail[lane].split() for lane in range(1, max(begins)))


def test_endpoints_that_lack_something_have_the_lanes() -> None:
    """Fold the lines of those that have all they asked for, and say how many they are."""
    drawn = [(0, "delivered", ["ok"]), (1, "delivered", ["ok"]), (2, "exhausted", ["bad_status"]), (3, "pending", [])]
    found = lines(evidence(drawn))
    assert {line.endpoint for line in found if line.endpoint} == {"ep_2"}
    assert "2 more are not drawn, all delivered." in next(line.why for line in found if line.event)
    assert story.lanes_of(evidence(drawn)) == {"ep_2": 1, "ep_3": 2}


@rows(
    ("drawn", "tone", "headline"),
    [
        ([], "ok", "The video is ready. No endpoint subscribes to it."),
        ([(0, "delivered", ["ok"])], "ok", "The video is ready. Its endpoint has it."),
        ([(0, "delivered", ["ok"]), (1, "delivered", ["ok"])], "ok", "The video is ready. All 2 endpoints have it."),
        (
            [(0, "delivered", ["ok"]), (1, "pending", ["bad_status"])],
            "warn",
            "The video is ready. 1 of 2 endpoints has it.",
        ),
        ([(0, "exhausted", ["bad_status"])], "bad", "The video is ready. 0 of 1 endpoints have it."),
    ],
)
def test_the_first_sentence_says_who_has_the_video(
    drawn: list[tuple[int, str, list[str]]], tone: str, headline: str
) -> None:
    """Count the endpoints that accepted the event of the end."""
    said = answer.answer(evidence(drawn), AT + 10_000)
    assert (said.tone, said.headline) == (tone, headline)


def test_a_redelivered_event_counts_as_delivered() -> None:
    """Count an endpoint once that has the event by a second delivery."""
    drawn = [(0, "exhausted", ["bad_status"]), (0, "delivered", ["ok"])]
    assert answer.answer(evidence(drawn), AT).headline == "The video is ready. Its endpoint has it."


@rows(
    ("ms", "text"),
    [
        *((0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (9949, "9.9 s"), (9950, "10 s"), (99_400, "99 s")),
        *((99_500, "1 min 40 s"), (120_000, "2 min"), (3_599_400, "59 min 59 s"), (3_600_000, "1 h")),
        *((86_340_000, "23 h 59 min"), (86_400_000, "1 d"), (90_000_000, "1 d 1 h"), (-5, "0 ms")),
    ],
)
def test_a_duration_has_the_unit_of_its_size(ms: int, text: str) -> None:
    """Write milliseconds below a second, and two units at most above a minute."""
    assert formats.span(ms) == text


@rows(
    ("ms", "text"),
    [(999, "now"), (1000, "1 s"), (99_999, "99 s"), (100_000, "1 min"), (4_140_000, "1 h 9 min"), (172_800_000, "2 d")],
)
def test_an_age_below_a_hundred_seconds_is_in_seconds(ms: int, text: str) -> None:
    """Write ages in one unit, in two between an hour and a day."""
    assert formats.age(ms) == text


def test_a_time_of_another_day_has_its_date() -> None:
    """Write the date unless it is today, and the year unless it is this one."""
    at = "2026-11-27T02:03:04.005Z"
    assert formats.clock(at, "2026-11-27") == "02:03:04"
    assert formats.clock(at, "2026-11-27", evidence=True) == "02:03:04.005"
    assert formats.clock(at, "2026-11-28") == "27 Nov 02:03:04"
    assert formats.clock(at, "2027-01-01") == "27 Nov 2026 02:03:04"
    assert formats.full(at) == "2026-11-27 02:03:04.005 UTC"


@given(st.integers(-(10**60), 10**60), st.from_regex(r"-?[1-9][0-9]{0,30}\.[0-9]{1,30}", fullmatch=True))
def test_numbers_of_a_body_are_shown_as_they_came(whole: int, fraction: str) -> None:
    """Indent JSON without reading a number, so that none is rounded."""
    shown = indented(f'{{"a": {whole}, "b": {fraction}}}'.encode())
    assert shown is not None
    assert shown.splitlines()[1:3] == [f'  "a": {whole},', f'  "b": {fraction}']


@rows("raw", [b"", b"{", b"<html>", b"\xff", b"[" * 5000])
def test_what_is_no_json_is_not_indented(raw: bytes) -> None:
    """Return None, so that the page shows it as it came."""
    assert indented(raw) is None


def test_ids_are_shortened_and_other_texts_are_not() -> None:
    """Show an id's prefix and last eight characters."""
    assert formats.short("job_01m8dbvty5edqrb018tr4sjm6r") == "job_…tr4sjm6r"
    assert formats.short("RELAY_API_KEY") == "RELAY_API_KEY"
    assert formats.url("https://app.example/hooks/?sig=1") == "app.example/hooks"


def test_the_second_step_of_a_check_is_no_check_of_its_own() -> None:
    """Number the status checks alone; a fetched result and a look-up have names of their own."""
    calls = [
        ("submission at fal: accepted", "accepted"),
        ("check at fal: succeeded", "succeeded: the result is fetched"),
        ("result at fal: no status: HTTP 400", "no status: HTTP 400"),
        ("check at fal: succeeded", "succeeded: the result is fetched"),
        ("result at fal: succeeded", "succeeded"),
        ("lookup at kling: not found", "not found"),
    ]
    timeline = [
        entry(AT + n, summary.split()[0] if n == 0 else "check", f"call_{n}", decision, summary)
        for n, (summary, decision) in enumerate(calls)
    ]
    found = story.lines(msgspec.structs.replace(evidence([]), timeline=timeline))
    assert [line.title for line in found] == [
        *("Submission 1", "Status check 1", "Result", "Status check 2", "Result", "Look-up"),
    ]
