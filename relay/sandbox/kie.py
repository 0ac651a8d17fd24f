"""kie.ai's stand-in: https://docs.kie.ai, its Market pages and the page on verifying webhooks.

Guessed: that a submission is refused with the HTTP status 200 for each code, that an unknown task is `recordInfo is
null`, that a callback is not tried again, and that the signature's key is the text of the console's key.
"""

import base64
import hmac
import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import SECRET, ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url
from relay.sandbox.shared_secrets import signed_body, signing_key

_MESSAGES: Final = {
    400: "Bad request",
    401: "You do not have access permissions",
    402: "Credits insufficient: please top up",
    404: "recordInfo is null",
    422: "recordInfo is null",
    429: "Your call frequency is too high. Please try again later.",
    455: "Service is currently undergoing maintenance",
    500: "Server exception, please try again later",
}
_STATES: Final = {"pending": "waiting", "running": "generating", "succeeded": "success"}
_SEEDANCE: Final = ("bytedance/seedance-2", "bytedance/seedance-2-fast", "bytedance/seedance-2-mini")
_CREDITS_PER_S: Final = 41


class Kie(StandInBase):
    """Versions of the callback: as the newest pages have it, and `minimal` with the required fields alone."""

    prefix = "/kie"
    submit_path = "/api/v1/jobs/createTask"
    callback_field = "callBackUrl"
    status_path = "/api/v1/jobs/recordInfo"
    callback_timeout_s = 15.0

    def refusal(self, status_code: int) -> dict[str, Any]:
        """Return `{"code", "msg", "data": null}`."""
        return {"code": status_code, "msg": _MESSAGES.get(status_code, _MESSAGES[500]), "data": None}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return 200 with the code 422 for a body that is against the pages."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        return None if wrong is None else JSONResponse({"code": 422, "msg": f"{wrong} is invalid", "data": None})

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `task_bytedance_1765180000001`."""
        family = str(body["model"]).partition("/")[0]
        return ProviderJob(
            id=f"task_{family}_{1765180000000 + number}",
            number=number,
            body=body,
            model=body["model"],
            seconds=max(1, int(body["input"].get("duration", 5))),
            created_s=now_s(),
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the id in `data`."""
        return {"code": 200, "msg": "success", "data": {"taskId": job.id}}

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return recordInfo: results are JSON in a string, as is what was sent."""
        good = job.state == "succeeded" and job.faults.outcome != "no_output"
        bad = job.state in ("failed", "canceled")
        sent = {"input": json.dumps(job.body["input"]), "callBackUrl": job.callback_url, "model": job.model}
        task = {
            "taskId": job.id,
            "model": job.model,
            "state": _STATES.get(job.state, "fail"),
            "param": json.dumps(sent),
            "resultJson": json.dumps({"resultUrls": [job.result_url]}) if good else None,
            "failCode": "501" if bad else None,
            "failMsg": "The upstream model could not finish the task." if bad else None,
            "costTime": job.seconds if job.ended else None,
            "completeTime": job.updated_s * 1000 if job.ended else None,
            "createTime": job.created_s * 1000,
            "updateTime": job.updated_s * 1000,
            "creditsConsumed": job.seconds * _CREDITS_PER_S if good else 0,
        }
        return {"code": 200, "msg": "success", "data": task}

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the same task; the code of a failed one is 501."""
        task = self.status(job)["data"]
        if job.faults.version == "minimal":
            task = {name: task[name] for name in ("taskId", "model", "state", "param", "resultJson") if task[name]}
        if job.state == "succeeded":
            return {"code": 200, "msg": "Playground task completed successfully.", "data": task}
        return {"code": 501, "msg": "Playground task failed.", "data": task}

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Sign the id and the time, as the console's key makes kie do; the body is not covered."""
        if not job.faults.signed:
            return {}
        key, signed = signing_key(SECRET.encode(), job.faults.signed), signed_body(job.id.encode(), job.faults.signed)
        mac = hmac.digest(key, signed + f".{now_s}".encode(), "sha256")
        return {"x-webhook-timestamp": str(now_s), "x-webhook-signature": base64.b64encode(mac).decode()}

    def asked_id(self, request: Request) -> str:
        """Return the id in the query."""
        return request.query_params.get("taskId", "")


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the pages; a model that is not Seedance has only its media checked."""
    given, url = body.get("input"), body.get("callBackUrl")
    if not isinstance(body.get("model"), str) or not body["model"]:
        return "model"
    if not isinstance(given, dict):
        return "input"
    if url is not None and not (is_url(url) and (allow_http or url.startswith("https://"))):
        return "callBackUrl"
    duration = given.get("duration", 5)
    if body["model"] in _SEEDANCE:
        frames = any(given.get(name) for name in ("first_frame_url", "last_frame_url"))
        references = any(given.get(f"reference_{kind}_urls") for kind in ("image", "video", "audio"))
        rules = {
            "first_frame_url": not (frames and references),
            "duration": type(duration) is int and 4 <= duration <= 15,
            "resolution": given.get("resolution", "720p") in ("480p", "720p", "1080p", "4k"),
        }
        return next((name for name, good in rules.items() if not good), None)
    if body["model"] == "kling-3.0/video":
        required = ("prompt", "duration", "aspect_ratio", "mode", "sound", "multi_shots", "multi_prompt")
        missing = next((name for name in required if name not in given), None)
        return missing or (None if isinstance(duration, str) and duration.isdigit() else "duration")
    return None if str(duration).lstrip("-").isdigit() else "duration"
