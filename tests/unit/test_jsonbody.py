"""Bodies from strangers: read as any JSON parser would, or refused in words, whatever the bytes."""

import json
import math
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import BadBody
from relay.security.strict_json import (
    _EXPONENT,
    DEPTH_MAX,
    EXPONENTS_MAX,
    VALUES_MAX,
    Parsed,
    _too_many,
    check_cost,
    parse,
)
from tests.support.rows import rows

# Text without lone surrogates, which is all that a body in UTF-8 can hold unescaped.
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


@given(values, st.booleans(), st.booleans())
def test_json_comes_back(value: object, ascii_only: bool, bom: bool) -> None:
    """Every JSON value is read as it was written, escaped or not, with or without a BOM."""
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8-sig" if bom else "utf-8")
    assert parse(raw) == Parsed(value, frozenset(), False)


@rows(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b" \t\r\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not JSON"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-be"), "UTF-16"),
        ('{"a":1}'.encode("utf-32"), "UTF-32"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\xc0\xaf"}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"-Infinity", "-Infinity"),
        (b"[1e999]", "range of a double"),
        (b"[-1E400]", "range of a double"),
        (b"1" * 4301, "too many digits"),
        (b'{"a":-' + b"1" * 5000 + b"}", "too many digits"),
        (b"{} {}", "not JSON: Extra data"),
        (b"{}x", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":"\n"}', "not JSON"),
        (b'{"a":"\\x"}', "not JSON"),
        (b'{"a":"\\ud8"}', "not JSON"),
        (b'{"a":"\\ud80z"}', "not JSON"),
        (b"\\ud800", "not JSON"),
        (b'{"a":"\0"}', "not JSON"),
        (b'{"a"', "not JSON"),
        (b"taskId=1&state=success", "not JSON"),
        (b"--boundary\r\nContent-Disposition: form-data\r\n", "not JSON"),
        (b"\x1f\x8b\x08\x00abc", r"compressed \(gzip\)"),
        (b"<html></html>", "not JSON"),
        (b"]" * 100 + b"[" * 200, "not JSON|deeper"),
    ],
)
def test_says_why_it_is_refused(raw: bytes, said: str) -> None:
    """Each way of not being plain JSON has its own words."""
    with pytest.raises(BadBody, match=said) as caught:
        parse(raw)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@rows("raw", [b"1" * 4300, b"1e308", b"1e-999", b"-0", b'"NaN"', b"null", b" [] ", b'"\\u0000"'])
def test_what_is_just_within_the_limits(raw: bytes) -> None:
    """The longest integer, the largest doubles, bare values and an escaped NUL are JSON, and are read."""
    assert parse(raw).value == json.loads(raw)


def nested(depth: int, text: str = "") -> bytes:
    """Arrays and objects in turn, as deep as asked."""
    opening = "".join('{"a":' if level % 2 else "[" for level in range(depth))
    closing = "".join("}" if level % 2 else "]" for level in reversed(range(depth)))
    return (opening + (text or "1") + closing).encode()


@rows("text", ["", json.dumps("[{" * 200), json.dumps('"\\[{"' * 100), '"]}]}]}"', '"\\\\"'])
@rows("depth_max", [1, 2, 64, 200])
def test_depth_is_exact(text: str, depth_max: int) -> None:
    """The limit itself passes, one level more does not, and brackets in strings do not count."""
    assert parse(nested(depth_max, text), depth_max=depth_max).duplicates == frozenset()
    with pytest.raises(BadBody, match=f"deeper than {depth_max} levels"):
        parse(nested(depth_max + 1, text), depth_max=depth_max)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    """A wide body passes."""
    assert parse(b"[" + b'{"a":[]},' * 5000 + b"0]").value == [{"a": []}] * 5000 + [0]


def test_a_callback_may_nest_64_levels() -> None:
    """Read JSON of the depth that holds where no other is given, and refuse one level more."""
    assert parse(nested(DEPTH_MAX)).duplicates == frozenset()
    with pytest.raises(BadBody, match="deeper than 64 levels"):
        parse(nested(DEPTH_MAX + 1))


@given(values)
def test_depth_agrees_with_counting(value: object) -> None:
    """The limit is what counting the levels of the value gives."""

    def levels(inner: object) -> int:
        children = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else None
        return 0 if children is None else 1 + max(map(levels, children), default=0)

    raw, depth = json.dumps(value).encode(), levels(value)
    assert parse(raw, depth_max=depth).value == value
    if depth:
        with pytest.raises(BadBody, match="deeper"):
            parse(raw, depth_max=depth - 1)


@rows("opening", [b"[", b'{"a":', b'[{"a":'])
def test_depth_bombs_are_refused(opening: bytes) -> None:
    """Thousands of levels are refused, also where the limit was set beyond what the parser survives; a million too."""
    with pytest.raises(BadBody, match="deeper"):
        parse(opening * 10_000)
    with pytest.raises(BadBody, match=r"too deep|not JSON"):
        parse(opening * 10_000, depth_max=10_000_000)
    with pytest.raises(BadBody, match=f"more than {VALUES_MAX} commas and opening brackets"):
        parse(opening * 1_000_000)


@rows(
    "made_of",
    [
        lambda signs: b"[" + b"1," * (signs - 1) + b"1]",
        lambda signs: b'["' + b"," * (signs - 1) + b'"]',
        lambda signs: b"[" + b"{}," * ((signs - 1) // 2) + b"1," * ((signs - 1) % 2) + b"1]",
    ],
)
def test_a_body_of_very_many_values_is_refused_unparsed(made_of: Callable[[int], bytes]) -> None:
    """Read a body of as many values as the limit allows, and refuse one more: nothing else runs during the parser."""
    assert parse(made_of(VALUES_MAX)).value
    with pytest.raises(BadBody, match=f"more than {VALUES_MAX} commas and opening brackets"):
        parse(made_of(VALUES_MAX + 1))


@rows(
    ("raw", "value", "duplicates"),
    [
        (b'{"id":1,"id":2}', {"id": 2}, {"id"}),
        (b'{"a":{"state":1,"state":1,"x":0},"state":3}', {"a": {"state": 1, "x": 0}, "state": 3}, {"state"}),
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}], set()),
        (b'{"a":{"a":{"a":1}}}', {"a": {"a": {"a": 1}}}, set()),
        (b'{"a":1,"b":1,"a":2,"b":2,"a":3,"c":1}', {"a": 3, "b": 2, "c": 1}, {"a", "b"}),
        (b'{"a":1,"\\u0061":2}', {"a": 2}, {"a"}),
        (b'{"":1,"":2}', {"": 2}, {""}),
        (b'{"A":1,"a":2}', {"A": 1, "a": 2}, set()),
        (b'{"id": 1, "id": 2}', {"id": 2}, {"id"}),
        (b' {\n\t"a" : 1 , "b": [ ],\r\n"a" : 1 } ', {"a": 1, "b": []}, {"a"}),
        (b'{"a b": " 1 , 2 "}', {"a b": " 1 , 2 "}, set()),
        (b'{"\\ud800":1,"\\udfff":2}', {"\ufffd": 2}, {"\ufffd"}),
    ],
)
def test_names_duplicate_keys(raw: bytes, value: object, duplicates: set[str]) -> None:
    """A key that occurs twice in one object is named, at any depth; the last one counts."""
    parsed = parse(raw)
    assert parsed.value == value
    assert parsed.duplicates == duplicates


BLANKS = st.text(" \t\r\n", max_size=3)


@given(st.lists(st.tuples(st.sampled_from("abc"), values), max_size=5), BLANKS, BLANKS)
def test_blanks_hide_no_duplicate_key(pairs: list[tuple[str, object]], before: str, after: str) -> None:
    """Whatever blanks stand between the parts, a key that is there twice is named, and its last value counts."""
    inner = ",".join(f"{before}{json.dumps(key)}{after}:{before}{json.dumps(value)}{after}" for key, value in pairs)
    parsed = parse(f"{after}{{{inner}}}{before}".encode())
    names = [key for key, _ in pairs]
    assert parsed == Parsed(dict(pairs), frozenset(key for key in names if names.count(key) > 1), False)


@rows(
    ("escaped", "text"),
    [
        (r"\ud800", "\ufffd"),
        (r"\uDFFF", "\ufffd"),
        (r"a\udbffb", "a\ufffdb"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\ud83d\ude00\ude00", "😀\ufffd"),
        (r"\ud83d\n\ude00", "\ufffd\n\ufffd"),
        (r"\ud83d\\ude00", "\ufffd\\ude00"),
        (r"\\\ud83d", "\\\ufffd"),
    ],
)
def test_lone_surrogates_are_replaced(escaped: str, text: str) -> None:
    """Half a pair becomes U+FFFD, in keys too, and is told; what is left can be encoded."""
    for raw, value in ((f'"{escaped}"', text), (f'[{{"{escaped}":"{escaped}"}}]', [{text: text}])):
        assert parse(raw.encode()) == Parsed(value, frozenset(), True)


@rows(
    ("raw", "value"),
    [
        (rb'"\ud83d\uDE00"', "😀"),
        (rb'"\\ud800"', r"\ud800"),
        (rb'"\\\\ud800"', r"\\ud800"),
        (rb'"\\\ud83d\ude00"', "\\😀"),
        (rb'"\ufffd\u00e4\ud7ff\ue000"', "\ufffdä\ud7ff\ue000"),
    ],
)
def test_what_only_looks_like_half_a_pair_stays(raw: bytes, value: str) -> None:
    """Whole pairs and escaped backslashes are left as they are."""
    assert parse(raw) == Parsed(value, frozenset(), False)


@given(st.lists(st.sampled_from([r"\ud83d", r"\ude00", r"\\", r"\"", r"\n", "u", "ud800", "x", "😀"])).map("".join))
def test_replacing_agrees_with_the_parser(escapes: str) -> None:
    """The text is what the standard library makes of it, with U+FFFD for each surrogate that is left."""
    raw = f'"{escapes}"'.encode()
    plain = json.loads(raw)
    cleaned = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in plain)
    assert parse(raw) == Parsed(cleaned, frozenset(), cleaned != plain)


def clean(value: object) -> bool:
    """Whether the value can be written again as JSON in UTF-8."""
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return True


pieces = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\\u", b"d800", b"dc00", b"1", b"-", b"e9", b".", b"NaN"]
pieces += [b"Infinity", b"null", b" ", b"\0", b"\xff", b"\xef\xbb\xbf", b'"a":1', b"\xf0\x9f\x98\x80", b"9" * 4000]


@given(st.binary() | st.lists(st.sampled_from(pieces)).map(b"".join))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """Nothing but BadBody is ever raised, and what is read can be written again."""
    try:
        parsed = parse(raw)
    except BadBody as error:
        said = str(error)
    else:
        said = "the body can be written" if clean(parsed.value) else ""
    assert said.startswith("the body ")


@given(st.floats())
def test_every_float_is_finite(number: float) -> None:
    """A double comes back exactly; NaN and the infinities never do."""
    raw = json.dumps([number]).encode()
    if math.isfinite(number):
        assert parse(raw).value == [number]
    else:
        with pytest.raises(BadBody):
            parse(raw)


@rows("number", [b"1e308", b"5E-324", b"-1.5e+99"])
def test_numbers_that_are_slow_to_read_are_few(number: bytes) -> None:
    """Read a thousand numbers with a large exponent, and refuse one more before any of them is parsed."""
    assert len(parse(b"[" + b",".join([number] * EXPONENTS_MAX) + b"]").value) == EXPONENTS_MAX  # type: ignore[arg-type]
    with pytest.raises(BadBody, match="more than 1000 numbers with an exponent"):
        parse(b"[" + b",".join([number] * (EXPONENTS_MAX + 1)) + b"]")


def test_text_that_looks_like_numbers_is_text() -> None:
    """Count no exponents within strings: a picture in base64 holds thousands that look so."""
    body = json.dumps({"image": "1e99" * 5 * EXPONENTS_MAX}).encode()
    assert parse(body).value == json.loads(body)


@rows("more", [0, 1])
def test_exponents_within_strings_and_outside_are_told_apart(more: int) -> None:
    """Count those outside strings alone, to the number, where thousands more are within strings between them."""
    texts = [json.dumps('1e99\\"1e99')] * (EXPONENTS_MAX + more)
    body = "[" + ",".join(f"{text},1e99" for text in texts) + "]"
    if more:
        with pytest.raises(BadBody, match="more than 1000 numbers with an exponent"):
            check_cost(body.encode())
    else:
        check_cost(body.encode())


def test_no_more_exponents_are_read_than_it_takes_to_refuse() -> None:
    """Stop at the first exponent that is one too many, since a megabyte of them is cheap to send."""
    read = 0

    def exponents() -> Iterator[re.Match[bytes]]:
        nonlocal read
        for found in _EXPONENT.finditer(b"1e99," * 5 * EXPONENTS_MAX):
            read += 1
            yield found

    assert _too_many(exponents())
    assert read == EXPONENTS_MAX + 1
    assert not _too_many(_EXPONENT.finditer(b"1e99," * EXPONENTS_MAX))
