"""What relay/settings.py says of each setting to people: the sentence below its field, and its default as text."""

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import NamedTuple

from relay.settings import PROVIDER_SETTINGS, SETTINGS, ProviderSettings, Setting, Settings, parse_usdc


class Documented(NamedTuple):
    """One row of docs/settings.md; `default` is the text that an operator would write, None if there is none."""

    name: str
    default: str | None
    meaning: str


def documented() -> list[Documented]:
    """Return the settings in the order of their fields; KeyError for one without a sentence."""
    return [
        Documented(setting.name, default_text(setting), meanings[setting.field])
        for settings, meanings in (
            (SETTINGS, _sentences(Settings)),
            (PROVIDER_SETTINGS, _sentences(ProviderSettings)),
        )
        for setting in settings
    ]


def default_text(setting: Setting) -> str | None:
    """Return a setting's default as an operator would write it."""
    match setting.default:
        case None:
            return None
        case bool():
            return str(int(setting.default))
        case ():
            return ""
        case int() if parse_usdc in setting.marks:
            return f"{setting.default / 1_000_000:.2f}"
    return str(setting.default).removesuffix(".0")


def _sentences(struct: type) -> dict[str, str]:
    """Return the string below each annotated field of a class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in pairwise(body.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(sentence))):
                found[name] = sentence
    return found
