"""`relay mcp`: read-only tools for an assistant, over standard input and output (the Model Context Protocol).

It is a JSON-RPC server with four methods, by the protocol's revisions of 2024-11-05 to 2025-06-18
(https://modelcontextprotocol.io/specification). No tool changes anything.
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import click
import msgspec

from relay import __version__
from relay.cli.remote.connection import Json, Refused, Remote, chosen

VERSIONS: Final = ("2025-06-18", "2025-03-26", "2024-11-05")
LIMIT_MAX: Final = 50
TEXT_MAX_CHARS: Final = 100_000
LINE_MAX_BYTES: Final = 1_000_000
_METHOD_NOT_FOUND, _INVALID_PARAMS, _PARSE_ERROR = -32601, -32602, -32700


class Tool(msgspec.Struct, frozen=True):
    """A tool: what it is for, its parameters with their meaning, and the GET that it makes."""

    description: str
    parameters: dict[str, str]
    required: tuple[str, ...]
    path: Callable[[Json], str]
    query: tuple[str, ...] = ()


TOOLS: Final = {
    "search": Tool(
        "Find jobs, events, deliveries, callbacks and endpoints by id, a provider's job id, metadata or a URL's part.",
        {"q": "what to search for"},
        ("q",),
        lambda _: "/v1/search",
        ("q",),
    ),
    "list_jobs": Tool(
        "List jobs, newest first.",
        {
            "status": "pending, submitted, running, succeeded, failed, canceled, expired, or open",
            "provider": "a provider's name",
            "created_after": "a time, or -24h",
            "limit": "1 to 50",
        },
        (),
        lambda _: "/v1/jobs",
        ("status", "provider", "created_after", "limit"),
    ),
    "show_job": Tool("Show a job.", {"job": "job_…"}, ("job",), lambda given: f"/v1/jobs/{_id(given, 'job')}"),
    "explain_job": Tool(
        "Say what happened to a job, what relay decided and why, and what comes next.",
        {"job": "job_…"},
        ("job",),
        lambda given: f"/v1/jobs/{_id(given, 'job')}/timeline",
    ),
    "list_deliveries": Tool(
        "List deliveries of notifications, newest first.",
        {"job": "job_…", "endpoint": "ep_…", "status": "pending, delivered, exhausted or canceled", "limit": "1 to 50"},
        (),
        lambda _: "/v1/deliveries",
        ("job", "endpoint", "status", "limit"),
    ),
    "show_delivery": Tool(
        "Show a delivery with its attempts: request, answer and times.",
        {"delivery": "dlv_…"},
        ("delivery",),
        lambda given: f"/v1/deliveries/{_id(given, 'delivery')}",
    ),
    "list_endpoints": Tool("List the standing endpoints and how they are.", {}, (), lambda _: "/v1/endpoints"),
    "list_alerts": Tool("List the conditions that need attention now.", {}, (), lambda _: "/v1/alerts"),
    "list_providers": Tool("List providers, and whether relay's key works there.", {}, (), lambda _: "/v1/providers"),
    "stats": Tool(
        "Numbers of a time: jobs, deliveries, latency, backlog, cost.",
        {"from": "a time, or -24h", "to": "a time", "bucket": "1m, 15m, 1h or 1d"},
        (),
        lambda _: "/v1/stats",
        ("from", "to", "bucket"),
    ),
    "spend": Tool("What was spent today, and what is left of the caps.", {}, (), lambda _: "/v1/spend"),
}


class _Wrong(Exception):
    """A request that the protocol does not allow; the arguments are the code and the message."""


@click.command("mcp")
@click.option("--url", metavar="URL", help="Where relay is; else RELAY_URL, the profile, or 127.0.0.1:8000.")
@click.option("--profile", metavar="NAME", help="A profile that `relay login` stored.")
def command(url: str | None, profile: str | None) -> None:
    """Offer read-only tools about relay to an assistant, over standard input and output (MCP).

    Give it a key with the scope `read`.
    """
    server = Server(Remote(chosen(url, profile)))
    for line in _lines():
        answer = server.answer(line)
        if answer is not None:
            sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
            sys.stdout.flush()


def _lines() -> Iterator[bytes]:
    """Yield the lines of standard input, none longer than the limit."""
    while line := sys.stdin.buffer.readline(LINE_MAX_BYTES):
        if line.strip():
            yield line


class Server:
    """Answers the requests of one client."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def answer(self, line: bytes) -> Json | None:
        """Return the answer to a line; None to a notification."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _error(None, _PARSE_ERROR, "the line is no JSON")
        if not isinstance(request, dict) or "method" not in request or "id" not in request:
            return None
        try:
            result = self._result(str(request["method"]), _named(request, "params"))
        except _Wrong as wrong:
            return _error(request["id"], *wrong.args)
        return {"jsonrpc": "2.0", "id": request["id"], "result": result}

    def _result(self, method: str, params: Json) -> Json:
        """Return the result of a method."""
        match method:
            case "initialize":
                asked = params.get("protocolVersion")
                return {
                    "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "relay", "version": __version__},
                    "instructions": "Read-only: what a relay has stored about video jobs, callbacks and notifications.",
                }
            case "ping":
                return {}
            case "tools/list":
                return {"tools": [_described(name, tool) for name, tool in TOOLS.items()]}
            case "tools/call":
                return self._call(str(params.get("name")), _named(params, "arguments"))
        raise _Wrong(_METHOD_NOT_FOUND, f"there is no method {method}")

    def _call(self, name: str, given: Json) -> Json:
        """Return what a tool found, as text; a refusal of relay is a result too, which the assistant can read."""
        tool = TOOLS.get(name)
        if tool is None:
            raise _Wrong(_INVALID_PARAMS, f"there is no tool {name}")
        if wrong := [*(set(given) - set(tool.parameters)), *(one for one in tool.required if not given.get(one))]:
            raise _Wrong(_INVALID_PARAMS, f"wrong or missing: {', '.join(sorted(wrong))}")
        if not all(map(_sendable, given.values())):
            raise _Wrong(_INVALID_PARAMS, "a parameter must be a text, without lone surrogates, or a number")
        query = {one: given.get(one) for one in tool.query}
        if "limit" in tool.query:
            query["limit"] = _limit(given.get("limit"))
        try:
            found = self._remote.get(tool.path(given), query)
        except Refused as error:
            return {"content": [{"type": "text", "text": str(error)}], "isError": True}
        text = json.dumps(found, ensure_ascii=False)
        return {"content": [{"type": "text", "text": text[:TEXT_MAX_CHARS]}], "isError": False}


def _named(given: Json, name: str) -> Json:
    """Return parameters by their names, none if they are left out; raise for a list, or what is neither."""
    found = given.get(name) or {}
    if not isinstance(found, dict):
        raise _Wrong(_INVALID_PARAMS, f"{name} must be an object")
    return found


def _sendable(value: Any) -> bool:
    """Return whether a value can be in a URL: a list, or a lone surrogate, which JSON may hold, cannot."""
    return isinstance(value, str | int | float | None) and not any("\ud800" <= one <= "\udfff" for one in str(value))


def _limit(given: Any) -> int:
    """Return how many items to list."""
    try:
        return max(1, min(LIMIT_MAX, int(given))) if given else 20
    except (TypeError, ValueError, OverflowError):
        raise _Wrong(_INVALID_PARAMS, "limit must be a number") from None


def _id(given: Json, name: str) -> str:
    """Return an id; raise for a text that would be another path."""
    text = str(given[name])
    if not text.replace("_", "").isalnum() or not text.isascii():
        raise _Wrong(_INVALID_PARAMS, f"{name} is no id")
    return text


def _described(name: str, tool: Tool) -> Json:
    """Return a tool as the protocol describes it."""
    properties = {one: {"type": "string", "description": meaning} for one, meaning in tool.parameters.items()}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(tool.required),
        "additionalProperties": False,
    }
    return {
        "name": name,
        "description": tool.description,
        "inputSchema": schema,
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    }


def _error(id_: Any, code: int, message: str) -> Json:
    """Return an error of the protocol."""
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message}}
