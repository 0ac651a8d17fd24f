"""Ids: UUIDv7 behind a prefix, sorted in the order in which one process makes them."""

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from relay.model import ids
from relay.model.ids import Bits, begun, following

DRAWN = st.integers(0, (1 << 32) - 1)
COUNTED, FORTY = (1 << 22) - 1, (1 << 40) - 1


def test_new_ids_sort_in_the_order_they_were_made() -> None:
    """Make ids that differ, sort, and hold the time, the version and the variant of a UUIDv7."""
    before_ms = time.time_ns() // 1_000_000
    made = [ids.new_id(ids.EVENT) for _ in range(20_000)]
    assert sorted(set(made)) == made
    assert before_ms <= ids.made_at(made[0]) <= ids.made_at(made[-1]) <= time.time_ns() // 1_000_000 + 1
    for one in (made[0], made[-1]):
        parsed = uuid.UUID(bytes=ids.to_bytes(one))
        assert (parsed.version, parsed.variant, len(one)) == (7, uuid.RFC_4122, 30)


@given(
    at_ms=st.integers(1, 1 << 42),
    counted=st.sampled_from((0, 1, COUNTED - 1, COUNTED)) | st.integers(0, COUNTED),
    lower=st.sampled_from((0, FORTY - (1 << 32), FORTY - 1, FORTY)) | st.integers(0, FORTY),
    later_ms=st.integers(-5, 5),
    drawn=st.sampled_from((0, (1 << 32) - 1)) | DRAWN,
)
def test_the_next_id_is_greater_whatever_the_clock_says(
    at_ms: int, counted: int, lower: int, later_ms: int, drawn: int
) -> None:
    """Carry from half to half, and into the next millisecond, so that an id is never less than the one before."""
    upper = begun(at_ms, lambda: 0).upper | counted
    start = begun(at_ms, lambda: 0)
    last = Bits(at_ms, start.time_letters, upper, ids.encode(upper << 40)[-16:-8], lower)
    found = following(last, at_ms + later_ms, lambda: drawn)
    assert found.letters > last.letters
    assert found.letters == ids.encode(found.at_ms << 80 | found.upper << 40 | found.lower)
    assert uuid.UUID(bytes=ids.to_bytes(ids.EVENT + found.letters)).version == 7
    carried = counted == COUNTED and lower + 1 + drawn > FORTY
    assert found.at_ms == max(at_ms + carried, at_ms + later_ms)


def test_an_id_is_the_one_before_and_a_random_number() -> None:
    """Count up by one at least and by 32 bits at most within a millisecond, and start anew in the next."""
    last = begun(1, lambda: 0)
    assert (last.upper, last.lower) == (0x7 << 36 | 0x2 << 22, 0)
    assert following(last, 1, lambda: 0).lower == 1
    assert following(last, 1, lambda: (1 << 32) - 1).lower == 1 << 32
    full = following(last, 2, lambda: (1 << 32) - 1)
    assert (full.upper, full.lower) == (0x7 << 36 | 0xFFF << 24 | 0x2 << 22 | COUNTED, FORTY)
