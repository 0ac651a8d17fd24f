"""EvoLink's stand-in: https://docs.evolink.ai, the image-to-video page and the asynchronous-task pages."""

import re
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import ProviderJob, StandInBase, now_s

_MODEL: Final = re.compile(
    r"seedance-(?P<family>2\.0|2\.0-fast|2\.0-mini|2\.5)-(?P<kind>text|image|reference)-to-video"
)
_RATIOS: Final = ("16:9", "9:16", "1:1", "4:3", "3:4", "21:9", "adaptive")
_FIELDS: Final = {
    *("model", "prompt", "image_urls", "video_urls", "audio_urls", "duration", "quality", "aspect_ratio"),
    *("generate_audio", "callback_url"),
}
_CODES: Final = {
    400: ("invalid_request", "invalid_request_error"),
    401: ("unauthorized", "authentication_error"),
    402: ("insufficient_quota", "insufficient_quota_error"),
    403: ("model_access_denied", "permission_error"),
    404: ("not_found", "not_found_error"),
    409: ("task_not_cancellable", "invalid_request_error"),
    413: ("request_too_large", "invalid_request_error"),
    429: ("rate_limit_exceeded", "rate_limit_error"),
    500: ("internal_error", "api_error"),
    502: ("upstream_error", "api_error"),
    503: ("service_unavailable", "api_error"),
}
_WORDS: Final = {
    "pending": "pending",
    "running": "processing",
    "succeeded": "completed",
    "failed": "failed",
    "canceled": "cancelled",
}


class EvoLink(StandInBase):
    """Calls back once the job has ended; three more tries after 1, 2 and 4 s; waits 10 s for an answer.

    EvoLink publishes a `can_cancel` and no route for it: `cancel_path`, its answer and the 409 are the sandbox's own.
    """

    submit_path = "/v1/videos/generations"
    callback_field = "callback_url"
    status_path = "/v1/tasks/{id}"
    cancel_path: str | None = "/v1/tasks/{id}/cancel"
    pauses_s: Sequence[float] = (1.0, 2.0, 4.0)

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"error":{"code","message","type"}}`."""
        code, kind = _CODES.get(status_code, ("internal_error", "api_error"))
        return {"error": {"code": code, "message": code.replace("_", " ").capitalize(), "type": kind}}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published limits; a callback URL must be https, at most 2048 characters."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        answer = self.refusal(400)
        answer["error"]["message"] = f"Invalid value for {wrong}"
        return JSONResponse(answer, 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `task-unified-1774857405-0001`."""
        created = now_s()
        return ProviderJob(
            id=f"task-unified-{created}-{number:04d}",
            number=number,
            body=body,
            model=body["model"],
            seconds=body.get("duration", 5),
            created_s=created,
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the task, with what it reserved."""
        return self._task(job, "pending") | {
            "task_info": {"can_cancel": True, "estimated_time": 165, "video_duration": job.seconds},
            "usage": {"billing_rule": "per_second", "credits_reserved": 10 * job.seconds, "user_group": "default"},
        }

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the task with its result."""
        task = self._task(job, _WORDS[job.state])
        if job.state == "succeeded":
            task["results"] = [] if job.faults.outcome == "no_output" else [job.result_url]
        if job.state == "failed" and job.faults.version != "without_error":
            task["error"] = {
                "code": "content_policy_violation",
                "message": "The prompt was refused.",
                "type": "task_error",
            }
        return task

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the status answer, or the short form of it."""
        task = self.status(job)
        return (
            {k: task[k] for k in ("id", "status", "model", "results") if k in task}
            if job.faults.version == "minimal"
            else task
        )

    def _task(self, job: ProviderJob, word: str) -> dict[str, Any]:
        """Return what every answer has."""
        return {
            "id": job.id,
            "object": "video.generation.task",
            "created": job.created_s,
            "model": job.model,
            "status": word,
            "progress": {"pending": 0, "processing": 40, "completed": 100}.get(word, 0),
            "type": "video",
            "task_info": {"can_cancel": word in ("pending", "processing")},
        }


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the page, None when all is well."""
    found = _MODEL.fullmatch(str(body.get("model")))
    if found is None or not set(body) <= _FIELDS:
        return "body" if set(body) - _FIELDS else "model"
    newest, kind = found["family"] == "2.5", found["kind"]
    duration, url = body.get("duration", 5), body.get("callback_url")
    low, high = {"text": (0, 0), "image": (1, 2), "reference": (0, 30 if newest else 9)}[kind]
    media = [body.get(name, []) for name in ("image_urls", "video_urls", "audio_urls")]
    images = media[0]
    rules = {
        "media": kind != "reference" or any(media if newest else media[:2]),
        "prompt": isinstance(body.get("prompt"), str) and body["prompt"] != "",
        "image_urls": isinstance(images, list) and low <= len(images) <= high,
        "urls": all(is_url(one) for listed in media for one in listed),
        "duration": isinstance(duration, int)
        and not isinstance(duration, bool)
        and 4 <= duration <= (30 if newest else 15),
        "quality": body.get("quality", "720p") in ("480p", "720p", "1080p"),
        "aspect_ratio": body.get("aspect_ratio", "16:9") in _RATIOS,
        "generate_audio": isinstance(body.get("generate_audio", True), bool),
        "callback_url": url is None
        or (is_url(url) and len(url) <= 2048 and (allow_http or url.startswith("https://"))),
    }
    return next((name for name, good in rules.items() if not good), None)


def is_url(value: object) -> bool:
    """Whether a value is an http(s) URL."""
    return isinstance(value, str) and value.startswith(("http://", "https://")) and len(value) > 10
