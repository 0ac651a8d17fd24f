"""Build relay's wheel and sdist from the commit, try both in clean environments, and tag: `./deploy/dev release`.

Without --tag nothing outside of the folder for the results changes. It uploads nothing: relay is in no package index.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 30.0
TRIED: Final = ("tests/flow/test_main_job.py", "tests/house/test_docs.py")
"""What runs from the unpacked sdist: one job from end to end, and that the pages tell the truth."""


def run(*command: str | Path, cwd: Path = ROOT, environ: dict[str, str] | None = None) -> str:
    """Return what a command prints; stop with its whole output if it fails."""
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def version(source: Path) -> str:
    """Return the version that a source tree has."""
    found: list[str] = re.findall(r'^__version__ = "(.+)"$', (source / "relay/__init__.py").read_text(), re.MULTILINE)
    return found[0]


def export(into: Path) -> Path:
    """Return a folder with what the commit has, and nothing that only lies about in the checkout."""
    archive = into / "source.tar"
    run("git", "archive", "--format=tar", f"--output={archive}", "HEAD")
    source = into / "source"
    with tarfile.open(archive) as packed:
        packed.extractall(source, filter="data")
    return source


def build(source: Path, into: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist of a source tree; needs hatchling, and no network."""
    run(sys.executable, "-m", "hatchling", "build", "-d", into.absolute(), cwd=source)
    (wheel,), (sdist,) = into.glob(f"*-{version(source)}-*.whl"), into.glob(f"*-{version(source)}.tar.gz")
    return wheel, sdist


def missing(source: Path, wheel: Path, sdist: Path) -> list[str]:
    """Return the files of relay that the wheel lacks, and the files of the source that the sdist lacks."""
    tracked = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    with zipfile.ZipFile(wheel) as packed:
        in_wheel = set(packed.namelist())
    with tarfile.open(sdist) as packed_too:
        in_sdist = {name.partition("/")[2] for name in packed_too.getnames()}
    lacks = [f"wheel: {name}" for name in tracked if name.startswith("relay/") and name not in in_wheel]
    return lacks + [f"sdist: {name}" for name in tracked if name not in in_sdist]


def try_wheel(wheel: Path, requirements: Path, folder: Path) -> None:
    """Install the wheel beside its pinned requirements in a new environment, and run its commands."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    quiet = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*quiet, "--require-hashes", "-r", requirements, cwd=folder)
    run(*quiet, "--no-deps", "--no-index", wheel, cwd=folder)
    run(python, "-m", "pip", "check", "--disable-pip-version-check", cwd=folder)
    try_commands([str(folder / "env" / "bin" / "relay")], folder, {})


def try_commands(relay: Sequence[str], folder: Path, environ: dict[str, str]) -> None:
    """Run what an operator runs first, away from the checkout: --version, migrate, serve, healthcheck."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "PYTHON"))}
    environ = kept | environ | {"PORT": str(port), "DATABASE_URL": f"sqlite:///{folder}/relay.db"}
    print(run(*relay, "--version", cwd=folder, environ=environ).strip())
    print(run(*relay, "migrate", cwd=folder, environ=environ).strip().splitlines()[-1])
    with (folder / "serve.log").open("wb") as log:
        serving = subprocess.Popen([*relay, "serve"], cwd=folder, env=environ, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_S
        while subprocess.run(
            [*relay, "healthcheck"], cwd=folder, env=environ, capture_output=True, check=False
        ).returncode:
            if time.monotonic() > until or serving.poll() is not None:
                sys.exit(f"it does not serve:\n{(folder / 'serve.log').read_text()}")
            time.sleep(0.1)
    finally:
        serving.terminate()
        status = serving.wait(30)
    if status != 0:
        sys.exit(f"it ended with {status}:\n{(folder / 'serve.log').read_text()}")
    print("it migrates, serves, answers its health check, and stops")


def require_releasable(source: Path) -> str:
    """Return the tag of this version; stop if the commit is not one to tag."""
    tag = f"v{version(source)}"
    if run("git", "status", "--porcelain").strip():
        sys.exit("commit first: a tag names a commit")
    if run("git", "tag", "--list", tag).strip():
        sys.exit(f"{tag} is there already: raise __version__ in relay/__init__.py")
    sections = re.findall(r"^## (\S+)", (source / "CHANGELOG.md").read_text(), re.MULTILINE)
    if sections[:2] != ["Unreleased", version(source)]:
        sys.exit(f"CHANGELOG.md must have a section {version(source)} below Unreleased, not {sections[:2]}")
    return tag


def main() -> None:
    """Build, try, and with --tag tag."""
    options = argparse.ArgumentParser(prog="deploy/dev release", description=__doc__)
    options.add_argument("--into", type=Path, default=ROOT / "dist", help="where wheel and sdist go")
    options.add_argument("--tag", action="store_true", help="tag the commit; without it this is a dry run")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-release-") as name:
        folder = Path(name)
        source = export(folder)
        tag = require_releasable(source) if chosen.tag else None
        wheel, sdist = build(source, chosen.into)
        if lacks := missing(source, wheel, sdist):
            sys.exit("these files are missing:\n" + "\n".join(lacks))
        print(f"{wheel.name} and {sdist.name} have every file")
        try_wheel(wheel, source / "requirements.txt", folder)
        with tarfile.open(sdist) as packed:
            packed.extractall(folder / "sdist", filter="data")
        (unpacked,) = (folder / "sdist").iterdir()
        tests = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TRIED)
        print(run(*tests, cwd=unpacked).strip().splitlines()[-1])
        if tag:
            run("git", "tag", "--annotate", tag, "--message", f"relay {tag}")
            print(f"tagged {tag}; push it with: git push origin {tag}")
        else:
            print("a dry run: nothing is tagged")


if __name__ == "__main__":
    main()
