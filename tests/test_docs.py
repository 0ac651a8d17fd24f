"""README and docs say what the code does."""

import re
import time
from pathlib import Path

import pytest

from relay import signing
from relay.settings import PROVIDER_SETTINGS, SETTINGS
from relay.web.asgi import API
from relay.web.problems import STATUSES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
API_PAGE = (ROOT / "docs" / "api.md").read_text()


def snippet(language: str) -> str:
    """The first code block of a language in the README."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_python_verification_works_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The five lines of the README accept a genuine notification."""
    secret, body, now_s = (
        signing.new_secret(),
        b'{"data":{"job":{"id":"job_1","status":"succeeded"}}}',
        int(time.time()),
    )
    signature = signing.sign([secret], "evt_1", now_s, body)
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(now_s), "webhook-signature": signature}
    exec(snippet("python"), {"secret": secret, "body": body, "headers": headers})
    assert capsys.readouterr().out == "job_1 succeeded\n"


def test_the_readme_has_every_setting_with_its_default() -> None:
    """The settings table is the one in relay/settings.py, neither more nor less."""
    rows = dict(re.findall(r"^\| `((?:RELAY_|PORT|DATABASE_)[^`]*)` \| (.*?) \|", README, re.MULTILINE))
    expected = {
        setting.name: "–" if setting.default is None else f"`{setting.default}`" if setting.default else "empty"
        for setting in (*SETTINGS, *PROVIDER_SETTINGS)
    }
    assert rows == expected


def test_the_api_page_has_every_route_and_no_other() -> None:
    """Each route with its method and scope."""
    rows = set(re.findall(r"^\| `([A-Z]+) (/v1[^`]*)` \| (\w+) \|", API_PAGE, re.MULTILINE))
    assert rows == {(method, path, scope) for method, path, _, scope in API}


def test_the_api_page_has_every_problem() -> None:
    """Each code with its status."""
    rows = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d+) \|", API_PAGE, re.MULTILINE)}
    assert rows == STATUSES
