"""MiniMax's stand-in: https://platform.minimax.io/docs, the video pages of both versions and the page of files.

Guessed: what a V2 submission does whose callback URL did not give the challenge back (it goes on without callbacks),
and the text about an unknown task.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import FurtherRoute, ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url

_TYPES: Final = {
    400: ("bad_request_error", "invalid params (2013)"),
    401: ("authorized_error", "login fail (1004)"),
    402: ("insufficient_balance_error", "insufficient balance (1008)"),
    404: ("bad_request_error", "invalid task_id (2013)"),
    409: ("bad_request_error", "task cannot be cancelled (2013)"),
    422: ("unprocessable_entity_error", "video description contains sensitive content (1026)"),
    429: ("rate_limit_error", "rate limit (1002)"),
    500: ("server_error", "internal error (1000)"),
    529: ("overloaded_error", "overloaded (1033)"),
}
_V2: Final = {"pending": "queued", "canceled": "cancelled"}
_V1: Final = {"pending": "Queueing", "running": "Processing", "succeeded": "Success"}
_V1_CALLBACK: Final = {"running": "processing", "succeeded": "success"}
_OK: Final = {"status_code": 0, "status_msg": "success"}
_SENSITIVE: Final = {"status_code": 1027, "status_msg": "output new_sensitive"}
_H3: Final = ("MiniMax-H3", "MiniMax-H3-Max")
_KINDS: Final = ("text", "image_url", "video_url", "audio_url")


class MiniMax(StandInBase):
    """Posts a challenge during a submission and waits three seconds; calls back at every change and never again.

    A V1 submission whose URL failed the challenge is refused inside HTTP 200; a V2 one goes on without callbacks.
    """

    cancel_path: str | None = "/v2/video_generation/{id}"
    cancel_method = "DELETE"
    callback_field = "callback_url"
    callback_timeout_s = 3.0

    @property
    def submit_paths(self) -> Sequence[str]:
        """The routes of both versions."""
        return ("/v2/video_generation", "/v1/video_generation")

    @property
    def status_paths(self) -> Sequence[str]:
        """The routes of both versions."""
        return ("/v2/query/video_generation/{id}", "/v1/query/video_generation")

    def prompt_of(self, body: dict[str, Any]) -> object:
        """Return the prompt of V1, or the text of V2's content."""
        content = body.get("content")
        texts = (one.get("text") for one in content if isinstance(one, dict)) if isinstance(content, list) else ()
        return body.get("prompt") or next((text for text in texts if text), None)

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"type":"error","error":{"type","message","http_code"}}`."""
        kind, message = _TYPES.get(status_code, _TYPES[500])
        error = {"type": kind, "message": message, "http_code": str(status_code)}
        return {"type": "error", "error": error, "request_id": "sandbox"}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published limits, of V1 inside HTTP 200."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        if isinstance(body, dict) and "content" not in body:
            return _refused(2013, f"invalid params, {wrong}")
        answer = self.refusal(400)
        answer["error"]["message"] = f"invalid params, {wrong} (2013)"
        return JSONResponse(answer, 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id of fifteen digits."""
        return ProviderJob(
            id=f"4240109{number:08d}",
            number=number,
            body=body,
            model=body["model"],
            seconds=body.get("duration", 6),
            created_s=now_s(),
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the id, of V1 with `base_resp`."""
        return {"task_id": job.id} | ({"base_resp": _OK} if _is_old(job) else {})

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the answer to a query of the job's version."""
        if not _is_old(job):
            return {"task": _task(job)}
        good = job.state == "succeeded" and job.faults.outcome != "no_output"
        return {
            "task_id": job.id,
            "status": _V1.get(job.state, "Fail"),
            "file_id": _file_id(job) if good else "",
            "video_width": 1280 if good else 0,
            "video_height": 720 if good else 0,
            "base_resp": _OK if job.state in _V1 else _SENSITIVE,
        }

    def announces(self, job: ProviderJob) -> bool:
        """Return whether the version has a callback for the state: V1 has none for a queued job."""
        return job.state != "pending" or not _is_old(job)

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the query's answer for V2; V1 has words of its own."""
        if not _is_old(job):
            return self.status(job)
        good = job.state == "succeeded" and job.faults.outcome != "no_output"
        return {
            "task_id": job.id,
            "status": _V1_CALLBACK.get(job.state, "failed"),
            "file_id": _file_id(job) if good else "",
            "base_resp": _OK if job.state in _V1 else _SENSITIVE,
        }

    def status_holder(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return the task of V2, or the body."""
        return body.get("task", body), "status"

    def handshake(self, job: ProviderJob) -> dict[str, Any] | None:
        """Return the challenge."""
        return {"challenge": f"challenge-{job.id}"}

    def handshake_failed(self, job: ProviderJob) -> Response | None:
        """Return V1's refusal; a V2 job goes on without callbacks."""
        return _refused(2013, "invalid params, please check the callback url") if _is_old(job) else None

    def asked_id(self, request: Request) -> str:
        """Return the id in the path, or of V1 in the query."""
        return str(request.path_params.get("id") or request.query_params.get("task_id", ""))

    def unknown(self, request: Request) -> Response:
        """Return V2's error, or V1's inside HTTP 200."""
        if "id" in request.path_params:
            return JSONResponse(self.refusal(404), 400)
        return _refused(2013, "invalid task_id")

    def cancel_effect(self, job: ProviderJob) -> str:
        """Cancel a queued job, erase one that has ended, refuse all others."""
        if job.state in ("succeeded", "failed"):
            return "erased"
        return "canceled" if job.state == "pending" else "refused"

    def cancel_answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the task's id."""
        return {"task_id": job.id}

    def further_routes(self) -> Sequence[FurtherRoute]:
        """Return the route of a V1 result's file."""
        return [("GET", "/v1/files/retrieve", self._file)]

    async def _file(self, jobs: Mapping[str, ProviderJob], request: Request) -> Response:
        """Return the URL of a file, inside HTTP 200 as everything of V1."""
        if not self.authorized(request):
            return _refused(1004, "login fail")
        asked = request.query_params.get("file_id")
        job = next((one for one in jobs.values() if _is_old(one) and one.ended and _file_id(one) == asked), None)
        if job is None:
            return _refused(2013, "invalid file_id")
        file = {
            "file_id": asked,
            "bytes": 5_896_337,
            "created_at": job.created_s,
            "filename": "output_aigc.mp4",
            "purpose": "video_generation",
            "download_url": job.result_url,
        }
        return JSONResponse({"file": file, "base_resp": _OK})


def _is_old(job: ProviderJob) -> bool:
    """Return whether a job is one of V1."""
    return "content" not in job.body


def _file_id(job: ProviderJob) -> str:
    """Return the id of a job's file."""
    return f"2052585{job.number:08d}"


def _refused(code: int, text: str) -> Response:
    """Return a refusal of V1."""
    return JSONResponse({"task_id": "", "base_resp": {"status_code": code, "status_msg": text}})


def _task(job: ProviderJob) -> dict[str, Any]:
    """Return the task of a V2 job."""
    task: dict[str, Any] = {
        "id": job.id,
        "model": job.model,
        "status": _V2.get(job.state, job.state),
        "created_at": job.created_s,
        "updated_at": job.updated_s,
        "resolution": job.body["resolution"],
        "duration": job.seconds,
        "ratio": "16:9",
        "task_type": "generation",
        "modality": "video",
    }
    if job.state == "succeeded" and job.faults.outcome != "no_output":
        task["content"] = {"url": job.result_url}
        task["usage"] = {"total_seconds": job.seconds, "input_seconds": 0, "output_seconds": job.seconds}
    if job.state == "failed":
        task["error"] = {"code": "1026", "message": "input new_sensitive"}
    return task


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the pages."""
    url, content, duration = body.get("callback_url"), body.get("content"), body.get("duration", 6)
    whole = isinstance(duration, int) and not isinstance(duration, bool)
    rules = {"callback_url": url is None or (is_url(url) and (allow_http or url.startswith("https://")))}
    if content is None:
        rules |= {
            "model": isinstance(body.get("model"), str) and body["model"] not in _H3,
            "prompt": isinstance(body.get("prompt", ""), str) and len(body.get("prompt", "")) <= 2000,
            "duration": whole and duration in (6, 10),
            "resolution": body.get("resolution", "768P") in ("512P", "720P", "768P", "1080P"),
            "first_frame_image": is_url(body.get("first_frame_image", "https://example.com/a")),
        }
        return next((name for name, good in rules.items() if not good), None)
    listed = content if isinstance(content, list) else []
    media = [one[one["type"]].get("url") for one in listed if one.get("type") in _KINDS[1:]]
    texts = [one.get("text") for one in listed if one.get("type") == "text"]
    rules |= {
        "model": isinstance(body.get("model"), str),
        "content": bool(texts) and all(isinstance(text, str) and text.strip() for text in texts),
        "media": all(is_url(one) or str(one).startswith(("mm_file://", "data:")) for one in media),
        "duration": whole and 4 <= duration <= 15 and "duration" in body,
        "resolution": body.get("resolution") in ("480P", "768P", "2K"),
        "ratio": bool(media) or body.get("ratio") in ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16"),
    }
    return next((name for name, good in rules.items() if not good), None)
