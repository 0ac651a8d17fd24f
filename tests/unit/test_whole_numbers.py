"""An integer is written as one: 5.0, which JSON Schema takes for an integer, is refused alike in every field."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect as shapes

from relay import validation
from relay.providers import PROVIDERS
from relay.web.request_body import parse
from relay.web.routes import API
from tests.support.rows import rows

BODIES = dict.fromkeys(
    [
        *(route.fields for route in API if route.fields is not None),
        *(kind for provider in PROVIDERS.values() for kind in provider.request_types),
    ]
)
"""The types of the bodies of requests, and of providers' own bodies."""


def integers(kind: Any) -> Iterator[tuple[str, int]]:
    """Yield each field of a body that is an integer, and no other number, with a value that it may have."""
    for field in msgspec.structs.fields(kind):
        shape = shapes.type_info(field.type)
        members = shape.types if isinstance(shape, shapes.UnionType) else (shape,)
        found = [one for one in members if isinstance(one, shapes.IntType)]
        if found and not any(isinstance(one, shapes.FloatType) for one in members):
            yield field.encode_name, 1 if found[0].ge is None else found[0].ge


FIELDS = [(kind, name, low) for kind in BODIES for name, low in integers(kind)]


def errors(kind: Any, name: str, number: str) -> list[str]:
    """Return what is wrong with a field of a body that holds the number so written."""
    found = validation.check(parse(f'{{"{name}": {number}}}'.encode()), kind)
    return [one.message for one in found if one.path == name]


@rows(("kind", "name", "low"), FIELDS)
def test_every_integer_is_written_without_a_fraction(kind: Any, name: str, low: int) -> None:
    """Accept 4, and say of 4.0 and 4e0 how to write it, and of 4.5 that it is no integer."""
    assert errors(kind, name, str(low)) == []
    for written in (".0", ".000", "e0"):
        (wrong,) = errors(kind, name, f"{low}{written}")
        assert "an integer" in wrong
        assert wrong.endswith(f"not {low}.0; write an integer without a fraction or an exponent")
    (wrong,) = errors(kind, name, f"{low}.5")
    assert wrong.endswith(f"not {low}.5")


def test_there_are_fields_to_check() -> None:
    """Find the integers of requests and of providers' own bodies."""
    assert {"grace_s", "deadline_s", "in_flight_max", "duration", "seed"} <= {name for _, name, _ in FIELDS}
