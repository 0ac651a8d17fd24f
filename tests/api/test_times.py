"""Times as operators write them: RFC 3339, a date, or a time ago, wherever a request holds a time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.clock import FIRST_MS, LAST_MS, parse_time, rfc3339
from tests.support.rows import rows
from tests.support.running import START_MS, HeldClock, Running, relay

NOW_MS = 1_795_219_200_000
DAY_MS = 86_400_000
TODAY = rfc3339(START_MS)[:10]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay whose clock stands at one o'clock."""
    async with relay(tmp_path, clock=HeldClock(START_MS + 3_600_000)) as found:
        yield found


@rows(
    ("text", "at_ms"),
    [
        ("1970-01-02", DAY_MS),
        ("1970-01-02T00:00:00Z", DAY_MS),
        ("1970-01-02T02:00:00.005+02:00", DAY_MS + 5),
        ("-1s", NOW_MS - 1000),
        ("-90m", NOW_MS - 5_400_000),
        ("-24h", NOW_MS - DAY_MS),
        ("-7d", NOW_MS - 7 * DAY_MS),
        ("-0h", NOW_MS),
        ("-730000d", NOW_MS - 730_000 * DAY_MS),
        ("-999999d", FIRST_MS),
        ("0001-01-01T00:00:00Z", FIRST_MS),
        ("9999-12-31T23:59:59.999Z", LAST_MS),
    ],
)
def test_a_time_is_parsed(text: str, at_ms: int) -> None:
    """Read each form; a date is its first moment in UTC."""
    assert parse_time(text, NOW_MS) == at_ms


@rows(
    "text",
    [
        *("", "now", "24h", "+24h", "-24", "-h", "-1w", "-1000000d", "- 1h", "-1.5h", "-٢h", "-24h\n", "1795219200000"),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.9996Z"),
        *("2026-11-21T02:03:04", "2026-13-01", "2026-02-30", "20261126", "2026-11", "2026-11-26 "),
    ],
)
def test_a_malformed_time_is_refused(text: str) -> None:
    """Refuse a time without an offset, a day that does not exist, a year of UTC beyond 1 to 9999, and other texts."""
    with pytest.raises(ValueError):  # noqa: PT011 - the API words it
        parse_time(text, NOW_MS)


@given(at_ms=st.integers(0, 4_000_000_000_000))
def test_a_time_that_relay_shows_is_parsed_again(at_ms: int) -> None:
    """Read every time that relay writes as the same time."""
    assert parse_time(rfc3339(at_ms), NOW_MS) == at_ms


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "found"),
    [
        (f"created_after={TODAY}", 1),
        (f"created_before={TODAY}", 0),
        ("created_after=-1m", 1),
        ("created_before=-1m", 0),
        ("created_after=-24h&created_before=-1s", 0),
    ],
)
async def test_a_list_accepts_dates_and_times_ago(running: Running, query: str, found: int) -> None:
    """Filter a list by a date and by a time before now."""
    await running.submit()
    assert len((await running.get(f"/v1/jobs?{query}"))["data"]) == found


@pytest.mark.anyio
@pytest.mark.parametrize("since", ["-999999d", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"])
async def test_the_first_and_the_last_time_can_be_shown(running: Running, since: str) -> None:
    """Answer with the time that was asked for, however long ago or ahead it is."""
    assert parse_time((await running.get(f"/v1/spend?since={since}"))["since"], NOW_MS) in (FIRST_MS, LAST_MS)


@pytest.mark.anyio
async def test_a_batch_accepts_dates_and_times_ago(running: Running) -> None:
    """Redeliver what an endpoint lacks since a date or a time ago; name all three forms in an error."""
    endpoint = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()
    path = f"/v1/endpoints/{endpoint['id']}/redeliveries"
    for times in ({"since": TODAY}, {"since": "-24h"}, {"since": "-2d", "until": "-1d"}):
        answer = await running.client.post(path, json=times | {"dry_run": True})
        assert answer.status_code == 200, answer.text
    answer = await running.client.post(path, json={"since": "yesterday", "dry_run": True})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == "since"
    assert all(form in error["message"] for form in ("2026-11-21T02:03:04Z", "2026-11-21,", "-24h"))
