"""Answer errors as problem documents (RFC 9457): one table from error codes to statuses, one function that writes them.

docs/api.md lists the same codes; a test compares the two.
"""

from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay import log
from relay.errors import InvalidInput, RangeNotSatisfiable, RelayError, TooManyRequests
from relay.log import request_ids


class Kind(msgspec.Struct, frozen=True):
    """The HTTP status and the title of all problems with one code."""

    status: int
    title: str


KINDS: Final = {
    "invalid_input": Kind(422, "The request has wrong fields"),
    "callback_field_reserved": Kind(422, "The callback field is relay's own"),
    "provider_not_configured": Kind(422, "The provider is not configured"),
    "bad_body": Kind(400, "The body cannot be read"),
    "body_too_large": Kind(413, "The body is too large"),
    "unsupported_media_type": Kind(415, "The body has another media type"),
    "upload_failed": Kind(502, "The provider did not accept the file"),
    "body_too_slow": Kind(408, "The body took too long"),
    "unauthorized": Kind(401, "An API key is needed"),
    "forbidden": Kind(403, "The API key may not do this"),
    "not_found": Kind(404, "Not found"),
    "method_not_allowed": Kind(405, "The method is not allowed here"),
    "conflict": Kind(409, "The request does not fit the present state"),
    "idempotency_conflict": Kind(409, "The Idempotency-Key was used for another request"),
    "seal_broken": Kind(409, "A stored secret cannot be read"),
    "paid_once": Kind(409, "This was paid for already"),
    "spend_cap_reached": Kind(402, "The job would cost too much"),
    "payment_refused": Kind(402, "relay does not pay what the provider asks for"),
    "range_not_satisfiable": Kind(416, "There is no such part of the file"),
    "too_many_requests": Kind(429, "Too many requests"),
    "storage_unavailable": Kind(503, "The database is not available"),
    "stopping": Kind(503, "relay is stopping"),
}
_INTERNAL: Final = Kind(500, "relay failed")
RETRY_AFTER_S: Final = 2
_logger = log.get("web")


class JSON(Response):
    """A JSON response."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content as JSON."""
        return msgspec.json.encode(content)


def problem(code: str, detail: str, errors: list[dict[str, str]] | None = None) -> Response:
    """Return a problem document; a code outside of KINDS is a bug of relay and answered 500."""
    kind = KINDS.get(code, _INTERNAL)
    body: dict[str, Any] = {
        "type": f"urn:relay:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
    }
    headers = {"cache-control": "no-store"}
    if errors is not None:
        body["errors"] = errors
    if kind.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if kind.status == 401:
        headers["www-authenticate"] = 'Bearer realm="relay"'
    return Response(msgspec.json.encode(body), kind.status, headers, media_type="application/problem+json")


def internal_problem() -> Response:
    """Return the 500 of a bug: it names the request, whose log line has the details."""
    return problem("internal", f"relay could not do this; the log says why, at request {request_ids.CURRENT.get()}")


def error_problem(error: RelayError) -> Response:
    """Return the problem document of an error; log one whose code is not in KINDS, since it is a bug."""
    if error.code not in KINDS:
        _logger.error("request.error", exc_info=error)
        return internal_problem()
    errors = [{"path": e.path, "message": e.message} for e in error.errors] if isinstance(error, InvalidInput) else None
    response = problem(error.code, str(error), errors)
    if isinstance(error, TooManyRequests):
        response.headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, RangeNotSatisfiable):
        response.headers["content-range"] = f"bytes */{error.size}"
    return response
