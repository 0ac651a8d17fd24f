"""The page `/docs`: the API as `/openapi.json` describes it, as HTML of relay's own, without any script of others.

Everything on it works without JavaScript but the search, the copying and the address in the examples.
"""

from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from relay.model.resources.envelopes import Json

FILES: Final = Path(__file__).parent
CONTENT_TYPES: Final = {
    "style.css": "text/css; charset=utf-8",
    "script.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_ICON: Final = FILES.parent / "dashboard" / "static" / "icon.svg"
"""The dashboard's icon, which the page also has if the dashboard is off."""
SECURITY_POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
_NAME: Final = "#/components/schemas/"


class Type(msgspec.Struct, frozen=True):
    """A type as text, such as `array of Job`, and the name of the schema that these link to."""

    text: str
    schema: str | None = None


class Field(msgspec.Struct, frozen=True):
    """One row of a table: a field of a body."""

    name: str
    type: Type
    required: bool
    description: str


def page(document: Json) -> str:
    """Return the page of a document."""
    from jinja2 import Environment, FileSystemLoader  # noqa: PLC0415 - a start does not wait for it

    environment = Environment(loader=FileSystemLoader(FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "fields": fields,
        "type_of": type_of,
        "curl": curl,
        "body": body,
        "prose": prose,
    }
    return environment.get_template("page.html").render(document=document, operations=operations(document))


@lru_cache
def file(name: str) -> bytes:
    """Return a file of the page."""
    return (_ICON if name == _ICON.name else FILES / name).read_bytes()


def operations(document: Json) -> dict[str, list[tuple[str, str, Json]]]:
    """Return the method, the path and the description of each operation, by tag."""
    by_tag: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    return by_tag


def body(operation: Json) -> tuple[str, Json] | None:
    """Return the media type and the description of an operation's body, None if it has none."""
    content = operation.get("requestBody", {}).get("content", {})
    return next(iter(content.items()), None)


def fields(schema: Json) -> list[Field]:
    """Return the fields of an object."""
    required = schema.get("required", ())
    return [
        Field(name, type_of(shape), name in required, shape.get("description", ""))
        for name, shape in schema.get("properties", {}).items()
    ]


def type_of(schema: Json) -> Type:
    """Return what a value may be, as text, with the first schema that it refers to."""
    name: str | None = None
    found: list[str] = []
    for one in schema.get("anyOf", schema.get("allOf", [schema])[:1]):
        if "$ref" in one:
            name = name or one["$ref"].removeprefix(_NAME)
            found.append(one["$ref"].removeprefix(_NAME))
        elif one.get("type") == "array":
            item = type_of(one["prefixItems"][0] if "prefixItems" in one else one.get("items", {}))
            name = name or item.schema
            found.append(f"array of {item.text}")
        else:
            found.append(_scalar(one))
    return Type(" or ".join(dict.fromkeys(found)), name)


def _scalar(schema: Json) -> str:
    """Return the text for a type that refers to nothing."""
    if "enum" in schema:
        return " or ".join(f"“{value}”" for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f" {low} to {high}" if low is not None and high is not None else ""
    text = str(schema.get("format", schema.get("type", "any value")))
    return f"{text}{bounds}"


def curl(method: str, path: str, operation: Json) -> str:
    """Return a curl command; the page's script puts the address at which it was opened in place of the server's."""
    lines = [f"curl {'' if method == 'GET' else f'-X {method} '}$RELAY_URL{path}"]
    if operation.get("security") != []:
        lines.append('-H "authorization: Bearer $RELAY_API_KEY"')
    found = body(operation)
    if found:
        media_type, content = found
        if media_type == "multipart/form-data":
            lines += ["-F provider=evolink", "-F file=@picture.png"]
        elif "example" in content:
            lines.append(f"-d '{msgspec.json.encode(content['example']).decode()}'")
    return " \\\n  ".join(lines)


def prose(text: str) -> list[tuple[bool, str]]:
    """Return a text in pieces, each with whether it is code between backticks."""
    return [(index % 2 == 1, piece) for index, piece in enumerate(text.split("`")) if piece]
