"""One SQLite file, one relay: a second one waits and then says so, and a file that has gone is noticed."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from relay.errors import SettingsError
from relay.storage.engine.single_process import alone
from tests.support import processes
from tests.support.calling_back import DONE, post
from tests.support.running import DATABASES, environment, relay

pytestmark = pytest.mark.anyio


async def test_a_second_holder_waits_and_is_refused(tmp_path: Path) -> None:
    """Name the process that has the file when the wait is over, and the file."""
    path = tmp_path / "new" / "relay.db"
    async with alone(path, 0):
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(SettingsError, match=rf"process {os.getpid()}\) runs on .*relay\.db"):
            async with alone(path, 0.25):
                pass
        assert asyncio.get_running_loop().time() - began_s >= 0.25
    async with alone(path, 0):
        assert (path.parent / "relay.db.lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("exists", [False, True])
async def test_a_link_is_no_second_database(tmp_path: Path, exists: bool) -> None:
    """Refuse a second holder that names the file by a symbolic link, also where relay has yet to make the file."""
    file, link = tmp_path / "disk" / "relay.db", tmp_path / "relay.db"
    file.parent.mkdir()
    if exists:
        file.touch()
    link.symlink_to(file)
    for first, second in ((file, link), (link, file)):
        async with alone(first, 0):
            with pytest.raises(SettingsError, match="another relay"):
                async with alone(second, 0):
                    pass


async def test_a_restart_that_overlaps_goes_on_when_the_first_has_ended(tmp_path: Path) -> None:
    """Take over as soon as the first holder lets go."""
    path, order = tmp_path / "relay.db", []

    async def second() -> None:
        async with alone(path, 30):
            order.append("second")

    async with alone(path, 0):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)  # it has found the file locked
        order.append("first")
    await asyncio.wait_for(waiting, 10)
    assert order == ["first", "second"]


async def test_a_second_serve_is_an_exit_status_and_a_sentence(tmp_path: Path) -> None:
    """End the second `serve` with 78 and a sentence while the first one runs, and take over after its kill -9."""
    ports = [processes.free_port() for _ in range(2)]
    url = f"sqlite:///{tmp_path}/relay.db"
    environs = [
        environment(tmp_path, f"http://127.0.0.1:{port}", "http://127.0.0.1:1")
        | {"DATABASE_URL": url, "PORT": str(port), "RELAY_HOST": "127.0.0.1", "RELAY_DATABASE_WAIT_S": "0.2"}
        for port in ports
    ]
    async with processes.process(environs[0], "-m", "relay", "serve") as first:
        await processes.ready(f"http://127.0.0.1:{ports[0]}", first)
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "serve"),
            cwd=processes.ROOT,
            env=processes.clean(environs[1]),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await asyncio.wait_for(second.communicate(), 20)
        assert second.returncode == 78
        assert f"process {first.pid}" in told.decode()
        assert "Traceback" not in told.decode()
        first.send_signal(signal.SIGKILL)
        await first.wait()
    async with processes.process(environs[1], "-m", "relay", "serve") as third:
        await processes.ready(f"http://127.0.0.1:{ports[1]}", third)


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
