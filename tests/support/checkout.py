"""The files of the checkout as a push to a platform has them: what git tracks, or would, and nothing it ignores."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def copied(into: Path) -> Path:
    """Return the folder with a copy of every file that is not ignored; skip the test where git cannot say which."""
    git = shutil.which("git")
    asked = [git or "false", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no checkout: git does not say which files are pushed")
    for name in filter(None, done.stdout.split("\0")):
        source, target = ROOT / name, into / name
        if source.is_file():  # one that was deleted and not committed yet is listed, too
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return into
