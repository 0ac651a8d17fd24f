"""WaveSpeed's stand-in: https://wavespeed.ai/docs, the pages on predictions, webhooks, errors and deletion."""

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import SECRET, ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url

_STATUSES: Final = {
    "pending": "created",
    "running": "processing",
    "succeeded": "completed",
    "failed": "failed",
    "canceled": "deleted",
}
_MESSAGES: Final = {
    401: "Invalid API key",
    402: "Insufficient credits. Please top up.",
    403: "Forbidden",
    404: "prediction not found",
    409: "prediction cannot be deleted",
    429: "too many requests",
}
_IMAGES: Final = ("image", "last_image", "end_image")
_NOT_IN_THE_BODY: Final = {"model", "webhook", "webhook_url", "enable_sync_mode", "enable_base64_output"}


class WaveSpeed(StandInBase):
    """Signs by `v3`; callbacks come when a task completed or failed, three more tries with growing pauses.

    Guessed: the pauses, the time it waits for an answer, and the error of an empty account. A task that has begun is
    erased by a deletion, and ends all the same. `version=without_input` is the callback of the signed example.
    """

    prefix = "/wavespeed"
    submit_path = "/api/v3/{model:path}"
    cancel_path: str | None = "/api/v3/predictions/{id}"
    cancel_method = "DELETE"
    pauses_s: Sequence[float] = (1.0, 2.0, 4.0)
    callback_timeout_s = 10.0

    @property
    def status_paths(self) -> Sequence[str]:
        """The documented path, and the one of answers and of the client."""
        return ("/api/v3/predictions/{id}/result", "/api/v3/predictions/{id}")

    def callback_url_of(self, request: Request, body: dict[str, Any]) -> str | None:
        """Return the parameter `webhook`."""
        return request.query_params.get("webhook")

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"code","message"}`; an invalid value has a code of its own."""
        code = {400: 1401, 422: 1401, 500: 5000, 503: 5003}.get(status_code, status_code)
        return {"code": code, "message": _MESSAGES.get(status_code, "invalid value")}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the refusal of a body that is no model's input; each model has fields of its own."""
        wrong = _wrong(body) if isinstance(body, dict) else "body"
        return None if wrong is None else JSONResponse({"code": 1401, "message": f"invalid value: {wrong}"}, 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a task with 32 hexadecimal digits for an id; the model is the path."""
        seconds = body.get("duration", 5)
        return ProviderJob(
            id=uuid4().hex,
            number=number,
            body=body,
            model=str(request.path_params["model"]),
            seconds=seconds if isinstance(seconds, int) else 5,
            created_s=now_s(),
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the task in an envelope."""
        return self.status(job)

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the task in an envelope, whose code is 200 for a failed task too."""
        return {"code": 200, "message": "success", "data": _task(job)}

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the bare task, with its input where the version says so."""
        task = _task(job)
        return task if job.faults.version == "without_input" else task | {"input": {"prompt": job.body.get("prompt")}}

    def announces(self, job: ProviderJob) -> bool:
        """Return whether the task completed or failed; nothing is published about a callback of a deleted one."""
        return job.state in ("succeeded", "failed")

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Return the headers of Standard Webhooks with a `v3` signature: good, of another body, or by another key."""
        how = job.faults.signed
        if not how:
            return {}
        key = "no-secret-of-relay" if how == "unknown_key" else SECRET
        content = f"{job.id}.{now_s}.".encode() + (raw + b" " if how == "forged" else raw)
        return {
            "webhook-id": job.id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": f"v3,{hmac.digest(key.encode(), content, 'sha256').hex()}",
        }

    def cancel_effect(self, job: ProviderJob) -> str:
        """Cancel a task that has not begun; erase any other one."""
        return "canceled" if job.state == "pending" else "erased"

    def cancel_answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return `deleted`."""
        return {"code": 200, "message": "success", "data": {"id": job.id, "status": "deleted"}}


def _task(job: ProviderJob) -> dict[str, Any]:
    """Return what every answer and callback has."""
    succeeded = job.state == "succeeded" and job.faults.outcome != "no_output"
    task: dict[str, Any] = {
        "id": job.id,
        "model": job.model,
        "outputs": [job.result_url] if succeeded else [],
        "urls": {"get": f"https://api.wavespeed.ai/api/v3/predictions/{job.id}/result"},
        "has_nsfw_contents": [False] if succeeded else [],
        "status": _STATUSES[job.state],
        "created_at": datetime.fromtimestamp(job.created_s, UTC).isoformat().replace("+00:00", ".123Z"),
        "error": "",
        "timings": {"inference": 61_000 if job.ended else 0},
    }
    if job.state == "failed":
        task |= {"error": "content moderation failed", "code": 1200, "has_nsfw_contents": [True]}
    return task


def _wrong(body: dict[str, Any]) -> str | None:
    """Return the first field that no model accepts, None when all is well."""
    rules: dict[str, bool] = {
        **{name: name not in body for name in sorted(_NOT_IN_THE_BODY)},
        "prompt": isinstance(body.get("prompt", ""), str),
        **{name: is_url(body[name]) for name in _IMAGES if name in body},
    }
    return next((name for name, good in rules.items() if not good), None)
