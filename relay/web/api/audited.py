"""Write the audit of a request: an entry before its handler runs, ended with its status when it has answered.

Values of a request's fields may be secrets, so an entry has the names of the fields, and the values of those alone that
are listed here.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay import log
from relay.app import App
from relay.errors import BadBody, RelayError, StorageUnavailable
from relay.log import request_ids
from relay.model import text
from relay.storage.audit import Audit, AuditEntry, Via, cut
from relay.web import auth, request_body
from relay.web.client_address import client_address
from relay.web.problems import KINDS

VIA: Final = "relay-via"
"""A client's header with its name; what it says is not proven."""
SHOWN: Final = frozenset(
    {
        *("accept_double_charge", "action", "approve", "as_of", "dry_run", "event_types", "format", "grace_s", "name"),
        *("project", "reason", "scopes", "since", "status", "until", "which"),
    }
)
"""The fields whose values an entry has; of all others it has the names."""
TARGET_MAX_CHARS: Final = 64
_logger = log.get("web")


class _Made(msgspec.Struct, frozen=True):
    """What an answer says about an object that it shows: its id."""

    id: str | None = None


async def run(audit: Audit, began: AuditEntry, work: Callable[[], Awaitable[Response]]) -> Response:
    """Return the response of `work`, with an entry in the audit; nothing is done if that cannot be written.

    A request that a stop of relay cancels leaves an entry without a status, and so does one whose end cannot be stored:
    its work is done, and is answered.
    """
    await audit.record(began)
    try:
        response = await work()
    except Exception as error:
        code = error.code if isinstance(error, RelayError) and error.code in KINDS else "internal"
        status = KINDS[code].status if code in KINDS else 500
        await _end(audit, msgspec.structs.replace(began, status=status, code=code))
        raise
    target = began.target or _target(response)
    await _end(audit, msgspec.structs.replace(began, status=response.status_code, target=target))
    return response


async def _end(audit: Audit, entry: AuditEntry) -> None:
    """Store the end of an entry, unless the database is away."""
    try:
        await audit.end(entry)
    except StorageUnavailable as error:
        _logger.warning("audit.unended", entry=entry.id, verb=entry.verb, status=entry.status, reason=str(error))


def entry(app: App, caller: auth.Caller, http: Request, verb: str) -> AuditEntry:
    """Return the entry of a request that begins; its object is the one that the path names."""
    target = http.path_params.get("id")
    return AuditEntry(
        project_id=caller.project_id,
        at=app.clock.now_ms(),
        via=via(http),
        verb=verb,
        key_id=caller.key_id,
        key_name=caller.name or None,
        address=client_address(app.settings.client_ip)(http.scope),
        request_id=request_ids.CURRENT.get(),
        target=None if target is None else text.kept(log.redact(app.redactor.text(str(target)))[:TARGET_MAX_CHARS]),
    )


def via(http: Request) -> Via:
    """Return by which program a request came, as its header says."""
    given = http.headers.get(VIA)
    return Via(given) if given in (Via.DASHBOARD, Via.CLI) else Via.API


def detail(app: App, raw: bytes, fields: Any) -> str | None:
    """Return a body's fields as a short text, with the values that may be shown; None for no fields.

    `fields` is the type of the body; names that it does not have, which a client may put anything into, are counted.
    """
    try:
        given = request_body.parse(raw) if raw.strip() else None
    except BadBody:
        return None
    if not isinstance(given, dict) or not given:
        return None
    names = {field.encode_name for field in msgspec.structs.fields(fields)} if fields is not None else set()
    known = [(name, value) for name, value in given.items() if name in names]
    parts = [f"{name}={_shown(value)}" if name in SHOWN else name for name, value in known]
    if unknown := len(given) - len(known):
        parts.append(f"{unknown} unknown")
    return cut(text.kept(log.redact(app.redactor.text(", ".join(parts)))))


def _shown(value: Any) -> str:
    """Return a value as text: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _target(response: Response) -> str | None:
    """Return the id of the object that a response shows, None if it shows none."""
    try:
        made = msgspec.json.decode(response.body, type=_Made).id
    except (msgspec.DecodeError, AttributeError):
        return None
    return made and text.kept(made[:TARGET_MAX_CHARS])
