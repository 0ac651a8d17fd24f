"""Ark's stand-in: https://www.volcengine.com/docs/82379 (China), https://docs.byteplus.com/en/docs/ModelArk (world).

Guessed: the pauses between the three tries of a callback, the answer to a DELETE (an empty object), the texts.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url

_CODES: Final = {
    400: ("InvalidParameter", "BadRequest"),
    401: ("AuthenticationError", "Unauthorized"),
    402: ("AccountOverdueError", "Forbidden"),
    403: ("AccountOverdueError", "Forbidden"),
    404: ("InvalidEndpointOrModel.NotFound", "NotFound"),
    409: ("OperationDenied.InvalidState", "Conflict"),
    429: ("ModelAccountRpmRateLimitExceeded", "TooManyRequests"),
    500: ("InternalServiceError", "InternalServerError"),
}
_STATUSES: Final = {"pending": "queued", "running": "running", "succeeded": "succeeded", "failed": "failed"}
_MODEL: Final = re.compile(
    r"(?:dreamina-|doubao-)?seedance-(?P<version>[12]-[05])(?:-pro)?(?P<small>-fast|-mini)?-[0-9]{6}|ep-[a-z0-9-]+"
)
_SECONDS: Final = {"2-5": (4, 30), "2-0": (4, 15), "1-5": (4, 12), "1-0": (2, 12)}
_ROLES: Final = {
    "image_url": ("first_frame", "last_frame", "reference_image"),
    "video_url": ("reference_video",),
    "audio_url": ("reference_audio",),
}
_RATIOS: Final = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "adaptive")


class Ark(StandInBase):
    """Calls back at every change, with the status answer; two more tries; waits 5 s. DELETE erases a finished task."""

    prefix = "/ark"
    submit_path = "/api/v3/contents/generations/tasks"
    status_path = "/api/v3/contents/generations/tasks/{id}"
    cancel_path: str | None = "/api/v3/contents/generations/tasks/{id}"
    cancel_method = "DELETE"
    callback_field = "callback_url"
    pauses_s: Sequence[float] = (1.0, 2.0)
    callback_timeout_s = 5.0

    def prompt_of(self, body: dict[str, Any]) -> object:
        """Return the first text of the content."""
        content = body.get("content")
        texts = [one.get("text") for one in content if isinstance(one, dict)] if isinstance(content, list) else []
        return next((text for text in texts if text), None)

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"error":{"code","message","param","type"}}`, with the request's id in the message."""
        code, kind = _CODES.get(status_code, _CODES[500])
        return _error(code, kind, "")

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published limits."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        if wrong == "model":
            return JSONResponse(_error("InvalidEndpointOrModel.NotFound", "NotFound", wrong), 404)
        return JSONResponse(_error("InvalidParameter", "BadRequest", wrong), 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `cgt-20261127100000-00001`."""
        seconds = body.get("duration", 5)
        return ProviderJob(
            id=f"cgt-20261127100000-{number:05d}",
            number=number,
            body=body,
            model=body["model"],
            seconds=seconds if seconds > 0 else 5,
            created_s=now_s(),
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the id and nothing else."""
        return {"id": job.id}

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the task."""
        task: dict[str, Any] = {
            "id": job.id,
            "model": job.model,
            "status": _STATUSES.get(job.state, "cancelled"),
            "created_at": job.created_s,
            "updated_at": job.updated_s,
            "service_tier": "default",
            "execution_expires_after": 172_800,
        }
        if job.state == "succeeded":
            tokens = 21_780 * job.seconds
            task |= {
                "content": {"video_url": "" if job.faults.outcome == "no_output" else job.result_url},
                "usage": {"completion_tokens": tokens, "total_tokens": tokens},
                "seed": 58_944,
                "resolution": job.body.get("resolution", "720p"),
                "ratio": "16:9",
                "duration": job.seconds,
                "framespersecond": 24,
            }
            if job.body.get("return_last_frame"):
                task["content"]["last_frame_url"] = job.result_url.replace(".mp4", ".png")
        if job.state == "failed":
            reason = "The request failed because the output video may contain sensitive information."
            task["error"] = {
                "code": "OutputVideoSensitiveContentDetected",
                "message": f"{reason} Request id: 0217{job.number:08d}",
            }
        return task

    def announces(self, job: ProviderJob) -> bool:
        """Return whether a callback is sent: at every change."""
        return True

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the status answer."""
        return self.status(job)

    def cancel_effect(self, job: ProviderJob) -> str:
        """Cancel a queued task, refuse a running or a cancelled one, and erase any other."""
        return {"pending": "canceled", "running": "refused", "canceled": "refused"}.get(job.state, "erased")

    def cancel_answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return an empty object."""
        return {}


def _error(code: str, kind: str, param: str) -> dict[str, Any]:
    """Return the published error body."""
    about = f"The parameter `{param}` specified in the request is not valid" if param else f"{code} was met"
    return {"error": {"code": code, "message": f"{about}. Request id: 021700000001", "param": param, "type": kind}}


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the page."""
    found, content = _MODEL.fullmatch(str(body.get("model"))), body.get("content")
    if found is None:
        return "model"
    version = found["version"] or "2-0"
    low, high = _SECONDS[version]
    duration, url = body.get("duration", 5), body.get("callback_url")
    sizes = ("480p", "720p") if found["small"] and version == "2-0" else ("480p", "720p", "1080p", "4k")
    first = any(one.get("role", "first_frame") == "first_frame" for one in _of_type(content, "image_url"))
    rules = {
        "content": isinstance(content, list) and bool(content) and all(_is_good(one) for one in content),
        "resolution": body.get("resolution", "720p") in sizes,
        "ratio": body.get("ratio", "adaptive") in (("adaptive",) if version == "2-5" and first else _RATIOS),
        "duration": isinstance(duration, int)
        and not isinstance(duration, bool)
        and (low <= duration <= high or (duration == -1 and version[0] == "2")),
        "seed": isinstance(body.get("seed", -1), int) and -1 <= body.get("seed", -1) < 2**32,
        "callback_url": url is None or (is_url(url) and (allow_http or url.startswith("https://"))),
    }
    return next((name for name, good in rules.items() if not good), None)


def _of_type(content: object, kind: str) -> list[dict[str, Any]]:
    """Return the items of a type."""
    listed = content if isinstance(content, list) else []
    return [one for one in listed if isinstance(one, dict) and one.get("type") == kind]


def _is_good(item: object) -> bool:
    """Whether an item of the content is a text, or a medium with a URL and a role of its type."""
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    if kind == "text":
        return isinstance(item.get("text"), str)
    if kind == "draft_task":
        return isinstance(item.get("draft_task"), dict)
    held = item.get(str(kind))
    url = held.get("url") if isinstance(held, dict) else None
    good = is_url(url) or (isinstance(url, str) and url.startswith(("asset://", "data:")))
    return kind in _ROLES and good and item.get("role", _ROLES[kind][0]) in _ROLES[kind]
