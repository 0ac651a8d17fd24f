"""Makes a provider's native body from a client's `input` or `request`, with every error in it.

Providers add models every month. A native `request` for a model that relay does not know is sent unchanged: relay
checks only that URLs are public and that the name is safe in a path. The provider checks the rest, and the timeline
says that relay did not.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final

import msgspec

from relay import validation
from relay.errors import ERRORS_MAX, CallbackFieldReserved, FieldError, InvalidInput
from relay.model.job import Input
from relay.providers.base import Provider, at, check_url, find_callback_field, is_callback_field, native_from_input

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(?:/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
MODEL_MAX_CHARS: Final = 200
_URL: Final = re.compile(r"\s*(https?:|(javascript|file|data|blob|ftp):\S)", re.IGNORECASE)


class NativeBody(msgspec.Struct, frozen=True):
    """A body for the provider; it is complete only if there are no errors."""

    body: dict[str, object] = {}
    errors: list[FieldError] = []


def check_given(given: Mapping[str, object]) -> list[FieldError]:
    """Return the error of a client's fields with both `input` and `request`, or neither."""
    if (given.get("input") is None) == (given.get("request") is None):
        return [FieldError("input", "exactly one of input and request must be given")]
    return []


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
    if reserved := find_callback_field(request):
        raise CallbackFieldReserved(
            [FieldError(f"request.{reserved}", "relay puts its own callback URL here; use notify to be notified")]
        )
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
    except InvalidInput as error:
        return NativeBody(errors=errors + [more for more in error.errors if _field(more.path) not in wrong])


def _field(path: str) -> str:
    """Return the unified field of a path: `images` of `input.images[1]`."""
    return path.removeprefix("input.").partition("[")[0]


def unknown_model(provider: Provider, request: object) -> str | None:
    """Return the body's model if relay does not know it; None for a known model or a value that is no model's name."""
    model = request.get("model") if isinstance(request, dict) else None
    if not isinstance(model, str) or model in provider.limits.models:
        return None
    return model if len(model) <= MODEL_MAX_CHARS and _MODEL.fullmatch(model) else None


def check_native(provider: Provider, request: object) -> list[FieldError]:
    """Return every error of a native body: by the schema, or only of its URLs if its model is not known."""
    if unknown_model(provider, request) is None:
        return provider.check(request)
    errors = []
    holder, dot, _ = provider.callback_field.rpartition(".")
    if dot and at(request, holder) is not None and not isinstance(at(request, holder), dict):
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
