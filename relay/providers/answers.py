"""Reads what providers' responses have in common: statuses, error codes, numbers, result URLs.

The JSON is not trusted: every function accepts any value. Published statuses and codes do not contradict each other
between providers, so one table serves all of them. What only one provider has is read in its adapter.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.clock import rfc3339
from relay.errors import JobUnknown, Unreadable
from relay.model.job import Cost, ErrorClass, JobError, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderResponse
from relay.model.result_urls import parted, trimmed
from relay.providers.base import (
    Accepted,
    Refused,
    SubmissionAnswer,
    Unclear,
    at,
    text_or_none,
)

OUTPUTS_MAX: Final = 20
ID_MAX: Final = 200
RETRYABLE: Final = frozenset({ErrorClass.RATE_LIMITED, ErrorClass.PROVIDER_ERROR, ErrorClass.TIMEOUT})

_SUBMITTED: Final = "preparing pending queued submitted not_start waiting queueing queuing wait in_queue starting"
_RUNNING: Final = "processing running in_progress generating loading"
_SUCCEEDED: Final = "completed complete succeeded succeed success"
_FAILED: Final = "failed failure fail error"
STATUSES: Final[Mapping[str, JobState]] = {
    **dict.fromkeys(_SUBMITTED.split(), JobState.SUBMITTED),
    **dict.fromkeys(_RUNNING.split(), JobState.RUNNING),
    **dict.fromkeys(_SUCCEEDED.split(), JobState.SUCCEEDED),
    **dict.fromkeys(_FAILED.split(), JobState.FAILED),
    "cancelled": JobState.CANCELED,
    "canceled": JobState.CANCELED,
    "expired": JobState.EXPIRED,
    "aborted": JobState.EXPIRED,
}


class ErrorKind(msgspec.Struct, frozen=True):
    """relay's class of an error, and whether the same job may be tried again."""

    class_: ErrorClass
    retryable: bool


Codes = Mapping[str, ErrorKind]
"""A provider's error codes, in lower case."""


def codes(kinds: Mapping[ErrorKind, str]) -> Codes:
    """Return a table of error codes from blank-separated lists of them."""
    return {code: kind for kind, listed in kinds.items() for code in listed.split()}


REJECTED: Final = ErrorKind(ErrorClass.CONTENT_REJECTED, retryable=False)
PROVIDER_FAULT: Final = ErrorKind(ErrorClass.PROVIDER_ERROR, retryable=True)
CODES: Final = codes(
    {
        REJECTED: "content_policy_violation",
        ErrorKind(ErrorClass.INVALID_INPUT, retryable=False): (
            "invalid_request invalid_request_error invalid_parameters invalidparameter image_dimension_mismatch "
            "image_processing_error resource_not_found"
        ),
        ErrorKind(ErrorClass.AUTH, retryable=False): "unauthorized authentication_error model_access_denied",
        ErrorKind(ErrorClass.INSUFFICIENT_FUNDS, retryable=False): "insufficient_quota insufficient_user_quota",
        ErrorKind(ErrorClass.UNKNOWN, retryable=False): "request_cancelled",
        ErrorKind(ErrorClass.PROVIDER_ERROR, retryable=False): "model_unavailable",
        ErrorKind(ErrorClass.RATE_LIMITED, retryable=True): (
            "quota_exceeded resource_exhausted rate_limited rate_limit_exceeded"
        ),
        ErrorKind(ErrorClass.TIMEOUT, retryable=True): "generation_timeout",
        PROVIDER_FAULT: (
            "generation_failed_no_content service_error service_unavailable internal_error upstream_error"
        ),
        ErrorKind(ErrorClass.UNKNOWN, retryable=True): "unknown_error",
    }
)
_CONTENT: Final = re.compile(
    r"(?<!case.)sensitive|moderation|flagged|violat(es|ion)|content.?(policy|filter)|real person|human face",
    re.IGNORECASE,
)
_HTTP_CLASSES: Final = {
    401: ErrorClass.AUTH,
    402: ErrorClass.INSUFFICIENT_FUNDS,
    403: ErrorClass.AUTH,
    429: ErrorClass.RATE_LIMITED,
    451: ErrorClass.CONTENT_REJECTED,
}
_WHOLE_MAX: Final = 10**15 - 1
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,17})?%?")
_SIX_PLACES: Final = Decimal("0.000001")
_UNKNOWN_JOB: Final = ("task_not_exist",)  # New-API answers 400 with this code
_GENERAL: Final = (400, 404, 409, 422)  # these statuses only say that something was wrong; code and text say more
_REFUSALS: Final = frozenset(range(400, 500)) - {408, 425}  # a proxy may answer these two after the job was created


class ErrorText(msgspec.Struct, frozen=True):
    """The code and the text of a provider's error; None for one that the body does not have."""

    code: str | None = None
    text: str | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (self.code, self.text) if part)


_NO_ERROR: Final = ErrorText()


class TaskFields(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter read from a task object, for `report_of`.

    `default_state` is the job's state if the task has no status, as in a submission's response. `upstream_id` says that
    the id may not be the provider's own.
    """

    task: dict[str, Any]
    outputs: tuple[Output, ...]
    error: JobError | None
    provider_job_id: str | None
    upstream_id: bool = False
    cost: Cost | None = None
    estimate_s: int | None = None
    default_state: JobState | None = None


def read_submission(
    response: ProviderResponse,
    read: Callable[[dict[str, Any]], Report],
    explain: Callable[[ProviderResponse, dict[str, Any]], JobError],
    refused: Callable[[dict[str, Any]], bool] | None = None,
) -> SubmissionAnswer:
    """Return the result of a submission: a 2xx with an id is accepted, a 4xx refused, anything else unclear.

    `refused` says whether the body of a 2xx is a refusal, for a provider that writes its errors there.
    """
    try:
        decoded = response.json()
    except Unreadable:
        decoded = None
    body = decoded if isinstance(decoded, dict) else {}
    if 200 <= response.status_code < 300:
        if refused is not None and refused(body):
            return Refused(explain(response, body))
        report = read(body)
        if report.provider_job_id is not None or report.outputs:
            return Accepted(report)
    if response.status_code in _REFUSALS:
        return Refused(explain(response, body))
    error = error_for(response, ErrorClass.PROVIDER_ERROR, complaint(body))
    # Not retryable, because a second submission may be charged again.
    return Unclear(msgspec.structs.replace(error, retryable=False, provider_message=response.excerpt or None))


def status_body(response: ProviderResponse) -> dict[str, Any]:
    """Return the JSON object of a status answer; raise JobUnknown for a 404, Unreadable if it has no job's status."""
    if not 200 <= response.status_code < 300:
        try:
            reason = complaint(response.json())
        except Unreadable:
            reason = ErrorText()
        message = f"HTTP {response.status_code}" + (f": {str(reason)[:300]}" if str(reason) else "")
        if response.status_code in (404, 410) or reason.code in _UNKNOWN_JOB:
            raise JobUnknown(message)
        raise Unreadable(message)
    body = response.json()
    if not isinstance(body, dict):
        raise Unreadable(f"HTTP {response.status_code} with a body that is not an object")
    return body


def task_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the task object of a body: `data` if the body is an envelope, else the body itself."""
    inner = body.get("data")
    if isinstance(inner, dict) and (status_of(inner) is not None or status_of(body) is None):
        return inner
    return body


def status_of(task: dict[str, Any]) -> str | None:
    """Return a task's `state`, or else its `status`, because one published body has both; None without either."""
    state = task.get("state")
    return (state is not None and text_or_none(state, 64)) or text_or_none(task.get("status"), 64)


def report_of(fields: TaskFields) -> Report:
    """Return the report of a task: outputs only on success, the error only on failure.

    Raise Unreadable if the task has neither a status nor a result nor a default state.
    """
    status = status_of(fields.task)
    if status is None and not fields.outputs and fields.default_state is None:
        raise Unreadable("no status and no result in the body")
    state = STATUSES.get(status.strip().lower()) if status else None
    state = state or fields.default_state or (JobState.SUCCEEDED if status is None else None)
    usable, unusable = parted(fields.outputs) if state is JobState.SUCCEEDED else ((), ())
    return Report(
        state=state,
        provider_status=status or "",
        provider_job_id=fields.provider_job_id,
        upstream_id=fields.upstream_id,
        progress=progress(fields.task.get("progress")),
        outputs=usable,
        unusable=unusable,
        error=fields.error if state is JobState.FAILED else None,
        cost=fields.cost,
        estimate_s=fields.estimate_s,
    )


def complaint(body: object) -> ErrorText:
    """Return the code and the text of an error body in any published shape."""
    error = at(body, "error")
    if isinstance(error, dict):
        return error_text(error)
    return ErrorText(text_or_none(at(body, "code"), 128), error_text(error).text or error_text(body).text)


def error_text(error: object) -> ErrorText:
    """Return the code and the text of an error, which may be an object or the text itself."""
    if error is None:
        return _NO_ERROR
    if not isinstance(error, dict):
        return ErrorText(None, text_or_none(error))
    code = text_or_none(error.get("code"), 128) or text_or_none(error.get("type"), 128)
    text = next((found for name in ("message", "msg", "detail") if (found := text_or_none(error.get(name)))), None)
    return ErrorText(code, with_details(text, error, "param", "fallback_suggestion"))


def with_details(text: str | None, body: dict[str, Any], *names: str) -> str | None:
    """Return a text with those fields of the body: `Insufficient credits (required: 200, available: 10)`."""
    details = [f"{name}: {value}" for name in names if (value := text_or_none(body.get(name), 300))]
    return f"{text} ({', '.join(details)})" if text and details else text


def http_error(response: ProviderResponse, reason: ErrorText, known: Codes = CODES) -> JobError:
    """Return the error of a 4xx: its class by the status, or by the code or text if they are more precise."""
    by_status = _HTTP_CLASSES.get(response.status_code, ErrorClass.INVALID_INPUT)
    kind = _classify(reason, known)
    class_ = by_status if kind is None else kind.class_
    precise = response.status_code in _GENERAL or class_ in (
        ErrorClass.INSUFFICIENT_FUNDS,
        ErrorClass.CONTENT_REJECTED,
    )
    return error_for(response, class_ if precise else by_status, reason)


def failure(reason: ErrorText, known: Codes = CODES) -> JobError | None:
    """Return the error of a job that the provider reports as failed; None if it gave no reason."""
    if not reason.code and not reason.text:
        return None
    kind = _classify(reason, known) or ErrorKind(ErrorClass.UNKNOWN, retryable=False)
    return JobError(
        class_=kind.class_,
        code="failed",
        message=f"the provider reports: {(reason.text or reason.code or '')[:300]}",
        retryable=kind.retryable,
        provider_code=reason.code,
        provider_message=reason.text,
    )


def error_for(response: ProviderResponse, class_: ErrorClass, reason: ErrorText) -> JobError:
    """Return the error of a refused or unclear response, with the provider's text or else the start of the body."""
    text = text_or_none(reason.text)
    return JobError(
        class_=class_,
        code=f"http_{response.status_code}",
        retryable=class_ in RETRYABLE,
        message=f"the provider answered HTTP {response.status_code}" + (f": {text[:300]}" if text else ""),
        provider_code=reason.code,
        provider_message=text or response.excerpt or None,
    )


def _classify(reason: ErrorText, known: Codes) -> ErrorKind | None:
    """Return an error's kind: rejected content by its text, for many codes only say "invalid"; else by its code."""
    return REJECTED if _CONTENT.search(f"{reason.code} {reason.text}") else known.get((reason.code or "").lower())


def identifier(*values: object) -> str | None:
    """Return the first value that can be a job's id: text or an integer, at most ID_MAX characters, safe in a URL."""
    for value in values:
        text = None if value is None or isinstance(value, float) else text_or_none(value, ID_MAX + 1)
        if text and len(text) <= ID_MAX and text.isprintable() and text.strip(".") and text == text.strip():
            return text
    return None


def number(value: object) -> Decimal | None:
    """Return a number in any spelling (`40`, `"40"`, `"40%"`, `40.0`) with six decimals; None for anything else."""
    if value is None:
        return None
    if type(value) is int and -_WHOLE_MAX <= value <= _WHOLE_MAX:
        return Decimal(value)
    text = text_or_none(value, 34)
    if text is None or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text.removesuffix("%")).quantize(_SIX_PLACES)


def whole(value: object, low: int, high: int) -> int | None:
    """Return the integer part of a number; None if it is outside `low` to `high`."""
    if value is None:
        return None
    found = number(value)
    return int(found) if found is not None and low <= found <= high else None


def progress(value: object) -> int | None:
    """Return a percentage, clamped to 0 to 100."""
    if type(value) is int:
        return max(0, min(100, value)) if -_WHOLE_MAX <= value <= _WHOLE_MAX else None
    found = number(value)
    return None if found is None else max(0, min(100, int(found)))


def credit_cost(value: object, kind: str) -> Cost | None:
    """Return an amount of the provider's credits as decimal text; None if it is no amount."""
    if value is None:
        return None
    found = number(value)
    if found is None or found < 0:
        return None
    return Cost(amount=f"{found.normalize():f}", unit="credits", kind=kind)


def output(
    url: object,
    expires_at: str | None,
    kind: OutputKind = OutputKind.VIDEO,
    *,
    size: object = None,
    duration_s: object = None,
) -> list[Output]:
    """Return the output of a URL as a list, empty if the value is no text; `report_of` drops texts that are no URL.

    `size` is the object that has its `width` and `height`.
    """
    if not isinstance(url, str) or not (url := trimmed(url)):
        return []
    seconds = duration_s if type(duration_s) is int else number(duration_s)
    return [
        Output(
            kind=kind,
            url=url,
            width=None if size is None else whole(at(size, "width"), 1, 100_000),
            height=None if size is None else whole(at(size, "height"), 1, 100_000),
            duration_s=float(seconds) if seconds is not None and 0 < seconds <= 86_400 else None,
            expires_at=expires_at,
        )
    ]


def distinct(outputs: Iterable[Output]) -> tuple[Output, ...]:
    """Return the outputs in their order, each URL once, at most OUTPUTS_MAX."""
    found = tuple(outputs)
    if len(found) > 1:
        found = tuple({one.url: one for one in reversed(found)}.values())[::-1]
    return found[:OUTPUTS_MAX]


def expiry(from_ms: int | None, lifetime_s: int) -> str | None:
    """Return when a result expires (RFC 3339); None if its time is not known."""
    return None if from_ms is None else rfc3339(from_ms + lifetime_s * 1000)
