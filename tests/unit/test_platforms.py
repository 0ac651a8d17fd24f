"""What a platform's own variables say: the public URL, where a client's address is, and whether a disk lasts."""

from pathlib import Path

import pytest

from relay import settings
from relay.cli import platforms
from relay.errors import SettingsError
from tests.support.rows import rows

MOUNTS = """\
22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/a
23 22 0:22 / /proc rw,nosuid - proc proc rw
24 22 0:23 / /dev/shm rw - tmpfs shm rw
25 22 254:1 /vol /data rw,noatime shared:1 - ext4 /dev/vdb rw
26 22 254:2 / /my\\040disk rw - xfs /dev/vdc rw
27 25 0:24 / /data/scratch rw - tmpfs tmpfs rw
28 22 0:25 / /twice rw - tmpfs tmpfs rw
29 28 254:3 / /twice rw - ext4 /dev/vdd rw
"""
WITH_VOLUMES = [name for name, one in platforms._PLATFORMS.items() if one.volumes]


@rows(
    ("environ", "url"),
    [
        ({"RENDER_EXTERNAL_URL": "https://relay-x1.onrender.com"}, "https://relay-x1.onrender.com"),
        ({"RAILWAY_PUBLIC_DOMAIN": "relay.up.railway.app"}, "https://relay.up.railway.app"),
        ({"KOYEB_PUBLIC_DOMAIN": "relay-org.koyeb.app"}, "https://relay-org.koyeb.app"),
        ({"FLY_APP_NAME": "my-relay"}, "https://my-relay.fly.dev"),
        ({"HEROKU_APP_DEFAULT_DOMAIN_NAME": "relay-12.herokuapp.com"}, "https://relay-12.herokuapp.com"),
        ({"HTTP_HOST": "evil.example", "HOST": "evil.example", "DYNO": "web.1"}, None),
    ],
)
def test_the_public_url_is_the_platforms(environ: dict[str, str], url: str | None) -> None:
    """Make the public URL of the platform's variable, as a setting that is taken; never of anything else."""
    implied = platforms.presets(environ)
    assert implied.get("RELAY_PUBLIC_URL") == url
    assert settings.load(implied, ()).public_url == url


@rows(
    ("environ", "rule"),
    [
        ({}, "peer"),
        ({"DYNO": "web.1"}, "xff:1"),
        ({"FLY_APP_NAME": "relay"}, "header:fly-client-ip"),
        ({"RAILWAY_ENVIRONMENT_NAME": "production"}, "header:x-real-ip"),
        ({"K_SERVICE": "relay"}, "xff:1"),
        ({"CONTAINER": "web-1", "CONTAINER_VERSION": "3f2a"}, "header:x-real-ip"),
        ({"CONTAINER": "podman"}, "peer"),
        ({"CONTAINER_VERSION": "1.2"}, "peer"),
        ({"RENDER": "true", "RENDER_EXTERNAL_URL": "https://relay-x1.onrender.com"}, "peer"),
        ({"DYNO": " "}, "peer"),
    ],
)
def test_where_a_clients_address_is_follows_from_the_platform(environ: dict[str, str], rule: str) -> None:
    """Choose the rule for the platform's proxy; without a platform the connection's own address counts."""
    assert settings.load(platforms.presets(environ), ()).client_ip == rule


@rows("name", WITH_VOLUMES)
@rows(
    ("path", "lasts"),
    [
        ("/data/relay.db", True),
        ("/data/deep/er/relay.db", True),
        ("/my disk/relay.db", True),
        ("/twice/relay.db", True),
        ("/data/scratch/relay.db", False),
        ("/dev/shm/relay.db", False),
        ("/app/data/relay.db", False),
        ("/database/relay.db", False),
    ],
)
def test_a_disk_lasts_where_a_volume_is_mounted(name: str, path: str, lasts: bool) -> None:
    """Refuse a file on the container's own disk or in memory, and allow one on a mounted volume."""
    if lasts:
        platforms.require_lasting(Path(path), {name: "x"}, MOUNTS)
        return
    with pytest.raises(SettingsError, match=r"would be lost"):
        platforms.require_lasting(Path(path), {name: "x"}, MOUNTS)


def test_heroku_has_no_disk_that_lasts_and_dokku_has() -> None:
    """Refuse any file on Heroku, and treat Dokku, which sets Heroku's variable too, by its mounts."""
    volume = Path("/data/relay.db")
    platforms.require_lasting(volume, {"DYNO": "web.1", "DOKKU_APP_NAME": "relay"}, MOUNTS)
    with pytest.raises(SettingsError) as refused:
        platforms.require_lasting(volume, {"DYNO": "web.1"}, MOUNTS)
    told = str(refused.value)
    assert "\n" not in told
    assert [way in told for way in ("postgres://", "sqlite:////data/relay.db", "RELAY_ALLOW_EPHEMERAL=1")] == [True] * 3
    assert [word in told for word in ("Heroku", "/data/relay.db", "callback", "HTTP API")] == [True] * 4


def test_a_disk_of_the_platforms_own_does_not_last() -> None:
    """Refuse the root of a machine that the platform makes anew, whatever its file system is."""
    with pytest.raises(SettingsError, match=r"Fly\.io"):
        platforms.require_lasting(Path("/app/relay.db"), {"FLY_APP_NAME": "x"}, "1 0 254:0 / / rw - ext4 /dev/vda rw\n")


def test_a_machine_of_ones_own_is_believed() -> None:
    """Refuse nothing where no platform says that it is one, or where the kernel does not say what is mounted."""
    platforms.require_lasting(Path("/app/relay.db"), {"HOME": "/root"}, MOUNTS)
    platforms.require_lasting(Path("/proc/self/relay.db"), {}, None)
