"""Make what the clients have in common with the API: their types, and the client without asyncio.

`python -m clients.generate` writes the files; a test compares them with what the repository has.
"""

import json
import keyword
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.providers import PROVIDERS
from relay.web import openapi
from relay.web.routes import API

ROOT: Final = Path(__file__).parents[1]
SENT: Final = ("JobFields", "Input", "Reference", "Notify")
"""The schemas of requests that the client in TypeScript has types for."""
REF: Final = re.compile(r"#/components/schemas/(\w+)")
WITHOUT_ASYNCIO: Final = (
    ("AsyncRelay", "Relay"),
    ("httpx.AsyncClient", "httpx.Client"),
    ("AsyncIterator", "Iterator"),
    ("AsyncGenerator", "Generator"),
    ("asynccontextmanager", "contextmanager"),
    ("aiter_bytes", "iter_bytes"),
    ("asyncio.sleep", "time.sleep"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("aclose", "close"),
    ("aread", "read"),
    ("import asyncio\n", ""),
    ("async ", ""),
    ("await ", ""),
)


def files() -> dict[Path, str]:
    """Return the content of each file that is made."""
    document = msgspec.json.decode(msgspec.json.encode(openapi.document(API, PROVIDERS, "/")))
    schemas = answered(document)
    sent = {name: document["components"]["schemas"][name] for name in SENT}
    return {
        ROOT / "clients" / "typescript" / "src" / "types.ts": typescript_types(schemas | sent),
        ROOT / "relay" / "client" / "types.py": formatted(python_types(schemas)),
        ROOT / "relay" / "client" / "sync.py": formatted(without_asyncio()),
    }


def answered(document: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas that answers and notifications refer to; a page of a list is the clients' own."""
    pending: list[Any] = [
        *(operation["responses"] for path in document["paths"].values() for operation in path.values()),
        *(hook["post"]["requestBody"] for hook in document["webhooks"].values()),
    ]
    found: set[str] = set()
    while pending:
        names = set(REF.findall(json.dumps(pending.pop()))) - found
        found |= names
        pending += [document["components"]["schemas"][name] for name in names]
    shown = {name: schema for name, schema in document["components"]["schemas"].items() if name in found}
    return {name: schema for name, schema in shown.items() if not name.endswith("Page")}


def python_types(schemas: dict[str, Any]) -> str:
    """Return a module of Structs; a closed list is text, since a newer relay may have more in it."""
    ordered = sorted(schemas, key=lambda name: (depth(name, schemas), name))
    classes = [python_class(name, schemas) for name in ordered if "properties" in schemas[name]]
    return "\n\n".join(
        [
            '"""The answers of relay\'s API. Made by `clients/generate.py` from `/openapi.json`: do not edit."""\n',
            "from typing import Any\n\nimport msgspec\n",
            *classes,
        ]
    )


def depth(name: str, schemas: dict[str, Any]) -> int:
    """Return how many layers of other schemas one refers to."""
    inner = set(REF.findall(json.dumps(schemas[name].get("properties", {})))) - {name}
    return 1 + max((depth(one, schemas) for one in inner), default=0)


def python_class(name: str, schemas: dict[str, Any]) -> str:
    """Return the Struct of a schema."""
    schema = schemas[name]
    lines = [f"class {name}(msgspec.Struct, frozen=True, kw_only=True):", f'    """{schema["description"]}"""', ""]
    for field, shape in schema["properties"].items():
        safe = f"{field}_" if keyword.iskeyword(field) or field == "self" else field
        kind = python_type(shape, schemas)
        given = [] if field in schema["required"] else ["default=None"]
        if safe != field:
            given.insert(0, f'name="{field}"')
        optional = f"{kind} | None" if given and "default=None" in given and "None" not in kind else kind
        default = f" = msgspec.field({', '.join(given)})" if safe != field else " = None" if given else ""
        lines.append(f"    {safe}: {optional}{default}")
        if "description" in shape:
            lines.append(f'    """{shape["description"]}"""')
    return "\n".join(lines)


def python_type(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Return the annotation of a value."""
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(python_type(one, schemas) for one in schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return name if "properties" in schemas[name] else "str"
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return f"tuple[{', '.join(python_type(one, schemas) for one in schema['prefixItems'])}]"
        case "array":
            return f"list[{python_type(schema.get('items', {}), schemas)}]"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"dict[str, {python_type(schema['additionalProperties'], schemas)}]"
        case "object":
            return "dict[str, Any]"
        case "null":
            return "None"
        case "integer" | "number" | "boolean" | "string" as kind:
            return {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}[kind]
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return "Any" if not values else {str: "str", bool: "bool", int: "int"}[type(values[0])]


def typescript_types(schemas: dict[str, Any]) -> str:
    """Return a module of interfaces; a closed list may have more in it at a newer relay."""
    head = "// The bodies of relay's API. Made by clients/generate.py from /openapi.json: do not edit."
    return "\n\n".join([head, *(typescript_declaration(name, schemas) for name in sorted(schemas))]) + "\n"


def typescript_declaration(name: str, schemas: dict[str, Any]) -> str:
    """Return the interface of an object, or the type of another schema."""
    schema = schemas[name]
    described = f"/** {schema.get('description', '')} */\n"
    if "properties" not in schema:
        return f"{described}export type {name} = {typescript_type(schema, schemas)};"
    generic = "<Data = unknown>" if name == "Notification" else ""
    lines = [f"export interface {name}{generic} {{"]
    for field, shape in schema["properties"].items():
        if "description" in shape:
            lines.append(f"  /** {shape['description']} */")
        optional = "" if field in schema.get("required", ()) else "?"
        kind = "Data" if generic and field == "data" else typescript_type(shape, schemas)
        lines.append(f"  {field}{optional}: {kind};")
    return described + "\n".join([*lines, "}"])


def typescript_type(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Return the type of a value; one that is described elsewhere, and has no type here, is any object."""
    if "anyOf" in schema:
        kinds = dict.fromkeys(typescript_type(one, schemas) for one in schema["anyOf"])
        return " | ".join(kinds)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return name if name in schemas else "Record<string, unknown>"
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        listed = " | ".join(json.dumps(value) for value in values)
        return listed if len(values) == 1 or not isinstance(values[0], str) else f"{listed} | (string & {{}})"
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return f"[{', '.join(typescript_type(one, schemas) for one in schema['prefixItems'])}]"
        case "array":
            inner = typescript_type(schema.get("items", {}), schemas)
            return f"({inner})[]" if "|" in inner else f"{inner}[]"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"Record<string, {typescript_type(schema['additionalProperties'], schemas)}>"
        case "object":
            return "Record<string, unknown>"
        case "integer" | "number":
            return "number"
        case "null" | "boolean" | "string" as kind:
            return str(kind)
    return "unknown"


def without_asyncio() -> str:
    """Return the client without asyncio, made from the one with it."""
    source = (ROOT / "relay" / "client" / "aio.py").read_text()
    for found, instead in WITHOUT_ASYNCIO:
        source = source.replace(found, instead)
    head = '"""The client without asyncio. Made by `clients/generate.py` from `aio.py`: do not edit."""'
    return head + source[source.index('"""\n') + 3 :]


def formatted(source: str) -> str:
    """Return Python as ruff formats it, its imports in order."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(ROOT / "relay/client/made.py"), "-"]
        done = subprocess.run(ruff, input=source, capture_output=True, text=True, check=True)  # noqa: S603 - ruff
        source = done.stdout
    return source


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
