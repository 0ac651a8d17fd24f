"""Group commit: one transaction a turn, an answer only after COMMIT, and a database that says no."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ReservationLost, StorageUnavailable
from relay.storage.engine import migrations
from relay.storage.engine.database import Transaction
from relay.storage.engine.group_commit import BATCH_MAX, LINGER_S, PATIENT_MAX, SHARE_MIN, Waiting, Writer
from relay.storage.engine.sqlite import SQLite
from relay.storage.idempotency import Tie, Tied
from tests.support.past import database as opened
from tests.support.quiescence import PAUSE_S, watched_loop

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SQLite]:
    """Yield a migrated database in a file."""
    async with database_at(tmp_path / "relay.db") as opened:
        yield opened


@asynccontextmanager
async def database_at(path: Path) -> AsyncIterator[SQLite]:
    """Yield a migrated database, closed at the end."""
    opened = await SQLite.open(path)
    try:
        await migrations.migrate(opened, 1)
        yield opened
    finally:
        await opened.close()


async def add(transaction: Transaction, names: Sequence[str]) -> list[str]:
    """Add projects, and answer with their names in capitals."""
    await transaction.run_many("insert_project", [{"id": name, "name": name, "created_at": 1} for name in names])
    return [name.upper() for name in names]


async def add_big(transaction: Transaction, names: Sequence[str]) -> list[None]:
    """Add projects of a megabyte each."""
    many = [{"id": name, "name": name * 1_000_000, "created_at": 1} for name in names]
    await transaction.run_many("insert_project", many)
    return [None] * len(names)


async def refuse(transaction: Transaction, names: Sequence[str]) -> list[None]:
    """Write, and then finds that it is not to be."""
    await add(transaction, names)
    raise KeyError(*names)


@contextmanager
def onlooker(database: SQLite) -> Iterator[sqlite3.Connection]:
    """Another connection to the same file, as another process has it."""
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        yield connection


def projects(connection: sqlite3.Connection) -> list[str]:
    """Return what is committed, by its name's first letters."""
    found = connection.execute("SELECT id FROM projects WHERE id <> 'prj_default' ORDER BY id")
    return [str(row[0]) for row in found]


def commits(database: SQLite) -> int:
    """Return how many commits the write-ahead log holds: each ends with a frame that says how large the file is then.

    https://www.sqlite.org/fileformat2.html#the_write_ahead_log
    """
    log = Path(f"{database.path}-wal").read_bytes()
    page_size, salts = int.from_bytes(log[8:12]), log[16:24]
    frames = [log[start : start + 24] for start in range(32, len(log), 24 + page_size)]
    return sum(frame[4:8] != bytes(4) and frame[8:16] == salts for frame in frames)


async def outcomes(*writes: Any) -> list[Any]:
    """Return what came of each write: its result or its error."""
    return await asyncio.gather(*writes, return_exceptions=True)


async def test_what_waits_together_is_committed_together(database: SQLite) -> None:
    """A full batch of writes makes one commit, one more makes a second; each caller gets its own result."""
    writer, before = Writer(database, 1000), commits(database)
    names = [f"p{number:03}" for number in range(BATCH_MAX + 1)]
    assert await outcomes(*(writer.write(add, name) for name in names)) == [name.upper() for name in names]
    assert commits(database) - before == 2
    with onlooker(database) as other:
        assert projects(other) == names


async def test_a_lone_write_does_not_linger(database: SQLite) -> None:
    """Nothing waits for company: a write that is alone has a commit of its own."""
    writer, before = Writer(database, 8), commits(database)
    for number in range(3):
        await writer.write(add, f"p{number}")
        assert commits(database) - before == number + 1


async def test_an_answer_means_committed(database: SQLite) -> None:
    """In the very moment a caller goes on, every other process can read what it wrote."""
    writer = Writer(database, 100)

    async def write(name: str) -> bool:
        await writer.write(add, name)
        with onlooker(database) as other:
            return name in projects(other)

    assert all(await asyncio.gather(*(write(f"p{number}") for number in range(50))))


async def test_a_bad_item_leaves_nothing_and_takes_nobody_along(database: SQLite) -> None:
    """The error of one kind of write is its caller's alone; what it had written by then is undone."""
    writer = Writer(database, 8)
    results = await outcomes(writer.write(add, "a"), writer.write(refuse, "bad"), writer.write(add, "b"))
    assert [results[0], type(results[1]), results[2]] == ["A", KeyError, "B"]
    with onlooker(database) as other:
        assert projects(other) == ["a", "b"]


async def test_items_that_lock_rows_are_written_in_the_order_of_the_rows(database: SQLite) -> None:
    """Write a batch's items by the rows that they lock, those of one row as they came, and answer each its own."""
    written: list[str] = []

    async def note(transaction: Transaction, names: Sequence[str]) -> list[str]:
        written.extend(names)
        return await add(transaction, names)

    writer = Writer(database, 10)
    asked = ("c1", "a1", "b1", "a2", "c0")
    assert await asyncio.gather(*(writer.write(note, name, locks=name[0]) for name in asked)) == [
        name.upper() for name in asked
    ]
    assert written == ["a1", "a2", "b1", "c1", "c0"]


async def test_one_call_serves_a_batch(database: SQLite) -> None:
    """Call `done` once with all of its items of a batch, after COMMIT; each has its caller, and its result or error."""
    writer, batches = Writer(database, 8), []

    def done(batch: list[Waiting]) -> None:
        with onlooker(database) as other:
            committed = projects(other)
        batches.append([(one.caller, one.result, type(one.error), one.item in committed) for one in batch])

    def broken(_: list[Waiting]) -> None:
        raise RuntimeError("a fault of the caller")

    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    for name, called in (("a", done), ("b", broken), ("c", done)):
        writer.enqueue(Waiting(add, name, called, f"of {name}"))
    assert await writer.write(add, "d") == "D"
    none = type(None)
    assert batches == [[("of a", "A", none, True), ("of c", "C", none, True)]]
    assert [type(error) for error in errors] == [RuntimeError]
    for name, operation in (("e", add), ("bad", refuse)):
        writer.enqueue(Waiting(operation, name, done, None))
    await writer.write(add, "f")
    assert batches[1:] == [[(None, "E", none, True)], [(None, None, KeyError, False)]]


async def test_a_caller_that_goes_away_undoes_nothing(database: SQLite) -> None:
    """A client that hangs up cancels its wait, and neither its own write nor anybody else's."""
    writer = Writer(database, 8)
    writes = [asyncio.create_task(writer.write(add, name)) for name in "abc"]
    await asyncio.sleep(0)  # each task has a turn of the loop: all three are in the backlog
    writes[1].cancel()
    results = await outcomes(*writes)
    assert [results[0], type(results[1]), results[2]] == ["A", asyncio.CancelledError, "C"]
    assert await writer.write(add, "d") == "D"
    with onlooker(database) as other:
        assert projects(other) == ["a", "b", "c", "d"]


async def test_what_is_urgent_comes_before_a_long_backlog(database: SQLite) -> None:
    """Dispatch is not starved by what comes in: its writes take up to half of the next turn, and are never refused."""
    writer, done = Writer(database, 4 * BATCH_MAX), []

    async def write(name: str, *, urgent: bool) -> None:
        done.append(await writer.write(add, name, urgent=urgent))

    coming_in = [write(f"p{number}", urgent=False) for number in range(4 * BATCH_MAX)]
    going_out = [write(f"urgent{number}", urgent=True) for number in range(BATCH_MAX)]
    await asyncio.gather(*coming_in, *going_out)
    assert {name for name in done[:BATCH_MAX] if name.startswith("URGENT")} == {
        f"URGENT{n}" for n in range(BATCH_MAX // 2)
    }
    assert len([name for name in done[: 2 * BATCH_MAX] if name.startswith("URGENT")]) == BATCH_MAX
    assert len(done) == 5 * BATCH_MAX


async def test_turns_share_what_waits(tmp_path: Path) -> None:
    """Where the database is a server two turns take half each; a few stay together, and all where there is one turn."""
    sizes: list[int] = []

    async def noted(transaction: Transaction, names: Sequence[str]) -> list[str]:
        sizes.append(len(names))
        return await add(transaction, names)

    async with opened(tmp_path) as either:
        writer = Writer(either, 100)
        for number, name in ((60, "many"), (SHARE_MIN, "few")):
            await asyncio.gather(*(writer.write(noted, f"{name}{one}") for one in range(number)))
        assert sizes == ([30, 30] if either.shared else [60]) + [SHARE_MIN]


async def test_a_backlog_has_an_end(database: SQLite) -> None:
    """When too much waits, one more is refused at once; what waited is written, and then there is room again."""
    writer = Writer(database, 4)
    results = await outcomes(*(writer.write(add, f"p{number}") for number in range(6)))
    assert [type(result) for result in results] == [str] * 4 + [StorageUnavailable] * 2
    assert await writer.write(add, "again") == "AGAIN"


async def test_a_full_disk_refuses_everything_and_is_got_over(database: SQLite) -> None:
    """While the disk is full every write is refused and nothing is left of it; with room again, writes go on."""
    writer = Writer(database, 8)
    ((pages,),) = await database.ask("PRAGMA page_count")
    await database.ask(f"PRAGMA max_page_count = {pages}")
    results = await outcomes(*(writer.write(add_big, name) for name in "abc"))
    assert [type(result) for result in results] == [StorageUnavailable] * 3
    with onlooker(database) as other:
        assert projects(other) == []
        await database.ask(f"PRAGMA max_page_count = {pages + 10_000}")
        await writer.write(add_big, "d")
        assert projects(other) == ["d"]


async def test_a_lock_that_is_held_elsewhere_is_waited_for_only_so_long(database: SQLite) -> None:
    """While another process writes, relay's writes wait for busy_timeout, then are refused; reads go on throughout."""
    writer = Writer(database, 8)
    assert await database.ask("PRAGMA busy_timeout") == [(5000,)]
    await database.ask("PRAGMA busy_timeout = 50")
    with onlooker(database) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await outcomes(*(writer.write(add, name) for name in "ab"))
        assert [type(result) for result in results] == [StorageUnavailable] * 2
        assert len(await database.rows("project_by_name", {"name": "default"})) == 1
        other.execute("ROLLBACK")
        assert await writer.write(add, "c") == "C"
        assert projects(other) == ["c"]


@pytest.mark.parametrize("steps", range(6))
async def test_a_transaction_whose_caller_is_cancelled_is_whole_or_undone(database: SQLite, steps: int) -> None:
    """Whoever waits may be cancelled while it begins, writes or commits: the connection is fit for the next one."""

    async def work(transaction: Transaction) -> None:
        await add(transaction, ["a"])

    transacting = asyncio.create_task(database.transact(work))
    for _ in range(steps):
        await asyncio.sleep(0)  # one turn of the loop further
    transacting.cancel()
    await outcomes(transacting)
    assert await Writer(database, 8).write(add, "b") == "B"
    with onlooker(database) as other:
        assert set(projects(other)) - {"a"} == {"b"}


async def test_drain_returns_when_all_is_written(database: SQLite) -> None:
    """A stop waits for what is in the backlog."""
    writer = Writer(database, 1000)
    writes = [asyncio.ensure_future(writer.write(add, f"p{number:03}")) for number in range(300)]
    await asyncio.sleep(0)  # each task has a turn of the loop: all are in the backlog
    await writer.drain()
    with onlooker(database) as other:
        assert len(projects(other)) == 300
    await asyncio.gather(*writes)


class Apart:
    """An operation that may be a part of a transaction in parts, unless it is told to refuse."""

    def __init__(self, reads_last: bool = False) -> None:
        self.reads_last = reads_last
        self.refuses = False
        self.times = 0

    def apart(self, names: Sequence[str]) -> bool:
        """Return what it was told."""
        return not self.refuses and bool(names)

    async def __call__(self, transaction: Transaction, names: Sequence[str]) -> list[str]:
        """Add projects."""
        return await add(transaction, [f"{name}{number}" for number, name in enumerate(names)])


async def test_only_operations_that_say_so_do_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for a transaction in parts where each kind of a batch allows it for its items, and no key is tied.

    Of several kinds it is asked for up to SHARE_MIN items: a server's locks of endpoints would delay other batches.
    """
    async with opened(tmp_path) as database:
        writer, one, other, asked = Writer(database, 16), Apart(), Apart(reads_last=True), list[str]()
        transact_apart: Any = database.transact_apart

        async def noted(work: Any) -> Any:
            asked.append("apart")
            return await transact_apart(work)

        async def parts(prefix: str, *operations: Any) -> int:
            asked.clear()
            written = [writer.submit(each, f"{prefix}{number}") for number, each in enumerate(operations)]
            await asyncio.gather(*written)
            return len(asked)

        monkeypatch.setattr(database, "transact_apart", noted)
        assert await parts("a", one, one) == 1
        assert await parts("b", one, other) == 1
        assert await parts("c", *[one] * (SHARE_MIN - 1), other) == 1
        assert await parts("d", one, add) == 0
        one.refuses = True
        assert await parts("e", one, other) == 0
        tie = Tie(project_id="prj_default", key="no such key", reserved_at=1, of=lambda _: Tied(b""))
        with pytest.raises(ReservationLost):
            await writer.write(other, "f", tie=tie)
        assert asked == []


async def test_a_large_batch_of_several_kinds_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write SHARE_MIN items and one more of two kinds in a transaction with locks."""
    async with opened(tmp_path) as database:
        writer, asked = Writer(database, 16), list[str]()
        transact: Any = database.transact

        async def noted(work: Any) -> Any:
            asked.append("locked")
            return await transact(work)

        monkeypatch.setattr(database, "transact", noted)
        monkeypatch.setattr(writer, "_turns_max", 1)  # a server's two would part the batch
        kinds = [*[Apart()] * SHARE_MIN, Apart(reads_last=True)]
        await asyncio.gather(*(writer.submit(each, f"p{number}") for number, each in enumerate(kinds)))
        assert asked == ["locked"]


@pytest.mark.parametrize("names", [("Z", "A"), ("A", "Z")])
async def test_what_reads_last_comes_last(database: SQLite, names: tuple[str, str]) -> None:
    """Run the kinds of a batch in one order, whatever order they came in and however they are called."""
    ran: list[str] = []

    def kind(name: str, reads_last: bool) -> Any:
        async def run(self: Any, _: Transaction, items: Sequence[str]) -> list[None]:
            ran.append(name)
            return [None] * len(items)

        return type(name, (), {"__call__": run, "reads_last": reads_last})()

    last, first = (kind(name, reads_last=place == 0) for place, name in enumerate(names))
    writer = Writer(database, 8)
    await asyncio.gather(writer.submit(last, "a"), writer.submit(first, "b"))
    assert ran == [names[1], names[0]]


async def followed(writer: Writer) -> None:
    """Let two writes follow each other, so that the next is expected soon."""
    for name in ("first", "second"):
        await writer.write(add, name)


async def test_a_patient_item_goes_along_with_the_next_commit(database: SQLite) -> None:
    """Write it in the transaction of what comes after it, while writes follow each other closely."""
    with watched_loop().time_held():
        writer = Writer(database, 8)
        await followed(writer)
        before, patient = commits(database), writer.submit_patient(add, "patient")
        assert await writer.write(add, "next") == "NEXT"
        assert (patient.done(), commits(database) - before) == (True, 1)


async def test_a_patient_item_waits_for_a_bounded_time(database: SQLite) -> None:
    """Write it by itself after LINGER_S, and not just before."""
    with watched_loop().time_held() as advance:
        writer = Writer(database, 8)
        await followed(writer)
        before, patient = commits(database), writer.submit_patient(add, "patient")
        advance(LINGER_S - 0.001)
        await watched_loop().idle(PAUSE_S)
        assert commits(database) == before
        advance(0.001)
        assert await patient == "PATIENT"
        assert commits(database) - before == 1


@pytest.mark.parametrize(("late_s", "lingers"), [(2 * LINGER_S - 0.001, True), (2 * LINGER_S + 0.001, False)])
async def test_a_patient_item_lingers_only_where_another_is_expected(
    database: SQLite, late_s: float, lingers: bool
) -> None:
    """Write it at once if the last two writes are as long ago as two such times."""
    with watched_loop().time_held() as advance:
        writer = Writer(database, 8)
        await followed(writer)
        advance(late_s)
        before, patient = commits(database), writer.submit_patient(add, "patient")
        if lingers:
            await watched_loop().idle(PAUSE_S)
            assert commits(database) == before
            advance(LINGER_S)
        assert await patient == "PATIENT"


@pytest.mark.parametrize(("number", "lingers"), [(PATIENT_MAX - 1, True), (PATIENT_MAX, False)])
async def test_so_many_patient_items_wait_no_longer(database: SQLite, number: int, lingers: bool) -> None:
    """Write PATIENT_MAX of them at once, in one commit, and let one less wait."""
    with watched_loop().time_held() as advance:
        writer = Writer(database, 8)
        await followed(writer)
        before = commits(database)
        patient = [writer.submit_patient(add, f"p{each}") for each in range(number)]
        if lingers:
            await watched_loop().idle(PAUSE_S)
            assert commits(database) == before
            advance(LINGER_S)
        await asyncio.gather(*patient)
        assert commits(database) - before == 1


async def test_drain_lets_nothing_linger(database: SQLite) -> None:
    """A stop waits for no time: what is patient is written before it."""
    with watched_loop().time_held():
        writer = Writer(database, 8)
        await followed(writer)
        patient = writer.submit_patient(add, "patient")
        await writer.drain()
        assert await patient == "PATIENT"
