"""RelayDance's stand-in: https://relaydance.com/docs, its New-API gateway, and the Ark upstream behind that."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url

_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "insufficient_quota",
    404: "not_found_error",
    429: "rate_limit_error",
}
_DOCUMENTED: Final = {"pending": "submitted", "canceled": "failed"}
_NEW_API: Final = {"pending": "SUBMITTED", "running": "IN_PROGRESS", "succeeded": "SUCCESS"}
_OPENAI: Final = {"pending": "queued", "running": "in_progress", "succeeded": "completed"}
_ARK: Final = {"pending": "queued", "running": "running", "succeeded": "succeeded"}


class RelayDance(StandInBase):
    """Callback versions: `documented` (at the end), `new_api`, `openai`, and `ark` (at every change, Ark's own id)."""

    submit_path = "/v1/video/generations"
    callback_field = "metadata.callback_url"
    status_path = "/v1/video/generations/{id}"
    pauses_s: Sequence[float] = (1.0, 2.0)
    callback_timeout_s = 5.0

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"error":{"message","type"}}`."""
        kind = _KINDS.get(status_code, "server_error")
        return {"error": {"message": kind.replace("_", " ").capitalize(), "type": kind}}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published limits; a callback URL at the top level is ignored, as the page says."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        return JSONResponse({"error": {"message": f"invalid {wrong}", "type": _KINDS[400]}}, 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `task_00000001`."""
        return ProviderJob(
            id=f"task_{number:08d}",
            number=number,
            body=body,
            model=body["model"],
            seconds=int(body.get("seconds", "5")),
            created_s=now_s(),
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the documented answer."""
        return {"task_id": job.id, "status": "submitted"}

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the documented status, or New-API's."""
        if job.faults.version == "new_api":
            return _new_api(job)
        status: dict[str, Any] = {"task_id": job.id, "status": _DOCUMENTED.get(job.state, job.state)}
        if job.state == "succeeded" and job.faults.outcome != "no_output":
            status |= {"url": job.result_url, "format": "mp4", "metadata": dict(job.body.get("metadata", {}))}
        return status

    def announces(self, job: ProviderJob) -> bool:
        """At the end; Ark's form at every change."""
        return job.ended or job.faults.version == "ark"

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the documented form, or the one that `version` names."""
        if job.faults.version == "ark":
            return _ark(job)
        if job.faults.version == "openai":
            return _openai(job)
        status = self.status(job)
        status.get("metadata", {}).pop("callback_url", None)
        return status


def _new_api(job: ProviderJob) -> dict[str, Any]:
    """Return the gateway's envelope; on failure `result_url` holds the reason, which is its way."""
    reason = "" if job.state == "succeeded" else "the upstream refused the prompt"
    data = {
        "task_id": job.id,
        "status": _NEW_API.get(job.state, "FAILURE"),
        "fail_reason": reason,
        "result_url": job.result_url if job.state == "succeeded" else reason,
        "submit_time": job.created_s,
        "start_time": job.created_s,
        "finish_time": job.created_s,
        "progress": "100%",
        "data": {},
    }
    return {"code": "success", "message": "", "data": data}


def _openai(job: ProviderJob) -> dict[str, Any]:
    """Return the OpenAI-video form."""
    if job.state == "succeeded":
        return {"id": job.id, "status": "completed", "metadata": {"url": job.result_url}, "error": None}
    error = {"code": "generation_failed", "message": "the upstream failed"} if job.ended else None
    return {"id": job.id, "status": _OPENAI.get(job.state, "failed"), "metadata": {}, "error": error}


def _ark(job: ProviderJob) -> dict[str, Any]:
    """Return the upstream's form, with the upstream's id."""
    good = job.state == "succeeded"
    bad = job.ended and not good
    return {
        "id": f"cgt-20261121000000-{job.number:05d}",
        "model": job.model,
        "status": _ARK.get(job.state, "failed"),
        "content": {"video_url": job.result_url} if good else {},
        "error": {"code": "OutputVideoSensitive", "message": "refused"} if bad else {"code": "", "message": ""},
        "created_at": job.created_s,
        "updated_at": job.created_s,
    }


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the page."""
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict):
        return "metadata"
    seconds, content, url = body.get("seconds", "5"), metadata.get("content", []), metadata.get("callback_url")
    rules = {
        "model": isinstance(body.get("model"), str) and body["model"] != "",
        "prompt": isinstance(body.get("prompt"), str) and body["prompt"] != "",
        "seconds": isinstance(seconds, str) and seconds.isdigit() and 1 <= int(seconds) <= 15,
        "resolution": metadata.get("resolution", "720p") in ("480p", "720p", "1080p"),
        "content": isinstance(content, list) and len(content) <= 15,
        "callback_url": url is None or (is_url(url) and (allow_http or url.startswith("https://"))),
    }
    return next((name for name, good in rules.items() if not good), None)
