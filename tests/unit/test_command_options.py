"""The values that the command line checks itself: exit status 2, before anything is sent."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner, Result

from relay.cli import COMMANDS, group
from relay.model.alert import AlertKind
from relay.model.archive import CopyState
from relay.model.delivery import DeliveryState
from relay.model.job import Disposition, EventType, JobState, Reason
from relay.model.payment import PaymentState
from relay.model.resources.access import Scope
from relay.model.resources.stats import Bucket
from relay.storage.alerts import AlertSelection
from relay.storage.audit import Via
from relay.web.api.jobs import OPEN
from relay.web.routes import API
from tests.support.rows import rows

SECRET = "whsec_" + "A" * 43 + "="
SIGN = ("sign", "--secret", SECRET)
SUBMIT = ("jobs", "submit", "evolink", "--prompt", "p")
TIMED = (
    *(("jobs", "list"), ("events", "list"), ("deliveries", "list"), ("callbacks", "list"), ("audit",)),
    *(("payments", "list"), ("payments", "receipts"), ("archive", "backfill"), ("jobs", "bulk", "check")),
)
"""Each command that has both `--since` and `--until`, apart from `endpoints`."""
NO_RELAY = {"RELAY_URL": "http://127.0.0.1:1", "RELAY_API_KEY": "", "RELAY_PROFILES": "/nonexistent/profiles.json"}


def ended(*arguments: str) -> Result:
    """Return how a command ended, where no relay is."""
    return CliRunner().invoke(group, arguments, env=NO_RELAY)


@rows(
    ("arguments", "says"),
    [
        (("jobs", "list", "--status", "bogus"), "'--status': 'bogus' is not one of 'open', 'pending', 'submitted'"),
        (("jobs", "list", "--reason", "bogus"), "'--reason': 'bogus' is not one of 'submit_unknown'"),
        (("jobs", "list", "--older-than", "2x"), "'--older-than': must be an age such as 90s, 30m, 2h or 7d, not '2x'"),
        (("jobs", "bulk", "check", "--status", "bogus"), "'--status': 'bogus' is not one of 'open'"),
        (("jobs", "bulk", "check", "--reason", "bogus"), "'--reason': 'bogus' is not one of"),
        (("jobs", "bulk", "check", "--older-than", "2x"), "'--older-than': must be an age"),
        *(((*command, "--since", "yesterday"), "'--since': must be an RFC 3339 time such as") for command in TIMED),
        *(((*command, "--until", "2026-13-01"), "or a time ago such as -24h, not '2026-13-01'") for command in TIMED),
        (("spend", "--since", "1 hour"), "'--since': must be an RFC 3339 time"),
        (("stats", "--from", "24h"), "'--from': must be an RFC 3339 time"),
        (("stats", "--to", "now"), "'--to': must be an RFC 3339 time"),
        (("events", "list", "--type", "job.ended"), "'--type': 'job.ended' is not one of 'job.submitted'"),
        (("tail", "--type", "job.*"), "'--type': 'job.*' is not one of"),
        (("listen", "--forward-to", "http://h", "--type", "*"), "'--type': '*' is not one of"),
        (("deliveries", "list", "--status", "failed"), "'--status': 'failed' is not one of 'pending', 'delivered'"),
        (("callbacks", "list", "--verdict", "ok"), "'--verdict': 'ok' is not one of 'recorded', 'repeated'"),
        (("alerts", "--kind", "bogus"), "'--kind': 'bogus' is not one of 'delivery.exhausted'"),
        (("payments", "list", "--state", "open"), "'--state': 'open' is not one of 'reserved'"),
        *(
            ((*command, "--job", "evt_1"), "'--job': must be an id that begins with job_, not 'evt_1'")
            for command in (*TIMED[1:4], ("payments", "list"), ("payments", "receipts"), ("tail",))
        ),
        (("deliveries", "list", "--endpoint", "http://h"), "'--endpoint': must be an id that begins with ep_"),
        (("deliveries", "list", "--event", "job_1"), "'--event': must be an id that begins with evt_"),
        *(
            ((*command, "--after", "clé"), "'--after': must be an id that begins with evt_, not 'clé'")
            for command in (("events", "list"), ("tail",), ("listen", "--forward-to", "http://h"))
        ),
        ((*SUBMIT, "--max-cost", "abc"), "'--max-cost': must be an amount of USD such as 0.50, with six decimal"),
        ((*SUBMIT, "--max-cost", ""), "'--max-cost': must be an amount of USD"),
        (("files", "upload", "evolink", __file__, "--max-cost", "1,5"), "'--max-cost': must be an amount of USD"),
        ((*SUBMIT, "--idempotency-key", "clé"), "'--idempotency-key': must be 1 to 255 printable ASCII characters"),
        ((*SUBMIT, "--idempotency-key", "k" * 256), f"not '{'k' * 60}'"),
        (("jobs", "submit", "evolink", "--input", "[1]"), "--input: must be a JSON object"),
        (("jobs", "submit", "evolink", "--request", "null"), "--request: must be a JSON object"),
        (("jobs", "submit", "evolink", "--input", "[" * 100_000), "--input: is JSON with too many levels"),
        ((*SUBMIT, "--request", "{}"), "--request is the provider's own body: put into it what --prompt would say"),
        (("quote",), "give either --input or --request"),
        (("quote", "--input", "{}", "--request", "{}"), "give either --input or --request"),
        (("quote", "--input", "7"), "--input: must be a JSON object"),
        (("jobs", "wait", "job_1", "--for", "nan"), "'--for': must be a finite number, not nan"),
        (("jobs", "wait", "job_1", "--for", "inf"), "'--for': must be a finite number, not inf"),
        (("simulate", "--for", "nan"), "'--for': must be a finite number, not nan"),
        (("endpoints", "create", "https://h", "--rate", "nan"), "'--rate': must be a finite number, not nan"),
        (("endpoints", "update", "ep_1", "--timeout", "0"), "'--timeout': 0.0 is not in the range x>0"),
        (("endpoints", "update", "ep_1", "--in-flight", "0"), "'--in-flight': 0 is not in the range x>=1"),
        (("endpoints", "redeliver", "ep_1", "--since", "yesterday"), "'--since': must be"),
        (("endpoints", "redeliver", "ep_1", "--until", "2x"), "'--until': must be"),
        (("simulate", "nosuch"), "FAULT: the sandbox knows no fault 'nosuch'"),
        (("simulate", "duplicate=abc"), "FAULT: the fault duplicate must be an integer"),
        (("simulate", "--all", "lost"), "--all runs every fault by itself"),
        ((*SIGN, "--id", "a.b"), "'--id': must be visible ASCII without a full stop, not 'a.b'"),
        ((*SIGN, "--at", "-5"), "'--at': -5 is not in the range 0<=x<=999999999999"),
        (("verify", "--secret", SECRET, "--headers", __file__, "--at", "-5"), "'--at': -5 is not in the range"),
    ],
)
def test_a_value_that_needs_no_relay_is_a_wrong_use(arguments: tuple[str, ...], says: str) -> None:
    """Exit with 2, and name the option and what it takes, although no relay answers."""
    done = ended(*arguments)
    assert (done.exit_code, done.stdout) == (2, ""), (done.output, done.exception)
    assert says in " ".join(done.stderr.split())


@rows(
    "arguments",
    [
        ("jobs", "list", "--status", "open", "--reason", "lost", "--older-than", "2h", "--since", "-24h"),
        ("jobs", "list", "--since", "2026-11-26", "--until", "2026-11-26T10:00:00+01:00"),
        ("events", "list", "--after", "", "--type", "ops.backlog.old"),
        ("deliveries", "list", "--endpoint", "ep_1", "--event", "evt_1", "--job", "job_1"),
        (*SUBMIT, "--max-cost", "0.50", "--idempotency-key", "a key"),
        ("jobs", "submit", "nosuch", "--request", "{}"),
        ("jobs", "wait", "job_1", "--for", "0"),
        ("quote", "--input", "{}"),
    ],
)
def test_a_value_that_is_right_is_sent(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    """Get as far as the request, which no relay answers: exit status 75."""
    monkeypatch.setattr("relay.client.requests.TRIES_MAX", 1)
    monkeypatch.setattr("relay.cli.remote.connection.TRIES_MAX", 1)
    done = ended(*arguments)
    assert getattr(done.exception, "exit_status", None) == 75, (done.output, done.exception)


def test_a_signature_can_be_made_for_the_first_second(tmp_path: Path) -> None:
    """Sign at the time 0 as asked, not now."""
    (tmp_path / "body").write_bytes(b"{}")
    assert "webhook-timestamp: 0\n" in ended(*SIGN, "--at", "0", str(tmp_path / "body")).stdout


def test_each_closed_list_of_the_api_is_the_choice_of_an_option() -> None:
    """Offer the values of the API, all and no other, for each closed list that it takes."""
    options = {(command, name): sorted(choice.choices) for command, name, choice in choices()}
    expected: dict[tuple[str, str], Iterable[str]] = {
        **{(f"jobs {verb}", "status"): (OPEN, *JobState) for verb in ("list", "bulk")},
        **{(f"jobs {verb}", "reason"): Reason for verb in ("list", "bulk")},
        **{(f"jobs {verb}", "copies"): CopyState for verb in ("list", "bulk")},
        **{(command, "type"): EventType for command in ("events list", "tail", "listen")},
        **{(f"payments {verb}", "state"): PaymentState for verb in ("list", "receipts")},
        ("deliveries list", "status"): DeliveryState,
        ("callbacks list", "verdict"): Disposition,
        ("alerts", "state"): AlertSelection,
        ("alerts", "kind"): AlertKind,
        ("audit", "via"): Via,
        ("stats", "bucket"): get_args(Bucket),
        ("keys remote create", "scope"): get_args(Scope),
    }
    assert {place: options.get(place) for place in expected} == {
        place: sorted(map(str, values)) for place, values in expected.items()
    }
    for parameter in (one for route in API for one in route.query):
        closed = parameter.values or (parameter.kind if isinstance(parameter.kind, type(JobState)) else ())
        if values := sorted(map(str, closed)):
            assert values in [found for (_, name), found in options.items() if name == parameter.name], parameter


def choices() -> Iterator[tuple[str, str, click.Choice[str]]]:
    """Yield each option that takes one of a closed list: its command, its name and its choice."""
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        for typed, one in below(name, command):
            for option in one.params:
                if isinstance(option.type, click.Choice):
                    yield typed, max(option.opts, key=len).removeprefix("--"), option.type


def below(typed: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command as it is typed, or those of a group."""
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from below(f"{typed} {name}", one)
    else:
        yield typed, command


def test_the_help_shows_a_closed_list() -> None:
    """Print the values in `--help`, each in a line that fits a terminal for the long ones."""
    listed = ended("jobs", "list", "--help").stdout
    assert "[open|pending|submitted|running|succeeded|failed|canceled|expired]" in listed
    typed = ended("events", "list", "--help").stdout
    assert all(kind in typed for kind in EventType)
    assert max(map(len, typed.splitlines())) <= 80
