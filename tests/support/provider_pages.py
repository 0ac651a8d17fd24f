"""What docs/providers/ must say of each provider, computed from the adapters: the rows of its tables."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, Final

import msgspec

from relay.errors import InvalidInput
from relay.model.backoff import CHECK_MARGIN
from relay.model.job import Input
from relay.providers.answers import CODES, STATUSES, Codes
from relay.providers.base import ModelLimits, Provider, Signing, callbacks_expected, can_cancel
from relay.providers.native import native_from_input
from relay.providers.stablestudio import StableStudio
from relay.providers.uploads import FLOWS, MEGABYTE
from relay.settings import PROVIDER_SETTINGS, SETTINGS
from tests.support.provider_cases import recordings

MINIMAL: Final = Input(images=["https://example.com/a.png"], prompt="slow push in")
HONOURED: Final = [name for name in Input.__struct_fields__ if name != "provider_options"]
"""The fields of `input` that a provider may be unable to honour."""
Rows = list[tuple[str, ...]]


def span(seconds: int) -> str:
    """Return a time in its largest whole unit: `24 h`, `14 d`."""
    units = (("d", 86_400), ("h", 3600), ("min", 60))
    return next((f"{seconds // s} {unit}" for unit, s in units if seconds > s and seconds % s == 0), f"{seconds} s")


def named(values: tuple[str, ...] | list[str]) -> str:
    """Return names in backticks."""
    return ", ".join(f"`{value}`" for value in values)


def lifetime(provider: Provider) -> str:
    """Return how long its results live."""
    seconds = provider.limits.result_lifetime_s
    return "not published" if seconds is None else span(seconds)


def limit_rows(provider: Provider) -> Rows:
    """Return the rows of a page's table of limits: all of `Limits`, the upload, and the rules of the adapter."""
    limits = provider.limits
    prompt = "required" if limits.prompt_required else "optional"
    size = "" if limits.prompt_max is None else f"; at most {limits.prompt_max} characters"
    checks = (
        f"after {CHECK_MARGIN} times that, if no callback came" if limits.poll_s is None else f"every {limits.poll_s} s"
    )
    flow = FLOWS.get(provider.name)
    upload = "none" if flow is None else "any size" if flow.size_max is None else f"{flow.size_max // MEGABYTE} MB"
    return [
        ("models", named(limits.models)),
        ("seconds", f"{limits.duration_s[0]} to {limits.duration_s[1]}"),
        ("resolutions", named(limits.resolutions)),
        ("aspect ratios", named(limits.aspect_ratios)),
        ("images", f"at most {limits.images_max}"),
        ("prompt", f"{prompt}{size}"),
        ("results live", lifetime(provider)),
        ("a job usually takes", f"{limits.expected_s} s"),
        ("status checks", checks),
        ("paid for each job", "yes" if limits.paid else "no"),
        ("largest uploaded file", upload),
        *provider.further_limits.items(),
        *((f"`{model}`", own_limits(own)) for model, own in limits.by_model.items()),
    ]


def own_limits(own: ModelLimits) -> str:
    """Return a model's own limits in words."""
    said = []
    if own.duration_s is not None:
        shortest, longest = own.duration_s
        said.append(f"{shortest} to {longest} s" if shortest < longest else f"{longest} s")
    if own.resolutions is not None:
        said.append(named(own.resolutions))
    if own.aspect_ratios is not None:
        said.append(named(own.aspect_ratios) or "no aspect ratio")
    if own.images is not None:
        low, high = own.images
        several = f"{low} to {high} images" if low < high else f"{high} images" if high > 1 else "1 image"
        said.append(several if high else "no images")
    if own.references is not None:
        kinds = zip(own.references, ("images", "videos", "sounds"), strict=True)
        most = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
        said.append(f"references: {most}" if most else "no references")
    return "; ".join(said)


def setting_rows(provider: Provider) -> Rows:
    """Return the variables of a provider with their defaults: its own, those named after it, and the wallet's."""
    own = [(one.named(provider.name), one.default) for one in PROVIDER_SETTINGS]
    own += [(one.name, one.default) for one in SETTINGS if one.field.startswith(f"{provider.name}_")]
    own += [(one.name, one.default) for one in SETTINGS if provider.limits.paid and one.field == "wallet_key"]
    return [(f"`{name}`", f"`{default}`" if default else "–") for name, default in own]


def honoured_row(provider: Provider) -> tuple[str, ...]:
    """Return a provider's row of the table of the fields of `input`: whether it honours each."""
    variants = [StableStudio(schema) for schema in ("a", "b")] if isinstance(provider, StableStudio) else [provider]
    cells = []
    for field in HONOURED:
        said = [_honoured(one, field) for one in variants]
        alike = len(set(said)) == 1
        cells.append(said[0] if alike else "; ".join(f"schema {s}: {text}" for s, text in zip("ab", said, strict=True)))
    return (f"[{provider.name}]({provider.name}.md)", *cells)


def _honoured(provider: Provider, field: str) -> str:
    """Return whether one variant of a provider's body has a place for a field; of references, which kinds."""
    if field not in provider.honours:
        return "–"
    kinds = ["image", *(kind for kind in ("video", "audio") if f"references.{kind}" in provider.honours)]
    return ", ".join(kinds) if field == "references" else "yes"


def price_known(provider: Provider) -> str:
    """Return where a job's price is known from."""
    if provider.limits.paid:
        return "quote, USDC"
    if price := provider.price(native_from_input(provider, MINIMAL)):
        return f"table, {price.unit}"
    recorded = (msgspec.json.decode(path.read_bytes()) for path in recordings(provider.name, "requests"))
    bodies = chain(_full_bodies(provider), recorded)
    if price := next((found for body in bodies if (found := provider.price(body))), None):
        return f"table, {price.unit}, for some models"
    return "not published" if type(provider).price is Provider.price else "operator's table"


def _full_bodies(provider: Provider) -> Iterator[dict[str, object]]:
    """Yield the body of eight seconds with audio at each model and resolution that go together."""
    for model in provider.limits.models:
        for resolution in provider.limits.resolutions:
            full = Input(prompt="slow push in", model=model, resolution=resolution, duration_s=8, audio=True)
            with suppress(InvalidInput):
                yield native_from_input(provider, full)


def verified_by(provider: Provider) -> str:
    """Return what proves a provider's callbacks."""
    if not callbacks_expected(provider):
        return "status checks only"
    if isinstance(provider, Signing):
        return "published keys, or token and a status check"
    return "token, then a status check"


def callback_place(provider: Provider) -> str:
    """Return where a submission has the callback URL: a field, or `?name` for a parameter of the query."""
    return provider.callback_field or (f"?{provider.callback_query}" if provider.callback_query else "")


def overview_row(provider: Provider) -> tuple[str, ...]:
    """Return a provider's row of the table of docs/providers/README.md."""
    polled = f"none; polled every {provider.limits.poll_s} s"
    return (
        f"[{provider.name}]({provider.name}.md)",
        f"`{callback_place(provider)}`" if callbacks_expected(provider) else polled,
        verified_by(provider),
        lifetime(provider),
        "yes" if can_cancel(provider) else "no",
        price_known(provider),
    )


def field_rows(kind: type) -> Rows:
    """Return the rows of a native body: each field's path, what it holds, and whether it is required."""
    (top,), kinds = msgspec.json.schema_components([kind])
    return _fields(top, kinds, "")


def _fields(schema: dict[str, Any], kinds: dict[str, Any], holder: str) -> Rows:
    """Return the rows of an object's schema."""
    schema = _target(schema, kinds)
    rows: Rows = []
    for name, one in schema.get("properties", {}).items():
        path = f"{holder}{name}"
        rows.append((f"`{path}`", _holds(one, kinds), "yes" if name in schema.get("required", ()) else "no"))
        inner, suffix = (one.get("items", {}), "[].") if one.get("type") == "array" else (one, ".")
        if _target(inner, kinds).get("type") == "object":
            rows += _fields(inner, kinds, f"{path}{suffix}")
    return rows


def _target(schema: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a reference names, else the schema itself."""
    found: dict[str, Any] = kinds[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _holds(schema: dict[str, Any], kinds: dict[str, Any]) -> str:
    """Return in words what a schema allows."""
    schema = _target(schema, kinds)
    if "anyOf" in schema:
        return " or ".join(_holds(one, kinds) for one in schema["anyOf"])
    if "enum" in schema:
        return named(schema["enum"])
    bounds = {
        "string": ("minLength", "maxLength", " characters"),
        "integer": ("minimum", "maximum", ""),
        "array": ("minItems", "maxItems", " items"),
    }
    titles = {"string": "text", "boolean": "true or false"}
    type_ = schema.get("type", "value")
    low, high, unit = bounds.get(type_, ("", "", ""))
    text = f"list of {_holds(schema.get('items', {}), kinds)}" if type_ == "array" else titles.get(type_, type_)
    if high not in schema:
        return text
    return (
        f"{text}, {schema[low]} to {schema[high]}{unit}" if low in schema else f"{text}, at most {schema[high]}{unit}"
    )


def price_rows(provider: Provider) -> Rows:
    """Return the price of a second at each resolution of the models that have one, with a reference video too."""
    rows: Rows = []
    for model in provider.limits.models:
        own = provider.limits.by_model.get(model, ModelLimits())
        cells = [(one, *_per_second(provider, model, one)) for one in own.resolutions or provider.limits.resolutions]
        if any(price != "–" for _, *prices in cells for price in prices):
            rows += [(f"`{model}`", f"`{resolution}`", *prices) for resolution, *prices in cells]
    return rows


def _per_second(provider: Provider, model: str, resolution: str) -> list[str]:
    """Return the cells of a price's row: a quarter of what four seconds cost."""
    bodies: list[dict[str, object]] = [{"model": model, "quality": resolution, "duration": 4}]
    if provider.name == "ark":
        bodies = [{"model": model, "resolution": resolution, "duration": 4, "content": []}]
    if provider.name == "kinovi":
        inputs = {"outputResolution": resolution, "duration": 4}
        video = {"videoUrls": ["https://example.com/a.mp4"]}
        bodies = [{"model": model, "inputs": inputs}, {"model": model, "inputs": inputs | video}]
    prices = [provider.price(body) for body in bodies]
    return ["–" if price is None else f"{float(price.amount) / 4:.4f}".rstrip("0").rstrip(".") for price in prices]


def rate_rows(rates: Mapping[str, tuple[str, ...]]) -> Rows:
    """Return the rows of a table of prices by model."""
    return [(f"`{model}`", *cells) for model, cells in rates.items()]


def own_code_rows(codes: Codes) -> Rows:
    """Return the error codes of one provider beyond those of all, by their class."""
    own = {code: f"`{kind.class_}`" for code, kind in codes.items() if CODES.get(code) != kind}
    return [
        (class_, named([code for code, of in own.items() if of == class_])) for class_ in dict.fromkeys(own.values())
    ]


def status_rows() -> Rows:
    """Return the statuses that relay knows, by the job's state."""
    states = dict.fromkeys(STATUSES.values())
    return [(f"`{state}`", named([text for text, of in STATUSES.items() if of is state])) for state in states]


def code_rows() -> Rows:
    """Return the codes of all providers, by their class."""
    kinds = dict.fromkeys((kind.class_, kind.retryable) for kind in CODES.values())
    return [
        (
            f"`{class_}`",
            "yes" if retryable else "no",
            named([code for code, kind in CODES.items() if (kind.class_, kind.retryable) == (class_, retryable)]),
        )
        for class_, retryable in kinds
    ]
