"""A wrong setting says its name, what it must be and an example, so that an operator can mend it without the source."""

import re

import pytest

from relay import settings
from relay.errors import SettingsError
from relay.settings import PROVIDER_SETTINGS, SETTINGS, Setting
from tests.support.rows import rows

CHECKED = [one for one in (*SETTINGS, *PROVIDER_SETTINGS) if one.marks or one.plain is not str]
WRONG = ("no-such-value", "-1", "nan", "[::", "9" * 30, "…", "http://")


def name_of(setting: Setting) -> str:
    """Its name for a provider that there is."""
    return setting.named("evolink")


def refusal(environ: dict[str, str]) -> str:
    """Return what is said about an environment."""
    with pytest.raises(SettingsError) as refused:
        settings.load(environ, ("evolink",))
    return str(refused.value)


def refused(setting: Setting) -> dict[str, str]:
    """Return the texts that a setting refuses, of those that hardly any takes, with what it says."""
    found = {}
    for text in WRONG:
        try:
            settings.load({name_of(setting): text}, ("evolink",))
        except SettingsError as error:
            found[text] = str(error)
    return found


@rows("setting", CHECKED)
def test_a_wrong_setting_says_what_it_must_be(setting: Setting) -> None:
    """Name the setting and what it must be, with an example or its form; never repeat the text that was given."""
    answers = refused(setting)
    assert answers
    for text, answer in answers.items():
        assert re.match(rf"{name_of(setting)} (must|each key needs) ", answer), answer
        assert re.search(r"such as \S|make one with|digits|base64|one of|1 or 0|from \d", answer), answer
        assert text not in answer or re.fullmatch("-1|nan|http://", text), answer


@rows("setting", CHECKED)
def test_the_example_in_a_refusal_is_good(setting: Setting) -> None:
    """Give no example that the setting itself refuses."""
    for answer in refused(setting).values():
        for example in re.findall(r"such as ([^\s,;]+(?:,[^\s,;]+)*)", answer):
            setting.parse(example)


@rows(
    ("text", "says"),
    [
        ("no-port", "PORT must be an integer from 0 to 65535, not a text of 7 characters, such as 8000"),
        ("x", "PORT must be an integer from 0 to 65535, not a text of 1 character, such as 8000"),
        ("65536", "PORT must be an integer from 0 to 65535, not 65536, such as 8000"),
        ("80.5", "PORT must be an integer from 0 to 65535, not a text of 4 characters, such as 8000"),
        ("9" * 13, "PORT must be an integer from 0 to 65535, not so long a number, such as 8000"),
    ],
)
def test_a_wrong_port_says_what_it_is_not(text: str, says: str) -> None:
    """Say the range, what was given instead, and an example."""
    assert refusal({"PORT": text}) == says


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("https://relay.example/?key=hunter2", "a query (?…)"),
        ("https://relay.example/#hunter2", "a fragment (#…)"),
        ("https://ada:hunter2@relay.example", "a user name"),
        ("https://ada:hunter2@relay.example/?a=b#c", "a query (?…) or a fragment (#…) or a user name"),
    ],
)
def test_what_a_url_may_not_have_is_named(text: str, part: str) -> None:
    """Name the part that relay's own URL may not have, without repeating it."""
    must = "RELAY_PUBLIC_URL must be a URL such as https://relay.example.com"
    assert refusal({"RELAY_PUBLIC_URL": text}) == f"{must}, without {part}"


def test_every_wrong_setting_is_named_at_once() -> None:
    """Name all wrong settings in one refusal."""
    answer = refusal({"PORT": "x", "RELAY_ALLOW_NETWORKS": "here", "RELAY_PUBLIC_URL": "http://relay.example"})
    assert [part.split()[0] for part in answer.split("; ")][:2] == ["PORT", "RELAY_ALLOW_NETWORKS"]
    assert "RELAY_ALLOW_HTTP=1" in answer


def test_a_mistyped_setting_is_told_with_the_one_that_was_meant() -> None:
    """Suggest the setting that an unknown RELAY_ variable resembles, and none for one that resembles nothing."""
    environ = {"RELAY_PUBLICURL": "x", "RELAY_EVOLINK_APIKEY": "x", "RELAY_ZZZ": "x", "RELAY_ENV": "x", "OTHER": "x"}
    assert settings.unknown(environ, ("evolink",)) == [
        "RELAY_EVOLINK_APIKEY (did you mean RELAY_EVOLINK_API_KEY?)",
        "RELAY_PUBLICURL (did you mean RELAY_PUBLIC_URL?)",
        "RELAY_ZZZ",
    ]
