"""Kling's stand-in: https://kling.ai/document-api, its pages of callbacks, error codes, 3.0, 3.0 Turbo and 2.6.

Guessed: how a repeated `external_task_id` is refused (400, 1201), and what the old contract answers about an unknown id
(404, 1203). The new contract answers an empty list.
"""

from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox import shared_secrets
from relay.sandbox.contract import ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url

_CODES: Final = {
    400: (1201, "Invalid request parameters"),
    401: (1002, "Authorization is invalid"),
    402: (1102, "Resource pack depleted or expired"),
    403: (1103, "Unauthorized access to requested resource"),
    404: (1203, "The requested resource does not exist"),
    429: (1303, "parallel task over resource pack limit"),
    500: (5000, "Server internal error"),
    503: (5001, "Server temporarily unavailable"),
    504: (5002, "Server internal timeout"),
}
_KINDS: Final = ("text2video", "image2video", "multi-image2video", "omni-video")
_ROUTES: Final = ("text-to-video", "image-to-video", "omni-video")
_WORDS: Final = {"pending": "submitted", "running": "processing", "succeeded": "succeeded"}
_FAILED: Final = "Failure to pass the risk control system"


class Kling(StandInBase):
    """Calls back at every change of a job's state; how often it tries again and how long it waits is not published.

    It knows jobs by the client's id too, which is unique in an account, and cancels none.
    """

    def __init__(self) -> None:
        self._own_ids: dict[str, str] = {}
        """Kling's id of each client's id."""

    @property
    def submit_paths(self) -> Sequence[str]:
        """The routes of both contracts."""
        return (*(f"/{route}/{{model}}" for route in _ROUTES), *(f"/v1/videos/{kind}" for kind in _KINDS))

    @property
    def status_paths(self) -> Sequence[str]:
        """The routes of both contracts."""
        return ("/tasks", *(f"/v1/videos/{kind}/{{id}}" for kind in _KINDS))

    def prompt_of(self, body: dict[str, Any]) -> object:
        """Return the prompt of the body or of its contents."""
        contents = body.get("contents")
        texts = (one.get("text") for one in contents if isinstance(one, dict)) if isinstance(contents, list) else ()
        return body.get("prompt") or next((text for text in texts if text), None)

    def callback_url_of(self, request: Request, body: dict[str, Any]) -> str | None:
        """Return the URL at its place in either contract."""
        return _own(body).get("callback_url") or None

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"code","message","request_id"}`."""
        code, message = _CODES.get(status_code, _CODES[500])
        return {"code": code, "message": message, "request_id": "sandbox"}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published limits; a client's id that is known already is refused."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None and _own(body).get("external_task_id") in self._own_ids:
            wrong = "external_task_id: it already exists"
        return None if wrong is None else JSONResponse(self.refusal(400) | {"message": f"invalid {wrong}"}, 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id of eighteen digits."""
        holder = body if "model_name" in body else body.get("settings", {})
        job = ProviderJob(
            id=f"8539201634129{number:05d}",
            number=number,
            body=body,
            model=str(request.path_params.get("model") or body.get("model_name")),
            seconds=int(holder.get("duration", 5)),
            created_s=now_s(),
        )
        if own_id := _own(body).get("external_task_id"):
            self._own_ids[own_id] = job.id
        return job

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the envelope with the new task."""
        task = self._task(job) | ({"task_status": "submitted"} if _is_old(job) else {"status": "submitted"})
        return _envelope({name: task[name] for name in task if name not in ("outputs", "billing", "task_result")})

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the envelope with a list of one task, or in the old contract with the task."""
        task = self._task(job)
        return _envelope(task if _is_old(job) or job.faults.version == "object" else [task])

    def unknown(self, request: Request) -> Response:
        """Return an empty list, or in the old contract a refusal."""
        if "id" in request.path_params:
            return JSONResponse(self.refusal(404), 404)
        return JSONResponse(_envelope([]))

    def announces(self, job: ProviderJob) -> bool:
        """Return True: every change is."""
        return True

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the bare task."""
        return self._task(job)

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Return the headers of Standard Webhooks."""
        return shared_secrets.standard_webhooks(raw, f"{job.id}9", now_s, job.faults.signed)

    def status_holder(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return the task of an envelope or the body, and the key of its contract."""
        data = body.get("data", body)
        task = data[0] if isinstance(data, list) else data
        return task, "task_status" if "task_status" in task else "status"

    def asked_id(self, request: Request) -> str:
        """Return the id in the path or the query; of a client's id Kling's own, if it knows that."""
        asked = request.path_params.get("id") or request.query_params.get("task_ids")
        asked = str(asked or request.query_params.get("external_task_ids", ""))
        return self._own_ids.get(asked, asked)

    def _task(self, job: ProviderJob) -> dict[str, Any]:
        """Return the task in the form of its contract."""
        good = job.state == "succeeded" and job.faults.outcome != "no_output"
        video = {"id": f"{job.id}1", "url": job.result_url, "watermark_url": "", "duration": str(job.seconds)}
        word, why = _WORDS.get(job.state, "failed"), "" if job.state in _WORDS else _FAILED
        own_id, at_ms = _own(job.body).get("external_task_id", ""), job.created_s * 1000
        if _is_old(job):
            return {
                "task_id": job.id,
                "task_status": "succeed" if word == "succeeded" else word,
                "task_status_msg": why,
                "task_info": {"external_task_id": own_id},
                "created_at": at_ms,
                "updated_at": job.updated_s * 1000,
                "final_unit_deduction": f"{0.6 * job.seconds:.1f}" if good else "0",
                "task_result": {"videos": [video] if good else []},
            }
        bill = {"charge_type": "unit", "cash_type": "", "amount": f"{0.6 * job.seconds:.1f}", "package_type": "video"}
        return {
            "id": job.id,
            "status": word,
            "message": why,
            "create_time": at_ms,
            "update_time": job.updated_s * 1000,
            "external_id": own_id,
            "outputs": [{"type": "video"} | video] if good else [],
            "billing": [bill] if good else [],
        }


def _is_old(job: ProviderJob) -> bool:
    """Return whether a job is one of the old contract."""
    return "model_name" in job.body


def _own(body: dict[str, Any]) -> dict[str, Any]:
    """Return the object that has the callback URL and the client's id."""
    found = body if "model_name" in body else body.get("options", {})
    return found if isinstance(found, dict) else {}


def _envelope(data: object) -> dict[str, Any]:
    """Return an answer."""
    return {"code": 0, "message": "SUCCEED", "request_id": "sandbox", "data": data}


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the pages."""
    old, url = "model_name" in body, _own(body).get("callback_url")
    settings, contents = body.get("settings", {}), body.get("contents")
    holder = body if old else settings
    media = (
        [body[name] for name in ("image", "image_tail") if name in body]
        if old
        else [one.get("url") for one in contents or [] if isinstance(one, dict) and "url" in one]
    )
    duration, model = holder.get("duration", "5" if old else 5), body.get("model")
    rules = {
        "model": model is None,  # it is in the path
        "prompt": old or contents is not None or isinstance(body.get("prompt"), str),
        "contents": contents is None or any(one.get("type") == "prompt" and one.get("text") for one in contents),
        "media": all(is_url(one) for one in media),
        "duration": isinstance(duration, str if old else int)
        and not isinstance(duration, bool)
        and str(duration).isdigit()
        and 3 <= int(duration) <= 15,
        "resolution": settings.get("resolution", "720p") in ("720p", "1080p", "4k"),
        "aspect_ratio": holder.get("aspect_ratio", "16:9") in ("16:9", "9:16", "1:1"),
        "audio": settings.get("audio", "off") in ("native", "off", "original"),
        "callback_url": url is None or (is_url(url) and (allow_http or url.startswith("https://"))),
    }
    return next((name for name, good in rules.items() if not good), None)
