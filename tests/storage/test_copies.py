"""Claims of copies, however many wait: the most urgent one first, and none that waits for ever behind others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.model.archive import CopyErrorCode
from relay.storage.boots import Lease
from relay.storage.copies import WINDOW, Copies, CopyClaim, CopyRetry, NewCopy
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.group_commit import Writer
from tests.support.past import database as opened

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NOW, LEASED = 1_000_000, 2_000_000


def copy(name: str, *, urgent_at: int, due_at: int = NOW, project: str = "prj_default", host: str = "a") -> NewCopy:
    """Return a copy that waits."""
    return NewCopy(
        id=name, project_id=project, job_id=f"job_{name}", number=0, provider="evolink", kind="video",
        url=f"https://{host}/a.mp4", host=host, needs_key=0, expires_at=None, urgent_at=urgent_at, due_at=due_at,
        created_at=1, held_until=None, supersedes=None,
    )  # fmt: skip


async def stored(database: Database, many: Sequence[NewCopy]) -> Copies:
    """Store copies, and return what claims them."""

    async def write(transaction: Transaction) -> None:
        await transaction.run_many("insert_copy", many)

    await database.transact(write)
    return Copies(database, Writer(database, 10), Lease(1_000, 1))


async def claimed(copies: Copies, **given: Any) -> str | None:
    """Return the copy that is claimed next."""
    claim = CopyClaim(now=NOW, leased_until=LEASED, limit=1, **given)
    found = await copies.claim(claim)
    assert len(found) <= 1
    return found[0].id if found else None


async def test_the_most_urgent_is_first_however_many_are_due(tmp_path: Path) -> None:
    """Claim what expires first, though more than a claim looks at became due before it; what is not due never."""
    others = [copy(f"b{n}", urgent_at=50 + n, due_at=NOW - 1 - n) for n in range(2 * WINDOW)]
    async with opened(tmp_path) as database:
        copies = await stored(database, [*others, copy("a", urgent_at=1), copy("later", urgent_at=0, due_at=NOW + 1)])
        assert [await claimed(copies) for _ in range(3)] == ["a", "b0", "b1"]


@pytest.mark.parametrize("crowd", [WINDOW - 1, WINDOW, 3 * WINDOW])
async def test_what_is_due_behind_a_crowd_that_is_not_is_claimed(tmp_path: Path, crowd: int) -> None:
    """Claim the one copy that is due, though any number of more urgent ones wait for their next try."""
    waiting = [copy(f"b{n}", urgent_at=n, due_at=NOW + 1) for n in range(crowd)]
    async with opened(tmp_path) as database:
        copies = await stored(database, [*waiting, copy("a", urgent_at=10_000)])
        assert [await claimed(copies) for _ in range(2)] == ["a", None]


async def test_a_crowd_of_a_full_project_or_host_delays_no_other(tmp_path: Path) -> None:
    """Claim past any number of copies of a project that is full, and of a host that is."""
    crowd = [copy(f"b{n}", urgent_at=n, due_at=NOW - 9, project="prj_full") for n in range(2 * WINDOW)]
    crowd += [copy(f"c{n}", urgent_at=n, due_at=NOW - 9, host="full") for n in range(2 * WINDOW)]
    async with opened(tmp_path) as database:
        copies = await stored(database, [*crowd, copy("a", urgent_at=10_000)])
        full: dict[str, Any] = {"full": ["prj_full"], "full_hosts": ["full"]}
        assert [await claimed(copies, **full) for _ in range(2)] == ["a", None]
        assert await claimed(copies) in ("b0", "c0")


async def test_beside_a_full_project_the_most_urgent_is_first_too(tmp_path: Path) -> None:
    """Claim what expires first of the others, though more became due before it, and more of the full one is urgent."""
    crowd = [copy(f"b{n}", urgent_at=n, project="prj_full") for n in range(2 * WINDOW)]
    others = [copy(f"c{n}", urgent_at=10_000 + n, due_at=NOW - 9 - n) for n in range(2 * WINDOW)]
    soon = [copy("soon", urgent_at=5_000), copy("sooner", urgent_at=4_000, host="b", due_at=NOW - 1)]
    later = copy("later", urgent_at=3_000, due_at=NOW + 1)
    async with opened(tmp_path) as database:
        copies = await stored(database, [*crowd, *others, *soon, later])
        assert [await claimed(copies, full=["prj_full"]) for _ in range(2)] == ["sooner", "soon"]
        rest = {await claimed(copies, full=["prj_full"]) for _ in range(2 * WINDOW)}
        assert rest == {one.id for one in others}
        assert await claimed(copies, full=["prj_full"]) is None


async def test_each_has_its_turn_where_that_is_asked_for(tmp_path: Path) -> None:
    """Claim what became due first, though others expire sooner, whether or not a project is full."""
    many = [copy(f"b{n}", urgent_at=n, due_at=NOW - n, host=f"{n}") for n in range(3)]
    async with opened(tmp_path) as database:
        copies = await stored(database, [*many, copy("later", urgent_at=0, due_at=NOW + 1)])
        assert await claimed(copies, in_turn=True) == "b2"
        assert [await claimed(copies, in_turn=True, full=["prj_full"]) for _ in range(3)] == ["b1", "b0", None]


async def test_a_try_that_may_still_write_is_known_to_the_next(tmp_path: Path) -> None:
    """Return with a copy whether its last try may still write."""
    async with opened(tmp_path) as database:
        copies = await stored(database, [copy("a", urgent_at=1)])
        for now, writing in ((NOW, False), (NOW + 1, True), (NOW + 2, False)):
            claim = CopyClaim(now=now, leased_until=LEASED + now, limit=1)
            (found,) = await copies.claim(claim)
            assert found.writing is (now == NOW + 2)
            retry = CopyRetry(
                id="a",
                leased_until=found.leased_until,
                due_at=now + 1,
                attempts_made=1,
                gone_seen=0,
                error_code=CopyErrorCode.TOO_SLOW,
                error="it is slow",
                writing=writing,
            )
            await copies.retry(retry)


@pytest.mark.parametrize("at_a_time", [1, 1_000])
async def test_copies_get_the_name_of_their_bucket(
    tmp_path: Path, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give what was stored before buckets had names the configured one's, once: later ones do not get another's."""
    monkeypatch.setattr("relay.storage.copies.NAMED_AT_A_TIME", at_a_time)
    async with opened(tmp_path) as database:
        copies = await stored(database, [copy(name, urgent_at=1) for name in "abcd"])

        async def write(transaction: Transaction) -> None:
            for name, bucket in (("a", ""), ("b", "file:///b"), ("d", "")):
                named = {"id": name, "bucket": bucket, "key": name, "content_type": "video/mp4", "writes": 1}
                await transaction.rows("name_copy", named)
                await transaction.run_many("leave_copy", [{"job_id": f"job_{name}", "number": 0, "due_at": NOW}])

        await database.transact(write)
        for bucket in ("file:///own", "file:///next"):
            await copies.name_bucket(bucket)
            assert await copies.buckets_left(NOW) == ["file:///b", "file:///own"]
            assert await copies.buckets_left(NOW - 1) == []
        due = {found.id: found.bucket for found in await copies.claim(CopyClaim(now=NOW, leased_until=LEASED, limit=9))}
        assert due == {"a": "file:///own", "b": "file:///b", "c": "", "d": "file:///own"}


async def test_a_late_try_does_not_give_up_what_its_copy_has(tmp_path: Path) -> None:
    """Queue the object of a try whose lease is another's, unless the copy has it, by whichever name of its bucket."""
    for number, (bucket, left) in enumerate((("", 0), ("file:///own", 0), ("file:///other", 1))):
        async with opened(tmp_path / str(number)) as database:
            copies = await stored(database, [copy("a", urgent_at=1)])

            async def write(transaction: Transaction, bucket: str = bucket) -> None:
                named = {"id": "a", "bucket": bucket, "key": "k", "content_type": "video/mp4", "writes": 1}
                await transaction.rows("name_copy", named)
                late = {"bucket": "file:///own", "key": "k", "due_at": NOW, "job_id": "job_a", "number": 0}
                await transaction.run_many("leave_object", [late])

            await database.transact(write)
            assert len(await copies.buckets_left(NOW)) == left, bucket


async def test_all_that_is_due_is_claimed_once(tmp_path: Path) -> None:
    """Claim each copy once, in the order of their urgency where no more are due than a claim looks at."""
    many = [copy(f"b{n:02}", urgent_at=n) for n in range(WINDOW)]
    async with opened(tmp_path) as database:
        copies = await stored(database, many)
        assert [await claimed(copies) for _ in range(WINDOW + 1)] == [one.id for one in many] + [None]
