"""What hosting platforms say about a process by their own variables: its public URL, its proxy, its disk.

Each name is documented by its platform. A setting that the operator has made always counts more. The address in a
request's Host header is never used: its sender chooses it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from relay.errors import SettingsError

PUBLIC_URLS: Final = (
    ("RENDER_EXTERNAL_URL", "{}"),
    ("RAILWAY_PUBLIC_DOMAIN", "https://{}"),
    ("KOYEB_PUBLIC_DOMAIN", "https://{}"),
    ("HEROKU_APP_DEFAULT_DOMAIN_NAME", "https://{}"),
    ("FLY_APP_NAME", "https://{}.fly.dev"),
)
"""Variables that hold the public address of an app, and how it becomes a URL."""
SCALINGO_VERSION: Final = "CONTAINER_VERSION"
"""Scalingo sets it beside CONTAINER; either name alone may be another's."""
CLIENT_IPS: Final = (
    ("FLY_APP_NAME", "header:fly-client-ip"),
    ("RAILWAY_ENVIRONMENT_NAME", "header:x-real-ip"),
    ("DYNO", "xff:1"),
    ("K_SERVICE", "xff:1"),
    (SCALINGO_VERSION, "header:x-real-ip"),  # https://doc.scalingo.com/platform/internals/routing
)
"""Variables that tell which proxy is in front, and where that writes the address of the client.

Render, Koyeb and Clever Cloud are left out: they do not document how many entries their proxies append to
X-Forwarded-For, of which a client may send the first ones itself.
"""
_MOUNTS: Final = Path("/proc/self/mountinfo")
_WIPED: Final = frozenset({"overlay", "tmpfs", "ramfs", "aufs", "rootfs"})
"""Types of file systems that end with their container."""


class Platform(msgspec.Struct, frozen=True):
    """A platform that gives each process a disk of its own; with `volumes` a lasting one can be mounted."""

    name: str
    volumes: bool = True


_PLATFORMS: Final = {
    "DOKKU_APP_NAME": Platform("Dokku"),  # it sets DYNO too
    "DYNO": Platform("Heroku", volumes=False),
    "CONTAINER": Platform("Scalingo"),
    "K_SERVICE": Platform("Cloud Run"),
    "RENDER": Platform("Render"),
    "RAILWAY_ENVIRONMENT_NAME": Platform("Railway"),
    "FLY_APP_NAME": Platform("Fly.io"),
    "KOYEB_APP_NAME": Platform("Koyeb"),
    "CC_DEPLOYMENT_ID": Platform("Clever Cloud"),
}
"""By a variable that the platform sets; the first that is set counts."""


def presets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that the platform's variables imply, under the names of relay's own."""
    found = {}
    for setting, variables in (("RELAY_PUBLIC_URL", PUBLIC_URLS), ("RELAY_CLIENT_IP", CLIENT_IPS)):
        for name, form in variables:
            if (value := environ.get(name, "").strip()) and (name != SCALINGO_VERSION or environ.get("CONTAINER")):
                found[setting] = form.format(value)
                break
    return found


def require_lasting(database: Path, environ: Mapping[str, str], mounts: str | None = None) -> None:
    """Raise SettingsError if the platform wipes the disk of a SQLite database with each restart.

    `mounts` is what /proc/self/mountinfo says. Where that cannot be read, a platform with volumes is believed.
    """
    platform = wiping(database, environ, mounts)
    if platform is None:
        return
    volume = f"mount a volume of {platform.name} and put the database there, with one process on it: "
    ways = [
        "use PostgreSQL: DATABASE_URL=postgres://…",
        (volume if platform.volumes else "run relay where a volume can be mounted: ")
        + "DATABASE_URL=sqlite:////data/relay.db",
        "set RELAY_ALLOW_EPHEMERAL=1 for a trial whose data may go",
    ]
    raise SettingsError(
        f"{database.absolute()} (DATABASE_URL) lies on a disk that {platform.name} wipes when this process ends; "
        "no other process sees it. Every job, callback and notification that relay acknowledged would be lost then, "
        "and a command run beside relay would find a new, empty database. "
        f"Three ways out: {'; or '.join(ways)}. "
        "Commands that change a running relay's data go over its HTTP API."
    )


def wiping(database: Path, environ: Mapping[str, str], mounts: str | None = None) -> Platform | None:
    """Return the platform that wipes the disk of a SQLite database with each restart; None if none does."""
    platform = next((one for name, one in _PLATFORMS.items() if environ.get(name)), None)
    if platform is None or (platform.volumes and _mounted(database, _read_mounts() if mounts is None else mounts)):
        return None
    return platform


def _read_mounts() -> str | None:
    """Return what the kernel says is mounted; None where it says nothing."""
    try:
        return _MOUNTS.read_text("utf-8", "replace")
    except OSError:
        return None


def _mounted(database: Path, mounts: str | None) -> bool:
    """Return whether the database lies on something that was mounted into the container, and that lasts.

    https://www.kernel.org/doc/html/latest/filesystems/proc.html#proc-pid-mountinfo-information-about-mounts
    """
    if mounts is None:
        return True
    folder = Path(os.path.realpath(database)).parent
    best = Path("/"), "rootfs"
    for line in mounts.splitlines():
        fields, _, source = line.partition(" - ")
        at = Path(fields.split(" ")[4].replace("\\040", " "))
        if folder.is_relative_to(at) and len(at.parts) >= len(best[0].parts):
            best = at, source.split(" ")[0]
    return best[0] != Path("/") and best[1] not in _WIPED
