"""A release's wheel and sdist have every file, and the wheel runs away from the checkout."""

import importlib.metadata
import json
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from deploy import release, sbom
from tests.house.test_house import SUPPORTED
from tests.support import checkout

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a copy of the pushed files, and the wheel and the sdist that are built from it."""
    folder = tmp_path_factory.mktemp("release")
    source = checkout.copied(folder / "source")
    return source, *release.build(source, folder / "dist")


def test_wheel_and_sdist_have_every_file(built: tuple[Path, Path, Path]) -> None:
    """Have each file of relay in the wheel (the SQL, too), and each file that git tracks in the sdist."""
    source, wheel, sdist = built
    assert release.missing(source, wheel, sdist) == []
    with zipfile.ZipFile(wheel) as packed:
        tops = {name.partition("/")[0] for name in packed.namelist()}
    assert tops == {"relay", f"callback_relay-{release.version(source)}.dist-info"}


def test_a_file_that_is_left_out_is_noticed(built: tuple[Path, Path, Path]) -> None:
    """Name a file of the source that wheel and sdist do not have."""
    source, wheel, sdist = built
    added = source / "relay" / "forgotten.sql"
    added.write_text("SELECT 1")
    try:
        assert release.missing(source, wheel, sdist) == ["wheel: relay/forgotten.sql", "sdist: relay/forgotten.sql"]
    finally:
        added.unlink()


def test_the_wheel_runs_away_from_the_checkout(built: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Migrate, serve, answer the health check and stop, from the wheel's files alone."""
    _, wheel, _ = built
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    release.try_commands([sys.executable, "-m", "relay"], tmp_path, {"PYTHONPATH": str(tmp_path / "installed")})


def test_the_wheel_says_which_pythons_it_is_for(built: tuple[Path, Path, Path]) -> None:
    """Name exactly the Pythons that are tested, as classifiers, and exclude the one before them."""
    _, wheel, _ = built
    (found,) = importlib.metadata.distributions(name="callback-relay", path=[str(wheel)])
    named = [
        line.rpartition(" :: ")[2] for line in found.metadata.get_all("Classifier", []) if ":: Python :: 3." in line
    ]
    assert tuple(named) == SUPPORTED
    assert "3.10.99" not in SpecifierSet(found.metadata["Requires-Python"])


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-x402.txt", "requirements-all.txt"])
def test_everything_that_relay_is_made_of_is_listed_with_an_allowed_licence(file: str, tmp_path: Path) -> None:
    """List each pinned package with its version, and exit 0 since every licence is an allowed one."""
    assert sbom.main(tmp_path, ROOT / file) == 0
    document = json.loads((tmp_path / "sbom.json").read_text())
    pinned = sbom.pinned(ROOT / file)
    assert {one["name"]: one["version"] for one in document["components"]} == pinned
    assert len((tmp_path / "licences.txt").read_text().splitlines()) == len(pinned) > 10


def test_a_licence_that_was_not_allowed_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit 1 for a package under a licence that is not allowed; one of an OR is enough, each of an AND counts."""
    assert sbom.allowed("Apache-2.0 OR GPL-3.0-only")
    assert not sbom.allowed("MIT AND GPL-3.0-only")
    monkeypatch.setattr(sbom, "ALLOWED", sbom.ALLOWED - {"MIT"})
    assert sbom.main(tmp_path, ROOT / "requirements.txt") == 1
