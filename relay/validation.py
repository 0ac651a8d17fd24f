"""Turns decoded JSON into a typed Struct, and names every wrong field at once.

msgspec checks fast but stops at the first error; a person who fills in a request wants the whole list. So the type is walked
here, from the same annotations, and msgspec does the final conversion.
"""

import difflib
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as shapes

from relay.errors import FieldError, InvalidInput

T = TypeVar("T")

_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "true or false", int: "an integer", float: "a number", type(None): "null"}


def read(value: object, kind: type[T], path: str = "") -> T:
    """The value as `kind`; InvalidInput lists every field that is wrong, missing or unknown."""
    errors = check(value, kind, path)
    if errors:
        raise InvalidInput(errors)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput([FieldError(path, str(error))]) from None


def check(value: object, kind: Any, path: str = "") -> list[FieldError]:
    """Every error of the value against the type, none when it fits."""
    return _check(value, shapes.type_info(kind), path)


def _check(value: object, shape: shapes.Type, path: str) -> list[FieldError]:
    """One node: what its JSON type must be, then its bounds, then its children."""
    match shape:
        case shapes.Metadata():
            return _check(value, shape.type, path)
        case shapes.AnyType():
            return []
        case shapes.UnionType():
            return _check_union(value, shape, path)
        case shapes.StructType():
            return _check_struct(value, shape, path)
        case shapes.ListType() | shapes.VarTupleType() if isinstance(value, list):
            return _check_list(value, shape, path)
        case shapes.DictType() if isinstance(value, dict):
            return _check_dict(value, shape, path)
        case _ if _fits(value, shape):
            return []
        case _:
            return [FieldError(path, f"must be {describe(shape)}, not {_shown(value)}")]


def _check_union(value: object, shape: shapes.UnionType, path: str) -> list[FieldError]:
    """A union is wrong in the words of the member that has the value's JSON type, else of the whole."""
    members = [member for member in shape.types if not isinstance(member, shapes.NoneType)]
    if value is None and len(members) < len(shape.types):
        return []
    if len(members) == 1:
        return _check(value, members[0], path)
    for member in members:
        if not _check(value, member, path):
            return []
    return [FieldError(path, f"must be {describe(shape)}, not {_shown(value)}")]


def _check_struct(value: object, shape: shapes.StructType, path: str) -> list[FieldError]:
    """An object: unknown and missing fields are errors, and every field is looked at."""
    if not isinstance(value, dict):
        return [FieldError(path, f"must be an object, not {_shown(value)}")]
    known = {field.encode_name: field for field in shape.fields}
    errors = []
    for name, item in value.items():
        if name in known:
            errors += _check(item, known[name].type, join(path, name))
        elif shape.forbid_unknown_fields:
            errors.append(FieldError(join(path, _clipped(name)), _unknown(name, list(known))))
    errors += [FieldError(join(path, name), "is required") for name, field in known.items() if field.required and name not in value]
    return errors


def _check_list(value: list[object], shape: shapes.ListType | shapes.VarTupleType, path: str) -> list[FieldError]:
    """An array: its length, then each item."""
    low, high = getattr(shape, "min_length", None), getattr(shape, "max_length", None)
    if (low is not None and len(value) < low) or (high is not None and len(value) > high):
        return [FieldError(path, f"must be {describe(shape)}, not {len(value)}")]
    return [error for index, item in enumerate(value) for error in _check(item, shape.item_type, f"{path}[{index}]")]


def _check_dict(value: dict[str, object], shape: shapes.DictType, path: str) -> list[FieldError]:
    """A map with free names: how many, how long the names, then each value."""
    if shape.max_length is not None and len(value) > shape.max_length:
        return [FieldError(path, f"may have at most {shape.max_length} keys, not {len(value)}")]
    errors = [FieldError(path, f"key {_clipped(name)!r} {_range(shape.key_type)}") for name in value if not _fits(name, shape.key_type)]
    return errors + [error for name, item in value.items() for error in _check(item, shape.value_type, join(path, _clipped(name)))]


def _fits(value: object, shape: shapes.Type) -> bool:
    """Whether a leaf is right, by msgspec's own rules."""
    if isinstance(shape, shapes.ListType | shapes.DictType | shapes.VarTupleType):
        return False
    try:
        msgspec.convert(value, _leaf(shape))
    except msgspec.ValidationError:
        return False
    return True


def _leaf(shape: shapes.Type) -> Any:
    """The Python type that a leaf's shape came from."""
    match shape:
        case shapes.StrType():
            return _annotated(str, shape, "min_length", "max_length", "pattern")
        case shapes.IntType():
            return _annotated(int, shape, "ge", "le", "gt", "lt")
        case shapes.FloatType():
            return _annotated(float, shape, "ge", "le", "gt", "lt")
        case shapes.BoolType():
            return bool
        case shapes.NoneType():
            return None
        case shapes.EnumType():
            return shape.cls
        case shapes.LiteralType():
            from typing import Literal

            return Literal[shape.values]
        case _:
            raise TypeError(f"no rule for {shape}")


def _annotated(base: type, shape: shapes.Type, *names: str) -> Any:
    """`Annotated[base, Meta(…)]` with those bounds that are set."""
    from typing import Annotated

    bounds = {name: bound for name in names if (bound := getattr(shape, name)) is not None}
    return Annotated[base, msgspec.Meta(**bounds)] if bounds else base


def describe(shape: shapes.Type) -> str:
    """What the value must be, in words, with both limits: `an integer from 4 to 15`."""
    match shape:
        case shapes.Metadata():
            return describe(shape.type)
        case shapes.UnionType():
            return " or ".join(describe(member) for member in shape.types)
        case shapes.EnumType():
            return "one of " + ", ".join(str(member.value) for member in shape.cls)
        case shapes.LiteralType():
            return "one of " + ", ".join(msgspec.json.encode(value).decode() for value in shape.values)
        case shapes.ListType():
            return f"an array{_range(shape)}"
        case shapes.StructType() | shapes.DictType():
            return "an object"
        case shapes.StrType():
            return f"a string{_range(shape)}"
        case shapes.IntType():
            return f"an integer{_range(shape)}"
        case shapes.FloatType():
            return f"a number{_range(shape)}"
        case shapes.BoolType():
            return "true or false"
        case shapes.NoneType():
            return "null"
        case _:
            return "another type"


def _range(shape: shapes.Type) -> str:
    """The bounds in words, with their unit."""
    unit = {shapes.StrType: " characters", shapes.ListType: " items"}.get(type(shape), "")
    low = next((getattr(shape, name) for name in ("ge", "min_length") if getattr(shape, name, None) is not None), None)
    high = next((getattr(shape, name) for name in ("le", "max_length") if getattr(shape, name, None) is not None), None)
    prefix = " of" if unit else ""
    pattern = getattr(shape, "pattern", None)
    tail = f" that matches {pattern}" if pattern else ""
    if low is not None and high is not None:
        return f"{prefix} {low}{unit} only{tail}" if low == high and unit else f"{prefix} {'' if unit else 'from '}{low} to {high}{unit}{tail}"
    if high is not None:
        return f"{prefix} at most {high}{unit}{tail}"
    return f"{prefix} at least {low}{unit}{tail}" if low is not None else tail


def join(path: str, name: str) -> str:
    """`input` + `images` → `input.images`."""
    return f"{path}.{name}" if path else name


def _unknown(name: str, known: list[str]) -> str:
    """An unknown field, and the known one that was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    return "is not a field here" + (f"; did you mean {close[0]}?" if close else "")


def _shown(value: object) -> str:
    """The value as the error names it: small scalars as they are, anything else by its JSON type."""
    if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 40):
        return msgspec.json.encode(value).decode() if not (isinstance(value, int) and abs(value) >= 1 << 63) else "so large a number"
    if isinstance(value, str):
        return f"one of {len(value)} characters"
    return _JSON_NAMES.get(type(value), "that")


def _clipped(name: str) -> str:
    """A name from outside, short enough to repeat."""
    return name if len(name) <= 60 else name[:60] + "…"
