"""Checks native bodies of providers with a body for each family of models, and rules for each model of a family."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from relay import validation
from relay.errors import FieldError
from relay.providers.base import ModelLimits, at, check_url, with_rules


class ModelRules(msgspec.Struct, frozen=True, kw_only=True):
    """What one model's body holds beyond its type.

    `frames` are the fields of the first and the last frame, of which the `required` ones must be there. `refused` are
    fields of the type that the model does not have. `seconds` are the ends of a duration, with `auto` if the model may
    choose. `lists` are the most items of each list of references: images, videos, sounds.
    """

    body: type
    frames: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    refused: frozenset[str] = frozenset()
    resolutions: tuple[str, ...] = ()
    seconds: tuple[int, int]
    auto: bool = False
    lists: Mapping[str, int] = {}

    @property
    def limits(self) -> ModelLimits:
        """Return the model's limits as clients see them."""
        images, videos, sounds = self.lists.values() or (0, 0, 0)
        return ModelLimits(
            duration_s=self.seconds,
            resolutions=self.resolutions,
            images=(len(self.required), len(self.frames)),
            references=(images, videos, sounds),
        )


def check_by_rules(
    request: object,
    models: Mapping[str, ModelRules],
    fallback: type,
    check_known: Callable[[dict[str, Any], str, ModelRules], list[FieldError]],
    check_urls: Callable[[object], list[FieldError]],
) -> list[FieldError]:
    """Return every error of a native body: by its model's type and rules, or by `fallback` if no model is named."""
    model = at(request, "model")
    rules = models.get(model) if isinstance(model, str) else None
    if rules is not None and isinstance(request, dict):
        return with_rules(validation.check(request, rules.body), check_known(request, str(model), rules))
    errors = check_urls(request)
    if isinstance(model, str):
        wrong = f"must be a model whose fields relay knows, not {validation.shown(model)}"
        meant = validation.meant(model, list(models)) or "; GET /v1/providers lists them"
        errors.insert(0, FieldError("model", f"{wrong}{meant}; any other takes its own body in request"))
    return with_rules(validation.check(request, fallback), errors)


def check_fields(request: dict[str, Any], model: str, rules: ModelRules, urls: list[FieldError]) -> list[FieldError]:
    """Return the errors of a model's required and refused fields, then those of the URLs in its other fields."""
    errors = [FieldError(name, f"is required for {model}") for name in rules.required if name not in request]
    errors += [FieldError(name, f"is not a field of {model}") for name in sorted(rules.refused & request.keys())]
    known = {error.path for error in errors}
    return errors + [error for error in urls if error.path.partition("[")[0] not in known]


def check_choice(path: str, choices: tuple[str, ...], given: object, model: str) -> list[FieldError]:
    """Return the error of a text that is none of the model's; other types are the schema's errors."""
    if not isinstance(given, str) or given in choices:
        return []
    listed = ", ".join(f'"{one}"' for one in choices)
    return [FieldError(path, f"must be one of {listed} for {model}, not {validation.shown(given)}")]


def check_prompts(request: dict[str, Any]) -> list[FieldError]:
    """Return the error of Kling's prompts: exactly one of a prompt and a list of shots."""
    if ("prompt" in request) != ("multi_prompt" in request):
        return []
    return [FieldError("prompt", "is required, or multi_prompt instead: exactly one of both")]


def check_urls_within(value: object, path: str) -> Iterator[FieldError]:
    """Yield the errors of all texts that look like URLs, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from check_urls_within(item, validation.join(path, validation.clipped(name)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from check_urls_within(item, f"{path}[{index}]")
    elif isinstance(value, str) and "://" in value:
        yield from check_url(value, path)


def too_many(model: str, most: int, count: int) -> str:
    """Return the message of too many items for a model."""
    return f"must be an array of at most {most} items for {validation.clipped(model)}, not {count}"
