"""The commands of operators on a running relay, and what a terminal shows: real processes, a real relay."""

import asyncio
import json
import os
import pty
import re
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.remote.output import printable
from relay.clock import SystemClock
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.web.routes import API
from tests.support.paying import PRICE, Seller, selling
from tests.support.running import KEY, Running, relay
from tests.system.test_command_line import Shell, connected, cut_streams, finished, following

pytestmark = pytest.mark.anyio
OWN_TERMINAL = "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
"""What makes standard input the terminal of a program's own session, whose Ctrl-C interrupts it."""


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on the machine's clock, which the commands have too."""
    async with relay(tmp_path / "relay", clock=SystemClock()) as started:
        yield started


@pytest.fixture
def shell(running: Running, tmp_path: Path) -> Shell:
    """Return what runs commands on the relay."""
    return Shell(running, tmp_path)


async def test_keys_and_projects_are_managed_over_http(shell: Shell) -> None:
    """Make a project and a key for it, use the key, revoke it, and see it refused."""
    project = (await shell("projects", "create", "films", "-o", "json")).json()
    assert project["id"] in (await shell("projects", "list")).out
    create = ("keys", "remote", "create", "--name", "ci", "--scope", "read", "--project", project["id"], "-o", "json")
    key = (await shell(*create)).json()
    me = (await shell("whoami", "-o", "json", RELAY_API_KEY=key["key"])).json()
    assert (me["project"]["name"], me["key"]["scopes"]) == ("films", ["read"])
    assert (await shell("projects", "create", "more", RELAY_API_KEY=key["key"])).status == 4
    listed = await shell("keys", "remote", "list", "--live", "--project", project["id"])
    assert key["id"] in listed.out
    assert key["key"] not in listed.out
    asked = await shell("keys", "remote", "revoke", key["id"])
    assert (asked.status, "--yes" in asked.err) == (2, True)
    assert (await shell("keys", "remote", "revoke", key["id"], "--yes", "-o", "json")).json()["revoked_at"]
    assert (await shell("whoami", RELAY_API_KEY=key["key"])).status == 4


async def test_who_changed_what_is_listed_with_the_program_that_did(shell: Shell) -> None:
    """Show a change by a command as `cli` in the audit, and one by the API as `api`."""
    made = (await shell("endpoints", "create", shell.running.hook, "-o", "json")).json()
    await shell.running.client.post("/v1/projects", json={"name": "films"})
    (entry,) = (await shell("audit", "--via", "cli", "-o", "jsonl")).lines()
    assert (entry["verb"], entry["target"], entry["via"]) == ("endpoints.create", made["id"], "cli")
    (other,) = (await shell("audit", "--verb", "projects.create", "-o", "json")).json()
    assert other["via"] == "api"
    assert (await shell("audit", "--since", "2026-01-01", "--until", "2026-01-02", "-o", "json")).json() == []


async def test_a_job_is_found_counted_and_its_alert_shown(shell: Shell) -> None:
    """Find a job by its id at the provider, count it among the numbers, and list what needs attention."""
    job = await finished(shell.running)
    (found,) = (await shell("search", job["provider_job_id"], "-o", "json")).json()
    assert (found["kind"], found["id"], found["matched"]) == ("job", job["id"], "provider_job_id")
    await shell.running.app.store.statistics.flush()
    numbers = (await shell("stats", "--from", "-1h", "-o", "json")).json()
    assert numbers["totals"]["jobs_finished"]["succeeded"] == 1
    table = (await shell("stats", "--from", "-1h", "--bucket", "1h")).out.splitlines()
    assert table[0].split()[:3] == ["FROM", "CREATED", "SUCCEEDED"]
    assert [line.split()[2] for line in table[1:]].count("1") == 1
    assert (await shell("alerts", "--state", "all", "-o", "json")).json() == []


async def test_all_jobs_that_match_are_counted_and_then_failed(shell: Shell) -> None:
    """Count without acting, act on the jobs that match alone, and exit with 1 if one is refused."""
    jobs = [await shell.running.submit(metadata={"user": "7"}) for _ in range(3)]
    other = await shell.running.submit(metadata={"user": "8"})
    bulk = ("jobs", "bulk", "fail", "--metadata", "user=7")
    counted = (await shell(*bulk, "--dry-run", "-o", "json")).json()
    assert (counted["matched"], counted["done"]) == (3, [])
    assert (await shell(*bulk, "--yes")).status == 2  # without a reason
    done = (await shell(*bulk, "--why", "a test", "--yes", "-o", "json")).json()
    assert {row["job"]: row["done"] for row in done} == {job["id"]: True for job in jobs}
    assert (await shell.running.get(f"/v1/jobs/{other['id']}"))["status"] == "submitted"
    again = await shell(*bulk, "--why", "a test", "--yes", "-o", "json")
    assert again.status == 1
    assert [(row["done"], row["code"]) for row in json.loads(again.out)] == [(False, "conflict")] * 3


async def test_a_terminal_shows_a_table_whose_cells_cannot_control_it(shell: Shell) -> None:
    """Draw a table on a terminal with the cells' escapes made visible, by rich unless NO_COLOR is set."""
    await shell.running.client.post(
        "/v1/endpoints", json={"url": shell.running.hook, "description": "a\u202eb", "event_types": ["*"]}
    )
    plain = await shell("search", "a\u202eb")
    assert ("a\u202eb" in plain.out, "\x1b" in plain.out) == (False, False)
    for environ in ({"NO_COLOR": "1"}, {"NO_COLOR": ""}):
        drawn = await _on_terminal(shell, "endpoints", "list", TERM="xterm", COLUMNS="200", **environ)
        assert shell.running.hook in drawn
        assert "a\u202eb" not in drawn
        assert ("\x1b" in drawn) is (environ["NO_COLOR"] == "")


async def test_a_terminal_shows_plain_columns_without_rich(shell: Shell, tmp_path: Path) -> None:
    """Print the same rows where rich is not installed."""
    (tmp_path / "rich.py").write_text("raise ImportError")
    made = (await shell("endpoints", "create", shell.running.hook, "-o", "json")).json()
    arguments = {"TERM": "xterm", "COLUMNS": "200", "NO_COLOR": ""}
    root = Path(__file__).parents[2]
    plain = await _on_terminal(shell, "endpoints", "list", PYTHONPATH=f"{tmp_path}:{root}", **arguments)
    assert "\x1b" not in plain
    assert [line.split()[0] for line in plain.splitlines()] == ["ENDPOINT", made["id"]]


async def test_a_key_that_others_can_read_on_its_way_is_warned_of(shell: Shell) -> None:
    """Say at a login without TLS to another machine that the key can be read; not to this one."""
    far = await shell("login", "--url", "http://relay.invalid", stdin=b"a-key\n")
    assert (far.status, "not encrypted" in far.err, "a-key" in far.err) == (75, True, False)
    near = await shell("login", "--url", shell.running.origin, stdin=f"{KEY}\n".encode())
    assert (near.status, "not encrypted" in near.err) == (0, False)


async def test_keys_act_on_the_last_event_and_a_terminal_is_left_as_it_was(shell: Shell) -> None:
    """Show the last event by d, send it again by r, end by Ctrl-C, and leave the terminal as it was."""
    local, (here, there) = Sink(), pty.openpty()
    before = termios.tcgetattr(there)
    async with serve(local) as at:
        program = f"{OWN_TERMINAL}; runpy.run_module('relay', run_name='__main__')"
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, "listen", "--forward-to", f"{at}/hook", "--type", "job.succeeded"),
            env=shell.environ,
            stdin=there,
            stdout=there,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            await connected(child)
            os.write(here, b"r")  # nothing happened yet
            await finished(shell.running)
            await local.wait_for(lambda sink: len(sink.received) == 1)
            os.write(here, b"dR")
            await local.wait_for(lambda sink: len(sink.received) == 2)
            os.write(here, b"\x03")
            assert await asyncio.wait_for(child.wait(), 60) == 0
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        shown = os.read(here, 65_536).decode()
    first, again = local.received
    assert (first.body, first.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])
    assert '"final": true' in shown
    assert "Traceback" not in shown
    assert termios.tcgetattr(there) == before
    os.close(here)
    os.close(there)


async def _on_terminal(shell: Shell, *arguments: str, **environ: str) -> str:
    """Return what a command writes on a terminal; an empty variable is not there."""
    here, there = pty.openpty()
    given = {name: value for name, value in (shell.environ | environ).items() if value}
    try:
        done = await anyio.run_process(
            [sys.executable, "-m", "relay", *arguments], stdin=None, stdout=there, stderr=None, env=given, check=False
        )
        assert done.returncode == 0
    finally:
        os.close(there)
    shown = b""
    try:
        while read := os.read(here, 65_536):
            shown += read
    except OSError:  # a terminal without a program at its other end
        pass
    finally:
        os.close(here)
    return shown.decode()


async def test_what_was_paid_is_listed_and_written_as_csv(shell: Shell) -> None:
    """List no payment where there is none, and write receipts whose first line has the titles."""
    assert (await shell("payments", "list", "-o", "json")).json() == []
    receipts = await shell("payments", "receipts", "--since", "-24h")
    assert (receipts.status, receipts.out) == (0, (await shell.running.client.get("/v1/receipts")).text)
    assert receipts.out.startswith("id,")


async def test_a_secret_is_shown_and_a_batch_is_stopped_once(shell: Shell) -> None:
    """Print an endpoint's secret, list its batches, and refuse to stop one that has ended."""
    await finished(shell.running)
    made = (await shell("endpoints", "create", shell.running.hook, "--type", "job.succeeded", "-o", "json")).json()
    assert (await shell("endpoints", "secret", made["id"], "-o", "json")).json() == {"secret": made["secret"]}
    redeliver = ("endpoints", "redeliver", made["id"], "--which", "missing", "--since", "-24h", "--yes", "-o", "json")
    batch = (await shell(*redeliver)).json()
    (listed,) = (await shell("endpoints", "batches", made["id"], "-o", "json")).json()
    assert listed["id"] == batch["id"]
    stopped = await shell("endpoints", "stop", made["id"], batch["id"], "--yes")
    assert (stopped.status, "409" in stopped.err) == (1, True)


async def test_jobs_are_chosen_by_each_filter(shell: Shell) -> None:
    """List and count by a provider's id, by age, and by what an endpoint has not accepted."""
    job = await shell.running.submit(notify=[{"url": "http://127.0.0.1:1/hook"}])
    other = await shell.running.submit()
    assert job["id"] != other["id"]
    for chosen, count in (
        (("--provider-job-id", job["provider_job_id"]), 1),
        (("--undelivered",), 1),
        (("--expiring-undelivered",), 0),
        (("--older-than", "1h"), 0),
    ):
        listed = (await shell("jobs", "list", *chosen, "-o", "json")).json()
        counted = (await shell("jobs", "bulk", "check", *chosen, "--dry-run", "-o", "json")).json()
        assert (len(listed), counted["matched"]) == (count, count), chosen


async def test_caps_are_shown_beside_what_was_spent(shell: Shell) -> None:
    """Show each cap by its setting, and what is left of it."""
    shown = await shell("spend")
    assert shown.out.splitlines()[0].split()[:2] == ["PROVIDER", "UNIT"]
    assert "RELAY_PROJECT_SPEND_MAX_PER_DAY: 10.000000 USDC a day, used 0.000000, left 10.000000" in shown.err


async def test_an_id_that_is_another_path_is_refused(shell: Shell) -> None:
    """Refuse what would turn the path into another one, before anything is sent."""
    for wrong in ("../keys", "job_1?limit=1", "job_1#", "", "job 1"):
        done = await shell("jobs", "show", wrong)
        assert (done.status, "no path of the API" in done.err) == (2, True), wrong


async def test_a_key_or_url_that_cannot_be_sent_is_a_wrong_setting(shell: Shell) -> None:
    """Exit with 78 for a URL of no relay and for a key that no header holds, without repeating the key."""
    for url in ("ftp://relay.example", "relay.example", "http://", ":"):
        done = await shell("whoami", RELAY_URL=url)
        assert (done.status, "no URL" in done.err) == (78, True), url
    done = await shell("whoami", RELAY_API_KEY="clé-privée")
    assert (done.status, done.err) == (78, "relay: an API key is plain ASCII\n")


async def test_a_job_that_does_not_wait_is_neither_approved_nor_refused(shell: Shell) -> None:
    """Say why a job that needs no approval cannot be approved, with exit status 1."""
    job = await shell.running.submit()
    for verb in ("approve", "refuse"):
        done = await shell("jobs", verb, job["id"], "--reason", "a test", "--yes")
        assert (done.status, "409" in done.err) == (1, True), done.err


async def test_a_dear_job_is_approved_paid_and_in_the_books(tmp_path: Path) -> None:
    """Pay for a job once its price is approved, list the payment, write it as CSV, and refuse another job unpaid."""
    seller = Seller()
    async with selling(tmp_path, seller, SystemClock(), RELAY_APPROVAL_ABOVE="0.1") as running:
        shell = Shell(running, tmp_path)
        dear, refused = await running.submit("x402org"), await running.submit("x402org")
        asked = await shell("jobs", "approve", dear["id"])
        assert (asked.status, "for 0.330000 USD?" in asked.err, seller.moved) == (2, True, 0)
        assert (await shell("jobs", "approve", dear["id"], "--reason", "paid for", "--yes", "-o", "json")).json()
        failed = (await shell("jobs", "refuse", refused["id"], "--yes", "-o", "json")).json()
        assert (failed["status"], failed["error"]["code"]) == ("failed", "not_approved")
        (payment,) = (await shell("payments", "list", "-o", "json")).json()
        assert (payment["job"], payment["amount"], seller.moved) == (dear["id"], "0.330000", PRICE)
        receipts = (await shell("payments", "receipts", "--provider", "x402org")).out.splitlines()
        assert [line.split(",")[0] for line in receipts] == ["id", payment["id"]]
        assert (await shell("payments", "list", "--state", "void", "-o", "json")).json() == []


def test_each_route_of_the_api_has_a_command() -> None:
    """Request each route in the source of some command, so that the command line offers what the API does."""
    folder = Path(__file__).parents[2] / "relay" / "cli" / "remote"
    source = "\n".join(path.read_text() for path in folder.glob("*.py"))
    patterns = {route.path: re.sub(r"\\{\w+\\}", r"\\{[^{}]+\\}", re.escape(route.path)) for route in API}
    assert [path for path, pattern in patterns.items() if not re.search(pattern + "[\"']", source)] == []


@given(st.text())
def test_what_is_printed_cannot_control_a_terminal(text: str) -> None:
    """Print only what is printable and line ends, keep printable text as it is, and JSON the same value."""
    assert all(one == "\n" or one.isprintable() for one in printable(text))
    if text.isprintable():
        assert printable(text) == text
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


async def test_an_event_during_a_cut_is_printed_even_if_it_is_the_first(shell: Shell) -> None:
    """Go on after a cut from where the command began, although no event had come by then."""
    async with following(shell, "tail", "-o", "jsonl") as child:
        await cut_streams(shell.running)
        job = await shell.running.submit()
        assert child.stdout is not None
        event = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
    assert (event["type"], event["data"]["job"]["id"]) == ("job.submitted", job["id"])
