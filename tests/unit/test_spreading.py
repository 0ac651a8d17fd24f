"""The order in which several processes share the tests."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.oracles import ROOT
from tests.support.spreading import LONG, spread


class Item(msgspec.Struct, frozen=True):
    """A test as far as its order goes: its file and a number."""

    path: Path
    number: int


def items(names: list[str]) -> list[pytest.Item]:
    """Return a test in each of the files."""
    return [Item(Path(name), number) for number, name in enumerate(names)]  # type: ignore[misc]


@given(st.lists(st.sampled_from(("test_chaos.py", "test_benches.py", "test_ids.py"))), st.integers(1, 8))
def test_each_item_is_there_once(names: list[str], workers: int) -> None:
    """Lose no test and repeat none, however many are long."""
    made = spread(items(names), workers)
    assert sorted(item.number for item in made) == list(range(len(names)))  # type: ignore[attr-defined]


def test_each_worker_has_its_share_of_what_takes_long_between_its_files() -> None:
    """Give two workers two long tests each, at the beginning and after a file, and the others in their order."""
    names = ["test_a.py"] * 3 + ["test_chaos.py"] * 4 + ["test_b.py"] * 3 + ["test_c.py"] * 3 + ["test_d.py"]
    made = [item.number for item in spread(items(names), 2)]  # type: ignore[attr-defined]
    assert made == [3, 0, 1, 2, 5, 7, 8, 4, 9, 10, 11, 12, 6, 13]


def test_what_takes_long_is_spread_over_the_first_three_quarters() -> None:
    """Place the second of two behind three of eight files: half of the first six."""
    names = ["test_chaos.py"] * 2 + [f"test_{name}.py" for name in "abcdefgh"]
    made = [item.number for item in spread(items(names), 1)]  # type: ignore[attr-defined]
    assert made == [0, 2, 3, 4, 1, 5, 6, 7, 8, 9]


def test_every_long_file_is_there() -> None:
    """Name no file that is gone."""
    assert {path.name for path in (ROOT / "tests").rglob("test_*.py")} >= set(LONG)
