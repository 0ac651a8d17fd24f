"""`relay simulate` as a person runs it: a process of its own, against a relay with a sandbox, or without one."""

from pathlib import Path

import click
import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from relay.cli.simulate import ALONE, SCENARIOS, directive
from relay.clock import SystemClock
from relay.sandbox.faults import WORDS, Faults, of_prompt, sentences
from relay.sandbox.serving import serve
from tests.support import processes
from tests.support.ports import free_port
from tests.support.running import KEY, environment, relay
from tests.system.test_processes import run

pytestmark = pytest.mark.anyio


def at(origin: str) -> dict[str, str]:
    """Where the command finds relay."""
    return {"RELAY_URL": origin, "RELAY_API_KEY": KEY}


async def test_the_list_has_every_fault_with_its_sentence() -> None:
    """`--list` needs no relay, and says what the switchboard says."""
    status, text = await run({}, "simulate", "--list")
    assert status == 0
    assert [line.split(maxsplit=1) for line in text.splitlines()] == [[*pair] for pair in sentences().items()]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lots"], "'lots'"),
        (["duplicate=two"], "duplicate"),
        (["check=bogus"], "not_found"),
        (["unknown_word=a]b"], "; or ]"),
        ([f"unknown_word={'x' * 90}", f"lie={'x' * 90}", "check=lies", f"content_type={'x' * 90}"], "280"),
        (["--all", "lost"], "--all"),
    ],
)
async def test_a_fault_that_is_not_known_is_one_sentence(arguments: list[str], says: str) -> None:
    """Say what the sandbox would refuse before anything is sent, with exit status 2 and no traceback."""
    status, text = await run(at("http://127.0.0.1:9"), "simulate", *arguments)
    assert (status, text.count("\nError: "), "Traceback" in text) == (2, 1, False)
    assert says in text


@pytest.mark.parametrize(
    ("origin", "expected", "says"),
    [
        ("http://127.0.0.1:9", 75, "no relay answers at http://127.0.0.1:9"),
        ("http://127.0.0.1:99999", 78, "RELAY_URL must be"),
        ("ftp://127.0.0.1", 78, "RELAY_URL must be"),
        (":", 78, "RELAY_URL must be"),
    ],
)
async def test_a_relay_that_is_not_there_is_one_sentence(origin: str, expected: int, says: str) -> None:
    """Exit with 75 if no relay listens, and with 78 if the URL is none."""
    status, text = await run(at(origin), "simulate", "lost")
    assert (status, text.count("\n")) == (expected, 1)
    assert says in text


async def test_a_relay_without_a_sandbox_gets_no_job(tmp_path: Path) -> None:
    """With `relay serve` the provider would be a real one: the command refuses, and submits nothing."""
    origin = f"http://127.0.0.1:{free_port()}"
    environ = environment(tmp_path, origin, "http://127.0.0.1:9") | {"PORT": origin.rpartition(":")[2]}
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(origin, child)
        for arguments in (["lost"], ["--all"]):
            status, text = await run(at(origin), "simulate", *arguments)
            assert (status, text.count("\n")) == (1, 1), text
            assert "no provider `sandbox`" in text


async def test_a_wrong_key_is_one_sentence(tmp_path: Path) -> None:
    """Print what relay refuses in relay's words, and exit with 4."""
    async with relay(tmp_path) as running:
        status, text = await run(at(running.origin) | {"RELAY_API_KEY": "wrong"}, "simulate")
        assert (status, text.count("\n")) == (4, 1)
        assert "API key" in text


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        (Response("<html>", 502), 75, "502"),
        (JSONResponse({"code": "too_many_requests", "detail": "later"}, 429), 75, "429"),
        (Response("<html>"), 1, "is not relay"),
        (JSONResponse([]), 1, "is not relay"),
    ],
)
async def test_an_error_has_the_exit_status_of_other_commands(answer: Response, expected: int, says: str) -> None:
    """Exit with 75 for what may work later, and with 1 for a server that is not relay."""
    async with serve(answer) as origin:
        status, text = await run(at(origin), "simulate")
    assert (status, text.count("\n"), says in text) == (expected, 1, True), text


async def test_a_table_with_an_error_is_no_success() -> None:
    """Exit with the error's status after the whole table if a job could not be submitted."""

    async def no_jobs(scope: Scope, receive: Receive, send: Send) -> None:
        listed = scope["path"] == "/v1/providers"
        answer = JSONResponse({"data": [{"name": "sandbox"}]} if listed else {}, 200 if listed else 503)
        await answer(scope, receive, send)

    async with serve(no_jobs) as origin:
        status, text = await run(at(origin), "simulate", "--all")
    count = len(SCENARIOS) + len(ALONE)
    assert status == 75, text
    assert f"{count} of {count} jobs were not submitted and followed" in text
    assert text.count("\n") == count + 2


async def test_a_scenario_that_ends_as_it_should_is_a_success(tmp_path: Path) -> None:
    """Exit with 0 though the job failed, which is what the scenario asks for."""
    async with relay(tmp_path, clock=SystemClock(), pace_s=0.2) as running:
        status, text = await run(at(running.origin), "simulate", "outcome=failed")
    assert (status, text.splitlines()[-1].split()[1]) == (0, "failed"), text


async def test_a_simulated_job_is_followed_to_its_end(tmp_path: Path) -> None:
    """Each line of its story once, then what became of it."""
    async with relay(tmp_path, clock=SystemClock(), pace_s=0.2) as running:
        status, text = await run(at(running.origin), "simulate", "malformed=not_json", "chunked")
        assert status == 0, text
        first, *story, last = text.splitlines()
        assert first.endswith("[sandbox: malformed=not_json; chunked]")
        assert len(story) == len(set(story))
        assert {"submission", "callback", "check", "event", "state"} <= {line.split()[1] for line in story}
        job = (await running.get("/v1/jobs"))["data"][0]
        assert last.split() == [
            *(job["id"], "succeeded", "reason", "–"),
            *("finished_by", job["finished_by"], "verification", job["verification"]),
        ]
        assert next(iter(running.world.jobs.values())).faults == Faults(malformed="not_json", chunked=True)


async def test_what_comes_after_the_end_is_shown_too(tmp_path: Path) -> None:
    """The copies of a last callback are part of the story, though the job was final before they came."""
    async with relay(tmp_path, clock=SystemClock(), pace_s=0.2) as running:
        status, text = await run(at(running.origin), "simulate", "duplicate=2")
        assert (status, sum("  callback " in line for line in text.splitlines())) == (0, 3), text


async def test_a_job_that_does_not_end_is_followed_for_so_long(tmp_path: Path) -> None:
    """After `--for` seconds the command says how the job stands, and that it goes on."""
    async with relay(tmp_path, clock=SystemClock()) as running:
        status, text = await run(at(running.origin), "simulate", "--for", "0.5", "lost")
        assert status == 0, text
        assert "  submitted  reason –" in text
        assert text.endswith("not final after 0.5 s; --for follows it longer\n")


async def test_all_scenarios_make_one_table(tmp_path: Path) -> None:
    """A row for each, in the order of the list, with what became of its job."""
    async with relay(tmp_path, clock=SystemClock(), pace_s=0.05, RELAY_SUBMIT_WAIT_S="0.2") as running:
        status, text = await run(at(running.origin), "simulate", "--all", "--for", "2")
        assert status == 0, text
        head, *rows = text.splitlines()
        assert head.split() == ["fault", "status", "reason", "finished", "by", "verification", "seconds"]
        names = [name or "(none)" for name in (*SCENARIOS, *ALONE)]
        assert len(rows) == len(names)
        assert [row for row, name in zip(rows, names, strict=True) if not row.startswith(f"{name}  ")] == []
        assert rows[0].split()[1] == "succeeded"
        assert len(running.world.submissions) == len(names)


@pytest.mark.parametrize("name", [*SCENARIOS, *ALONE])
def test_a_scenario_asks_for_what_it_is_called(name: str) -> None:
    """Each name is a directive that the sandbox reads as the same faults."""
    prompt, wanted = directive(name.split())
    assert (of_prompt(prompt) or Faults()) == wanted


def test_every_fault_has_a_scenario() -> None:
    """Each fault is run by `--all`, but for those that `sandbox` cannot show by one job; and none is run twice."""
    run_by_all = {part.partition("=")[0] for name in (*SCENARIOS, *ALONE) for part in name.split()}
    others = {"cancel", "check_times", "reordered", "pay", "pay_times", "result"}
    assert set(sentences()) - run_by_all == others
    assert len({*SCENARIOS, *ALONE}) == len(SCENARIOS) + len(ALONE)
    words = {f"{name}={word}" for name in ("submit", "check", "malformed") for word in WORDS[name][1:]}
    assert words - {"check=lies"} <= set(SCENARIOS)


def test_faults_that_contradict_each_other_are_refused() -> None:
    """Refuse a lie that no status check tells before a job is made."""
    with pytest.raises(click.BadParameter, match="belong together"):
        directive(["lie=failed"])
