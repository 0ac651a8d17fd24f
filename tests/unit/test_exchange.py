"""What an attempt's row keeps of its answer: the times of its parts, and the start of the headers as they came."""

from hypothesis import given
from hypothesis import strategies as st

from relay.model import exchange
from relay.model.exchange import Timings

TIMES = st.none() | st.floats(0, 60_000)
TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=1, max_size=20)
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\x00\r\n"), max_size=30)


@given(
    opened=st.none() | st.tuples(st.floats(0, 60_000), TIMES, TIMES),
    wait=TIMES,
    headers=st.lists(st.tuples(TOKENS, VALUES)),
)
def test_what_is_written_is_read_again(
    opened: tuple[float, float | None, float | None] | None, wait: float | None, headers: list[tuple[str, str]]
) -> None:
    """Read the times to a hundredth of a millisecond, and the headers with their names in small letters."""
    lookup_ms, connect_ms, tls_ms = opened or (None, None, None)
    timings = Timings(lookup_ms, connect_ms, tls_ms, wait)
    lines = [f"{name}: {value}".encode("latin-1") for name, value in headers]
    found = exchange.read(exchange.written(timings, lines))
    for name in Timings.__struct_fields__:
        before, after = getattr(timings, name), getattr(found.timings, name)
        assert (before is None) is (after is None), name
        assert before is None or abs(before - after) <= 0.0051
    assert found.headers == [(name.lower(), value) for name, value in headers]
