"""Run the Dockerfile's steps without a container engine, as root with debootstrap: `./deploy/dev image`.

The base image is a Debian with a Python, made by debootstrap; each stage is a root folder, each RUN a chroot. Then the
image is started as a container is: as its user, with a read-only root, and stopped by SIGTERM.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SUITE: Final = "trixie"
INCLUDED: Final = "python3,python3-venv,ca-certificates"
START_S: Final = 30
OF_THE_HOST: Final = ("PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE")
"""How this machine reaches its package index; an image is built with nothing of that."""


class Image:
    """A stage: its root folder, and what its instructions have set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workdir = "/"
        self.user = "0:0"
        self.environ = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []

    def copied(self, root: Path) -> "Image":
        """Return a stage that begins where this one has ended."""
        run("cp", "--archive", "--reflink=auto", self.root, root)
        image = Image(root)
        image.workdir, image.user, image.environ = self.workdir, self.user, dict(self.environ)
        image.entrypoint, image.command, image.health = self.entrypoint, self.command, self.health
        return image


def run(*command: str | Path, environ: dict[str, str] | None = None) -> None:
    """Run a program; stop with what it printed if it fails."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, continued lines joined."""
    lines = re.sub(r"\s*\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def base(root: Path, mirror: str) -> Image:
    """Return a Debian with `python`, as the image that the first line names has it."""
    run("debootstrap", "--variant=minbase", f"--include={INCLUDED}", SUITE, root, mirror)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    if "PIP_CERT" in os.environ:
        target = root / os.environ["PIP_CERT"].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.environ["PIP_CERT"], target)
    return Image(root)


def build(dockerfile: Path, start: Image, folder: Path) -> dict[str, Image]:
    """Return the stages of a Dockerfile by their names; the last one's is empty."""
    stages: dict[str, Image] = {}
    given: dict[str, str] = {}
    image = start
    for word, rest in instructions(dockerfile.read_text()):
        match word:
            case "ARG":
                name, _, default = rest.partition("=")
                given[name] = default or given.get(name, "")
            case "FROM":
                origin, _, name = rest.partition(" AS ")
                image = stages.get(origin, start).copied(folder / (name or "last"))
                stages[name] = image
            case "RUN":
                print(f"  RUN {rest[:100]}")
                environ = {**image.environ, **given, **{k: os.environ[k] for k in OF_THE_HOST if k in os.environ}}
                inside = f"cd {shlex.quote(image.workdir)} && {rest}"
                run("/usr/sbin/chroot", image.root, "/bin/sh", "-euc", inside, environ=environ)
            case "COPY":
                copy(image, shlex.split(rest), stages)
            case "WORKDIR":
                image.workdir = rest
                (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV":
                image.environ |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "USER":
                image.user = rest
            case "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.health = json.loads(rest.partition(" CMD ")[2])
            case "EXPOSE" | "STOPSIGNAL":
                pass
            case _:
                sys.exit(f"{word} is not known here")
    return stages


def copy(image: Image, words: Sequence[str], stages: dict[str, Image]) -> None:
    """Do what COPY does with these words."""
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
    *sources, target = [word for word in words if not word.startswith("--")]
    origin = stages[options["from"]].root if "from" in options else ROOT
    into = image.root / (target if target.startswith("/") else f"{image.workdir}/{target}").lstrip("/")
    for source in (origin / source.lstrip("/") for source in sources):
        if source.is_dir():
            shutil.copytree(
                source,
                into,
                symlinks=True,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("__pycache__") if origin is ROOT else None,
            )
            continue
        place = into / source.name if target.endswith("/") else into
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
        if "chmod" in options:
            place.chmod(int(options["chmod"], 8))


def start(image: Image, folder: Path) -> None:
    """Start the image with a read-only root, wait until it is healthy, stop it, and require the status 0."""
    data = folder / "data"
    owner = (image.root / "data").stat()
    data.mkdir()
    os.chown(data, *((0, 0) if image.user == "0:0" else (owner.st_uid, owner.st_gid)))
    root = image.root
    mounts = (
        f"mount --bind {root} {root} && mount --bind {data} {root}/data && mount -t proc proc {root}/proc"
        f" && mount -t tmpfs tmpfs {root}/tmp && mount --bind /dev {root}/dev"
        f" && mount -o remount,ro,bind {root}"
    )
    into = f"exec /usr/sbin/chroot --userspec={image.user} {root} /bin/sh -c 'cd {image.workdir} && exec \"$@\"' sh"
    inside = ("unshare", "--mount", "/bin/sh", "-euc", f'{mounts} && {into} "$@"', "sh")
    environ = image.environ | {"PORT": "18432", "RELAY_HOST": "127.0.0.1"}
    serving = subprocess.Popen(
        [*inside, *image.entrypoint, *image.command],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until = time.monotonic() + START_S
        while subprocess.run([*inside, *image.health], env=environ, capture_output=True, check=False).returncode:
            if serving.poll() is not None or time.monotonic() > until:
                serving.kill()
                sys.exit(f"it does not become healthy:\n{serving.communicate()[0]}")
            time.sleep(0.2)
        status = Path(f"/proc/{serving.pid}/status").read_text()
        uids = re.findall(r"^Uid:\s+(.*)$", status, re.MULTILINE)[0].split()
        if set(uids) != {"10001"}:
            sys.exit(f"it runs as {uids}")
        touched = subprocess.run([*inside, "touch", "/app/written"], env=environ, capture_output=True, check=False)
        if touched.returncode == 0:
            sys.exit("its root can be written")
    finally:
        serving.terminate()
    said, _ = serving.communicate(timeout=30)
    if serving.returncode != 0:
        sys.exit(f"it ended with {serving.returncode}:\n{said}")
    print(f"healthy as user 10001 with a read-only root, data of {data.stat().st_uid}, and ended with 0")


def main() -> None:
    """Build every stage, and start those that are run."""
    if os.geteuid() != 0:
        sys.exit("this needs root: it makes root folders and enters them")
    mirrors = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], stdout=-1, text=True, check=True)
    mirror = mirrors.stdout.splitlines()[0]
    with tempfile.TemporaryDirectory(prefix="relay-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        print(f"a Debian {SUITE} with {INCLUDED}")
        stages = build(ROOT / "deploy" / "Dockerfile", base(folder / "base", mirror), folder)
        for stage in ("", "volume-of-root"):
            own = folder / f"container-{stage}"
            own.mkdir()
            start(stages[stage], own)


if __name__ == "__main__":
    main()
