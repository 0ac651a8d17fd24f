"""A first start's secret key: whole on the disk, or not there."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from relay.errors import StorageUnavailable
from relay.security import whole_file


def test_a_file_is_made_once_for_its_owner(tmp_path: Path) -> None:
    """Make the file with its folder, for its owner alone, and keep the first one's content."""
    path = tmp_path / "new" / "relay.db.secret"
    assert [whole_file.create_once(path, text) for text in ("first", "second")] == [True, False]
    assert (path.read_text("utf-8"), path.stat().st_mode & 0o777) == ("first", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Leave neither an empty file nor a draft where the disk takes nothing, so that the next start makes the key."""
    path = tmp_path / "relay.db.secret"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    child = (
        "import resource, signal, sys; from pathlib import Path; from relay.security import whole_file; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (4, {hard})); "
        "whole_file.create_once(Path(sys.argv[1]), 'a key of more than four bytes')"
    )
    ended = subprocess.run([sys.executable, "-c", child, path], check=False, capture_output=True, text=True)
    assert (ended.returncode, "StorageUnavailable" in ended.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
    assert whole_file.create_once(path, "a key")
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == (soft, hard)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_takes_no_file_is_a_sentence(tmp_path: Path) -> None:
    """Say which file cannot be written, and why."""
    tmp_path.chmod(0o500)
    with pytest.raises(StorageUnavailable, match=r"relay\.db\.secret cannot be written"):
        whole_file.create_once(tmp_path / "relay.db.secret", "a key")
