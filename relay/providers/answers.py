"""What providers' answers have in common: status words, error codes, numbers, result URLs.

Everything here is read from somebody else's JSON, so every function takes any value at all and answers with what it
could make of it. The published words do not contradict each other between providers: one table serves them all.
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
    error_for,
    state_of,
    text_or_none,
)

OUTPUTS_MAX: Final = 20
ID_MAX: Final = 200

_SUBMITTED: Final = "pending queued submitted not_start waiting queueing queuing wait in_queue starting"
_RUNNING: Final = "processing running in_progress generating loading"
_SUCCEEDED: Final = "completed complete succeeded succeed success"
_FAILED: Final = "failed failure fail error"
WORDS: Final[Mapping[str, JobState]] = {
    **dict.fromkeys(_SUBMITTED.split(), JobState.SUBMITTED),
    **dict.fromkeys(_RUNNING.split(), JobState.RUNNING),
    **dict.fromkeys(_SUCCEEDED.split(), JobState.SUCCEEDED),
    **dict.fromkeys(_FAILED.split(), JobState.FAILED),
    "cancelled": JobState.CANCELED,
    "canceled": JobState.CANCELED,
    "expired": JobState.EXPIRED,
}

Codes = Mapping[str, tuple[ErrorClass, bool]]
"""A provider's error code in lower case → relay's class, and whether the same job may be tried again."""

CODES: Final[Codes] = {
    "content_policy_violation": (ErrorClass.CONTENT_REJECTED, False),
    "invalid_request": (ErrorClass.INVALID_INPUT, False),
    "invalid_request_error": (ErrorClass.INVALID_INPUT, False),
    "invalid_parameters": (ErrorClass.INVALID_INPUT, False),
    "invalidparameter": (ErrorClass.INVALID_INPUT, False),
    "image_dimension_mismatch": (ErrorClass.INVALID_INPUT, False),
    "image_processing_error": (ErrorClass.INVALID_INPUT, False),
    "resource_not_found": (ErrorClass.INVALID_INPUT, False),
    "unauthorized": (ErrorClass.AUTH, False),
    "authentication_error": (ErrorClass.AUTH, False),
    "model_access_denied": (ErrorClass.AUTH, False),
    "insufficient_quota": (ErrorClass.INSUFFICIENT_FUNDS, False),
    "insufficient_user_quota": (ErrorClass.INSUFFICIENT_FUNDS, False),
    "request_cancelled": (ErrorClass.UNKNOWN, False),
    "model_unavailable": (ErrorClass.PROVIDER_ERROR, False),
    "quota_exceeded": (ErrorClass.RATE_LIMITED, True),
    "resource_exhausted": (ErrorClass.RATE_LIMITED, True),
    "rate_limited": (ErrorClass.RATE_LIMITED, True),
    "rate_limit_exceeded": (ErrorClass.RATE_LIMITED, True),
    "generation_timeout": (ErrorClass.TIMEOUT, True),
    "generation_failed_no_content": (ErrorClass.PROVIDER_ERROR, True),
    "service_error": (ErrorClass.PROVIDER_ERROR, True),
    "service_unavailable": (ErrorClass.PROVIDER_ERROR, True),
    "internal_error": (ErrorClass.PROVIDER_ERROR, True),
    "upstream_error": (ErrorClass.PROVIDER_ERROR, True),
    "unknown_error": (ErrorClass.UNKNOWN, True),
}
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
_UNKNOWN_JOB: Final = ("task_not_exist",)  # New-API says so with a 400
_GENERAL: Final = (400, 404, 409, 422)  # such a status says no more than that something was wrong
_SURELY_REFUSED: Final = frozenset(range(400, 500)) - {408, 425}  # these two may come from a proxy that gave up waiting


def read_submission(
    answer: ProviderResponse,
    read: Callable[[dict[str, Any]], Report],
    explain: Callable[[ProviderResponse, dict[str, Any]], JobError],
) -> SubmissionAnswer:
    """What an answer to a submission means: 2xx with an id is a yes, 4xx a no, and everything else may be either."""
    try:
        decoded = answer.json()
    except Unreadable:
        decoded = None
    body = decoded if isinstance(decoded, dict) else {}
    if 200 <= answer.status_code < 300:
        report = read(body)
        if report.provider_job_id is not None or report.outputs:
            return Accepted(report)
    if answer.status_code in _SURELY_REFUSED:
        return Refused(explain(answer, body))
    code, text = complaint(body)
    error = error_for(answer, ErrorClass.PROVIDER_ERROR, code=code, text=text)
    # Not retryable: whoever sends it again may pay twice.
    return Unclear(msgspec.structs.replace(error, retryable=False, provider_message=answer.excerpt or None))


def status_body(answer: ProviderResponse) -> dict[str, Any]:
    """The object in a status answer; Unreadable when there is no word about the job in it, JobUnknown for a 404."""
    if not 200 <= answer.status_code < 300:
        try:
            code, text = complaint(answer.json())
        except Unreadable:
            code, text = None, None
        reason = ": ".join(part for part in (code, text) if part)
        if answer.status_code in (404, 410) or code in _UNKNOWN_JOB:
            raise JobUnknown(f"HTTP {answer.status_code}" + (f": {reason[:300]}" if reason else ""))
        raise Unreadable(f"HTTP {answer.status_code}" + (f": {reason[:300]}" if reason else ""))
    body = answer.json()
    if not isinstance(body, dict):
        raise Unreadable(f"HTTP {answer.status_code} with a body that is not an object")
    return body


def task_of(body: dict[str, Any]) -> dict[str, Any]:
    """The part of a body that tells of the job: what is in `data` where that is an envelope, else the body itself."""
    inner = body.get("data")
    if isinstance(inner, dict) and (status_word(inner) is not None or status_word(body) is None):
        return inner
    return body


def status_word(task: dict[str, Any]) -> str | None:
    """`state` before `status`, for one body has both; None when there is neither."""
    return text_or_none(task.get("state"), 64) or text_or_none(task.get("status"), 64)


def told(
    task: dict[str, Any],
    outputs: tuple[Output, ...],
    error: JobError | None,
    *,
    provider_job_id: str | None,
    upstream_id: bool = False,
    cost: Cost | None = None,
    estimate_s: int | None = None,
    otherwise: JobState | None = None,
) -> Report:
    """The report of a task: results count only on success, the error only on failure; Unreadable when it says nothing.

    `otherwise` is the state where the body does not tell one: an answer to a submission need not.
    """
    word = status_word(task)
    if word is None and not outputs and otherwise is None:
        raise Unreadable("no status and no result in the body")
    state, shown = state_of(word, WORDS)
    state = state or otherwise or (JobState.SUCCEEDED if word is None else None)
    usable, unusable = parted(outputs) if state is JobState.SUCCEEDED else ((), ())
    return Report(
        state=state,
        word=shown,
        provider_job_id=provider_job_id,
        upstream_id=upstream_id,
        progress=progress(task.get("progress")),
        outputs=usable,
        unusable=unusable,
        error=error if state is JobState.FAILED else None,
        cost=cost,
        estimate_s=estimate_s,
    )


def complaint(body: object) -> tuple[str | None, str | None]:
    """The code and the text of an error body in any published shape."""
    error = at(body, "error")
    if isinstance(error, dict):
        return error_words(error)
    return text_or_none(at(body, "code"), 128), error_words(error)[1] or error_words(body)[1]


def error_words(error: object) -> tuple[str | None, str | None]:
    """The code and the text of an error, which may be an object or the text itself."""
    if not isinstance(error, dict):
        return None, text_or_none(error)
    code = text_or_none(error.get("code"), 128) or text_or_none(error.get("type"), 128)
    text = next((found for name in ("message", "msg", "detail") if (found := text_or_none(error.get(name)))), None)
    return code, with_details(text, error, "param", "fallback_suggestion")


def with_details(text: str | None, body: dict[str, Any], *names: str) -> str | None:
    """A text and those fields of the body that say more: `Insufficient credits (required: 200, available: 10)`."""
    details = [f"{name}: {said}" for name in names if (said := text_or_none(body.get(name), 300))]
    return f"{text} ({', '.join(details)})" if text and details else text


def http_error(answer: ProviderResponse, code: str | None, text: str | None, codes: Codes = CODES) -> JobError:
    """The error of a 4xx: by its status, or by its code or text where they know better."""
    class_ = _HTTP_CLASSES.get(answer.status_code, ErrorClass.INVALID_INPUT)
    known, _ = _classified(code, text, codes) or (class_, False)
    if answer.status_code in _GENERAL or known in (ErrorClass.INSUFFICIENT_FUNDS, ErrorClass.CONTENT_REJECTED):
        class_ = known
    return error_for(answer, class_, code=code, text=text)


def failure(code: str | None, text: str | None, codes: Codes = CODES) -> JobError | None:
    """The error of a job that the provider reports as failed; None when it gave no reason."""
    if not code and not text:
        return None
    class_, retryable = _classified(code, text, codes) or (ErrorClass.UNKNOWN, False)
    said = text or code or ""
    return JobError(
        class_=class_,
        code="failed",
        message=f"the provider reports: {said[:300]}",
        retryable=retryable,
        provider_code=code,
        provider_message=text,
    )


def _classified(code: str | None, text: str | None, codes: Codes) -> tuple[ErrorClass, bool] | None:
    """A refused prompt or image by its words, since many codes only say that the input was wrong; else by its code."""
    if _CONTENT.search(f"{code} {text}"):
        return ErrorClass.CONTENT_REJECTED, False
    return codes.get((code or "").lower())


def identifier(*values: object) -> str | None:
    """The first value that can name a job: text or an integer, whole, and safe as a part of a URL."""
    for value in values:
        text = None if isinstance(value, float) else text_or_none(value, ID_MAX + 1)
        if text and len(text) <= ID_MAX and text.isprintable() and text.strip(".") and text == text.strip():
            return text
    return None


def number(value: object) -> Decimal | None:
    """A number however it is written (`40`, `"40"`, `"40%"`, `40.0`), to six places; None for anything else."""
    if type(value) is int and -_WHOLE_MAX <= value <= _WHOLE_MAX:
        return Decimal(value)
    text = None if value is None else text_or_none(value, 34)
    if text is None or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text.removesuffix("%")).quantize(_SIX_PLACES)


def whole(value: object, low: int, high: int) -> int | None:
    """The integer part of a number, where it is within the bounds."""
    found = number(value)
    return int(found) if found is not None and low <= found <= high else None


def progress(value: object) -> int | None:
    """Percent, from 0 to 100."""
    found = number(value)
    return None if found is None else max(0, min(100, int(found)))


def credit_cost(value: object, kind: str) -> Cost | None:
    """An amount of the provider's credits as decimal text."""
    found = number(value)
    if found is None or found < 0:
        return None
    return Cost(amount=f"{found.normalize():f}", unit="credits", kind=kind)


def output(
    url: object,
    expires_at: str | None,
    kind: OutputKind = OutputKind.VIDEO,
    *,
    width: object = None,
    height: object = None,
    duration_s: object = None,
) -> list[Output]:
    """The output that a text names, as a list: empty for what is no text; `told` parts URLs from what is none."""
    if not isinstance(url, str) or not (url := trimmed(url)):
        return []
    seconds = number(duration_s)
    return [
        Output(
            kind=kind,
            url=url,
            width=whole(width, 1, 100_000),
            height=whole(height, 1, 100_000),
            duration_s=float(seconds) if seconds is not None and 0 < seconds <= 86_400 else None,
            expires_at=expires_at,
        )
    ]


def distinct(outputs: Iterable[Output]) -> tuple[Output, ...]:
    """The outputs in their order, each URL once, twenty at most."""
    return tuple({found.url: found for found in reversed(list(outputs))}.values())[::-1][:OUTPUTS_MAX]


def expiry(from_ms: int | None, lifetime_s: int) -> str | None:
    """RFC 3339 time at which a result of this age is gone; None where the age is not known."""
    return None if from_ms is None else rfc3339(from_ms + lifetime_s * 1000)
