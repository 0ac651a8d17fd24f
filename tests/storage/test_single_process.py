"""One SQLite file: one process dispatches, a second one serves until it takes over, and a lost file is noticed."""

import errno
import fcntl
import os
import signal
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.storage.engine.single_process import FileLock
from tests.support import processes
from tests.support.calling_back import DONE, post
from tests.support.ports import free_port
from tests.support.running import DATABASES, environment, relay

pytestmark = pytest.mark.anyio


def test_the_lock_of_a_file_is_taken_once(tmp_path: Path) -> None:
    """Refuse a second process, name the first, and free the lock when it is closed."""
    path = tmp_path / "new" / "relay.db"
    first, second = FileLock(path), FileLock(path)
    assert (first.take(), first.proven) == (True, True)
    assert (second.take(), second.proven, second.holder) == (False, False, str(os.getpid()))
    first.close()
    assert (second.take(), second.proven) == (True, True)
    assert (path.parent / "relay.db.lock").stat().st_mode & 0o777 == 0o600
    second.close()


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_is_no_second_database(tmp_path: Path, exists: bool) -> None:
    """Refuse a second process that names the file by a symbolic link, also where relay has yet to make the file."""
    file, link = tmp_path / "disk" / "relay.db", tmp_path / "relay.db"
    file.parent.mkdir()
    if exists:
        file.touch()
    link.symlink_to(file)
    for pair in ((file, link), (link, file)):
        with closing(FileLock(pair[0])) as first, closing(FileLock(pair[1])) as second:
            assert (first.take(), second.take()) == (True, False)


def test_a_file_system_without_locks_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on without the lock where there are none, and do not count as the only process."""

    def unsupported(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with closing(FileLock(tmp_path / "relay.db")) as lock:
        assert (lock.take(), lock.proven) == (True, False)


async def test_a_second_relay_serves_and_takes_over_when_the_first_has_ended(tmp_path: Path) -> None:
    """Store what the second process is told, send it from the first, and from the second after the first has ended."""
    if DATABASES.postgres is not None:
        pytest.skip("on PostgreSQL every process may send")
    async with AsyncExitStack() as stack:
        second_stack = await stack.enter_async_context(AsyncExitStack())
        first_stack = await stack.enter_async_context(AsyncExitStack())
        first = await first_stack.enter_async_context(relay(tmp_path, clock=SystemClock(), confirm=False))
        second = await second_stack.enter_async_context(
            relay(tmp_path, clock=SystemClock(), confirm=False, world=first.world)
        )
        assert (first.app.store.lease.dispatches, second.app.store.lease.dispatches) == (True, False)
        job = await second.submit(notify=[{"url": second.hook}])
        assert (await post(second, DONE)).status_code == 200
        await second.sink.wait_for(lambda sink: sorted(sink.events()) == ["job.submitted", "job.succeeded"])
        assert (await first.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"
        await first_stack.aclose()
        later = await second.submit(notify=[{"url": second.hook}])
        await second.sink.wait_for(lambda sink: len(sink.received) == 3)
        assert second.app.store.lease.dispatches
        assert (await second.get(f"/v1/jobs/{later['id']}"))["status"] == "submitted"


async def test_a_second_serve_takes_over_after_a_kill(tmp_path: Path) -> None:
    """Answer requests in the second `serve` while the first one runs, and dispatch after that one's kill -9."""
    ports = [free_port() for _ in range(2)]
    url = f"sqlite:///{tmp_path}/relay.db"
    environs = [
        environment(tmp_path, f"http://127.0.0.1:{port}", "http://127.0.0.1:1")
        | {"DATABASE_URL": url, "PORT": str(port), "RELAY_HOST": "127.0.0.1"}
        for port in ports
    ]
    async with processes.process(environs[0], "-m", "relay", "serve") as first:
        await processes.ready(f"http://127.0.0.1:{ports[0]}", first)
        async with processes.process(environs[1], "-m", "relay", "serve") as second:
            await processes.line(second, f'"process":"{first.pid}"')
            await processes.ready(f"http://127.0.0.1:{ports[1]}", second)
            first.send_signal(signal.SIGKILL)
            await first.wait()
            await processes.line(second, "database.taken_over")
            await processes.ready(f"http://127.0.0.1:{ports[1]}", second)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_has_gone_is_503_until_it_is_back(tmp_path: Path, how: str) -> None:
    """Answer `readyz`, callbacks and submissions 503 while the file is not the one that is open, and go on after."""
    if DATABASES.postgres is not None:
        pytest.skip("PostgreSQL has its own files")
    path, kept = tmp_path / "relay.db", tmp_path / "kept.db"
    async with relay(tmp_path, confirm=False) as running:
        job = await running.submit()
        kept.hardlink_to(path)
        path.unlink()
        if how == "replaced":
            path.write_bytes(b"")
        ready = await running.client.get("/readyz")
        assert (ready.status_code, "deleted, moved or replaced" in ready.text) == (503, True)
        assert (await post(running, DONE)).status_code == 503
        refused = await running.client.post("/v1/endpoints", json={"url": running.hook})
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        path.unlink(missing_ok=True)
        kept.rename(path)
        assert (await running.client.get("/readyz")).status_code == 200
        assert (await post(running, DONE)).status_code == 200
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"
