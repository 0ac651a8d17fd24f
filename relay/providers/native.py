"""Makes a provider's native body from a client's `input` or `request`, with every error in it.

Providers add models every month. A native `request` for a model that relay does not know is sent unchanged: relay
checks only that URLs are public and that the name is safe in a path. The provider checks the rest, and the timeline
says that relay did not.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final

import msgspec

from relay import validation
from relay.errors import ERRORS_MAX, CallbackFieldReserved, FieldError, InvalidInput
from relay.model.job import Input, Reference
from relay.providers.base import Provider, at, check_url, find_callback_field, is_callback_field, items

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(?:/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
MODEL_MAX_CHARS: Final = 200
OPTIONS: Final = "provider_options"
OPTIONS_MAX_BYTES: Final = 16_384
OPTIONS_MAX_DEPTH: Final = 8
_OWN_FIELD: Final = "relay puts its own callback URL here; use notify to be notified"
_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_URL: Final = re.compile(r"\s*(https?:|(javascript|file|data|blob|ftp):\S)", re.IGNORECASE)


class NativeBody(msgspec.Struct, frozen=True):
    """A body for the provider; it is complete only if there are no errors."""

    body: dict[str, object] = {}
    errors: list[FieldError] = []


def check_given(given: Mapping[str, object]) -> list[FieldError]:
    """Return the error of a client's fields with both `input` and `request`, or neither."""
    has_input, has_request = given.get("input") is not None, given.get("request") is not None
    if has_input != has_request:
        return []
    got = "both" if has_input else "neither"
    return [FieldError("input", f"exactly one of input and request must be given, not {got}")]


def native_body(provider: Provider, given: Mapping[str, object]) -> NativeBody:
    """Return the provider's native body of a client's fields that pass `check_given`.

    Raise CallbackFieldReserved if the request has its own callback URL.
    """
    request = given.get("request")
    return _of_input(provider, given["input"]) if request is None else _of_request(provider, request)


def _of_request(provider: Provider, request: object) -> NativeBody:
    """Return the client's native body unchanged, with its errors."""
    if not isinstance(request, dict):
        return NativeBody(errors=validation.check(request, dict[str, Any], "request"))
    if reserved := find_callback_field(request, provider.callback_query):
        raise CallbackFieldReserved([FieldError(f"request.{reserved}", _OWN_FIELD)])
    errors = check_native(provider, request)
    return NativeBody(request, [FieldError(validation.join("request", error.path), error.message) for error in errors])


def _of_input(provider: Provider, wanted: object) -> NativeBody:
    """Return the native body of a unified input; if a field has the wrong type, the others are still checked."""
    errors = validation.check(wanted, Input, "input")
    if not isinstance(wanted, dict):
        return NativeBody(errors=errors)
    wrong = {_field(error.path) for error in errors}
    good = {name: wanted[name] for name in Input.__struct_fields__ if name in wanted and name not in wrong}
    try:
        return NativeBody(native_from_input(provider, validation.read(good, Input)), errors)
    except CallbackFieldReserved:
        raise
    except InvalidInput as error:
        return NativeBody(errors=errors + [more for more in error.errors if _field(more.path) not in wrong])


def _field(path: str) -> str:
    """Return the unified field of a path: `images` of `input.images[1]`."""
    return re.split(r"[.\[]", path.removeprefix("input."), maxsplit=1)[0]


def native_from_input(provider: Provider, given: Input) -> dict[str, object]:
    """Return the checked native body of a unified input; raise InvalidInput, which names the unified fields.

    Raise CallbackFieldReserved if the options have a callback URL of their own.
    """
    if reserved := find_callback_field(given.provider_options, provider.callback_query):
        raise CallbackFieldReserved([FieldError(f"input.{OPTIONS}.{reserved}", _OWN_FIELD)])
    honoured, errors = _honoured(provider, given)
    wrong_options = _check_options(given.provider_options)
    errors += wrong_options
    request: dict[str, object] = {}
    try:
        request = provider.from_input(honoured)
    except InvalidInput as error:
        errors += [FieldError(provider.input_path(one.path), one.message) for one in error.errors]
    else:
        options = {} if wrong_options else given.provider_options
        merged, taken = _merged(provider, request, options)
        errors += taken + _named(provider.check(merged), _Written(provider, given, request, options))
        request = merged
    if errors:
        raise InvalidInput([FieldError(validation.join("input", error.path), error.message) for error in errors])
    return request


def _honoured(provider: Provider, given: Input) -> tuple[Input, list[FieldError]]:
    """Return an input with only what a provider can honour, and an error for everything else; without the options."""
    defaults = Input()
    refused = {
        name: f"{provider.title} does not support {name}"
        for name in Input.__struct_fields__
        if name != OPTIONS and name not in provider.honours and getattr(given, name) != getattr(defaults, name)
    }
    if "last_frame" not in refused and given.last_frame is not None and (problem := _last_frame_error(given)):
        refused["last_frame"] = problem
    errors = [FieldError(name, message) for name, message in refused.items()]
    if "references" not in refused:
        for index, one in enumerate(given.references):
            kind = one.kind if isinstance(one, Reference) else "image"
            if kind != "image" and f"references.{kind}" not in provider.honours:
                errors.append(FieldError(f"references[{index}]", f"{provider.title} does not support {kind} here"))
    left = {name: getattr(defaults, name) for name in (*refused, OPTIONS)}
    return msgspec.structs.replace(given, **left), errors


def _last_frame_error(given: Input) -> str | None:
    """Return what is wrong with the place of a last frame; None if it follows one first frame."""
    if not given.images:
        return "needs the first frame in images"
    if given.mode == "reference":
        return "cannot be given with mode reference"
    return f"cannot be given with {len(given.images)} images" if len(given.images) > 1 else None


def _check_options(options: dict[str, Any]) -> list[FieldError]:
    """Return the errors of `provider_options` by themselves: their size and depth, URLs and callback fields."""
    if _depth(options) > OPTIONS_MAX_DEPTH:
        return [FieldError(OPTIONS, f"must be at most {OPTIONS_MAX_DEPTH} levels deep")]
    try:
        size = len(msgspec.json.encode(options))
    except UnicodeEncodeError:
        return [FieldError(OPTIONS, "must be text that UTF-8 can encode")]
    if size > OPTIONS_MAX_BYTES:
        return [FieldError(OPTIONS, f"must be at most {OPTIONS_MAX_BYTES} bytes of JSON, not {size}")]
    return list(islice(_check_values(options, OPTIONS), ERRORS_MAX))


def _depth(value: object, level: int = 0) -> int:
    """Return how many levels of objects and arrays a value has, counted until one more than are allowed."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None or level > OPTIONS_MAX_DEPTH:
        return level
    return max((_depth(item, level + 1) for item in inner), default=level + 1)


def _merged(
    provider: Provider, request: dict[str, object], options: dict[str, Any]
) -> tuple[dict[str, object], list[FieldError]]:
    """Return a native body with the options in it, and an error for each that contradicts a unified field."""
    if not options:
        return request, []
    merged: dict[str, object] = msgspec.json.decode(msgspec.json.encode(request))
    return merged, list(_merge(provider, merged, options, ""))


def _merge(provider: Provider, body: dict[str, Any], options: dict[str, Any], path: str) -> Iterator[FieldError]:
    """Put the options into the body, and yield an error for each field that has another value there already."""
    for name, value in options.items():
        place = validation.join(path, name)
        if name not in body:
            body[name] = value
        elif isinstance(body[name], dict) and isinstance(value, dict):
            yield from _merge(provider, body[name], value, place)
        elif msgspec.json.encode(body[name], order="sorted") != msgspec.json.encode(value, order="sorted"):
            unified = _field(provider.input_path(place))
            instead = f": use input.{unified}" if unified in Input.__struct_fields__ else ""
            yield FieldError(f"{OPTIONS}.{validation.clipped(place)}", f"is set by relay from the input{instead}")


class _Written(msgspec.Struct, frozen=True):
    """What a client wrote, to name an error of the body made of it: `request` is the body before the options."""

    provider: Provider
    given: Input
    request: dict[str, object]
    options: dict[str, Any]

    def places(self) -> list[tuple[str, str]]:
        """Return each medium's URL with its place in the input."""
        given = self.given
        return [
            *((url, f"images[{index}]") for index, url in enumerate(given.images)),
            *([(given.last_frame, "last_frame")] if given.last_frame is not None else ()),
            *(
                (one.url if isinstance(one, Reference) else one, f"references[{index}]")
                for index, one in enumerate(given.references)
            ),
        ]

    def optional(self, steps: list[str | int]) -> bool:
        """Return whether a place of the body comes from the options and not from the other fields."""
        deepest = next((length for length in range(len(steps), 0, -1) if _has(self.options, steps[:length])), 0)
        return deepest > 0 and not _has(self.request, steps[:deepest])


def _has(value: object, steps: Sequence[str | int]) -> bool:
    """Return whether JSON has a member at these names and indexes, null too."""
    *holders, last = steps
    holder = at(value, *holders)
    return last in holder if isinstance(holder, dict) else isinstance(last, int) and last < len(items(holder))


def _named(errors: list[FieldError], written: _Written) -> list[FieldError]:
    """Return the errors of a native body with the paths that the client wrote.

    A medium is named by its URL, since its index in the body may be another.
    """
    places = written.places()
    named = []
    for error in errors:
        steps = [int(index) if index else name for index, name in _STEP.findall(error.path)]
        value = at(written.request, *steps)
        place = next((one for one in places if isinstance(value, str) and one[0] == value), None)
        if place is not None:
            places.remove(place)
            path = place[1]
        elif written.optional(steps):
            path = validation.join(OPTIONS, error.path)
        else:
            path = written.provider.input_path(error.path)
            referring = "references" in written.provider.honours and written.given.references
            if _field(path) == "images" and referring and not written.given.frames:
                path = path.replace("images", "references", 1)
            if written.options and _field(path) not in Input.__struct_fields__:
                path = validation.join(OPTIONS, error.path)
        named.append(FieldError(path, error.message))
    return named


def unknown_model(provider: Provider, request: object) -> str | None:
    """Return the body's model if relay does not know it; None for a known model or a value that is no model's name."""
    model = provider.model_of(request)
    if not isinstance(model, str) or model in provider.limits.models:
        return None
    return model if len(model) <= MODEL_MAX_CHARS and _MODEL.fullmatch(model) else None


def check_native(provider: Provider, request: object) -> list[FieldError]:
    """Return every error of a native body: by the schema, or only of its URLs if its model is not known."""
    if unknown_model(provider, request) is None:
        return provider.check(request)
    errors = provider.check_model(request)
    holder, dot, _ = provider.callback_field.rpartition(".")
    if dot and _has(request, [holder]) and not isinstance(at(request, holder), dict):
        errors.append(FieldError(holder, "must be an object: relay's callback URL goes into it"))
    return list(islice(chain(errors, _check_values(request, "")), ERRORS_MAX))


def _check_values(value: object, path: str) -> Iterator[FieldError]:
    """Yield the errors of all URLs and of callback fields at any depth, which the JSON parser limits."""
    if isinstance(value, dict):
        for name, item in value.items():
            item_path = validation.join(path, validation.clipped(name))
            if is_callback_field(name):
                yield FieldError(item_path, "is relay's own field: its callback URL goes there")
            else:
                yield from _check_values(item, item_path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check_values(item, f"{path}[{index}]")
    elif isinstance(value, str) and _URL.match(value):
        yield from check_url(value, path)
