"""Makes a provider's native body from a client's `input` or `request`, with every error in it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from relay import validation
from relay.errors import CallbackFieldReserved, FieldError, InvalidInput
from relay.model.job import Input
from relay.providers.base import Provider, find_callback_field, native_from_input
from relay.providers.unknown_models import check_native


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
    good = {name: value for name, value in wanted.items() if name in Input.__struct_fields__ and name not in wrong}
    try:
        return NativeBody(native_from_input(provider, validation.read(good, Input)), errors)
    except InvalidInput as error:
        return NativeBody(errors=errors + [more for more in error.errors if _field(more.path) not in wrong])


def _field(path: str) -> str:
    """Return the unified field of a path: `images` of `input.images[1]`."""
    return path.removeprefix("input.").partition("[")[0]
