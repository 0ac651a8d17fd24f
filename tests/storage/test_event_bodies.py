"""An event's body: stored without what its job's row has, and the same bytes in every attempt."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.job import EventType, Job, JobState
from relay.model.resources import events as resources
from relay.model.resources.envelopes import Json
from relay.storage.engine.database import Transaction
from relay.storage.engine.statements import texts
from relay.storage.event_bodies import HOLES, BodyCache, BodyChangedError, JobParts, fill, stored, whole
from relay.storage.rows import text
from tests.support.past import select
from tests.support.running import HeldClock, relay

AT = 1_764_300_000_000
KIND = EventType.JOB_RUNNING


def job(given_input: Json | None, request: Json, metadata: Json) -> Job:
    """Return a job with an event."""
    return Job(
        id="job_01kb4fixed0000000000000001",
        project_id="prj_default",
        provider="evolink",
        state=JobState.RUNNING,
        created_at=AT,
        updated_at=AT,
        deadline_at=AT,
        input=given_input,
        request=request,
        metadata=metadata,
        sequence=1,
    )


def parts(of: Job) -> JobParts:
    """Return what the job's row keeps."""
    return JobParts(of.id, text(of.input), text(of.request), text(of.metadata))


def bodies(of: Job) -> tuple[bytes, bytes]:
    """Return a body as it is stored, and whole."""
    holed = resources.job_event("evt_1", KIND, AT, of, None, HOLES)
    made = fill(holed, parts(of))
    return stored(holed, len(made)), made


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=5)


@given(given_input=st.none() | OBJECTS, request=OBJECTS, metadata=OBJECTS)
def test_any_body_is_made_as_if_it_were_encoded_whole(given_input: Json | None, request: Json, metadata: Json) -> None:
    """Make from the texts in a job's row what encoding the job that was read from it makes."""
    of = job(given_input, request, metadata)
    kept = parts(of)
    read = job(*(msgspec.json.decode(one or "null") for one in (kept.input, kept.request, kept.metadata)))
    row, made = bodies(of)
    assert row.startswith(b"\0")
    assert b"\0" not in made
    assert whole(row, kept) == made == resources.job_event("evt_1", KIND, AT, read, None) == whole(made, kept)


@pytest.mark.parametrize("damage", [{"request": '{"model":"another"}'}, {"metadata": None}, {"request": None}])
def test_a_body_that_cannot_be_made_as_it_was_is_not_made(damage: dict[str, str | None]) -> None:
    """Raise where the job's row was changed or is gone, rather than send other bytes under the same id."""
    of = job(None, {"model": "veo"}, {"k": "v"})
    with pytest.raises(BodyChangedError, match=of.id):
        whole(bodies(of)[0], msgspec.structs.replace(parts(of), **damage))


def test_a_body_of_a_newer_relay_is_not_made() -> None:
    """Raise where a hole is of a kind that this relay does not know."""
    of = job(None, {}, {})
    with pytest.raises(BodyChangedError, match="newer"):
        whole(stored(b'{"job":\0x}', 9), parts(of))


def test_no_statement_changes_what_bodies_are_made_of() -> None:
    """Set a job's input, request and metadata when it is made, and never again."""
    for name, statement in texts().items():
        assert not re.search(r"UPDATE job_requests", statement), name
        assert "UPDATE job_requests" not in statement, name
        if re.search(r"UPDATE jobs", statement):
            assert not re.search(r"(?<![\w.])(input|request|metadata) = ", statement), name


def test_the_cache_keeps_the_last_used_to_the_byte() -> None:
    """Keep bodies of `bytes_max` in all, drop those used longest ago, and none that is larger than all may be."""
    cache = BodyCache(10)
    for name in ("a", "b"):
        cache.keep(name, name.encode() * 5)
    assert cache.get("a") == b"aaaaa"
    cache.keep("c", b"c")
    assert [cache.get(name) for name in "abc"] == [b"aaaaa", None, b"c"]
    cache.keep("d", b"dddd")
    assert [cache.get(name) for name in "acd"] == [b"aaaaa", b"c", b"dddd"]
    cache.keep("e", b"e" * 11)
    assert [cache.get(name) for name in "acde"] == [b"aaaaa", b"c", b"dddd", None]
    cache.keep("f", b"f" * 10)
    assert [cache.get(name) for name in "acdf"] == [None, None, None, b"f" * 10]


def tried(found: dict[str, Any]) -> bool:
    """Return whether the only delivery was tried once."""
    return [one["attempts_made"] for one in found["data"]] == [1]


@pytest.mark.anyio
@pytest.mark.both_databases
async def test_every_attempt_and_every_reader_gets_the_same_bytes(tmp_path: Path) -> None:
    """Send the first attempt from memory, the next from the table after a restart, and show the same to a client."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0,60") as running:
        running.sink.answers = [500]
        hook = {"url": running.hook, "event_types": ["job.submitted"]}
        await running.submit(metadata={"k": "é\u2028"}, notify=[hook])
        shown = await running.until("/v1/deliveries", tried)
        (first,) = running.sink.received
        ((kept,),) = await select(running.app.store.database, "SELECT body FROM events")
        assert bytes(kept).startswith(b"\0%d\0" % len(first.body))
        assert len(kept) < len(first.body)
        event = await running.get(f"/v1/events/{shown['data'][0]['event']}")
        assert event["data"] == msgspec.json.decode(first.body)["data"]
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0,60") as running:
        await running.app.store.database.transact(
            lambda transaction: transaction.run_text(f"UPDATE endpoints SET url = '{running.hook}'")
        )
        await clock.advance(75)
        await running.until("/v1/deliveries", lambda found: found["data"][0]["status"] == "delivered")
        assert [one.body for one in running.sink.received] == [first.body]
        assert running.sink.received[0].headers["webhook-id"] == first.headers["webhook-id"]


@pytest.mark.anyio
@pytest.mark.both_databases
async def test_a_notification_whose_job_was_changed_by_hand_waits(tmp_path: Path) -> None:
    """Send nothing rather than other bytes under the same id; the delivery stays pending, and visible."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0,60") as running:
        running.sink.answers = [500]
        await running.submit(notify=[{"url": running.hook, "event_types": ["job.submitted"]}])
        await running.until("/v1/deliveries", tried)
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0,60") as running:

        async def change(transaction: Transaction) -> None:
            await transaction.run_text(f"UPDATE endpoints SET url = '{running.hook}'")
            await transaction.run_text("UPDATE job_requests SET metadata = '{\"changed\":1}'")

        await running.app.store.database.transact(change)
        await clock.advance(75)
        assert [one["status"] for one in (await running.get("/v1/deliveries"))["data"]] == ["pending"]
        assert running.sink.received == []
