"""Converts decoded JSON to a typed Struct, and reports every wrong field in one response.

msgspec stops at the first error, but a client needs the whole list. So the type is walked here by the same annotations,
and msgspec does the final conversion.
"""

import math
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import inspect as shapes

from relay.errors import ERRORS_MAX, FieldError, InvalidInput

T = TypeVar("T")

UNKNOWN_FIELD: Final = "is not a field here"
HINTS_MAX: Final = 5
"""Of an object's unknown fields so many are compared with the known ones, which takes 20 µs each."""
_NAME_MAX: Final = 60
_LEAVES: Final[dict[int, Any]] = {}
"""The Python types of leaves, by the ids of their shapes, which `_shape` keeps for ever."""
_JSON_NAMES: Final = {dict: "an object", list: "an array", type(None): "null"}


def read(value: object, kind: type[T], path: str = "") -> T:
    """Return the value as `kind`; raise InvalidInput with the wrong, missing and unknown fields, at most ERRORS_MAX."""
    errors = check(value, kind, path)
    if errors:
        raise InvalidInput(errors)
    return convert(value, kind, path)


def convert(value: object, kind: type[T], path: str = "") -> T:
    """Return a value that `check` found no error in as `kind`; raise InvalidInput if it does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput([FieldError(path, str(error))]) from None


def check(value: object, kind: Any, path: str = "") -> list[FieldError]:
    """Return the errors of the value by the type, at most ERRORS_MAX; none if it fits."""
    return list(islice(_check(value, _shape(kind), path), ERRORS_MAX))


@cache
def _shape(kind: Any) -> shapes.Type:
    """Return the shape of a type; cached, because making it takes longer than checking a request."""
    return shapes.type_info(kind)


def _check(value: object, shape: shapes.Type, path: str) -> Iterator[FieldError]:
    """Yield the errors of one node: its JSON type, then its bounds, then its children."""
    match shape:
        case shapes.Metadata():
            if (words := in_words(shape)) is None or not isinstance(shape.type, shapes.StrType):
                yield from _check(value, shape.type, path)
            elif not _fits(value, shape.type):
                yield FieldError(path, f"must be {words}, not {shown(value)}")
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
                yield FieldError(path, _wrong(shape, value))


def _check_union(value: object, shape: shapes.UnionType, path: str) -> Iterator[FieldError]:
    """Yield the errors of a union: of an object or array by the member that accepts it, of a scalar by all members."""
    members = [member for member in shape.types if not isinstance(member, shapes.NoneType)]
    if value is None and len(members) < len(shape.types):
        return
    if len(members) == 1:
        yield from _check(value, members[0], path)
        return
    by_member = [list(islice(_check(value, member, path), ERRORS_MAX)) for member in members]
    if not all(by_member):
        return
    nested = [errors for errors in by_member if any(error.path != path for error in errors)]
    if nested:
        yield from nested[0]
    else:
        yield FieldError(path, _wrong(shape, value))


def _wrong(shape: shapes.Type, value: object) -> str:
    """Return what a value must be instead; of 5.0, which JSON Schema calls an integer, how relay needs it written."""
    text = f"must be {describe(shape)}, not {shown(value)}"
    members = shape.types if isinstance(shape, shapes.UnionType) else (shape,)
    if isinstance(value, float) and value.is_integer() and any(isinstance(one, shapes.IntType) for one in members):
        return f"{text}; write an integer without a fraction or an exponent"
    return text


def _check_struct(value: dict[str, object], shape: shapes.StructType, path: str) -> Iterator[FieldError]:
    """Yield the errors of an object: of each field, of missing required ones and of unknown ones."""
    for field in shape.fields:
        if field.encode_name in value:
            yield from _check(value[field.encode_name], field.type, join(path, field.encode_name))
        elif field.required:
            yield FieldError(join(path, field.encode_name), "is required")
    known = [field.encode_name for field in shape.fields]
    unknown = (name for name in value if name not in known) if shape.forbid_unknown_fields else ()
    for number, name in enumerate(unknown):
        yield FieldError(join(path, clipped(name)), _unknown(clipped(name), known if number < HINTS_MAX else []))


def _check_list(value: list[object], shape: shapes.ListType | shapes.VarTupleType, path: str) -> Iterator[FieldError]:
    """Yield the errors of an array: its length, then each item."""
    if not (shape.min_length or 0) <= len(value) <= (math.inf if shape.max_length is None else shape.max_length):
        yield FieldError(path, f"must be {describe(shape)}, not {len(value)}")
        return
    for index, item in enumerate(value):
        yield from _check(item, shape.item_type, f"{path}[{index}]")


def _check_dict(value: dict[str, object], shape: shapes.DictType, path: str) -> Iterator[FieldError]:
    """Yield the errors of a map with free names: its length, its names, then each value."""
    if not (shape.min_length or 0) <= len(value) <= (math.inf if shape.max_length is None else shape.max_length):
        yield FieldError(path, f"must be {describe(shape)}, not {len(value)}")
        return
    for name, item in value.items():
        item_path = join(path, clipped(name))
        if _fits(name, shape.key_type):
            yield from _check(item, shape.value_type, item_path)
        else:
            yield FieldError(item_path, f"has a name that must be {describe(shape.key_type)}")


def _fits(value: object, shape: shapes.Type) -> bool:
    """Return whether a leaf is valid by msgspec's own rules, and can be written as JSON again."""
    if isinstance(value, str) and not _is_unicode(value):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(shape, shapes.LiteralType):
        return any(type(value) is type(literal) and value == literal for literal in shape.values)
    leaf = _LEAVES.get(id(shape))
    if leaf is None:
        leaf = _LEAVES[id(shape)] = _leaf(shape)
    try:
        msgspec.convert(value, leaf)
    except msgspec.ValidationError:
        return False
    return True


def _leaf(shape: shapes.Type) -> Any:
    """Return the Python type of a leaf's shape; for a container only its outer type, which no leaf fits."""
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
    """Return `Annotated[base, Meta(…)]` with the bounds that are set."""
    bounds = {name: bound for name in names if (bound := getattr(shape, name)) is not None}
    return Annotated[base, msgspec.Meta(**bounds)] if bounds else base


def describe(shape: shapes.Type) -> str:
    """Return what the value must be, with both limits: `an integer from 4 to 15`."""
    match shape:
        case shapes.Metadata():
            return in_words(shape) or describe(shape.type)
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


def in_words(shape: shapes.Metadata) -> str | None:
    """Return what a type's author says that a text must be, in place of its pattern: `Meta(extra={"in_words": …})`."""
    words: str | None = (shape.extra or {}).get("in_words")
    return words


def must_be_one_of(known: Iterable[str], given: str) -> str:
    """Return the error of a text that is none of the known ones, with the one that was probably meant."""
    texts = list(known)
    return f"must be one of {', '.join(texts)}, not {shown(given)}{meant(given, texts)}"


def _length(shape: shapes.StrType | shapes.ListType | shapes.VarTupleType | shapes.DictType, unit: str) -> str:
    """Return the limits of a length: ` of 1 to 2 items`."""
    low, high = shape.min_length, shape.max_length
    many = f"{unit}{'' if (high if high is not None else low) == 1 else 's'}"
    if low and high is not None:
        return f" of {low} {many}" if low == high else f" of {low} to {high} {many}"
    if high is not None:
        return f" of at most {high} {many}"
    return f" of at least {low} {many}" if low else ""


def _range(shape: shapes.IntType | shapes.FloatType) -> str:
    """Return the limits of a number: ` from 4 to 15`."""
    if shape.ge is not None and shape.le is not None:
        return f" from {shape.ge} to {shape.le}"
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    bounds = [f"{word} {bound}" for name, word in words.items() if (bound := getattr(shape, name)) is not None]
    return " " + " and ".join(bounds) if bounds else ""


def join(path: str, name: str) -> str:
    """Return the path of a field: `input` + `images` → `input.images`."""
    return f"{path}.{name}" if path else name


def _unknown(name: str, known: list[str]) -> str:
    """Return the error of an unknown field, with the known one that was probably meant, else with all known ones."""
    if question := meant(name, known):
        return UNKNOWN_FIELD + question
    return UNKNOWN_FIELD + (f"; there are {', '.join(known)}" if known else "")


def meant(given: str, known: list[str]) -> str:
    """Return `; did you mean …?` with the known text that is most like the given one; empty if none is."""
    import difflib  # noqa: PLC0415 - needed for mistakes alone

    close = difflib.get_close_matches(given[:_NAME_MAX], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """Return the value as an error names it: a small scalar unchanged, anything else by its JSON type or size."""
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
    """Return False for a lone surrogate, which JSON can escape but UTF-8 cannot encode."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def clipped(name: str) -> str:
    """Return a client's name for a field, cut and encodable, so that an error can repeat it."""
    clean = name[:_NAME_MAX].encode("utf-8", "replace").decode()
    return clean if len(name) <= _NAME_MAX else clean + "…"
