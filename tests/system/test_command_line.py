"""The commands that work on a running relay, as a user starts them: processes, a real relay."""

import asyncio
import json
import signal
import stat
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from standardwebhooks import Webhook
from starlette.responses import Response

from relay.cli import group
from relay.clock import SystemClock
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from tests.support import commands
from tests.support.processes import clean
from tests.support.running import INPUT, KEY, Running, relay

pytestmark = pytest.mark.anyio


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Return its output as JSON."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """Return its output as one JSON a line."""
        assert self.status == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """Runs commands with a relay's address and key in their environment."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.running = running
        self.environ = clean({"RELAY_PROFILES": str(folder / "profiles.json"), "HOME": str(folder)})
        self.environ |= {"RELAY_URL": running.origin, "RELAY_API_KEY": KEY, "NO_COLOR": "1", "COLUMNS": "200"}

    async def __call__(self, *arguments: str, stdin: bytes = b"", **environ: str) -> Done:
        """Return how a command ended."""
        ended = await commands.run(arguments, self.environ | environ, stdin)
        return Done(ended.status, ended.out.decode(), ended.err.decode())

    async def start(self, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        """Return a command that runs, in an interpreter of its own."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", *arguments),
            env=self.environ | environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
        )


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on the machine's clock, which the commands have too."""
    async with relay(tmp_path / "relay", clock=SystemClock()) as started:
        yield started


@pytest.fixture
def shell(running: Running, tmp_path: Path) -> Shell:
    """Return what runs commands on the relay."""
    return Shell(running, tmp_path)


async def finished(running: Running, **fields: Any) -> dict[str, Any]:
    """Return a job that has succeeded."""
    job = await running.submit(**fields)
    await running.world.finish(job["provider_job_id"])
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")


async def test_a_key_is_stored_for_its_owner_alone_and_used(shell: Shell, tmp_path: Path) -> None:
    """Log in by standard input, keep the key in a file of mode 0600, use it, and refuse a file that others may read."""
    without: Any = {"RELAY_API_KEY": "", "RELAY_URL": ""}
    origin = shell.running.origin
    done = await shell("login", "--url", origin, "--profile", "prod", stdin=f"{KEY}\n".encode(), **without)
    assert (done.status, done.out) == (0, "")
    assert KEY not in done.err
    path = tmp_path / "profiles.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    me = (await shell("whoami", "--profile", "prod", "-o", "json", **without)).json()
    assert (me["project"]["name"], me["operator"]) == ("default", True)
    path.chmod(0o640)
    refused = await shell("whoami", "--profile", "prod", **without)
    assert (refused.status, "chmod 600" in refused.err) == (78, True)


async def test_a_stored_key_goes_to_its_own_relay_alone(shell: Shell, tmp_path: Path) -> None:
    """Send no key of the default profile to another URL."""
    (tmp_path / "profiles.json").write_text(json.dumps({"default": {"url": "http://other.example", "api_key": KEY}}))
    (tmp_path / "profiles.json").chmod(0o600)
    done = await shell("jobs", "list", "--url", shell.running.origin, RELAY_API_KEY="", RELAY_URL="")
    assert done.status == 4


async def test_each_kind_of_error_has_its_exit_status(shell: Shell) -> None:
    """Exit with 3 for what is not there, 4 for a key, 75 for try again, 78 for settings, 2 for a wrong use, else 1."""
    job = (await finished(shell.running))["id"]
    tries = [
        (3, shell("jobs", "show", "job_nothing")),
        (4, shell("jobs", "list", RELAY_API_KEY="wrong-key-of-nobody")),
        (75, shell("whoami", RELAY_URL="http://127.0.0.1:1")),
        (78, shell("whoami", "--profile", "nowhere")),
        (2, shell("jobs", "list", "--limit", "0")),
        (2, shell("jobs", "cancel", job)),
        (1, shell("jobs", "cancel", job, "--yes")),
        (1, shell("jobs", "submit", "evolink", "--input", "{}")),
    ]
    for expected, command in tries:
        done = await command
        assert (done.status, done.out) == (expected, ""), done
        assert done.err
        assert "Traceback" not in done.err


async def test_an_error_is_said_once_and_says_what_to_do(shell: Shell) -> None:
    """Name a wrong field once, and say how to reach a relay that does not answer where it was looked for."""
    done = await shell("jobs", "submit", "evolink", "--input", "{}")
    assert done.err == "relay: input.prompt: is required (422 invalid_input)\n"
    away = await shell("whoami", RELAY_URL="http://127.0.0.1:1")
    assert away.err.startswith("relay: http://127.0.0.1:1 does not answer: ")
    assert "--url, RELAY_URL, or relay login" in away.err


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("jobs", "list", "--metadata", "user"), 2, "--metadata: must be KEY=VALUE, not 'user'"),
        (("endpoints", "create", "http://x", "--header", "a"), 2, "--header: must be KEY=VALUE, not 'a'"),
        (("jobs", "submit", "evolink", "--input", "@none.json"), 2, "--input: cannot read none.json: No such file"),
        (("jobs", "submit", "evolink", "--input", "{"), 2, "--input: is no JSON: "),
        (("listen", "--forward-to", "localhost:3000"), 2, "--forward-to: must begin with http:// or https://"),
        (("sign", "--secret", "abc"), 78, "the secret must begin with whsec_"),
        (
            ("verify", "--secret", "abc", "--headers", "HEADERS"),
            2,
            "--headers: must be a file with `name: value` lines",
        ),
        (("migrate", "--to", "mysql://x/y"), 78, "--to must name the PostgreSQL to copy into, such as postgres://"),
        (("simulate", "late_s=x"), 2, "the fault late_s must be a number from 0 to 600, not 'x'"),
        (("simulate", "submit=x"), 2, "submit must be one of ok, hang, "),
        (("whoami", "--url", "WRONG_KEY"), 4, "the command line takes the key from RELAY_API_KEY or relay login"),
    ],
)
async def test_a_wrong_use_names_the_option_and_what_it_takes(
    shell: Shell, tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    """Name the option that was used, what it must be, and what it was."""
    (tmp_path / "headers").write_text("{")
    places = {"HEADERS": str(tmp_path / "headers"), "WRONG_KEY": shell.running.origin}
    key = "wrong-key-of-nobody" if "WRONG_KEY" in arguments else KEY
    done = await shell(*(places.get(one, one) for one in arguments), RELAY_API_KEY=key)
    assert (done.status, done.out) == (status, "")
    assert says in " ".join(done.err.split())
    assert "Traceback" not in done.err


async def test_a_job_is_submitted_awaited_explained_and_listed(shell: Shell) -> None:
    """Go the whole way of a job, for people and for programs."""
    child = await shell.start(
        *("jobs", "submit", "evolink", "--input", json.dumps(INPUT), "--metadata", "user=42", "--wait", "-o", "json")
    )
    await shell.running.world.wait_for(lambda world: len(world.jobs) == 1, 30)
    await shell.running.world.finish(next(iter(shell.running.world.jobs)))
    out, err = await asyncio.wait_for(child.communicate(), 60)
    job = json.loads(out)
    assert (child.returncode, job["status"], job["metadata"]) == (0, "succeeded", {"user": "42"})
    assert b"submitted job_" in err
    again = (await shell("jobs", "wait", job["id"], "-o", "jsonl")).lines()
    assert again[0]["id"] == job["id"]
    explained = await shell("jobs", "explain", job["id"])
    assert "the job was accepted" in explained.out
    listed = await shell("jobs", "list", "--metadata", "user=42", "--status", "succeeded")
    assert listed.out.splitlines()[0].split()[:3] == ["JOB", "STATUS", "REASON"]
    assert job["id"] in listed.out
    assert (await shell("jobs", "list", "--metadata", "user=43", "-o", "json")).json() == []
    late = await shell("jobs", "wait", (await shell.running.submit())["id"], "--for", "0")
    assert late.status == 75


async def test_a_shown_job_is_text_without_json(shell: Shell) -> None:
    """Show what a job cost and its metadata as words, and a dash where it has neither; JSON stays as relay sent it."""
    job = await shell.running.submit(metadata={"user": "42", "paid": True})
    shown = dict(line.split(maxsplit=1) for line in (await shell("jobs", "show", job["id"])).out.splitlines())
    assert (shown["cost"], shown["metadata"]) == ("50 credits (reserved)", "user=42 paid=true")
    found = (await shell("jobs", "show", job["id"], "-o", "json")).json()
    assert (found["cost"], found["metadata"]) == (job["cost"], job["metadata"])
    free = await shell.running.submit("relaydance")
    shown = dict(line.split(maxsplit=1) for line in (await shell("jobs", "show", free["id"])).out.splitlines())
    assert (free["cost"], free["metadata"]) == (None, {})
    assert (shown["cost"], shown["metadata"]) == ("–", "–")


async def test_a_job_is_made_of_options(shell: Shell) -> None:
    """Make the input of the options: a prompt alone, frames, references and a model."""
    image, other = "https://example.com/a.png", "https://example.com/b.png"
    for options, expected in (
        (["--prompt", "p"], {"prompt": "p"}),
        (["--image", image, "--last-frame", other], {"images": [image], "last_frame": other}),
        (
            ["--reference", image, "--reference", other, "--model", "dreamina-seedance-2-5-260628"],
            {"references": [image, other], "model": "dreamina-seedance-2-5-260628"},
        ),
    ):
        job = (await shell("jobs", "submit", "ark", *options, "-o", "json")).json()
        assert (job["input"], job["status"]) == (expected, "submitted")


async def test_a_list_of_many_pages_is_whole(shell: Shell) -> None:
    """Follow the pages up to the limit, and not further."""
    for _ in range(5):
        await shell.running.submit()
    assert len((await shell("jobs", "list", "-o", "jsonl", "--limit", "4")).lines()) == 4
    assert len((await shell("jobs", "list", "-o", "jsonl", "--limit", "100")).lines()) == 5


async def test_an_endpoint_is_made_repaired_and_sent_what_it_missed(shell: Shell) -> None:
    """Make an endpoint, count and send what it missed, rotate its secret, disable and enable it."""
    await finished(shell.running)
    made = (await shell("endpoints", "create", shell.running.hook, "--type", "job.succeeded", "-o", "json")).json()
    assert made["secret"].startswith("whsec_")
    which = ("--which", "missing", "--since", "-24h")
    counted = (await shell("endpoints", "redeliver", made["id"], *which, "--dry-run", "-o", "json")).json()
    assert (counted["count"], shell.running.sink.received) == (1, [])
    batch = (await shell("endpoints", "redeliver", made["id"], *which, "--yes", "-o", "json")).json()
    assert (batch["status"], batch["made"]) == ("finished", 1)
    await shell.running.sink.wait_for(lambda sink: sink.events() == ["job.succeeded"])
    rotated = (await shell("endpoints", "rotate", made["id"], "--yes", "-o", "json")).json()
    assert rotated["secret"] != made["secret"]
    changed = (await shell("endpoints", "update", made["id"], "--rate", "5", "-o", "json")).json()
    assert changed["rate_limit_per_s"] == 5
    assert (await shell("endpoints", "disable", made["id"], "-y", "-o", "json")).json()["status"] == "disabled"
    assert (await shell("endpoints", "enable", made["id"], "-o", "json")).json()["status"] == "active"
    assert "secret rotated" in (await shell("endpoints", "history", made["id"])).out.replace("_", " ")
    assert made["id"] in (await shell("endpoints", "list")).out


async def test_what_is_stored_is_read(shell: Shell, tmp_path: Path) -> None:
    """Read events, deliveries, attempts, callbacks and a callback's bytes, and export all of it."""
    job = await finished(shell.running, notify=[{"url": shell.running.hook}])
    path = f"/v1/deliveries?job={job['id']}&status=delivered"
    await shell.running.until(path, lambda shown: len(shown["data"]) == 2)
    events = (await shell("events", "list", "--job", job["id"], "-o", "json")).json()
    assert [event["type"] for event in events] == ["job.succeeded", "job.submitted"]
    (delivery, _) = (await shell("deliveries", "list", "--job", job["id"], "-o", "json")).json()
    (attempt,) = (await shell("attempts", "list", delivery["id"], "-o", "json")).json()
    assert attempt["outcome"] == "ok"
    assert (await shell("attempts", "show", delivery["id"], "1", "-o", "json")).json() == attempt
    (callback,) = (await shell("callbacks", "list", "--job", job["id"], "-o", "json")).json()
    assert json.loads((await shell("callbacks", "body", callback["id"])).out)["id"] == job["provider_job_id"]
    exported = tmp_path / "out.zip"
    assert (await shell("incident", "export", job["id"], "-f", str(exported))).out == f"{exported}\n"
    with zipfile.ZipFile(exported) as archive:
        names = set(archive.namelist())
        everything = b"".join(archive.read(name) for name in names)
    assert {f"{noun}.json" for noun in ("job", "timeline", "events", "deliveries", "callbacks", "endpoints")} < names
    assert f"callbacks/{callback['id']}.bin" in names
    token = shell.running.callback_url().rsplit("/", 1)[1]
    for secret in (KEY, token, job.get("secret", "whsec_")):
        assert secret.encode() not in everything


async def test_a_file_that_cannot_be_written_is_named(shell: Shell, tmp_path: Path) -> None:
    """Name the file of an incident and the file of profiles that cannot be written, without a traceback."""
    job, target = (await finished(shell.running))["id"], tmp_path / "none" / "out.zip"
    done = await shell("incident", "export", job, "-f", str(target))
    assert (done.status, done.out) == (1, "")
    assert done.err == f"relay: cannot write {target}: No such file or directory\n"
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "p.json.part").mkdir()
    done = await shell("login", stdin=KEY.encode(), RELAY_PROFILES=str(folder / "p.json"))
    assert (done.status, done.err.splitlines()[-1]) == (1, f"relay: cannot write {folder / 'p.json'}: Is a directory")
    (tmp_path / "file").write_bytes(b"")
    unreadable = tmp_path / "file" / "p.json"
    done = await shell("login", stdin=KEY.encode(), RELAY_PROFILES=str(unreadable))
    assert (done.status, done.out) == (78, "")
    assert done.err == f"relay: cannot read the profiles of {unreadable}: Not a directory\n"


async def test_the_state_of_a_relay_is_shown(shell: Shell) -> None:
    """Say that it is ready, and what providers cost and accept."""
    shown = (await shell("status", "-o", "json")).json()
    assert (shown["ready"], shown["due"], shown["alerts"]) == (True, 0, [])
    assert "evolink" in (await shell("providers")).out
    quoted = (await shell("quote", "--input", json.dumps(INPUT), "-o", "json")).json()
    assert {one["provider"] for one in quoted} >= {"evolink", "kinovi"}
    assert (await shell("spend", "-o", "json")).json()["unit"] == "USDC"
    assert (await shell("open", "job_1", BROWSER="true")).out == f"{shell.running.origin}/jobs/job_1\n"


async def test_signatures_are_made_and_verified(shell: Shell, tmp_path: Path) -> None:
    """Sign a body that the official library accepts, verify it, and refuse a changed one."""
    secret, body = "whsec_" + "A" * 43 + "=", b'{"type":"job.succeeded"}'
    signed = await shell("sign", "--id", "evt_1", stdin=body, RELAY_ENDPOINT_SECRET=secret)
    headers = dict(line.split(": ", 1) for line in signed.out.splitlines())
    assert Webhook(secret).verify(body, headers) == {"type": "job.succeeded"}
    (tmp_path / "headers").write_text(signed.out)
    verify = ("verify", "--headers", str(tmp_path / "headers"))
    assert (await shell(*verify, stdin=body, RELAY_ENDPOINT_SECRET=secret)).out == "genuine\n"
    forged = await shell(*verify, stdin=body + b" ", RELAY_ENDPOINT_SECRET=secret)
    assert (forged.status, forged.out) == (1, "")
    assert (await shell(*verify, stdin=body, RELAY_ENDPOINT_SECRET="nothing")).status == 78


async def test_a_notification_verifies_by_the_projects_public_key(shell: Shell, tmp_path: Path) -> None:
    """Verify what relay sent by a key of `/.well-known/webhook-keys`, and refuse it with a byte changed."""
    await finished(shell.running, notify=[{"url": shell.running.hook}])
    await shell.running.sink.wait_for(lambda sink: len(sink.received) == 2)
    sent = shell.running.sink.received[-1]
    keys = (await shell.running.client.get("/.well-known/webhook-keys?project=prj_default")).json()["keys"]
    (tmp_path / "headers.json").write_text(json.dumps(dict(sent.headers)))
    verify, key = ("verify", "--headers", str(tmp_path / "headers.json")), keys[-1]["whpk"]
    assert (await shell(*verify, stdin=sent.body, RELAY_ENDPOINT_SECRET=key)).out == "genuine\n"
    assert (await shell(*verify, stdin=sent.body + b" ", RELAY_ENDPOINT_SECRET=key)).status == 1


async def connected(child: asyncio.subprocess.Process) -> None:
    """Return when a command has the event stream."""
    assert child.stderr is not None
    said = b""
    async with asyncio.timeout(60):
        while b"connected" not in said:
            line = await child.stderr.readline()
            assert line, f"the command ended: {said.decode()}"
            said += line


@asynccontextmanager
async def following(shell: Shell, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Yield a command that is connected to the stream; it is interrupted at the end, as by Ctrl-C."""
    child = await shell.start(*arguments)
    try:
        await connected(child)
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGINT)
            await asyncio.wait_for(child.communicate(), 60)


async def test_events_are_followed_by_filter(shell: Shell) -> None:
    """Print the events of one provider as they happen."""
    async with following(shell, "tail", "--provider", "kinovi", "-o", "jsonl") as child:
        await finished(shell.running)
        wanted = await finished(shell.running, provider="kinovi")
        assert child.stdout is not None
        lines = [json.loads(await asyncio.wait_for(child.stdout.readline(), 60)) for _ in range(2)]
    assert [line["type"] for line in lines] == ["job.submitted", "job.succeeded"]
    assert {line["data"]["job"]["id"] for line in lines} == {wanted["id"]}


async def test_notifications_are_forwarded_signed_and_a_cut_loses_none(shell: Shell) -> None:
    """Re-post each event with a signature that the official library accepts; go on after relay was away."""
    secret, local = "whsec_" + "A" * 43 + "=", Sink()
    local.answers.append(500)
    async with serve(local) as at:
        arguments = ("listen", "--forward-to", f"{at}/hook", "--type", "job.succeeded")
        child = await shell.start(*arguments, RELAY_LISTEN_SECRET=secret)
        try:
            await connected(child)
            first = await finished(shell.running)
            await local.wait_for(lambda sink: len(sink.received) == 2)  # the first try was answered 500
            await cut_streams(shell.running)
            second = await finished(shell.running)
            await local.wait_for(lambda sink: len(sink.received) == 3, 30)
        finally:
            child.send_signal(signal.SIGINT)
            await asyncio.wait_for(child.communicate(), 60)
    bodies = [Webhook(secret).verify(one.body, one.headers) for one in local.received]
    assert [body["data"]["job"]["id"] for body in bodies] == [first["id"], first["id"], second["id"]]
    assert [one.headers["relay-attempt"] for one in local.received] == ["1", "2", "1"]


async def cut_streams(running: Running) -> None:
    """End every open event stream, as a restart of relay does."""
    for task in asyncio.all_tasks():
        if "EventStream" in repr(task.get_coro()) or "RequestResponseCycle" in repr(task.get_coro()):
            task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "[]", "null", "[" * 100_000])
async def test_what_is_no_relay_is_named(shell: Shell, body: str) -> None:
    """Say that the URL is of something else, where it answers 200 with what no relay does."""
    async with serve(Response(body)) as elsewhere:
        done = await shell("jobs", "list", RELAY_URL=elsewhere)
        assert (done.status, done.out) == (1, "")
        assert done.err.strip() == f"relay: {elsewhere} answers, but not as a relay does: is it the URL of one?"


def all_commands() -> dict[str, str]:
    """Return the first sentence of each command's help by the command, as it is typed."""
    context = click.Context(group)
    return {
        typed: command.get_short_help_str(200)
        for name in group.list_commands(context)
        for typed, command in _below(f"relay {name}", group.get_command(context, name))
    }


def _below(typed: str, command: click.Command | None) -> Iterator[tuple[str, click.Command]]:
    """Yield a command as it is typed, or those of a group."""
    assert command is not None
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _below(f"{typed} {name}", one)
    else:
        yield typed, command


def test_every_command_is_documented() -> None:
    """Name each command in docs/command-line.md with its own sentence, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `relay ")]
    assert {row[0].strip("| `"): row[1].removesuffix(" |") for row in rows} == all_commands()


async def test_an_assistant_reads_and_changes_nothing(shell: Shell) -> None:
    """Answer the official client: list the tools, all read-only, explain a job, and refuse what is no id."""
    from mcp import ClientSession, StdioServerParameters  # noqa: PLC0415 - not every worker needs what takes so long to load
    from mcp.client.stdio import stdio_client  # noqa: PLC0415

    job = await finished(shell.running)
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "relay", "mcp"], env=shell.environ)
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        tools = (await session.list_tools()).tools
        assert {"search", "explain_job", "list_alerts", "stats"} <= {tool.name for tool in tools}
        explained = await session.call_tool("explain_job", {"job": job["id"]})
        assert "the job was accepted" in explained.content[0].text  # type: ignore[union-attr]
        for tool in tools:
            given = {name: {"job": job["id"], "q": job["id"]}.get(name, "dlv_nothing") for name in tool_required(tool)}
            answer = await session.call_tool(tool.name, given)
            assert tool.name == "show_delivery" or not failed(answer), tool.name
        missing = await session.call_tool("show_job", {"job": "job_nothing"})
        assert failed(missing)
        with pytest.raises(Exception, match="no id"):
            await session.call_tool("show_job", {"job": "../endpoints"})


async def test_an_assistant_is_answered_after_what_no_tool_can_use(shell: Shell) -> None:
    """Refuse parameters that are no object or cannot be sent, and JSON that is too deep, and answer what follows."""
    params: list[Any] = [
        *([1], "x", {"name": "search", "arguments": ["q"]}, {"name": "search", "arguments": {"q": "\ud800"}}),
        *({"name": "search", "arguments": {"q": {"a": "\ud800"}}}, {"name": "\ud800"}),
        {"name": "list_jobs", "arguments": {"limit": float("inf")}},
    ]
    lines = [json.dumps({"id": number, "method": "tools/call", "params": one}) for number, one in enumerate(params)]
    last = json.dumps({"id": "last", "method": "ping"})
    done = await shell("mcp", stdin="\n".join([*lines, "[" * 100_000, last, ""]).encode())
    assert [(one["id"], one.get("error", {}).get("code")) for one in done.lines()] == [
        *((number, -32602) for number in range(len(params))),
        (None, -32700),
        ("last", None),
    ]


def tool_required(tool: Any) -> list[str]:
    """Return the names of a tool's required parameters, whatever the client calls its schema."""
    schema = getattr(tool, "inputSchema", None) or tool.input_schema
    return list(schema["required"])


def failed(answer: Any) -> bool:
    """Return whether a tool's answer is an error, whatever the client calls it."""
    return bool(answer.isError if hasattr(answer, "isError") else answer.is_error)
