"""The parts of a file that a `Range` header asks for: RFC 9110, section 14, and relay's limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import RangeNotSatisfiable
from relay.web.api.media import ranges
from tests.support.rows import rows

SIZE = 100


@rows(
    ("text", "parts"),
    [
        ("bytes=0-0", [(0, 0)]),
        ("bytes=99-99", [(99, 99)]),
        ("bytes=99-", [(99, 99)]),
        ("bytes=0-", [(0, 99)]),
        ("bytes=0-98", [(0, 98)]),
        ("bytes=0-99", [(0, 99)]),
        ("bytes=0-100", [(0, 99)]),
        (f"bytes=0-{'9' * 40}", [(0, 99)]),
        ("bytes=-1", [(99, 99)]),
        ("bytes=-99", [(1, 99)]),
        ("bytes=-100", [(0, 99)]),
        ("bytes=-101", [(0, 99)]),
        ("BYTES = 5-5", [(5, 5)]),
        (" bytes=5-5 ", [(5, 5)]),
        ("bytes=0-1, 4-5", [(0, 1), (4, 5)]),
        ("bytes=0-1,,100-200", [(0, 1)]),
        ("bytes=-0,-1", [(99, 99)]),
        ("", None),
        ("items=0-1", None),
        ("bytes", None),
        ("0-1", None),
    ],
)
def test_these_parts_are_asked_for(text: str, parts: list[tuple[int, int]] | None) -> None:
    """Return the parts that there are; None for all of the file, where no bytes are asked for."""
    assert ranges(text, SIZE) == parts


@rows(
    "text",
    [
        *("bytes=100-", "bytes=100-100", "bytes=-0", "bytes=100-200,300-", f"bytes={'9' * 40}-"),
        *("bytes=", "bytes=,", "bytes=-", "bytes=x", "bytes=0", "bytes=1-0", "bytes=0-1-2", "bytes=--1", "bytes=+0-1"),
        *("bytes=0 - 1", "bytes=0-1,x", "bytes=\u0661-", f"bytes=0-{'9' * 41}", "bytes=0x0-1", "bytes=0-1;2-3"),
    ],
)
def test_there_is_no_such_part(text: str) -> None:
    """Refuse what is malformed, and what asks for no byte that there is; name the length."""
    with pytest.raises(RangeNotSatisfiable) as refused:
        ranges(text, SIZE)
    assert refused.value.size == SIZE


def test_the_ranges_are_limited() -> None:
    """Return sixteen parts, and refuse one more; a blank one is none."""
    listed = [f"{at}-{at}" for at in range(17)]
    assert len(ranges(f"bytes={','.join(listed[:-1])},", SIZE) or ()) == 16
    with pytest.raises(RangeNotSatisfiable, match="1 to 16"):
        ranges(f"bytes={','.join(listed)}", SIZE)


@given(st.text("bytes=0123456789-, ", max_size=30) | st.text(max_size=30), st.integers(1, 50))
def test_each_part_lies_within_the_file(text: str, size: int) -> None:
    """Return only parts that have a first and a last byte within the file, whatever is asked for."""
    try:
        parts = ranges(f"bytes={text}", size)
    except RangeNotSatisfiable:
        return
    assert parts is None or (parts and all(0 <= first <= last < size for first, last in parts))
