"""What the Python client reads of a stream and of a refusal, whatever a proxy between made of it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.client.requests import (
    TRIES_MAX,
    Message,
    Messages,
    RelayError,
    pause_after_refusal_s,
    pause_s,
    position,
    problem,
)
from tests.support.rows import rows

CHUNKS = st.lists(
    st.one_of(
        st.sampled_from([b"\r", b"\n", b"\r\n", b"", b"data: a", b"data", b"id: 1", b"id", b": b", b"retry: 7"]),
        st.binary(max_size=3),
    )
)
"""Streams of bytes in chunks, many of which end between the two bytes of an end of a line."""


@rows("value", [b"evt\0_2", b"\0", b"evt\x01_2", b"evt_2 ", b" evt_2", b"\x7f"])
def test_an_id_that_no_header_can_hold_is_ignored(value: bytes) -> None:
    """Keep the last id that can be sent back as Last-Event-ID; U+0000 is what the standard names."""
    assert list(Messages().feed(b"id: evt_1\nid: " + value + b"\ndata: {}\n\n")) == [Message("evt_1", b"{}")]


@rows("line", [b"id", b"id:", b"id: "])
def test_an_empty_id_resets_the_position(line: bytes) -> None:
    """Send no Last-Event-ID after an empty id, also if the connection began with one."""
    messages = Messages("evt_0")
    assert list(messages.feed(b"data: 1\n\nid: evt_1\n" + line + b"\ndata: 2\n\n")) == [
        Message("evt_0", b"1"),
        Message("", b"2"),
    ]
    assert messages.last_id == ""
    assert position(messages.last_id) == {}


def test_the_position_changes_at_the_end_of_a_message_with_or_without_data() -> None:
    """Keep the position while a message is incomplete, and change it where one ends that has an id alone."""
    messages = Messages("evt_0")
    assert list(messages.feed(b"retry: 1000\n\n: comment\n\nid: evt_1\n")) == []
    assert messages.last_id == "evt_0"
    assert list(messages.feed(b"\nid: evt_2\ndata: 2\n")) == []
    assert messages.last_id == "evt_1"
    assert list(messages.feed(b"\n")) == [Message("evt_2", b"2")]
    assert messages.last_id == "evt_2"
    assert position("evt_é") == {b"last-event-id": "evt_é".encode()}


@rows("end", [b"\n", b"\r", b"\r\n"])
@rows("size", [1, 2, 1000])
def test_each_end_of_a_line_is_one(end: bytes, size: int) -> None:
    """Read lines that end in any of the three ways, in whatever pieces, and a comment without text as no end."""
    messages = Messages()
    sent = end.join([b"\xef\xbb\xbfid: 1", b"data: a", b":", b"data: b", b"", b"data", b"", b"data: c", b"", b""])
    found = [one for at in range(0, len(sent), size) for one in messages.feed(sent[at : at + size])]
    assert found == [Message("1", b"a\nb"), Message("1", b""), Message("1", b"c")]


@given(CHUNKS)
@example([b"data: a\r", b"\n", b"\n", b"data: b\n\n"])
@example([b"data: a\r", b"", b"\n", b"\n"])
def test_the_chunks_of_a_stream_change_nothing(chunks: list[bytes]) -> None:
    """Read the same messages, position and delay from any bytes, in one chunk and cut anywhere."""
    cut, whole = Messages(), Messages()
    assert [one for chunk in chunks for one in cut.feed(chunk)] == list(whole.feed(b"".join(chunks)))
    assert (cut.last_id, cut.retry_s) == (whole.last_id, whole.retry_s)


def test_a_blank_line_behind_a_chunk_of_one_line_feed_ends_the_message() -> None:
    """Take a line feed alone for the rest of the CR LF before it, and the next one for a line of its own."""
    messages = Messages()
    found = [list(messages.feed(chunk)) for chunk in (b"data: a\r", b"\n", b"\n", b"data: b\n\n")]
    assert found == [[], [], [Message("", b"a")], [Message("", b"b")]]


def test_a_refusal_is_tried_again_a_few_times() -> None:
    """Wait as long as relay asks for after a 429, four tries at most; raise any other refusal."""
    refusal = problem(429, b"", "7")
    assert [pause_after_refusal_s(refusal, tried) for tried in range(1, TRIES_MAX)] == [7.0] * 3
    assert 0.25 <= pause_after_refusal_s(problem(429, b"", "soon"), 1) <= 0.5
    for error, tried in ((refusal, TRIES_MAX), (problem(403, b"", "7"), 1)):
        with pytest.raises(RelayError):
            pause_after_refusal_s(error, tried)


@rows(("value", "seconds"), [(b"2500", 2.5), (b"60000", 60.0), (b"60001", 60.0), (b"9" * 5000, 60.0), (b"\xb2", 2.0)])
def test_a_delay_is_bounded(value: bytes, seconds: float) -> None:
    """Wait for as long as the stream asks for, a minute at most; ignore what is no number."""
    messages = Messages()
    assert list(messages.feed(b"retry: " + value + b"\n")) == []
    assert messages.retry_s == seconds


@rows(("given", "seconds"), [("59", 59.0), ("60", 60.0), ("61", 60.0), ("9" * 5000, 60.0)])
def test_a_pause_is_bounded(given: str, seconds: float) -> None:
    """Wait for as long as relay asks for, a minute at most."""
    assert pause_s(0, given) == seconds


@rows("given", [None, "", "\xb2", "-1", "1.5", "\u0661"])
def test_what_is_no_number_asks_for_nothing(given: str | None) -> None:
    """Wait for the client's own pause, between a half and the whole of it."""
    assert 0.125 <= pause_s(0, given) <= 0.25
