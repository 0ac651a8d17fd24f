"""Values that are made at their first use."""

from functools import partial

import pytest

from relay.model.lazy_mapping import LazyMapping
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.providers.base import Provider
from tests.support.rows import rows


def test_a_value_is_made_once_and_only_when_it_is_read() -> None:
    """Make a value for the first read of it, and return the same object from then on; names cost nothing."""
    made: list[str] = []

    def make(name: str) -> list[str]:
        made.append(name)
        return [name]

    mapping = LazyMapping({name: partial(make, name) for name in ("b", "a")})
    assert (list(mapping), len(mapping), "a" in mapping, "c" in mapping, made) == (["b", "a"], 2, True, False, [])
    first = mapping["a"]
    assert (first, mapping["a"] is first, mapping.get("a") is first, made) == (["a"], True, True, ["a"])
    assert (dict(mapping), made) == ({"b": ["b"], "a": ["a"]}, ["a", "b"])


def test_an_unknown_name_is_a_key_error() -> None:
    """Raise KeyError for a name without a maker, and return None from `get`."""
    mapping: LazyMapping[list[str]] = LazyMapping({"a": list})
    with pytest.raises(KeyError, match="b"):
        mapping["b"]
    assert mapping.get("b") is None


@rows("name", [*PROVIDERS, *DEV_PROVIDERS])
def test_the_registry_names_each_adapter(name: str) -> None:
    """Find under each name the adapter of that name, in a module of that name."""
    adapter = {**PROVIDERS, **DEV_PROVIDERS}[name]
    assert Provider in type(adapter).__mro__
    assert (adapter.name, type(adapter).__module__) == (name, f"relay.providers.{name}")
