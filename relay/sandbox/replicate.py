"""Replicate's stand-in: https://replicate.com/docs/topics/predictions, /webhooks and the schema pages of the models."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox import shared_secrets
from relay.sandbox.contract import ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url

_EVENTS: Final = ("start", "output", "logs", "completed")
_FIELDS: Final = {"input", "version", "webhook", "webhook_events_filter"}
_IMAGES: Final = ("image", "last_frame_image", "start_image", "end_image", "last_frame")
_PROBLEMS: Final = {
    400: ("Bad request", "The request could not be read."),
    401: ("Unauthenticated", "You did not pass a valid authentication token"),
    402: ("Insufficient credit", "You have insufficient credit to run this model. Purchase credit and try again."),
    403: ("Forbidden", "You do not have permission to perform this action."),
    404: ("Not found", "The requested resource could not be found."),
    409: ("Conflict", "The prediction cannot be canceled."),
    422: ("Input validation failed", "- input: The input does not fit the schema"),
    429: ("", "Request was throttled. Your rate limit resets in ~45s."),
}
_WORDS: Final = {
    "pending": "starting",
    "running": "processing",
    "succeeded": "succeeded",
    "failed": "failed",
    "canceled": "canceled",
}


class Replicate(StandInBase):
    """Calls back for the events of the filter; the last event is tried again until about a minute after the end.

    The pauses between the tries are guessed, as is the answer to the cancellation of a prediction that has ended: it is
    the prediction as it is, with 200.
    """

    submit_paths = ("/v1/models/{owner}/{name}/predictions", "/v1/predictions")
    accepted_status = 201
    status_path = "/v1/predictions/{id}"
    cancel_path: str | None = "/v1/predictions/{id}/cancel"
    callback_field = "webhook"
    pauses_s: Sequence[float] = (2.0, 4.0, 8.0, 16.0, 30.0)
    callback_timeout_s = 5.0

    def refusal(self, status_code: int) -> dict[str, Any]:
        """Return a problem, `{"title","detail","status"}`; a 429 has no title."""
        title, detail = _PROBLEMS.get(status_code, ("Internal server error", "Something went wrong."))
        return ({"title": title} if title else {}) | {"detail": detail, "status": status_code}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the refusal of a body without an object `input`, or with fields that no page has."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        answer = self.refusal(422)
        answer["detail"] = f"- {wrong}: Invalid value\n"
        answer["invalid_fields"] = [{"field": wrong, "description": "Invalid value"}]
        return JSONResponse(answer, 422, media_type="application/problem+json")

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a prediction with an id of 26 letters and digits."""
        path = request.path_params
        seconds = body["input"].get("duration", 5)
        return ProviderJob(
            id=f"gm3qorzdhgbfurvjtvhg6d{number:04d}",
            number=number,
            body=body,
            model=f"{path['owner']}/{path['name']}" if "owner" in path else body.get("version", ""),
            seconds=seconds if isinstance(seconds, int) and seconds > 0 else 5,
            created_s=now_s(),
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the new prediction."""
        return self._prediction(job, "pending")

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the prediction with its output or its error."""
        prediction = self._prediction(job, job.state)
        if job.state == "succeeded" and job.faults.outcome != "no_output":
            prediction["output"] = [job.result_url] if job.faults.version == "list" else job.result_url
            prediction["metrics"] = {"predict_time": 71.2}
        if job.state == "failed":
            prediction["error"] = "The input or output was flagged as sensitive. Please try again. (E005)"
        return prediction

    def announces(self, job: ProviderJob) -> bool:
        """Return whether the filter, by default every event, has the one of the job's state."""
        wanted = job.body.get("webhook_events_filter", _EVENTS)
        return ("completed" if job.ended else "start" if job.state == "running" else "") in wanted

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the prediction."""
        return self.status(job)

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Return the headers of Standard Webhooks."""
        return shared_secrets.standard_webhooks(raw, f"msg_{job.id}", now_s, job.faults.signed)

    def cancel_effect(self, job: ProviderJob) -> str:
        """Cancel a prediction that has not ended, and leave any other as it is."""
        return "kept" if job.ended else "canceled"

    def _prediction(self, job: ProviderJob, state: str) -> dict[str, Any]:
        """Return what every answer and callback has; the callback URL comes back in it."""
        base = "https://api.replicate.com/v1/predictions"
        return {
            "id": job.id,
            "model": job.model,
            "version": job.body.get("version", "hidden"),
            "input": job.body["input"],
            "logs": "",
            "output": None,
            "data_removed": False,
            "error": None,
            "status": _WORDS[state],
            "created_at": "2026-11-27T10:00:00.000Z",
            "urls": {"cancel": f"{base}/{job.id}/cancel", "get": f"{base}/{job.id}"},
            "webhook": job.callback_url,
            "webhook_events_filter": job.body.get("webhook_events_filter", list(_EVENTS)),
        }


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the pages, None if there is none."""
    inputs, url, events = body.get("input"), body.get("webhook"), body.get("webhook_events_filter", [])
    if not isinstance(inputs, dict):
        return "input"
    duration = inputs.get("duration", 5)
    rules = {
        "body": set(body) <= _FIELDS,
        "version": isinstance(body.get("version", ""), str),
        "webhook": url is None or (is_url(url) and (allow_http or url.startswith("https://"))),
        "webhook_events_filter": isinstance(events, list) and all(event in _EVENTS for event in events),
        "input.prompt": isinstance(inputs.get("prompt", ""), str),
        "input.duration": isinstance(duration, int) and not isinstance(duration, bool) and -1 <= duration <= 30,
        **{f"input.{name}": is_url(inputs[name]) for name in _IMAGES if name in inputs},
    }
    return next((name for name, good in rules.items() if not good), None)
