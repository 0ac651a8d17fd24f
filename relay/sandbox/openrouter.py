"""OpenRouter's stand-in: https://openrouter.ai/docs, its guide to video generation and its OpenAPI description."""

import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from relay.sandbox.contract import SECRET, FurtherRoute, ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url
from relay.sandbox.shared_secrets import signed_body, signing_key

_CLIP: Final = Path(__file__).with_name("clip.mp4")
_ORIGIN: Final = "https://openrouter.ai"
_RESULTS: Final = "/results"
_FIELDS: Final = {
    *("model", "prompt", "duration", "resolution", "aspect_ratio", "size", "frame_images", "input_references"),
    *("generate_audio", "seed", "callback_url", "previous_job_id", "provider", "session_id", "trace", "user"),
    *("creativity", "upscale_factor"),
}
_MODELS: Final = (
    *("bytedance/seedance-2.0", "bytedance/seedance-2.0-fast", "bytedance/seedance-2.0-mini", "bytedance/seedance-2.5"),
    *(
        "google/veo-3.1",
        "google/veo-3.1-fast",
        "google/veo-3.1-lite",
        "kwaivgi/kling-v3.0-std",
        "kwaivgi/kling-v3.0-pro",
    ),
    *("alibaba/wan-2.7", "alibaba/wan-3.0", "minimax/hailuo-3", "minimax/hailuo-3-max", "x-ai/grok-imagine-video"),
)
"""Those whose fields are known; another model may have more."""
_RESOLUTIONS: Final = ("360p", "480p", "720p", "768p", "1080p", "1K", "2K", "4K")
_RATIOS: Final = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21")
_MESSAGES: Final = {
    400: "Invalid request",
    401: "No auth credentials found",
    402: "Insufficient credits",
    403: "Key limit exceeded (total limit)",
    404: "Not found",
    409: "Conflict",
    429: "Rate limit exceeded",
}
_WORDS: Final = {
    "pending": "pending",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "canceled": "cancelled",
}
_ERRORS: Final = {"failed": "Content policy violation", "canceled": "Job was cancelled"}
LIFETIME_S: Final = 86_400


class OpenRouter(StandInBase):
    """Calls back once the job has ended. No retries are published: one more try after a second is a guess.

    A status answer has `urls` unless the job's version is `unsigned`; callbacks have `unsigned_urls` only.
    """

    submit_path = "/api/v1/videos"
    accepted_status = 202
    status_path = "/api/v1/videos/{id}"
    callback_field = "callback_url"
    pauses_s: Sequence[float] = (1.0,)

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"error":{"code","message","metadata"},"user_id"}`."""
        message = _MESSAGES.get(status_code, "Internal Server Error")
        return {"error": {"code": status_code, "message": message, "metadata": {}}, "user_id": "user_sandbox"}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the refusal of a body against the published schema; a callback URL must be https."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        answer = self.refusal(400)
        answer["error"]["message"] = f"Invalid value for {wrong}"
        return JSONResponse(answer, 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `gen-vid-1764237540-Sandbox0001`."""
        created = now_s()
        return ProviderJob(
            id=f"gen-vid-{created}-Sandbox{number:04d}",
            number=number,
            body=body,
            model=body["model"],
            seconds=body.get("duration", 5),
            created_s=created,
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the id and a relative polling URL."""
        return {"id": job.id, "polling_url": f"/api/v1/videos/{job.id}", "status": "pending"}

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the job, with signed URLs where a copy is kept."""
        task = self._task(job) | {"polling_url": f"/api/v1/videos/{job.id}"}
        if "unsigned_urls" in task and task["unsigned_urls"] and job.faults.version != "unsigned":
            task |= {"urls": [job.result_url], "expires_at": job.updated_s + LIFETIME_S}
        return task

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the envelope around the job."""
        task = self._task(job) | {"model": job.model}
        kind = f"video.generation.{_WORDS[job.state]}"
        return {"type": kind, "created_at": "2026-11-27T10:00:00.000Z", "data": task}

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Return the key against repetition, and `t=…,v1=…` over the time, a comma and the body."""
        headers = {"x-openrouter-idempotency-key": f"{job.id}-{_WORDS[job.state]}"}
        if how := job.faults.signed:
            content = f"{now_s},".encode() + signed_body(raw, how)
            signature = hmac.digest(signing_key(SECRET.encode(), how), content, "sha256").hex()
            headers["x-openrouter-signature"] = f"t={now_s},v1={signature}"
        return headers

    def further_routes(self) -> Sequence[FurtherRoute]:
        """Return the route of the results, which needs the key."""
        return (("GET", "/api/v1/videos/{id}/content", self._content),)

    async def _content(self, jobs: Mapping[str, ProviderJob], request: Request) -> Response:
        """Return the clip of a job that has succeeded."""
        if not self.authorized(request):
            return JSONResponse(self.refusal(401), 401)
        job = jobs.get(request.path_params["id"])
        if job is None or job.state != "succeeded":
            return JSONResponse(self.refusal(404), 404)
        return FileResponse(_CLIP, media_type="video/mp4")

    def _task(self, job: ProviderJob) -> dict[str, Any]:
        """Return what a status answer and a callback have in common."""
        task: dict[str, Any] = {"id": job.id, "generation_id": f"gen-{job.number}", "status": _WORDS[job.state]}
        if job.state == "succeeded":
            served = job.results_at.endswith(_RESULTS)
            origin = job.results_at.removesuffix(_RESULTS) if served else _ORIGIN
            url = f"{origin}{self.prefix}/api/v1/videos/{job.id}/content?index=0"
            task["unsigned_urls"] = [] if job.faults.outcome == "no_output" else [url]
            task["usage"] = {"cost": 0.336, "is_byok": False}
        if job.state in _ERRORS:
            task["error"] = _ERRORS[job.state]
        return task


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the schema, None if there is none."""
    frames, references = body.get("frame_images", []), body.get("input_references", [])
    duration, url = body.get("duration", 5), body.get("callback_url")
    rules = {
        "body": set(body) <= _FIELDS or body.get("model") not in _MODELS,
        "model": isinstance(body.get("model"), str) and body["model"] != "",
        "prompt": isinstance(body.get("prompt"), str) or bool(frames or references),
        "duration": isinstance(duration, int) and not isinstance(duration, bool) and duration >= 1,
        "resolution": body.get("resolution", "720p") in _RESOLUTIONS,
        "aspect_ratio": body.get("aspect_ratio", "16:9") in _RATIOS,
        "frame_images": isinstance(frames, list) and all(_is_frame(frame) for frame in frames),
        "input_references": isinstance(references, list) and all(isinstance(one, dict) for one in references),
        "generate_audio": isinstance(body.get("generate_audio", True), bool),
        "callback_url": url is None or (is_url(url) and (allow_http or url.startswith("https://"))),
    }
    return next((name for name, good in rules.items() if not good), None)


def _is_frame(frame: object) -> bool:
    """Whether a value is a frame with a URL."""
    if not isinstance(frame, dict) or frame.get("type") != "image_url":
        return False
    image = frame.get("image_url")
    return frame.get("frame_type") in ("first_frame", "last_frame") and isinstance(image, dict) and is_url(image["url"])
