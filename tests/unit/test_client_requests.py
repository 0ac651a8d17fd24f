"""What the Python client reads of a stream and of a refusal, whatever a proxy between made of it."""

import pytest

from relay.client.requests import Message, Messages, pause_s


@pytest.mark.parametrize("line", [b"id: evt_\xff", b"id: evt\0_2", b"id: evt\r_2", b"id: evt_\xc3\xa9"])
def test_an_id_that_no_header_can_hold_is_ignored(line: bytes) -> None:
    """Keep the last id that can be sent back as Last-Event-ID."""
    assert list(Messages().feed(b"id: evt_1\n" + line + b"\ndata: {}\n\n")) == [Message("evt_1", b"{}")]


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"2500", 2.5), (b"60000", 60.0), (b"60001", 60.0), (b"9" * 5000, 60.0), (b"\xb2", 2.0)]
)
def test_a_delay_is_bounded(value: bytes, seconds: float) -> None:
    """Wait for as long as the stream asks for, a minute at most; ignore what is no number."""
    messages = Messages()
    assert list(messages.feed(b"retry: " + value + b"\n")) == []
    assert messages.retry_s == seconds


@pytest.mark.parametrize(("given", "seconds"), [("59", 59.0), ("60", 60.0), ("61", 60.0), ("9" * 5000, 60.0)])
def test_a_pause_is_bounded(given: str, seconds: float) -> None:
    """Wait for as long as relay asks for, a minute at most."""
    assert pause_s(0, given) == seconds


@pytest.mark.parametrize("given", [None, "", "\xb2", "-1", "1.5", "\u0661"])
def test_what_is_no_number_asks_for_nothing(given: str | None) -> None:
    """Wait for the client's own pause, between a half and the whole of it."""
    assert 0.125 <= pause_s(0, given) <= 0.25
