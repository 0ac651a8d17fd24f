"""Programs of other people that say whether what relay sends is right.

A missing one is skipped aloud, and fails in CI.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NoReturn

import pytest

ROOT = Path(__file__).parents[2]
NODE_FOLDER = ROOT / ".venv" / "node"
NODE_PACKAGES = (
    *("standardwebhooks@1.1.1", "svix@2.5.0", "express@5.1.0"),
    *("ai@7.0.173", "axe-core@4.14.1"),
    *("typescript@5.9.3", "@types/node@22.20.5", "openapi-typescript@7.13.0", "openapi-fetch@0.17.0"),
)
NODE_ANSWERS = {0: True, 1: False}

Library = Literal["standardwebhooks", "svix"]
NodeVerify = Callable[[str, Mapping[str, str], bytes, Library], bool]


def oracle_missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI is set: there, a skipped oracle would hide what it is there to find."""
    if os.environ.get("CI"):
        pytest.fail(f"an oracle is missing: {reason}", pytrace=False)
    pytest.skip(f"ORACLE MISSING: {reason}")


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """Return the folder where Node finds the official libraries; installed once, into .venv, without a lock file."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        oracle_missing("node and npm are not installed (apt-get install nodejs npm)")
    stamp, wanted = NODE_FOLDER / "installed", " ".join(NODE_PACKAGES)
    NODE_FOLDER.mkdir(parents=True, exist_ok=True)
    with (NODE_FOLDER / "lock").open("w") as lock:  # the workers of one run share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(npm, stamp, wanted)
    return NODE_FOLDER


@pytest.fixture(scope="session")
def compiled(node_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the client in TypeScript, compiled by the official compiler."""
    folder = tmp_path_factory.mktemp("typescript")
    compiler = node_packages / "node_modules" / "typescript" / "bin" / "tsc"
    command = ["node", str(compiler), "-p", str(ROOT / "clients" / "typescript"), "--outDir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def _install(npm: str, stamp: Path, wanted: str) -> None:
    """Install the packages unless the stamp says that they are there; skip or fail the test where npm cannot."""
    if not stamp.exists() or stamp.read_text() != wanted:
        quiet = ("--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")
        command = [npm, "install", *quiet, "--prefix", str(NODE_FOLDER), *NODE_PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            oracle_missing(f"npm could not install {wanted}: {done.stderr[-500:]}")
        stamp.write_text(wanted)


@pytest.fixture(scope="session")
def node_verify(node_packages: Path) -> NodeVerify:
    """`node_verify(secret, headers, body, library)`: whether the official Node library accepts the notification."""

    def verify(secret: str, headers: Mapping[str, str], body: bytes, library: Library) -> bool:
        """Ask Node; AssertionError when it neither accepts nor refuses."""
        text = base64.b64encode(body).decode()
        question = json.dumps({"secret": secret, "headers": dict(headers), "body": text, "library": library})
        command = ["node", str(ROOT / "tests" / "node" / "verify.mjs"), str(node_packages)]
        done = subprocess.run(command, input=question, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode in NODE_ANSWERS, f"no answer from {library}: {done.stderr}"
        return NODE_ANSWERS[done.returncode]

    return verify
