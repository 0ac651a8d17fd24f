"""A native `request` for a model that relay does not know: sent as it is, after the checks that every model needs.

Providers add models every month. relay checks what it would be blamed for: that URLs are public, and that the name is
safe in a path. The provider judges the rest, and the timeline says that relay did not.
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
    """Return the model that the body names, if relay does not know it; None for one that is no model's name at all."""
    model = request.get("model") if isinstance(request, dict) else None
    if not isinstance(model, str) or model in provider.limits.models:
        return None
    return model if len(model) <= NAME_MAX_CHARS and _NAME.fullmatch(model) else None


def check_native(provider: Provider, request: object) -> list[FieldError]:
    """Return every error of a native body: of its URLs alone where its model is not known, else by the whole schema."""
    if unknown_model(provider, request) is None:
        return provider.check(request)
    errors = []
    holder, dot, _ = provider.callback_field.rpartition(".")
    if dot and at(request, holder) is not None and not isinstance(at(request, holder), dict):
        errors.append(FieldError(holder, "must be an object: relay's callback URL goes into it"))
    return list(islice(chain(errors, _check_values(request, "")), ERRORS_MAX))


def _check_values(value: object, path: str) -> Iterator[FieldError]:
    """The errors of all texts that are URLs, and callback fields anywhere; the depth is bounded where it was parsed."""
    if isinstance(value, dict):
        for name, item in value.items():
            place = validation.join(path, validation.clipped(name))
            if is_callback_field(name):
                yield FieldError(place, "is relay's own field: its callback URL goes there")
            else:
                yield from _check_values(item, place)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check_values(item, f"{path}[{index}]")
    elif isinstance(value, str) and _URL.match(value):
        yield from check_url(value, path)
