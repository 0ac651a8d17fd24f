"""fal's stand-in: https://fal.ai/docs, the queue, webhook and error pages, and the published JavaScript client."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import API_KEY, FurtherRoute, ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url
from relay.sandbox.keys import PATH, Keys

_STATUSES: Final = {"pending": "IN_QUEUE", "running": "IN_PROGRESS"}
_REFUSED: Final = {
    401: "Cannot access application. Authentication is required to access this application.",
    402: "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing.",
    403: "User is locked. Reason: Admin lock",
    429: "Too many concurrent requests",
}
_TYPES: Final = {400: "bad_request", 404: "not_found", 422: "value_error"}
_REASON: Final = {
    "loc": ["body", "prompt"],
    "msg": "The content could not be processed because it contained material flagged by a content checker.",
    "type": "content_policy_violation",
}
_CANCELED: Final = {"detail": "Request was cancelled by the client", "error_type": "client_cancelled"}
_NOT_IN_THE_BODY: Final = {"model", "fal_webhook", "webhook", "webhook_url"}


class Fal(StandInBase):
    """Signs with the sandbox's key, which it publishes without an id; callbacks come when the job has ended.

    Guessed: the pauses between the tries of a callback (two schedules are published), that a canceled job calls back
    with `client_cancelled`, and the answer to its result. Every model is accepted; its follow-up routes are at the
    first two segments of it, as published. `version=without_error` is a status without the error of a failed job,
    `version=no_payload` a callback whose result has to be fetched.
    """

    prefix = "/fal"
    submit_path = "/{model:path}"
    status_path = "/{app:path}/requests/{id}/status"
    cancel_path: str | None = "/{app:path}/requests/{id}/cancel"
    cancel_method = "PUT"
    pauses_s: Sequence[float] = (5.0, 15.0, 60.0)
    callback_timeout_s = 15.0

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._apps: dict[str, str] = {}

    def authorized(self, request: Request) -> bool:
        """Return whether the header is `Key`, not `Bearer`, and the sandbox's key."""
        return request.headers.get("authorization") == f"Key {API_KEY}"

    def callback_url_of(self, request: Request, body: dict[str, Any]) -> str | None:
        """Return the parameter `fal_webhook`."""
        return request.query_params.get("fal_webhook")

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"detail"}`, a text or a list; an empty account is locked with a 403, here asked for as 402."""
        if status_code == 409:
            return {"status": "ALREADY_COMPLETED"}
        if status_code == 404:
            return {"status": "NOT_FOUND"}
        if status_code in _REFUSED:
            return {"detail": _REFUSED[status_code]}
        if status_code >= 500:
            return {"detail": "Internal server error", "error_type": "internal_server_error"}
        return {"detail": [{"loc": ["body"], "msg": "Invalid request", "type": _TYPES.get(status_code, "value_error")}]}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the refusal of a body that is no model's input; each model has fields of its own."""
        wrong = _wrong(body) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        return JSONResponse({"detail": [{"loc": ["body", wrong], "msg": "Invalid", "type": "value_error"}]}, 422)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with a UUID; the model is the path."""
        model = str(request.path_params["model"])
        seconds = str(body.get("duration", "5")).removesuffix("s")
        job = ProviderJob(
            id=str(uuid4()),
            number=number,
            body=body,
            model=model,
            seconds=int(seconds) if seconds.isdigit() else 5,
            created_s=now_s(),
        )
        segments = model.split("/")
        self._apps[job.id] = "/".join(segments[: 3 if segments[0] in ("workflows", "comfy") else 2])
        return job

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the id and the routes of the job, whose app is known under the job's own id only."""
        app = next((app for own, app in self._apps.items() if job.id.startswith(own)), "")
        route = f"https://queue.fal.run/{app}/requests/{job.id}"
        return {
            "request_id": job.id,
            "gateway_request_id": job.id,
            "status": "IN_QUEUE",
            "queue_position": 0,
            "response_url": route,
            "status_url": f"{route}/status",
            "cancel_url": f"{route}/cancel",
        }

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return one of three statuses; a job that failed is `COMPLETED` with an error."""
        body: dict[str, Any] = {"status": _STATUSES.get(job.state, "COMPLETED"), "request_id": job.id}
        if job.ended:
            body |= {"logs": None, "metrics": {"inference_time": 61.4}}
        if job.state == "failed" and job.faults.version != "without_error":
            body |= {"error": "Invalid status code: 422", "error_type": "invalid_request"}
        if job.state == "canceled":
            body |= {"error": "Invalid status code: 499", "error_type": "client_cancelled"}
        return body

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return `OK` with the output or `ERROR` with the model's answer."""
        body: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id}
        if job.state == "succeeded":
            if job.faults.version == "no_payload":
                return body | {"status": "OK", "payload": None, "payload_error": "Response payload is not JSON."}
            return body | {"status": "OK", "payload": _output(job)}
        if job.state == "failed":
            return body | {"status": "ERROR", "error": "Invalid status code: 422", "payload": {"detail": [_REASON]}}
        return body | {"status": "ERROR", "error": "Invalid status code: 499", "payload": _CANCELED}

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Return the four headers: signed by the published key, over another body, or by another key."""
        how = job.faults.signed
        if not how:
            return {}
        key = Ed25519PrivateKey.generate() if how == "unknown_key" else self._keys.key
        digest = hashlib.sha256(raw + b" " if how == "forged" else raw).hexdigest()
        message = "\n".join((job.id, "sandbox|user-1", str(now_s), digest))
        return {
            "x-fal-webhook-request-id": job.id,
            "x-fal-webhook-user-id": "sandbox|user-1",
            "x-fal-webhook-timestamp": str(now_s),
            "x-fal-webhook-signature": key.sign(message.encode()).hex(),
        }

    def asked_id(self, request: Request) -> str:
        """Return the id in the path, made unknown if the route is not that of the job's app."""
        asked, app = str(request.path_params["id"]), request.path_params["app"]
        return asked if self._apps.get(asked) == app else f"{app}/{asked}"

    def cancel_answer(self, job: ProviderJob) -> dict[str, Any]:
        """`CANCELLATION_REQUESTED`."""
        return {"status": "CANCELLATION_REQUESTED"}

    def further_routes(self) -> Sequence[FurtherRoute]:
        """Return the second step of a result, and the published keys."""
        return (("GET", PATH, self._jwks), ("GET", "/{app:path}/requests/{id}", self._result))

    async def _jwks(self, _: Mapping[str, ProviderJob], __: Request) -> Response:
        """Return the key without an id."""
        return await self._keys.published(named=False)

    async def _result(self, jobs: Mapping[str, ProviderJob], request: Request) -> Response:
        """Return the output of a job that succeeded, the error of its model, or that it goes on."""
        if not self.authorized(request):
            return JSONResponse(self.refusal(401), 401)
        job = jobs.get(self.asked_id(request))
        if job is None:
            return JSONResponse(self.refusal(404), 404)
        fault = "ok" if 0 < job.faults.check_times < job.checks else job.faults.result
        if not job.ended or fault == "not_yet":
            return JSONResponse({"detail": "Request is still in progress"}, 400)
        if fault == "down":
            return JSONResponse(self.refusal(503), 503)
        if fault == "locked":
            return JSONResponse(self.refusal(402), 403)
        if job.state == "failed":
            return JSONResponse({"detail": [_REASON]}, 422)
        return JSONResponse(_output(job)) if job.state == "succeeded" else JSONResponse(_CANCELED, 499)


def _output(job: ProviderJob) -> dict[str, Any]:
    """Return the model's output."""
    if job.faults.outcome == "no_output":
        return {"seed": 42}
    video = {"url": job.result_url, "content_type": "video/mp4", "file_name": f"{job.id}.mp4", "file_size": 4823112}
    return {"video": video, "seed": 42}


def _wrong(body: dict[str, Any]) -> str | None:
    """Return the first field that no model accepts, None when all is well."""
    urls = [name for name in body if name.endswith(("image_url", "frame_url"))]
    rules = {
        **{name: name not in body for name in sorted(_NOT_IN_THE_BODY)},
        "prompt": isinstance(body.get("prompt", ""), str),
        **{name: is_url(body[name]) for name in urls},
    }
    return next((name for name, good in rules.items() if not good), None)
