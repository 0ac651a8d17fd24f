"""SECURITY.md tells the truth: each threat names tests that exist, and no row of the threat model can vanish unseen."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "SECURITY.md").read_text()
GROUPS: Final = {
    "Callbacks": 9,
    "Projects and keys": 7,
    "Sessions": 7,
    "HTTP": 9,
    "Resources": 8,
    "Outgoing connections (SSRF)": 6,
    "Secrets": 7,
    "Money": 2,
}
"""The groups of the table, with the least number of their threats."""


def rows(section: str) -> list[list[str]]:
    """Return the rows of a section's table, without its head."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in found[2:]]


def threats() -> Iterator[tuple[str, str, list[str]]]:
    """Yield each threat's group, its words and the tests that hold it."""
    group = ""
    for threat, held, tests in rows("Threats"):
        if threat.startswith("**"):
            group = threat.strip("*")
        else:
            assert held, threat
            yield group, threat, re.findall(r"`([^`]+)`", tests)


def test_each_threat_has_a_test() -> None:
    """Name a test for every threat, and keep as many threats in each group as there were."""
    found = list(threats())
    assert all(tests for _, _, tests in found)
    assert len({threat for _, threat, _ in found}) == len(found)
    counted = {group: sum(of == group for of, _, _ in found) for group in GROUPS}
    assert {group: number for group, number in counted.items() if number < GROUPS[group]} == {}
    assert {group for group, _, _ in found} == set(GROUPS)


@pytest.mark.parametrize("node", sorted({test for _, _, tests in threats() for test in tests}))
def test_each_test_exists_and_runs(node: str) -> None:
    """Find the test by its id, neither skipped nor expected to fail."""
    path, name = node.split("::")
    functions = {
        one.name: one
        for one in ast.parse((ROOT / path).read_text()).body
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions, f"SECURITY.md names {node}, which does not exist"
    marks = {ast.unparse(one) for one in functions[name].decorator_list}
    assert not [mark for mark in marks if "skip" in mark or "xfail" in mark]


def test_what_a_leak_allows_is_said_for_each_credential() -> None:
    """Say for each credential what its leak allows, what it does not, and what to do then."""
    leaked = [row[0] for row in rows("What a leak allows")]
    for credential in ("a callback URL", "submit", "read", "admin", "endpoint", "cookie", "a backup", "API_KEY"):
        assert any(credential in one for one in leaked), credential
    assert all(len(row) == 4 and all(row) for row in rows("What a leak allows"))
