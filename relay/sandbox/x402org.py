"""x402.org's stand-in: https://agentutility.ai/synthforge/image-to-video and its sister page on text-to-video.

Guessed: everything about the poll URL but its name, how a failure is told, and which values a body may not have.
"""

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import ProviderJob, Silent, now_s
from relay.sandbox.evolink import is_url
from relay.sandbox.payment import Till

PRICE: Final = 200_000
_MODEL: Final = "seedance-2-0-fast-image-to-video"
_FIELDS: Final = {"image_url", "prompt", "duration", "aspect_ratio", "resolution", "model"}
_ERRORS: Final = {400: "invalid_request", 402: "payment_required", 404: "not_found", 429: "rate_limited"}


class X402Org(Silent):
    """Twenty cents a call, in version 1 of x402 (2: as its own examples do it), also for a body that is then refused.

    The answer is the video itself; with `version=async` it is a job and where to ask about it. No callbacks.
    """

    submit_path = "/v1/image-to-video"
    status_path = "/v1/jobs/{id}"
    answers_at_the_end = True

    def __init__(self, now_s: Callable[[], int] = now_s, *, version: int = 1) -> None:
        self.till = Till(version, now_s, keeps_refused=True)

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"error"}`."""
        return {"error": _ERRORS.get(status_code, "internal_error")}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published fields."""
        wrong = _wrong(body) if isinstance(body, dict) else "body"
        return JSONResponse({"error": f"invalid {wrong}"}, 400) if wrong else None

    def price(self, body: Any, request: Request) -> int | Response:
        """Return the same for every body, good or bad."""
        return PRICE

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `req_00000001`."""
        return ProviderJob(
            id=f"req_{number:08d}",
            number=number,
            body=body,
            model=body.get("model", _MODEL),
            seconds=int(body.get("duration", "5s").removesuffix("s")),
            created_s=self.till.now_s(),
        )

    def sold(self, job: ProviderJob, request: Request) -> ProviderJob:
        """Everything is in the body."""
        return job

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the video, or where to ask for it."""
        if job.ended:
            return _end(job) | {"venice_request_id": job.id}
        return {"job_id": job.id, "poll_url": f"https://x402.org/v1/jobs/{job.id}"}

    def locked(self, request: Request, job: ProviderJob | None) -> Response | None:
        """Return None: x402.org asks for no identity."""
        return None

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the video, or a word in the manner of the upstream's."""
        return {"job_id": job.id} | (_end(job) if job.ended else {"status": "PROCESSING"})


def _end(job: ProviderJob) -> dict[str, Any]:
    """Return the published fields of a result, or an error."""
    if job.state != "succeeded":
        return {"error": "the upstream refused the image", "source": "venice"}
    result = {
        "duration": f"{job.seconds}s",
        "aspect_ratio": job.body.get("aspect_ratio", "16:9"),
        "resolution": job.body.get("resolution", "720p"),
        "model": job.model,
        "prompt": job.body.get("prompt", ""),
        "source": "venice",
    }
    return result if job.faults.outcome == "no_output" else {"video_url": job.result_url} | result


def _wrong(body: dict[str, Any]) -> str | None:
    """Return the first field that is against the page."""
    rules = {
        "body": set(body) <= _FIELDS,
        "image_url": is_url(body.get("image_url")),
        "prompt": isinstance(body.get("prompt", ""), str),
        "duration": body.get("duration", "5s") in ("5s", "10s"),
        "aspect_ratio": body.get("aspect_ratio", "16:9") in ("16:9", "9:16", "1:1", "4:3"),
        "resolution": body.get("resolution", "720p") in ("480p", "720p"),
        "model": isinstance(body.get("model", _MODEL), str),
    }
    return next((name for name, good in rules.items() if not good), None)
