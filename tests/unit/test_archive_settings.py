"""The settings of the archive that become keys: each template makes keys that every bucket takes, or is refused."""

import re
from pathlib import Path

import pytest

from relay.archive.keys import object_key
from relay.settings import (
    ARCHIVE_URL_CHARS_MAX,
    KEY_CHARS_MAX,
    KEY_PART_CHARS_MAX,
    LONGEST,
    parse_archive_key,
    parse_archive_url,
)
from relay.storage.copies import DueCopy
from tests.support.rows import rows


def copy(number: int = 0) -> DueCopy:
    """Return a copy."""
    return DueCopy(
        id="cpy_1", project_id="prj_default", job_id="job_1", number=number, provider="evolink", kind="video", url="",
        host="", needs_key=False, expires_at=None, attempts_made=0, gone_seen=0, created_at=1_795_219_200_000,
        held_until=None, supersedes=None, bucket="", key=None, writes=0, writing=False, leased_until=1,
    )  # fmt: skip


@rows(
    "text",
    [
        "", "{job}", "{n}", "{job}-{n}/", "/{job}-{n}", "../{job}-{n}", "a/../{job}-{n}", "a/./{job}-{n}",
        "a/.{job}-{n}", ".{job}-{n}", "a//{job}-{n}", "é/{job}-{n}", "①/{job}-{n}", "{job}-{n} ", "{job}-{n}\n",
        "{job}-{n}?x", "{job}-{n}#x", "{job}\\{n}", "{job!r}-{n}", "{job:>9}-{n}", "{job.x}-{n}", "{job[0]}-{n}",
        "{{job}}-{n}", "{job}-{n}-{x}", "{job}-{n}-{", "{job}-{n}-}", "{}-{job}-{n}", "{0}-{job}-{n}", "{job}-{n}%2e",
    ],
)  # fmt: skip
def test_a_template_that_makes_no_keys_is_refused(text: str) -> None:
    """Refuse what leaves the folder, what a bucket does not take, and what two copies could share."""
    with pytest.raises(ValueError, match="must be letters, digits"):
        parse_archive_key(text)


@rows("text", ["{project}/{date}/{job}-{n}.{ext}", "{job}{n}", "a-b_c/{provider}/{kind}/{job}/{n}", "_{n}.{job}"])
def test_a_template_makes_a_key(text: str) -> None:
    """Take a template, and fill it in."""
    key = object_key(parse_archive_key(text), copy(), "video/mp4", 1)
    assert re.fullmatch(r"[A-Za-z0-9._/-]+", key)


def sized(chars: int, *, parts: bool) -> str:
    """Return a template whose longest key has so many characters, in one part or in many."""
    rest = chars - len(LONGEST["job"]) - len(LONGEST["n"]) - 1
    return ("a/" * (rest // 2) + "a" * (rest % 2) if parts else "a" * rest) + "{job}-{n}"


@rows(("chars", "parts"), [(KEY_CHARS_MAX, True), (KEY_PART_CHARS_MAX, False)])
def test_the_longest_key_is_bounded(chars: int, parts: bool) -> None:
    """Take a template whose keys have just as many characters as they may, and none with one more."""
    assert parse_archive_key(sized(chars, parts=parts))
    with pytest.raises(ValueError, match=f"at most {KEY_CHARS_MAX} characters, {KEY_PART_CHARS_MAX} between"):
        parse_archive_key(sized(chars + 1, parts=parts))


def test_the_longest_name_fits_a_file_system(tmp_path: Path) -> None:
    """Write a file by the longest part of a key, as a part too; no real id is longer than is counted with."""
    key = parse_archive_key(sized(KEY_PART_CHARS_MAX, parts=False)).format(**LONGEST)
    (tmp_path / f".{key}.part").write_bytes(b"")
    assert len("job_01m7xpe600e53tbj1wbqcc48mh") == len(LONGEST["job"])
    assert len("cpy_01m7xpe600e53tbj1wbqcc48mh") == len(LONGEST["project"])


@rows("end", ["", "/"])
def test_a_buckets_url_is_bounded(end: str) -> None:
    """Take a URL of just as many characters as it may have, and none with one more."""
    url = "s3://bucket/".ljust(ARCHIVE_URL_CHARS_MAX - len(end), "a")
    assert parse_archive_url(url + end) == url
    with pytest.raises(ValueError, match=f"at most {ARCHIVE_URL_CHARS_MAX} characters"):
        parse_archive_url(f"a{url}{end}")


@rows("template", ["{job}-{n}", "{n}-{job}", "{n}{job}{n}", "{job}_{n}", "{job}/{n}.{n}"])
def test_no_two_writes_have_one_key(template: str) -> None:
    """Make another key for each result of a job, and for each of its keys that is not used again."""
    keys = [object_key(template, copy(number), "video/mp4", write) for number in range(30) for write in range(1, 30)]
    assert len(set(keys)) == len(keys)
    assert object_key(template, copy(), "video/mp4", 0) == object_key(template, copy(), "video/mp4", 1)
