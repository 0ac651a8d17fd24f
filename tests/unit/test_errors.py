"""Errors that name wrong fields: all of a few, and never a long answer to a hostile body."""

from hypothesis import given
from hypothesis import strategies as st

from relay.errors import (
    DETAIL_ERRORS_MAX,
    DETAIL_MAX_CHARS,
    ERRORS_MAX,
    MESSAGE_MAX_CHARS,
    PATH_MAX_CHARS,
    FieldError,
    InvalidInput,
)
from tests.support.rows import rows

LONG = st.text(max_size=3_000)


@rows(("count", "more"), [(1, None), (5, None), (DETAIL_ERRORS_MAX, None), (DETAIL_ERRORS_MAX + 1, 1), (4_000, 3_990)])
def test_the_detail_names_every_error_of_a_few(count: int, more: int | None) -> None:
    """Name up to ten errors in the sentence, and say how many there are besides."""
    said = str(InvalidInput([FieldError(f"f{number}", "is wrong") for number in range(count)]))
    assert said.count("is wrong") == min(count, DETAIL_ERRORS_MAX)
    assert said.endswith(f"; and {more} more, see errors") == (more is not None)


@given(st.lists(st.builds(FieldError, LONG, LONG), min_size=1, max_size=120))
def test_an_answer_is_short_whatever_is_wrong(errors: list[FieldError]) -> None:
    """Keep the number of errors, each path, each message and the sentence within limits, and lose no short one."""
    error = InvalidInput(errors)
    assert len(error.errors) == min(len(errors), ERRORS_MAX)
    for shown, wrong in zip(error.errors, errors, strict=False):
        assert len(shown.path) <= PATH_MAX_CHARS
        assert len(shown.message) <= MESSAGE_MAX_CHARS
        if len(wrong.path) <= PATH_MAX_CHARS and len(wrong.message) <= MESSAGE_MAX_CHARS:
            assert shown == wrong
    assert len(str(error)) <= DETAIL_MAX_CHARS + PATH_MAX_CHARS + MESSAGE_MAX_CHARS + 40
