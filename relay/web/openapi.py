"""Make `/openapi.json` (OpenAPI 3.1) from the list of routes and the types of their bodies.

Every field of an answer is `required`, but for the two that are absent if there is nothing to say. A field that is
added later is no breaking change: clients ignore fields that they do not know.
https://spec.openapis.org/oas/v3.1.1.html
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from msgspec import inspect as shapes

from relay import __version__
from relay.jobs.quotes import CHEAPEST
from relay.model.job import EventType
from relay.model.resources.alerts import AlertEventData
from relay.model.resources.envelopes import HealthResource, Json, ProblemResource
from relay.model.resources.events import EndpointEventData, JobEventData, NotificationResource
from relay.model.resources.webhook_keys import WebhookKeysResource
from relay.providers.base import Provider
from relay.web.api.api_request import ApiRoute, CsvResponse, Parameter
from relay.web.api.events import EventStream
from relay.web.api.files import FileForm
from relay.web.api.media import MediaResponse
from relay.web.problems import KINDS

SCOPES: Final = {
    "submit": "submit jobs, cancel, check and resubmit them, quote prices, upload files",
    "read": "read everything of the project",
    "admin": "every scope, and endpoints, redeliveries and quarantined callbacks",
}
_ANY: Final = ("unauthorized", "forbidden", "too_many_requests", "storage_unavailable", "stopping", "internal")
"""The problems of every route that needs a key."""
_BODY: Final = ("bad_body", "invalid_input", "body_too_large", "body_too_slow")
_PATH_PARAMETER: Final = re.compile(r"{(\w+)}")
_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_TAG: Final = re.compile(r"/v1/([a-z]+)")
_HEADERS: Final = (
    Parameter("webhook-id", "The event's id: the same on every attempt."),
    Parameter("webhook-timestamp", "When this attempt was signed, in unix seconds."),
    Parameter("webhook-signature", "`v1,` (HMAC-SHA256) for each secret of the endpoint, and `v1a,` (ed25519)."),
    Parameter("relay-attempt", "The attempt's number, from 1."),
    Parameter("relay-redelivery", "`true` if an operator requested it."),
)
"""Of a notification."""
KEY: Final = Parameter(
    "idempotency-key",
    "The same key with the same body does the work once and gets the same answer, for 24 hours.",
    Annotated[str, Meta(pattern="^[ -~]{1,255}$")],
)
REQUEST_ID: Final = Parameter("request-id", "It is in every line of the log about this request.")


def document(routes: Sequence[ApiRoute], providers: Mapping[str, Provider], server_url: str) -> Json:
    """Return the document; `providers` are those whose native bodies are described, by name."""
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    paths |= _system(schemas)
    schemas.add_native(providers)
    return {
        "openapi": "3.1.1",
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "info": {
            "title": "relay",
            "version": __version__,
            "description": "Submits video jobs to providers, receives their callbacks, and notifies your applications.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server_url}],
        "security": [{"key": []}],
        "tags": [{"name": name} for name in dict.fromkeys(_tag(route.path) for route in routes)],
        "paths": paths,
        "webhooks": {str(kind): _webhook(kind, schemas) for kind in EventType},
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. Scopes: "
                    + "; ".join(f"`{name}`: {what}" for name, what in SCOPES.items()),
                }
            },
        },
    }


def encoded(document: Json) -> str:
    """Return a document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def problem_codes(route: ApiRoute) -> list[str]:
    """Return the codes of the errors that a route may answer."""
    codes = [*_ANY, *route.problems]
    if route.query or route.method == "GET":
        codes.append("invalid_input")
    if "{id}" in route.path:
        codes.append("not_found")
    if route.method != "GET":
        codes += [*_BODY, "conflict", "idempotency_conflict"]
    return list(dict.fromkeys(codes))


class _Schemas:
    """The components: those of answers have every field `required`, those of requests what a client must send."""

    def __init__(self) -> None:
        self.components: dict[str, Json] = {}

    def answer(self, kind: Any) -> Json:
        """Return the schema of an answer's body."""
        optional = {(shape.cls.__name__, name) for shape in _structs(kind) for name in _absent(shape)}
        schema, components = _made(kind)
        for title, component in components.items():
            fields = component.get("properties", {})
            for field in fields.values():
                field.pop("default", None)
            if fields:
                component["required"] = [name for name in fields if (title, name) not in optional]
        return self._added(schema, components, {title: _public(title) for title in components})

    def request(self, kind: Any, prefix: str = "") -> Json:
        """Return the schema of a request's body or parameter; `prefix` keeps the names of its components apart."""
        schema, components = _made(kind)
        for component in components.values():
            for field in component.get("properties", {}).values():
                if field.get("default", ...) in (None, [], {}):  # to some generators a field with a default is required
                    del field["default"]
        return self._added(schema, components, {title: f"{prefix}{_public(title)}" for title in components})

    def fields(self, route: ApiRoute) -> Json:
        """Return the schema of a route's body; with fields that only this route needs it has a name of its own."""
        schema = self.request(route.fields)
        if not route.required:
            return schema
        name = f"New{_public(route.fields.__name__)}"
        fields = self.components[_public(route.fields.__name__)]
        self.components[name] = fields | {"required": [*fields.get("required", ()), *route.required]}
        return {"$ref": _REF.format(name=name)}

    def add_native(self, providers: Mapping[str, Provider]) -> None:
        """Describe `request` of a job by the native bodies of the providers; another model may have other fields."""
        known = [
            self.request(kind, type(provider).__name__)
            for provider in providers.values()
            for kind in provider.request_types
        ]
        fields = self.components["JobFields"]["properties"]
        fields["provider"]["enum"] = [*providers, CHEAPEST]
        request = fields["request"]
        any_model = {"type": "object", "description": "The body of a model that relay does not know."}
        request["anyOf"] = [*known, any_model, {"type": "null"}]

    def _added(self, schema: Json, components: dict[str, Json], names: dict[str, str]) -> Json:
        """Add the components under their public names; return the schema with references to those."""
        for title, component in components.items():
            component.pop("title", None)
            shown = _renamed(component, names)
            if self.components.setdefault(names[title], shown) != shown:
                raise ValueError(f"two schemas are called {names[title]}")
        renamed: Json = _renamed(schema, names)
        return renamed


def _operation(route: ApiRoute, schemas: _Schemas) -> Json:
    """Return what the document says about a route."""
    described = " ".join((route.handler.__doc__ or "").partition(": ")[2].split())
    parameters = [_parameter(one, "query", schemas) for one in route.query]
    parameters += [_parameter(one, "header", schemas) for one in route.headers]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH_PARAMETER.findall(route.path)
    ]
    if route.method != "GET":
        parameters.append(_parameter(KEY, "header", schemas))
    operation: Json = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": f"{described[:1].upper()}{described[1:]}\n\nScope: `{route.scope}`.".lstrip(),
        "tags": [_tag(route.path)],
    }
    if parameters:
        operation["parameters"] = parameters
    if route.fields is not None:
        media_type = "multipart/form-data" if route.fields is FileForm else _JSON
        content = {media_type: {"schema": schemas.fields(route)}}
        if route.example is not None:
            content[media_type]["example"] = route.example
        operation["requestBody"] = {"content": content, "required": needs_body(route)}
    operation["responses"] = {
        **{str(status): _answered(route, status, kind, schemas) for status, kind in sorted(route.answers.items())},
        **_problems(problem_codes(route), schemas),
    }
    return operation


def needs_body(route: ApiRoute) -> bool:
    """Return whether a request without a body is refused: an empty one is `{}`."""
    return bool(route.required) or any(field.required for field in msgspec.structs.fields(route.fields))


def operation_id(route: ApiRoute) -> str:
    """Return a name for generated clients, from the handler's resource and name: `jobs_create`."""
    return f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}"


@lru_cache
def examples() -> dict[str, Any]:
    """Return an answer of each route, as relay gave it in a test, by method, path and status."""
    found: dict[str, Any] = msgspec.json.decode(Path(__file__).with_name("examples.json").read_bytes())
    return found


def _answered(route: ApiRoute, status: int, kind: Any, schemas: _Schemas) -> Json:
    """Return a successful answer of a route, with its example."""
    shown = _answer(kind, schemas)
    example = examples().get(f"{route.method} {route.path} {status}")
    if example is not None:
        shown["content"][_JSON]["example"] = example
    return shown


def _answer(kind: Any, schemas: _Schemas) -> Json:
    """Return a successful answer with this body, None for none."""
    headers = {REQUEST_ID.name: {"description": REQUEST_ID.description, "schema": {"type": "string"}}}
    if kind is None:
        return {"description": "Done.", "headers": headers}
    if kind is EventStream:
        content: Json = {"text/event-stream": {"schema": {"type": "string"}}}
        return {
            "description": "Each message's `id` is the event's, its data the body of the notification.",
            "content": content,
        }
    if kind is MediaResponse:
        return {
            "description": "The copy itself, in parts where a range is asked for.",
            "headers": headers,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    if kind is CsvResponse:
        return {
            "description": "A table; its first line names the columns.",
            "headers": headers,
            "content": {"text/csv": {"schema": {"type": "string"}}},
        }
    return {
        "description": _described(kind),
        "headers": headers,
        "content": {_JSON: {"schema": schemas.answer(kind)}},
    }


def _problems(codes: Iterable[str], schemas: _Schemas) -> Json:
    """Return the answers to errors, by status."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(KINDS[code].status if code in KINDS else 500, []).append(code)
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {KINDS[code].title if code in KINDS else 'A bug'}" for code in each),
            "content": {"application/problem+json": {"schema": schemas.answer(ProblemResource)}},
        }
        for status, each in sorted(by_status.items())
    }


def _parameter(parameter: Parameter, place: str, schemas: _Schemas) -> Json:
    """Return a parameter of the query, or a header."""
    shown: Json = {"name": parameter.name.removesuffix("[]"), "in": place, "description": parameter.description}
    if parameter.name.endswith("[]"):
        shown |= {"style": "deepObject", "explode": True}
    if parameter.required:
        shown["required"] = True
    if parameter.example:
        shown["example"] = parameter.example
    schema = {"enum": [*parameter.values]} if parameter.values else schemas.request(parameter.kind)
    return shown | {"schema": schema}


def _webhook(kind: EventType, schemas: _Schemas) -> Json:
    """Return what an endpoint receives for one type of event."""
    about = JobEventData if kind.startswith("job.") else AlertEventData if kind.of_operators else EndpointEventData
    data, body = schemas.answer(about), schemas.answer(NotificationResource)
    given = {"properties": {"type": {"const": str(kind)}, "data": data}}
    return {
        "post": {
            "operationId": str(kind).replace(".", "_"),
            "summary": f"`{kind}`",
            "tags": ["notifications"],
            "security": [],
            "parameters": [
                {**_parameter(one, "header", schemas), "required": one.name != "relay-redelivery"} for one in _HEADERS
            ],
            "requestBody": {"required": True, "content": {_JSON: {"schema": {"allOf": [body, given]}}}},
            "responses": {
                "2XX": {"description": "Received. Any other answer is tried again by the endpoint's schedule."},
                "410": {"description": "The endpoint is disabled."},
            },
        }
    }


def _system(schemas: _Schemas) -> Json:
    """Return the routes that need no key."""
    ready, keys = schemas.answer(HealthResource), schemas.answer(WebhookKeysResource)
    project = {"name": "project", "in": "query", "schema": {"type": "string"}, "description": "Only this project's."}
    received = {"type": "object", "properties": {"received": {"const": True}}, "required": ["received"]}
    path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in ("provider", "token")
    ]

    def get(name: str, summary: str, content: Json, *parameters: Json, codes: Iterable[str] = ()) -> Json:
        answer = {"description": summary, "content": content}
        shown = {"operationId": name, "summary": summary, "tags": ["system"], "security": []}
        more = {"parameters": [*parameters]} if parameters else {}
        return {"get": shown | more | {"responses": {"200": answer, **_problems(codes, schemas)}}}

    return {
        "/healthz": get("healthz", "The process runs", {_JSON: {"schema": ready}}),
        "/readyz": get(
            "readyz",
            "The database accepts writes, and the process is not stopping",
            {_JSON: {"schema": ready}},
            codes=["storage_unavailable"],
        ),
        "/metrics": get(
            "metrics",
            "Metrics for Prometheus",
            {"text/plain": {"schema": {"type": "string"}}},
            codes=["unauthorized", "too_many_requests"],
        ),
        "/openapi.json": get(
            "openapi", "This document", {_JSON: {"schema": {"type": "object"}}}, codes=["too_many_requests"]
        ),
        "/.well-known/webhook-keys": get(
            "webhook_keys",
            "The public keys of `v1a` signatures",
            {_JSON: {"schema": keys}},
            project,
            codes=["too_many_requests", "storage_unavailable"],
        ),
        "/callbacks/{provider}/{token}": {
            "post": {
                "operationId": "callbacks_receive",
                "summary": "Receive a provider's callback",
                "description": "Only providers call this: each job's submission has its own URL.",
                "tags": ["system"],
                "security": [],
                "parameters": path,
                "requestBody": {"content": {"application/octet-stream": {"schema": {}}}},
                "responses": {
                    status: {"description": meaning, "content": {_JSON: {"schema": received}}}
                    for status, meaning in _CALLBACK_ANSWERS.items()
                },
            }
        },
    }


_CALLBACK_ANSWERS: Final = {
    "200": "Stored.",
    "404": "The token is wrong, cut, expired or for another provider; nothing is stored.",
    "408": "The body took too long; the job is checked.",
    "413": "The body is too large; the job is checked.",
    "503": "Not stored: send it again after `Retry-After`.",
}


def _tag(path: str) -> str:
    """Return the resource of a path."""
    found = _TAG.match(path)
    return found[1] if found else "system"


def _made(kind: Any) -> tuple[Json, dict[str, Json]]:
    """Return the schema of a type and its components, by the names of their classes."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template=_REF)
    for one in components.values():
        if "description" in one:  # a docstring, which Python 3.13 and later dedent themselves
            one["description"] = inspect.cleandoc(one["description"])
        for field in one.get("properties", {}).values():
            if field.get("type") == "array" and "prefixItems" not in field:
                field.setdefault("items", {})  # a generator refuses an array without, whatever it may hold
    return schema, components


def _public(title: str) -> str:
    """Return the name that generated clients give a class: `Job` for JobResource, `JobPage` for a page of them."""
    page = re.fullmatch(r"PageResource_(\w+)Resource_", title)
    return f"{page[1]}Page" if page else title.removesuffix("Resource")


def _described(kind: Any) -> str:
    """Return the first sentence about a body."""
    origin = getattr(kind, "__origin__", kind)
    return str(origin.__doc__).partition("\n")[0]


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """Return a schema whose references have other names.

    `items: false` behind the items of a tuple is left out, since generators fail at it; its number of items says it.
    """
    match schema:
        case dict():
            return {key: _renamed(value, names) for key, value in schema.items() if (key, value) != ("items", False)}
        case list():
            return [_renamed(value, names) for value in schema]
        case str() if schema.startswith("#/components/schemas/"):
            return _REF.format(name=names[schema.rpartition("/")[2]])
    return schema


def _structs(kind: Any) -> Iterator[shapes.StructType]:
    """Yield every Struct within a type."""
    pending: list[shapes.Type] = [shapes.type_info(kind)]
    while pending:
        match pending.pop():
            case shapes.Metadata(type=inner):
                pending.append(inner)
            case shapes.UnionType(types=types):
                pending += types
            case shapes.ListType(item_type=item) | shapes.VarTupleType(item_type=item):
                pending.append(item)
            case shapes.StructType() as struct:
                yield struct
                pending += [field.type for field in struct.fields]


def _absent(struct: shapes.StructType) -> Iterator[str]:
    """Yield the fields that are left out of the JSON if they are UNSET."""
    for field in struct.fields:
        # msgspec shows UNSET as no default.
        if not field.required and field.default is field.default_factory is msgspec.NODEFAULT:
            yield field.encode_name
