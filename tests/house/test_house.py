"""The house around the code: what platforms read at the root, what a stranger reads first, and that all of it is so."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from relay.settings import PROVIDER_SETTINGS, SETTINGS

ROOT = Path(__file__).parents[2]
EXTRAS = {"requirements-x402.txt": ("x402",), "requirements-all.txt": ("x402", "otel", "archive", "cli")}
FILES = ("requirements.txt", *EXTRAS, "requirements-test.txt")
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
DEV = ROOT / "deploy" / "dev"
NEEDED = ("nodejs", "npm", "git", "postgresql", "pgbouncer", "php-cli", "ruby", "ruby-webrick", "chromium")
"""What the tests need of a machine, as Debian names it."""


def project() -> dict[str, dict[str, list[str]]]:
    """pyproject.toml; only its lists of requirements are looked at here."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def extra(name: str) -> list[str]:
    """Return what an extra of pyproject.toml brings."""
    brought: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][name]
    return brought


def pins(file: str) -> dict[str, list[str]]:
    """Each entry of a requirements file, such as `click==8.3.1`, and its hashes."""
    entries: dict[str, list[str]] = {}
    for entry in re.sub(r"\\\n\s*", " ", re.sub(r"\n\s*#.*", "", (ROOT / file).read_text())).splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        entries[requirement] = hashes
    return entries


def pinned(file: str, name: str) -> list[Requirement]:
    """Return the entries for a library: one, or several where Python versions need different ones."""
    found = [Requirement(entry) for entry in pins(file)]
    return [requirement for requirement in found if canonicalize_name(requirement.name) == canonicalize_name(name)]


def python_files() -> Iterator[Path]:
    """Every Python file of the repository."""
    for folder in ("relay", "tests", "deploy", "bench", "docs"):
        yield from sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("file", FILES)
def test_requirements_are_pinned_with_hashes(file: str) -> None:
    """Every line names one exact version and at least one sha256, so an install is the same everywhere."""
    entries = pins(file)
    assert entries
    for entry, hashes in entries.items():
        specifiers = list(Requirement(entry).specifier)
        assert [specifier.operator for specifier in specifiers] == ["=="], entry
        assert hashes, f"{entry} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), entry


@pytest.mark.parametrize("file", FILES)
def test_requirements_name_no_place(file: str) -> None:
    """No URL, no index and no path: where the packages come from is the installer's own setting."""
    text = (ROOT / file).read_text()
    assert not re.search(r"://|@|^\s*-(?!-hash=sha256:)", text, re.MULTILINE)


@pytest.mark.parametrize("python", SUPPORTED)
@pytest.mark.parametrize("file", FILES)
def test_requirements_are_up_to_date(file: str, python: str) -> None:
    """What pyproject.toml asks for is pinned, once for each Python, within its bounds; else: ./deploy/dev lock."""
    data = project()
    wanted = data["project"]["dependencies"]
    for name in EXTRAS.get(file, ()):
        wanted = [*wanted, *extra(name)]
    if file == "requirements-test.txt":
        wanted = [*wanted, *data["dependency-groups"]["test"], *data["dependency-groups"]["lint"]]
    machine = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for requirement in map(Requirement, wanted):
        entries = [e for e in pinned(file, requirement.name) if e.marker is None or e.marker.evaluate(machine)]
        assert len(entries) == 1, f"{requirement} is pinned {len(entries)} times in {file} for Python {python}"
        version = next(iter(entries[0].specifier)).version
        assert requirement.specifier.contains(version), f"{file} pins {requirement.name} {version}"


@pytest.mark.parametrize("file", ["requirements.txt", *EXTRAS])
def test_tests_run_with_what_production_runs_with(file: str) -> None:
    """requirements-test.txt contains what is installed to run relay, entry by entry and hash by hash."""
    runtime, tests = pins(file), pins("requirements-test.txt")
    for entry, hashes in runtime.items():
        name = Requirement(entry).name
        versions = {str(each.specifier) for each in pinned("requirements-test.txt", name)}
        assert versions == {str(each.specifier) for each in pinned(file, name)}
        assert set(hashes) <= {each for other in tests if Requirement(other).name == name for each in tests[other]}


def test_every_extra_is_in_the_file_of_all() -> None:
    """requirements-all.txt has each extra of pyproject.toml."""
    assert sorted(EXTRAS["requirements-all.txt"]) == sorted(project()["project"]["optional-dependencies"])


@pytest.mark.parametrize("file", EXTRAS)
def test_extras_are_installed_with_what_relay_runs_with(file: str) -> None:
    """Each file of extras contains requirements.txt, entry by entry and hash by hash, so that it is enough alone."""
    runtime, more = pins("requirements.txt"), pins(file)
    held = {(Requirement(entry).name, str(Requirement(entry).specifier)): set(more[entry]) for entry in more}
    for entry, hashes in runtime.items():
        assert held[Requirement(entry).name, str(Requirement(entry).specifier)] == set(hashes), entry


def test_no_text_installs_relay_by_a_name() -> None:
    """No file tells anybody to install `callback-relay` from a registry, where anybody could register the name."""
    told = re.compile(r"pip install[^\n]*callback-relay")
    files = [*python_files(), ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md"), DEV]
    assert [path.name for path in files if path.name != "test_house.py" and told.search(path.read_text())] == []


def test_every_dependency_says_why() -> None:
    """Each runtime dependency has its reason beside it, a lower and an upper bound."""
    text = (ROOT / "pyproject.toml").read_text()
    for wanted in project()["project"]["dependencies"]:
        line = next(line for line in text.splitlines() if f'"{wanted}"' in line)
        assert re.search(r",\s+# \S+ \S+", line), f"{wanted} does not say why"
        assert {each.operator for each in Requirement(wanted).specifier} == {">=", "<"}, wanted


def test_one_kind_of_lock_file() -> None:
    """Heroku refuses a build with two of them, and uv would write its own."""
    others = ("uv.lock", "pylock.toml", "poetry.lock", "Pipfile", "Pipfile.lock", "package-lock.json", "package.json")
    assert [name for name in others if (ROOT / name).exists()] == []


def test_python_version_is_a_supported_one() -> None:
    """.python-version, which platforms read, names a minor version that pyproject.toml allows and the tests know."""
    version = (ROOT / ".python-version").read_text().strip()
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert version in SUPPORTED
    assert SpecifierSet(requires).contains(Version(version))


def test_procfile_commands_exist() -> None:
    """Each line of the Procfile is `python -m relay` and a command that answers --help."""
    if not (ROOT / "relay" / "__main__.py").exists():
        pytest.skip("relay has no commands yet")
    lines = (ROOT / "Procfile").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines][:2] == ["release", "web"]
    for line in lines:
        command = re.fullmatch(r"\w+: (?:exec )?python -m relay (\w+)", line)
        assert command, line
        asked = [sys.executable, "-m", "relay", command[1], "--help"]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_changelog_has_an_unreleased_section() -> None:
    """What is new stands in CHANGELOG.md before it is released, for the people who run relay."""
    sections = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"


def readme() -> str:
    """Return the README's text."""
    return (ROOT / "README.md").read_text()


def test_readme_names_only_settings_that_exist() -> None:
    """Every RELAY_… variable in the README is a setting (`<PROVIDER>` stands for a name)."""
    text = readme()
    plain = {setting.name for setting in SETTINGS}
    patterned = [setting.name for setting in PROVIDER_SETTINGS]
    of_a_provider = re.compile(
        "|".join(name.replace("<PROVIDER>", "(<PROVIDER>|[A-Z0-9]+)") for name in patterned) or "-"
    )
    clients = {"RELAY_URL"}  # read by the commands that talk to a running relay
    named = set(re.findall(r"\bRELAY_(?:<PROVIDER>_)?[A-Z0-9_]*[A-Z0-9]\b", text))
    unknown = {name for name in named - plain - clients if not of_a_provider.fullmatch(name)}
    assert not unknown, f"the README names {sorted(unknown)}, which relay/settings.py does not know"


def test_readme_links_lead_somewhere() -> None:
    """Every relative link of the README points to a file of the repository."""
    links = re.findall(r"\]\(([^)\s]+)\)", readme())
    relative = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in relative if not (ROOT / link).exists()] == []


BEGINS_WITH_DOCSTRING = re.compile(r"([ \t]*(#.*)?\n)*(\Z|r?\"{3})")
"""Blank lines and comments, then a docstring or nothing; parsing every file takes three seconds."""


def test_every_python_file_says_why_it_exists() -> None:
    """Each file with code in it begins with a docstring."""
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in python_files()
        if not BEGINS_WITH_DOCSTRING.match(path.read_text())
    ]
    assert silent == []
    assert not BEGINS_WITH_DOCSTRING.match("#!/usr/bin/env python\n\nimport ast\n")


def test_every_test_says_what_it_specifies() -> None:
    """Each test function has a docstring: the sentence that it proves."""
    silent = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        functions = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        tests = [function for function in functions if function.name.startswith("test_")]
        silent += [
            f"{path.relative_to(ROOT)}:{test.lineno}: {test.name}" for test in tests if not ast.get_docstring(test)
        ]
    assert silent == []


def run_dev(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run deploy/dev with nothing in its environment but PATH and what is given."""
    environment = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(
        ["/bin/sh", str(DEV), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_dev_names_its_commands() -> None:
    """deploy/dev without a command it knows says which there are, and exits 64."""
    for arguments in ((), ("fly",)):
        done = run_dev(*arguments)
        assert done.returncode == 64
        assert all(f"./deploy/dev {name}" in done.stderr for name in ("run", "test", "lint", "lock"))


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("run", "--help"), ("test", "--help"), ("run", "-h")])
def test_dev_helps_without_installing(arguments: tuple[str, ...]) -> None:
    """Answer --help with the commands and what the tests need, before anything is installed."""
    done = run_dev(*arguments, PYTHON="/nonexistent")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"./deploy/dev {name}" in done.stdout for name in ("run", "test", "lint", "lock"))
    assert all(word in done.stdout for word in ("PORT=", "--once", *NEEDED, "minutes"))


def test_dev_says_which_tests_are_skipped_here(tmp_path: Path) -> None:
    """Name the programs that are missing, and the command that installs them, before a whole run of the tests."""
    for name in ("dirname", "sed", "cat", "ls"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = run_dev("test", PYTHON="/nonexistent", PATH=str(tmp_path))
    assert done.returncode == 69
    assert "minutes" in done.stderr
    assert "apt-get install nodejs npm git" in done.stderr


def test_what_the_tests_need_is_said_everywhere_alike() -> None:
    """Name the same programs in deploy/dev, in the README and in what installs them for a whole run."""
    for file in ("deploy/dev", "README.md", ".ci/run"):
        text = (ROOT / file).read_text()
        assert [name for name in NEEDED if not re.search(rf"\b{name}\b", text)] == [], file


def test_dev_refuses_an_old_python(tmp_path: Path) -> None:
    """A PYTHON that is older than 3.11 (or none) is refused with a sentence and exit 69, before anything is touched."""
    old = tmp_path / "python2 with spaces"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run_dev("test", PYTHON=str(old))
    assert done.returncode == 69
    assert f"PYTHON={old} is no Python of 3.11 or newer" in done.stderr


def test_dev_starts_at_once_when_all_is_installed(tmp_path: Path) -> None:
    """A second start takes the .venv as it is: nothing is installed or said, and PYTHON may name its version.

    Bytecode is kept, whatever the environment says of it.
    """
    stamp = ROOT / ".venv" / "stamp-requirements-test.txt"
    with (ROOT / "requirements-test.txt").open() as file:
        wanted = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, timeout=60, check=True).stdout
    if not stamp.exists() or stamp.read_text() != wanted or not sys.executable.startswith(f"{ROOT}/.venv/"):
        pytest.skip("these tests were not started by ./deploy/dev test")
    (tmp_path / "sitecustomize.py").write_text("import sys\nprint('bytecode is kept:', not sys.dont_write_bytecode)\n")
    environ = {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_dev("test", "--version", **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bytecode is kept: True\npytest ")
