"""Turns decoded JSON into a typed Struct, and names every wrong field at once.

msgspec checks fast but stops at the first error; a person who fills in a request wants the whole list. So the type is
walked here, from the same annotations, and msgspec does the final conversion.
"""

import difflib
import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import inspect as shapes

from relay.errors import ERRORS_MAX, FieldError, InvalidInput

T = TypeVar("T")

UNKNOWN_FIELD: Final = "is not a field here"
_NAME_MAX: Final = 60
_JSON_NAMES: Final = {dict: "an object", list: "an array", type(None): "null"}


def read(value: object, kind: type[T], path: str = "") -> T:
    """The value as `kind`; InvalidInput lists the fields that are wrong, missing or unknown (the first 50)."""
    errors = check(value, kind, path)
    if errors:
        raise InvalidInput(errors)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput([FieldError(path, str(error))]) from None


def check(value: object, kind: Any, path: str = "") -> list[FieldError]:
    """The errors of the value against the type (the first 50), none when it fits."""
    return list(islice(_check(value, _shape(kind), path), ERRORS_MAX))


@lru_cache(256)
def _shape(kind: Any) -> shapes.Type:
    """The shape of a type, which takes longer to make than a request takes to check."""
    return shapes.type_info(kind)


def _check(value: object, shape: shapes.Type, path: str) -> Iterator[FieldError]:
    """One node: what its JSON type must be, then its bounds, then its children."""
    match shape:
        case shapes.Metadata():
            yield from _check(value, shape.type, path)
        case shapes.AnyType():
            return
        case shapes.UnionType():
            yield from _check_union(value, shape, path)
        case shapes.StructType() if isinstance(value, dict):
            yield from _check_struct(value, shape, path)
        case shapes.ListType() | shapes.VarTupleType() if isinstance(value, list):
            yield from _check_list(value, shape, path)
        case shapes.DictType() if isinstance(value, dict):
            yield from _check_dict(value, shape, path)
        case _:
            if not _fits(value, shape):
                yield FieldError(path, f"must be {describe(shape)}, not {shown(value)}")


def _check_union(value: object, shape: shapes.UnionType, path: str) -> Iterator[FieldError]:
    """A wrong object or array is explained by the member that takes such a thing, a wrong scalar by the whole union."""
    members = [member for member in shape.types if not isinstance(member, shapes.NoneType)]
    if value is None and len(members) < len(shape.types):
        return
    dispositions = [list(islice(_check(value, member, path), ERRORS_MAX)) for member in members]
    if not all(dispositions):
        return
    nested = [errors for errors in dispositions if any(error.path != path for error in errors)]
    if len(members) == 1 or nested:
        yield from (nested or dispositions)[0]
    else:
        yield FieldError(path, f"must be {describe(shape)}, not {shown(value)}")


def _check_struct(value: dict[str, object], shape: shapes.StructType, path: str) -> Iterator[FieldError]:
    """An object: every field is looked at; missing ones and names it does not have are errors."""
    for field in shape.fields:
        if field.encode_name in value:
            yield from _check(value[field.encode_name], field.type, join(path, field.encode_name))
        elif field.required:
            yield FieldError(join(path, field.encode_name), "is required")
    known = [field.encode_name for field in shape.fields]
    for name in value if shape.forbid_unknown_fields else ():
        if name not in known:
            yield FieldError(join(path, clipped(name)), _unknown(clipped(name), known))


def _check_list(value: list[object], shape: shapes.ListType | shapes.VarTupleType, path: str) -> Iterator[FieldError]:
    """An array: its length, then each item."""
    if not (shape.min_length or 0) <= len(value) <= (math.inf if shape.max_length is None else shape.max_length):
        yield FieldError(path, f"must be {describe(shape)}, not {len(value)}")
        return
    for index, item in enumerate(value):
        yield from _check(item, shape.item_type, f"{path}[{index}]")


def _check_dict(value: dict[str, object], shape: shapes.DictType, path: str) -> Iterator[FieldError]:
    """A map with free names: how many, what the names may be, then each value."""
    if not (shape.min_length or 0) <= len(value) <= (math.inf if shape.max_length is None else shape.max_length):
        yield FieldError(path, f"must be {describe(shape)}, not {len(value)}")
        return
    for name, item in value.items():
        place = join(path, clipped(name))
        if _fits(name, shape.key_type):
            yield from _check(item, shape.value_type, place)
        else:
            yield FieldError(place, f"has a name that must be {describe(shape.key_type)}")


def _fits(value: object, shape: shapes.Type) -> bool:
    """Whether a leaf is right: by msgspec's own rules, and so that it can be written as JSON again."""
    if isinstance(value, str) and not _is_unicode(value):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(shape, shapes.LiteralType):
        return any(type(value) is type(one) and value == one for one in shape.values)
    try:
        msgspec.convert(value, _leaf(shape))
    except msgspec.ValidationError:
        return False
    return True


def _leaf(shape: shapes.Type) -> Any:
    """The Python type that a leaf's shape came from; of a container only its outside, which no leaf fits."""
    match shape:
        case shapes.Metadata():
            return _leaf(shape.type)
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
        case shapes.ListType() | shapes.VarTupleType():
            return list
        case shapes.DictType() | shapes.StructType():
            return dict
        case _:
            raise TypeError(f"no rule for {shape}")


def _annotated(base: type, shape: shapes.Type, *names: str) -> Any:
    """`Annotated[base, Meta(…)]` with those bounds that are set."""
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
            return "one of " + ", ".join(msgspec.json.encode(member.value).decode() for member in shape.cls)
        case shapes.LiteralType():
            return "one of " + ", ".join(msgspec.json.encode(value).decode() for value in shape.values)
        case shapes.ListType() | shapes.VarTupleType():
            return f"an array{_length(shape, 'item')}"
        case shapes.DictType():
            return f"an object{_length(shape, 'key')}"
        case shapes.StructType():
            return "an object"
        case shapes.StrType():
            tail = f" that matches {shape.pattern}" if shape.pattern else ""
            return f"a string{_length(shape, 'character')}{tail}"
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


def _length(shape: shapes.StrType | shapes.ListType | shapes.VarTupleType | shapes.DictType, unit: str) -> str:
    """How long something may be: ` of 1 to 2 items`."""
    low, high = shape.min_length, shape.max_length
    many = f"{unit}{'' if (high if high is not None else low) == 1 else 's'}"
    if low and high is not None:
        return f" of {low} {many}" if low == high else f" of {low} to {high} {many}"
    if high is not None:
        return f" of at most {high} {many}"
    return f" of at least {low} {many}" if low else ""


def _range(shape: shapes.IntType | shapes.FloatType) -> str:
    """How large a number may be: ` from 4 to 15`."""
    if shape.ge is not None and shape.le is not None:
        return f" from {shape.ge} to {shape.le}"
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    bounds = [f"{word} {bound}" for name, word in words.items() if (bound := getattr(shape, name)) is not None]
    return " " + " and ".join(bounds) if bounds else ""


def join(path: str, name: str) -> str:
    """`input` + `images` → `input.images`."""
    return f"{path}.{name}" if path else name


def _unknown(name: str, known: list[str]) -> str:
    """An unknown field, and the known one that was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    return UNKNOWN_FIELD + (f"; did you mean {close[0]}?" if close else "")


def shown(value: object) -> str:
    """The value as the error names it: small scalars as they are, anything else by its JSON type or size."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() if not _is_unicode(value):
            return "text with half a character in it"
        case str():
            return msgspec.json.encode(value).decode() if len(value) <= 40 else f"one of {len(value)} characters"
        case int() | float():
            return msgspec.json.encode(value).decode() if abs(value) < 1 << 63 else "so large a number"
        case _:
            return _JSON_NAMES.get(type(value), "that")


def _is_unicode(text: str) -> bool:
    """False for a lone surrogate, which JSON can spell but nothing can store or send."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def clipped(name: str) -> str:
    """A name from outside, short and clean enough to repeat."""
    clean = name[:_NAME_MAX].encode("utf-8", "replace").decode()
    return clean if len(name) <= _NAME_MAX else clean + "…"
