"""README and docs say what the code does: a stranger who copies from them gets what they promise."""

import json
import pkgutil
import re
import subprocess
import time
import tomllib
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks

from relay import settings
from relay.errors import Bound, SettingsError
from relay.jobs.job_requests import JobFields, Notify
from relay.metrics import METRICS
from relay.model import delivery as outbox
from relay.model import ids
from relay.model import job as model
from relay.model.backoff import DEFAULT_SCHEDULE_S
from relay.model.resources.callbacks import CallbackResource
from relay.model.resources.deliveries import AttemptResource
from relay.model.resources.endpoints import EndpointResource
from relay.model.resources.events import EventResource
from relay.model.resources.jobs import JobResource
from relay.providers import PROVIDERS, fal, kinovi, uploads, wavespeed
from relay.providers.answers import Codes
from relay.providers.base import Provider, example_job
from relay.providers.clip_prices import read_clip_prices
from relay.providers.native import native_from_input
from relay.sandbox.contract import StandIn
from relay.security import signatures
from relay.security.strict_json import DEPTH_MAX as CALLBACK_DEPTH_MAX
from relay.security.strict_json import EXPONENTS_MAX, VALUES_MAX
from relay.storage.fan_out import matches
from relay.web import dashboard
from relay.web.api import endpoints
from relay.web.connections import CloseReason
from relay.web.problems import KINDS
from relay.web.request_body import DEPTH_MAX
from relay.web.routes import API
from tests.support import provider_pages
from tests.support.documented import documented
from tests.support.running import relay

ROOT = Path(__file__).parents[2]
# tests/house/test_house.py has the README
PAGES = (
    *("SECURITY.md", "CHANGELOG.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)
README = (ROOT / "README.md").read_text()
API_PAGE = (ROOT / "docs" / "api.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
SECRET = signatures.new_secret()
BODY = b'{"type":"job.succeeded","data":{"job":{"id":"job_1","status":"succeeded"}}}'
TEST_BODY = b'{"type":"relay.test","data":{"endpoint":"ep_1","job":null}}'
CLOSED_LISTS: dict[str, type[StrEnum]] = {
    "a job's `status`": model.JobState,
    "a job's `reason`": model.Reason,
    "a delivery's `status`": outbox.DeliveryState,
    "an attempt's `outcome`": outbox.Outcome,
    "a callback's `verdict`": model.Disposition,
    "an error's `class`": model.ErrorClass,
}


def snippets(language: str) -> list[str]:
    """Return the code blocks of a language in the README."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def signed(body: bytes = BODY) -> dict[str, str]:
    """Return the headers of a genuine notification, sent now."""
    now_s = int(time.time())
    signature = signatures.sign([SECRET], "evt_1", now_s, body)
    return {"webhook-id": "evt_1", "webhook-timestamp": str(now_s), "webhook-signature": signature}


def row(page: str, title: str) -> list[str]:
    """Return the words in backticks behind a title, in the one row of a table that begins with it."""
    (found,) = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", page, re.MULTILINE)
    return re.findall(r"`([^`]+)`", found)


def modules(folder: Path) -> set[str]:
    """Return the names of the Python files in a folder."""
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def section(page: str, begin: str, end: str) -> str:
    """Return the text between two marks of a page."""
    return page.partition(begin)[2].partition(end)[0]


def test_the_python_verification_works_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Accept a genuine notification with the README's lines, a `relay.test` too; raise if a byte of it was changed."""
    (code,) = snippets("python")
    for body, printed in ((BODY, "job.succeeded job_1\n"), (TEST_BODY, "relay.test no job\n")):
        exec(code, {"secret": SECRET, "body": body, "headers": signed(body)})
        assert capsys.readouterr().out == printed
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        exec(code, {"secret": SECRET, "body": BODY.replace(b"job_1", b"job_2"), "headers": signed()})


def test_the_node_verification_works_as_printed(node_packages: Path, tmp_path: Path) -> None:
    """Accept a genuine notification with the lines for Node, a `relay.test` too; throw if a byte was changed."""
    (code,) = snippets("js")
    (tmp_path / "node_modules").symlink_to(node_packages / "node_modules")
    answers = []
    for body, headers in (
        (BODY, signed()),
        (TEST_BODY, signed(TEST_BODY)),
        (BODY.replace(b"job_1", b"job_2"), signed()),
    ):
        given = {"secret": SECRET, "body": body.decode(), "headers": headers}
        script = tmp_path / "verify.mjs"
        script.write_text(f"const {{ secret, body, headers }} = {json.dumps(given)};\n{code}")
        answers.append(subprocess.run(["node", script], capture_output=True, text=True, timeout=30, check=False))
    assert (answers[0].returncode, answers[0].stdout) == (0, "job.succeeded job_1\n"), answers[0].stderr
    assert (answers[1].returncode, answers[1].stdout) == (0, "relay.test no job\n"), answers[1].stderr
    assert answers[2].returncode != 0
    assert "WebhookVerificationError" in answers[2].stderr


def bodies() -> list[dict[str, Any]]:
    """Return what the README's curls send, in their order."""
    return [json.loads(body) for code in snippets("sh") for body in re.findall(r" -d '(.*?)'", code, re.DOTALL)]


@pytest.mark.anyio
async def test_the_curls_work_as_printed(tmp_path: Path) -> None:
    """Register the README's endpoint, submit its job with curl's own content-type, and notify the endpoint."""
    endpoint, job = bodies()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with relay(tmp_path) as running:
        sent = json.dumps(endpoint | {"url": running.hook})
        made: httpx.Response = await running.client.post("/v1/endpoints", content=sent, headers=headers)
        assert made.status_code == 201
        secret = made.json()["secret"]
        headers["idempotency-key"] = "order-42"
        first: httpx.Response = await running.client.post("/v1/jobs", content=json.dumps(job), headers=headers)
        again: httpx.Response = await running.client.post("/v1/jobs", content=json.dumps(job), headers=headers)
        assert (first.status_code, again.json()) == (202, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert len(running.world.jobs) == 1
        await running.world.finish(first.json()["provider_job_id"])
        await running.sink.wait_for(lambda s: "job.succeeded" in s.events())
        for received in running.sink.received:
            signatures.verify(secret, received.headers, received.body, int(received.headers["webhook-timestamp"]))


def test_the_first_endpoint_subscribes_to_every_end() -> None:
    """Subscribe the README's first endpoint, and the one in `notify`, to every type that ends a job."""
    endpoint, _ = bodies()
    notify = [json.loads(f"{{{found}}}")["notify"][0] for found in snippets("json") if found.startswith('"notify"')]
    finals = [kind for kind in model.EventType if kind.final]
    assert len(finals) >= 4
    for subscribed in (endpoint, *notify):
        patterns = subscribed["event_types"]
        assert [kind for kind in finals if not any(matches(pattern, kind) for pattern in patterns)] == []
    assert len(notify) == 1


def test_the_settings_file_of_the_readme_is_good(tmp_path: Path) -> None:
    """Make the README's relay.env with its own lines, twice: the second time keeps it.

    relay takes its settings once the provider's key is in it, and says so of the placeholder.
    """
    (lines,) = [code for code in snippets("sh") if ">relay.env" in code]
    made = []
    for _ in range(2):
        subprocess.run(["sh", "-euc", lines], cwd=tmp_path, check=True, timeout=30)
        made.append((tmp_path / "relay.env").read_text())
    assert made[0] == made[1]
    assert (tmp_path / "relay.env").stat().st_mode & 0o077 == 0
    environ = dict(line.split("=", 1) for line in made[0].splitlines())
    with pytest.raises(SettingsError, match="RELAY_EVOLINK_API_KEY must be the provider's key, not a placeholder"):
        settings.load(environ, ("evolink",))
    loaded = settings.load(environ | {"RELAY_EVOLINK_API_KEY": "sk-4f1c9a27e0"}, ("evolink",))
    assert loaded.secret_keys
    assert loaded.api_key
    assert loaded.provider("evolink").api_key


def test_the_page_of_settings_has_every_setting() -> None:
    """Have each field of relay/settings.py in the tables, in its order: name, default and meaning, and no other."""
    page = (ROOT / "docs/settings.md").read_text()
    found = re.findall(r"^\| `((?:RELAY_|PORT|DATABASE_)[^`]*)` \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    assert found == [
        (s.name, "–" if s.default is None else f"`{s.default}`" if s.default else "empty", s.meaning)
        for s in documented()
    ]


def test_the_api_page_has_every_route_and_no_other() -> None:
    """Each route with its method and scope."""
    rows = set(re.findall(r"^\| `([A-Z]+) (/v1[^`]*)` \| (\w+) \|", API_PAGE, re.MULTILINE))
    assert rows == {(route.method, route.path, route.scope) for route in API}


def test_the_api_page_has_every_metric() -> None:
    """Have each metric in the table, in its order: name as it is exposed, kind, labels and meaning, and no other."""
    found = re.findall(r"^\| `(relay_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", API_PAGE, re.MULTILINE)
    assert found == [
        (
            f"{metric.name}_total" if metric.kind == "counter" else metric.name,
            metric.kind,
            " ".join(f"`{label}`" for label in metric.labels) or "–",
            metric.meaning,
        )
        for metric in METRICS
    ]


def test_the_api_page_has_every_limit() -> None:
    """Have each limit that is counted in the table by its setting, and the values of those that are no settings."""
    page = section(API_PAGE, "\n## Limits\n", "\n## ")
    counted = {
        f"RELAY_{bound.upper()}" for bound in (*Bound, *CloseReason) if bound in settings.Settings.__struct_fields__
    }
    found = re.findall(r"^\| `(RELAY_\w+)` \|", page, re.MULTILINE)
    assert sorted(found) == sorted(counted)
    fixed = dict(
        re.findall(r"^\| (how deep the JSON of a \w+|numbers|commas)[^|]* \| (\d+)[^|]* \|$", page, re.MULTILINE)
    )
    assert fixed == {
        "how deep the JSON of a request": str(DEPTH_MAX),
        "how deep the JSON of a callback": str(CALLBACK_DEPTH_MAX),
        "numbers": str(EXPONENTS_MAX),
        "commas": str(VALUES_MAX),
    }


def test_the_api_page_has_the_retry_schedule() -> None:
    """The table of retries is the default schedule: each delay, and the time since the first attempt."""
    rows = re.findall(r"^\| (\d+) \| (\S+ \S+|immediately) \| (\S+ \S+|–) \|$", API_PAGE, re.MULTILINE)
    units = {"s": 1, "min": 60, "h": 3600}
    at_s = 0
    expected = []
    for number, delay_s in enumerate(DEFAULT_SCHEDULE_S, 1):
        at_s += delay_s
        expected.append((number, delay_s, at_s))
    read = []
    for number, *cells in rows:
        seconds = [
            0 if cell in ("immediately", "–") else round(float(cell.split()[0]) * units[cell.split()[1]])
            for cell in cells
        ]
        read.append((int(number), *seconds))
    assert [row[:2] for row in read] == [row[:2] for row in expected]
    assert all(abs(row[2] - wanted[2]) <= 180 for row, wanted in zip(read, expected, strict=True))


def test_the_api_page_has_every_problem() -> None:
    """Each code with its status."""
    rows = {code: int(status) for code, status in re.findall(r"^\| `([a-z_]+)` \| (\d+) \|", API_PAGE, re.MULTILINE)}
    assert rows == {code: kind.status for code, kind in KINDS.items()}


def test_the_api_page_has_every_reason_for_an_unconfirmed_end() -> None:
    """Explain each reason why an end was believed without a confirmation, in its order, and no other."""
    explained = section(API_PAGE, "| `why` |", "\n\n")
    assert re.findall(r"^\| `(\w+)` \|", explained, re.MULTILINE) == list(model.Unconfirmed)


def test_the_api_page_has_every_field_of_a_request() -> None:
    """The tables of fields are those of the types that read the bodies."""
    of_job = section(API_PAGE, "`POST /v1/jobs`:", "The fields of `input`")
    of_endpoint = section(API_PAGE, "`POST /v1/endpoints`, and", "## What it costs")
    assert re.findall(r"^\| `(\w+)` \|", of_job, re.MULTILINE) == list(JobFields.__struct_fields__)
    assert set(re.findall(r"^\| `(\w+)` \|", of_endpoint, re.MULTILINE)) == set(
        endpoints.EndpointFields.__struct_fields__
    )
    assert set(Notify.__struct_fields__) <= set(row(of_job, "`notify`"))
    unified = section(API_PAGE, "The fields of `input`", "What is left out")
    assert re.findall(r"^\| `(\w+)` \|", unified, re.MULTILINE) == list(model.Input.__struct_fields__)


def test_the_api_page_has_every_field_of_an_answer() -> None:
    """The objects' fields are those of relay/model/resources/."""
    for title, resource in (
        ("job", JobResource),
        ("endpoint", EndpointResource),
        ("event", EventResource),
        ("attempt", AttemptResource),
        ("callback", CallbackResource),
    ):
        assert row(API_PAGE, title) == list(resource.__struct_encode_fields__)


@pytest.mark.anyio
async def test_the_api_page_has_every_field_of_the_evidence(tmp_path: Path) -> None:
    """What a job leaves behind is shown with the fields that the page names, and no others."""
    async with relay(tmp_path) as running:
        job = await running.submit(notify=[{"url": running.hook}])
        await running.world.finish(job["provider_job_id"])
        path = f"/v1/deliveries?job={job['id']}&status=delivered"
        deliveries = await running.until(path, lambda shown: len(shown["data"]) == 2)
        delivery = await running.get(f"/v1/deliveries/{deliveries['data'][0]['id']}")
        event = (await running.get(f"/v1/events?job={job['id']}"))["data"][0]
        listed = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"][0]
        callback = await running.get(f"/v1/callbacks/{listed['id']}")
    assert row(API_PAGE, "event") == list(event)
    assert row(API_PAGE, "delivery") == list(delivery)
    assert row(API_PAGE, "attempt") == list(delivery["attempts"][0])
    assert row(API_PAGE, "callback") == list(callback)


@pytest.mark.parametrize("title", CLOSED_LISTS)
def test_the_api_page_has_every_word_of_the_closed_lists(title: str) -> None:
    """The states, reasons, outcomes, verdicts and classes are those of relay/model/job.py."""
    assert row(API_PAGE, title) == list(CLOSED_LISTS[title])


@pytest.mark.parametrize("title", CLOSED_LISTS)
def test_the_page_on_failures_explains_each_word(title: str) -> None:
    """Have a line for each reason, outcome, verdict and class that is no success, and for each end that is none."""
    page = (ROOT / "docs" / "failures.md").read_text()
    good = {"ok", "recorded", "delivered", "succeeded", "running"}
    if title != "a delivery's `status`":
        assert [word for word in CLOSED_LISTS[title] if word not in good and f"`{word}`" not in page] == []


def test_the_floors_have_every_room() -> None:
    """Each module and package of relay/ stands in the picture, and the files of a package in the list under it."""
    floors = section(ARCHITECTURE, "## Floors", "`tests/house/test_floors.py`")
    packages = [path.parent for path in (ROOT / "relay").glob("*/__init__.py") if path.parent.name != "sandbox"]
    rooms = modules(ROOT / "relay") | {f"{folder.name}/" for folder in packages}
    assert rooms - set(re.findall(r"\w+/?", section(floors, "```\n", "```"))) == set()
    assert set(re.findall(r"^- `(\w+)/`: ", floors, re.MULTILINE)) == {folder.name for folder in packages}


def test_the_glossary_names_what_exists() -> None:
    """Give each word once, with one sentence and a name that the code has; each prefix of ids once."""
    page = (ROOT / "docs" / "GLOSSARY.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| `(relay\.[\w.]+)` \|$", page, re.MULTILINE)
    words = [word for word, _, _, _ in rows]
    assert len(rows) == page.count("\n| ") - 1  # but the heading
    assert len(set(words)) == len(words)
    assert [word for word, sentence, _, _ in rows if not re.fullmatch(r"[^.]+\.", sentence)] == []
    prefixes = [prefix.strip("`") for _, _, prefix, _ in rows if prefix.endswith("_`")]
    assert sorted(prefixes) == sorted(value for value in vars(ids).values() if re.fullmatch(r"[a-z]+_", str(value)))
    for *_, name in rows:
        pkgutil.resolve_name(name)


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the rows of all tables of a text, without their headings."""
    tables = re.findall(r"^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n)*)", text, re.MULTILINE)
    return [tuple(line[2:-2].split(" | ")) for table in tables for line in table.splitlines()]


def provider_page(name: str) -> str:
    """Return a page of docs/providers/."""
    return (ROOT / "docs" / "providers" / f"{name}.md").read_text()


providers = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda one: one.name)


def test_the_receivers_and_providers_are_as_many_as_the_pages_say() -> None:
    """The README and the tables of contents name as many receivers and providers as there are."""
    words = {11: "eleven", 13: "thirteen"}
    table = (ROOT / "docs/examples/README.md").read_text()
    receivers, pages = (
        len(re.findall(r"\]\(receivers/", table)),
        [ROOT / "docs/README.md", ROOT / "docs/recipes/README.md"],
    )
    for text in (README, *(page.read_text() for page in pages)):
        assert f"{words[receivers]} languages and frameworks" in text
    assert f"{words[len(PROVIDERS)]} providers]" in README.replace("\n", " ")


def test_each_provider_has_its_page() -> None:
    """Have one page for each provider beside the README, and no other; docs/README.md leads to the folder."""
    assert {path.stem for path in (ROOT / "docs" / "providers").iterdir()} == {"README", *PROVIDERS}
    assert "](providers/README.md)" in (ROOT / "docs" / "README.md").read_text()
    assert "](docs/adding-a-provider.md)" in README


def test_the_overview_of_providers_agrees_with_the_adapters() -> None:
    """Have a row for each provider in its order, the statuses and the codes, as the code has them."""
    page = provider_page("README")
    expected = [provider_pages.overview_row(provider) for provider in PROVIDERS.values()]
    assert rows(page.partition("\n## ")[0]) == expected
    honoured = section(page, "\n## The fields of `input`\n", "\n## ")
    (heads,) = re.findall(r"^\| provider \|(.*)", honoured, re.MULTILINE)
    assert re.findall(r"\w+", heads) == provider_pages.HONOURED
    assert rows(honoured) == [provider_pages.honoured_row(provider) for provider in PROVIDERS.values()]
    assert rows(section(page, "\n## Statuses\n", "\n## ")) == provider_pages.status_rows()
    errors = rows(page.partition("\n## Errors\n")[2])
    assert [cells for cells in errors if len(cells) == 3] == provider_pages.code_rows()


@providers
def test_a_page_says_which_secret_verifies_callbacks(provider: Provider) -> None:
    """Say of a provider that calls back and signs by no secret that the setting must stay empty, and of no other."""
    calls_back = bool(provider.callback_field or provider.callback_query)
    takes_none = provider.verifier in ("none", "fal-jwks") and calls_back
    found = re.search(r"`RELAY_\w+_CALLBACK_SECRET` must (stay empty|not be set)", provider_page(provider.name))
    assert bool(found) == takes_none


@providers
def test_a_provider_page_has_its_settings(provider: Provider) -> None:
    """Have each variable of the provider with its default, and name no variable that relay does not read."""
    page = provider_page(provider.name)
    assert rows(section(page, "\n## Settings\n", "\n## ")) == provider_pages.setting_rows(provider)
    named = dict.fromkeys(re.findall(r"\bRELAY_[A-Z0-9_]+\b", page), "")
    assert settings.unknown(named, tuple(PROVIDERS)) == []


@providers
def test_a_provider_page_has_its_models_and_limits(provider: Provider) -> None:
    """Have each limit with the adapter's value, and each field of its native bodies with its bounds."""
    page = provider_page(provider.name)
    assert rows(section(page, "\n## Models and limits\n", "\n## ")) == provider_pages.limit_rows(provider)
    fields = [cells for kind in provider.request_types for cells in provider_pages.field_rows(kind)]
    assert rows(section(page, "\n## Native body\n", "\n## ")) == fields


@providers
def test_a_provider_page_has_its_routes(provider: Provider) -> None:
    """Name the origin, the route of a submission and of a status check, the callback field and the file store."""
    page = provider_page(provider.name)
    model = provider.limits.models[0]
    submission = provider.submission(native_from_input(provider, provider_pages.MINIMAL), None, "job_1")
    status = provider.status_check(example_job(provider, "ID"))
    flow = uploads.FLOWS.get(provider.name)
    expected = [
        f"The origin is `{provider.base_url}`",
        f"`POST {submission.path.replace(f'/{model}/', '/{model}/')}`",
        status.path.replace("ID", "{id}") + "`",
        f"`{place}`" if (place := provider_pages.callback_place(provider)) else "It sends no callbacks.",
        f"`{flow.store}`" if flow and flow.store else "A file: ",
    ]
    assert [text for text in expected if text not in page] == []


def test_the_provider_pages_have_the_published_prices() -> None:
    """Have the price of a second at each model and resolution of a published table, and what else it depends on."""
    assert rows(section(provider_page("fal"), "\n## Prices\n", "\n## ")) == provider_pages.rate_rows(fal.PER_SECOND)
    listed = rows(section(provider_page("wavespeed"), "\n## Prices\n", "\n## "))
    assert listed == provider_pages.rate_rows(wavespeed.PER_RUN)
    for name in ("ark", "evolink", "kinovi"):
        listed = rows(section(provider_page(name), "\n## Prices\n", "\n## "))
        assert listed == provider_pages.price_rows(PROVIDERS[name])
    upscaled, plain = (
        PROVIDERS["kinovi"].price({"model": "seedance-20", "inputs": {"duration": 4, **inputs}})
        for inputs in ({"upscaleResolution": "4k"}, {})
    )
    assert upscaled is not None
    assert plain is not None
    more = (float(upscaled.amount) - float(plain.amount)) / 4
    page = provider_page("kinovi")
    assert f"A credit counts as {kinovi.USD_PER_CREDIT} USD" in page
    assert f"costs {more:.0f} credits a second more" in page
    assert f"kept for {uploads.KINOVI_LIFETIME_S // 3600} h" in page
    assert f"kept for {uploads.EVOLINK_LIFETIME_MS // 3_600_000} hours" in provider_page("evolink")
    (entries,) = re.findall(r"^RELAY_RELAYDANCE_PRICES=(.*)$", provider_page("relaydance"), re.MULTILINE)
    assert len(read_clip_prices(entries)) == 2


@pytest.mark.parametrize(("name", "codes"), [("fal", fal.CODES), ("wavespeed", wavespeed.CODES)])
def test_a_provider_page_has_its_own_codes(name: str, codes: Codes) -> None:
    """Have each error code that only this provider has, by its class."""
    errors = rows(section(provider_page(name), "\n## Errors\n", "\n## "))
    assert errors == provider_pages.own_code_rows(codes)


@pytest.mark.parametrize("name", ["replicate", "openrouter"])
def test_a_price_with_its_conditions_is_the_adapters(name: str) -> None:
    """Have the price of a second under the conditions of each row, as the adapter computes it for eight seconds."""
    listed = rows(section(provider_page(name), "\n## Prices\n", "\n## "))
    assert len(listed) > 5
    for named, conditions, usd in listed:
        fields: dict[str, object] = {"duration": 8, **dict(re.findall(r"`(\w+)` `(\w+)`", conditions))}
        if "audio" in conditions:
            fields["generate_audio"] = "no audio" not in conditions
        body = {"model": named.strip("`"), **({"input": fields} if name == "replicate" else fields)}
        price = PROVIDERS[name].price(body)
        assert price is not None, named
        assert Decimal(price.amount) == Decimal(usd) * 8, named


def test_the_page_on_adding_a_provider_has_the_whole_interface() -> None:
    """Have each attribute and method of `Provider`, and each member of the stand-in's contract, and no other."""
    page = (ROOT / "docs" / "adding-a-provider.md").read_text()
    attributes = section(page, "\nAttributes:\n", "\nMethods:")
    methods = section(page, "\nMethods:\n", "\n`answers.py` reads")
    assert [cells[0].strip("`") for cells in rows(attributes)] == list(Provider.__annotations__)
    written = [re.findall(r"\w+", cells[0])[0] for cells in rows(methods)]
    assert sorted(written) == sorted(name for name, of in vars(Provider).items() if is_public(name, of))
    members = [*StandIn.__annotations__, *(name for name, of in vars(StandIn).items() if is_public(name, of))]
    told = re.findall(r"`(\w+)[`(]", " ".join(cells[0] for cells in rows(section(page, "\n## 4.", "\n## "))))
    assert sorted(told) == sorted(members)
    assert re.findall(r"RELAY_ACME_[A-Z_]+", section(page, "This alone creates", "\n## ")) == [
        one.named("acme") for one in settings.PROVIDER_SETTINGS
    ]


def is_public(name: str, of: object) -> bool:
    """Return whether a member of a class is a method without an underscore."""
    return (callable(of) or isinstance(of, property)) and not name.startswith("_")


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_files_that_are_named_exist(page: str) -> None:
    """A path in backticks that ends like a file, or lies in a folder of the repository, is there."""
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|sql|md))`", text))
    named |= set(re.findall(r"`((?:relay|tests|docs|deploy)/[\w./]*)`", text))
    places = (ROOT, ROOT / "relay", ROOT / "relay" / "providers")
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_installing_the_checkout_works_as_printed(page: str) -> None:
    """The checkout is installed with extras that exist, and without a file of hashes: pip refuses a folder with one."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for arguments in re.findall(r"pip install ([^`#\n]*)", (ROOT / page).read_text()):
        folder = re.search(r"(?:^| )'?\.(?:\[(?P<extras>[\w,]+)\])?'?(?: |$)", arguments)
        if folder is not None:
            assert "requirements" not in arguments, arguments
            assert set((folder["extras"] or "").split(",")) - {""} <= extras, arguments


def test_the_dashboards_page_lists_every_page() -> None:
    """Name each page of the dashboard with what it is for, and no other."""
    files = {"/callback/{id}/body", "/jobs/{id}/incident", "/jobs/{id}/outputs/{n}", "/spend/receipts"}
    listed = re.findall(r"^\| `(/[^`]*)` \| .+ \|$", (ROOT / "docs" / "dashboard.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({page.path for page in dashboard.PAGES} - files)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link points to a file of the repository."""
    path = ROOT / page
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    relative = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in relative if not (path.parent / link).exists()] == []
