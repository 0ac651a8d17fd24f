"""Errors as problem documents (RFC 9457): one table from codes to statuses, and one place that makes the JSON."""

from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay import log
from relay.errors import InvalidInput, RelayError, TooManyRequests
from relay.log import request_ids

STATUSES: Final = {
    "invalid_input": 422,
    "callback_field_reserved": 422,
    "provider_not_configured": 422,
    "bad_body": 400,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "upload_failed": 502,
    "body_too_slow": 408,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "idempotency_conflict": 409,
    "seal_broken": 409,
    "paid_once": 409,
    "spend_cap_reached": 402,
    "payment_refused": 402,
    "too_many_requests": 429,
    "storage_unavailable": 503,
    "stopping": 503,
}
TITLES: Final = {
    "invalid_input": "The request has wrong fields",
    "callback_field_reserved": "The callback field is relay's own",
    "provider_not_configured": "The provider is not configured",
    "bad_body": "The body cannot be read",
    "body_too_large": "The body is too large",
    "unsupported_media_type": "The body is of another kind",
    "upload_failed": "The provider did not take the file",
    "body_too_slow": "The body took too long",
    "unauthorized": "An API key is needed",
    "forbidden": "The API key may not do this",
    "not_found": "There is no such thing",
    "method_not_allowed": "The method is not allowed here",
    "conflict": "That does not fit the present state",
    "idempotency_conflict": "The Idempotency-Key was used for another request",
    "seal_broken": "A stored secret cannot be read",
    "paid_once": "One thing is paid for once",
    "spend_cap_reached": "The job would cost too much",
    "payment_refused": "relay does not pay what the provider asks for",
    "too_many_requests": "Too much at the same time",
    "storage_unavailable": "The database is not available",
    "stopping": "relay is stopping",
}
RETRY_AFTER_S: Final = 2
_logger = log.get("web")


class JSON(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The content as JSON."""
        return msgspec.json.encode(content)


def problem(code: str, detail: str, errors: list[dict[str, str]] | None = None) -> Response:
    """A problem document; a code that is not in the table is relay's own fault, 500."""
    status = STATUSES.get(code, 500)
    body: dict[str, Any] = {
        "type": f"urn:relay:problem:{code}",
        "title": TITLES.get(code, "relay failed"),
        "status": status,
        "detail": detail,
        "code": code,
    }
    headers = {"cache-control": "no-store"}
    if errors is not None:
        body["errors"] = errors
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="relay"'
    return Response(msgspec.json.encode(body), status, headers, media_type="application/problem+json")


def of_error(error: RelayError) -> Response:
    """The problem document of an error."""
    errors = [{"path": e.path, "message": e.message} for e in error.errors] if isinstance(error, InvalidInput) else None
    if error.code not in STATUSES:
        _logger.error("request.broke", exc_info=error)
        return problem("internal", f"relay could not do this; the log says why, at request {request_ids.CURRENT.get()}")
    response = problem(error.code, str(error), errors)
    if isinstance(error, TooManyRequests):
        response.headers["retry-after"] = str(error.retry_after_s)
    return response
