"""Checks a native `request` for a model that relay does not know, which is then sent unchanged.

Providers add models every month. relay checks only that URLs are public and that the name is safe in a path; the
provider checks the rest, and the timeline says that relay did not.
"""

import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from relay import validation
from relay.errors import ERRORS_MAX, FieldError
from relay.providers.base import Provider, at, check_url, is_callback_field

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(?:/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
NAME_MAX_CHARS: Final = 200
_URL: Final = re.compile(r"\s*(https?:|(javascript|file|data|blob|ftp):\S)", re.IGNORECASE)


def unknown_model(provider: Provider, request: object) -> str | None:
    """Return the body's model if relay does not know it; None for a known model or a value that is no model's name."""
    model = request.get("model") if isinstance(request, dict) else None
    if not isinstance(model, str) or model in provider.limits.models:
        return None
    return model if len(model) <= NAME_MAX_CHARS and _NAME.fullmatch(model) else None


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
