"""The walker: every wrong field is named, with both limits, and nothing but InvalidInput ever comes out."""

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import ERRORS_MAX, InvalidInput
from relay.model.job import Input
from relay.validation import HINTS_MAX
from tests.support.provider_cases import json_values
from tests.support.rows import rows

KNOWN = "name, seconds, share, loud, colour, quality, urls, parts, labels, either, anything, nickname"
PLAIN = "write an integer without a fraction or an exponent"


class Colour(StrEnum):
    """A closed list."""

    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """An object in an object."""

    url: str


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """One field of every kind that relay's requests use."""

    name: Annotated[str, Meta(min_length=1, max_length=5)]
    seconds: Annotated[int, Meta(ge=4, le=15)] = 5
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    loud: bool = False
    colour: Colour = Colour.RED
    quality: Literal["480p", "720p"] | UnsetType = UNSET
    urls: Annotated[list[str], Meta(min_length=1, max_length=2)] | UnsetType = UNSET
    parts: list[Inner] = []
    labels: Annotated[dict[Annotated[str, Meta(max_length=3)], str | int], Meta(max_length=2)] = {}
    either: Inner | Annotated[str, Meta(max_length=3)] | None = None
    anything: Any = None
    nickname: Annotated[
        str, Meta(pattern=r"^\S", max_length=40, extra={"in_words": "letters without a blank in front"})
    ] = "b"


GOOD = {"name": "a"}
_FIELDS = [field.encode_name for field in msgspec.structs.fields(Order)]


def complaints(**fields: object) -> dict[str, str]:
    """Return the errors of a good order with these fields changed, by path."""
    return {error.path: error.message for error in validation.check({**GOOD, **fields}, Order)}


@rows(
    ("fields", "path", "message"),
    [
        ({"seconds": 3}, "seconds", "must be an integer from 4 to 15, not 3"),
        ({"seconds": "5"}, "seconds", 'must be an integer from 4 to 15, not "5"'),
        ({"seconds": 5.5}, "seconds", "must be an integer from 4 to 15, not 5.5"),
        ({"seconds": 5.0}, "seconds", f"must be an integer from 4 to 15, not 5.0; {PLAIN}"),
        ({"seconds": 1e20}, "seconds", f"must be an integer from 4 to 15, not so large a number; {PLAIN}"),
        ({"seconds": True}, "seconds", "must be an integer from 4 to 15, not true"),
        ({"seconds": None}, "seconds", "must be an integer from 4 to 15, not null"),
        ({"seconds": 10**30}, "seconds", "must be an integer from 4 to 15, not so large a number"),
        ({"share": 1.5}, "share", "must be a number from 0 to 1, not 1.5"),
        ({"share": float("nan")}, "share", "must be a number from 0 to 1, not so large a number"),
        ({"loud": "yes"}, "loud", 'must be true or false, not "yes"'),
        ({"colour": "green"}, "colour", 'must be one of "red", "blue", not "green"'),
        ({"quality": "8k"}, "quality", 'must be one of "480p", "720p", not "8k"'),
        ({"quality": "\ud800"}, "quality", 'must be one of "480p", "720p", not text with half a character in it'),
        ({"name": "abcdef"}, "name", 'must be a string of 1 to 5 characters, not "abcdef"'),
        ({"name": "a" * 99}, "name", "must be a string of 1 to 5 characters, not one of 99 characters"),
        ({"name": ""}, "name", 'must be a string of 1 to 5 characters, not ""'),
        ({"name": "\ud800"}, "name", "must be a string of 1 to 5 characters, not text with half a character in it"),
        ({"urls": ["a", "b", "c"]}, "urls", "must be an array of 1 to 2 items, not 3"),
        ({"urls": []}, "urls", "must be an array of 1 to 2 items, not 0"),
        ({"urls": "a"}, "urls", 'must be an array of 1 to 2 items, not "a"'),
        ({"urls": ["a", 1]}, "urls[1]", "must be a string, not 1"),
        ({"parts": [{"url": "a"}, {"url": {}}]}, "parts[1].url", "must be a string, not an object"),
        ({"parts": [{}]}, "parts[0].url", "is required"),
        ({"parts": [[]]}, "parts[0]", "must be an object, not an array"),
        ({"labels": {"a": "b", "c": 1, "d": 2}}, "labels", "must be an object of at most 2 keys, not 3"),
        ({"labels": {"long": 1}}, "labels.long", "has a name that must be a string of at most 3 characters"),
        ({"labels": {"a": None}}, "labels.a", "must be a string or an integer, not null"),
        ({"either": {"url": 1}}, "either.url", "must be a string, not 1"),
        ({"either": "long"}, "either", 'must be an object or a string of at most 3 characters or null, not "long"'),
        ({"secnds": 5}, "secnds", "is not a field here; did you mean seconds?"),
        ({"zzz": 5}, "zzz", f"is not a field here; there are {KNOWN}"),
        ({"x" * 99: 5}, "x" * 60 + "…", f"is not a field here; there are {KNOWN}"),
        ({"nickname": " a"}, "nickname", 'must be letters without a blank in front, not " a"'),
        ({"nickname": "a" * 41}, "nickname", "must be letters without a blank in front, not one of 41 characters"),
        ({"nickname": None}, "nickname", "must be letters without a blank in front, not null"),
    ],
)
def test_each_mistake_is_named_with_its_limits(fields: dict[str, object], path: str, message: str) -> None:
    """A wrong field is named by its path, what it must be with both ends, and what it is."""
    assert complaints(**fields) == {path: message}


def test_every_wrong_field_is_named_at_once() -> None:
    """Wrong, missing and unknown fields of every depth come in one list."""
    errors = validation.check({"seconds": 1, "urls": [1, 2], "parts": [{"ur": ""}], "colours": 1}, Order, "input")
    assert [error.path for error in errors] == [
        "input.name",
        "input.seconds",
        "input.urls[0]",
        "input.urls[1]",
        "input.parts[0].url",
        "input.parts[0].ur",
        "input.colours",
    ]


def test_a_hostile_body_costs_fifty_errors() -> None:
    """However many fields are wrong, the list ends at its limit, and the rest is not even looked at."""
    assert len(validation.check({f"f{index}": 0 for index in range(100_000)}, Order)) == ERRORS_MAX
    assert len(validation.check({**GOOD, "parts": [0] * 100_000}, Order)) == ERRORS_MAX


def test_the_first_unknown_fields_are_compared_with_the_known_ones() -> None:
    """Name the field that was probably meant for as many fields as one misspells, and for no more."""
    wrong = {f"seconds{index}": 1 for index in range(HINTS_MAX + 1)}
    hints = [error.message.partition("; ")[2] for error in validation.check(GOOD | wrong, Order)]
    assert [bool(hint) for hint in hints] == [True] * HINTS_MAX + [False]


def test_what_is_good_is_read_as_its_type() -> None:
    """A good object becomes the Struct, defaults filled in."""
    order = validation.read({"name": "a", "colour": "blue", "either": "abc", "quality": "720p", "share": 1}, Order)
    assert order == Order(name="a", colour=Colour.BLUE, either="abc", quality="720p", share=1.0)
    assert validation.read({}, Input) == Input()


def test_what_is_wrong_raises_with_every_error() -> None:
    """`read` raises the same list that `check` returns."""
    with pytest.raises(InvalidInput) as raised:
        validation.read({"name": 1, "seconds": 1}, Order, "input")
    assert [error.path for error in raised.value.errors] == ["input.name", "input.seconds"]


@given(json_values | st.dictionaries(st.sampled_from(_FIELDS), json_values))
def test_any_json_is_read_or_refused(value: object) -> None:
    """Any JSON value gives the type or InvalidInput with errors that can be sent, and check and read agree."""
    errors = validation.check(value, Order)
    assert msgspec.json.encode(errors)
    if not errors:
        assert isinstance(validation.read(value, Order), Order)
        return
    with pytest.raises(InvalidInput) as refused:
        validation.read(value, Order)
    assert refused.value.errors == errors


@given(st.lists(st.text(max_size=3), max_size=4), st.integers(-20, 40) | st.booleans(), st.text(max_size=7))
def test_the_walker_agrees_with_msgspec(urls: list[str], seconds: int, name: str) -> None:
    """The walker refuses exactly what msgspec's own conversion refuses."""
    value = {"name": name, "seconds": seconds, "urls": urls}
    try:
        msgspec.convert(value, Order)
    except msgspec.ValidationError:
        assert validation.check(value, Order)
    else:
        assert not validation.check(value, Order)
