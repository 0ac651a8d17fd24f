"""Kinovi's stand-in: https://kinovi.ai/docs, its older pages, and the kinovi-models repository."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import ProviderJob, StandInBase, now_s
from relay.sandbox.evolink import is_url

_MESSAGES: Final[dict[int, dict[str, Any]]] = {
    400: {"message": "Invalid inputs for model", "errors": [{"path": "inputs"}]},
    401: {"message": "Invalid API Key"},
    402: {"message": "Insufficient credits", "required": 200, "available": 10},
    403: {"message": "API access not enabled"},
    404: {"message": "Task not found"},
    429: {"message": "Concurrency limit reached (3). You have 3 tasks in progress.", "limit": 3, "current": 3},
    500: {"message": "Internal server error"},
}
_WORDS: Final = {"pending": "waiting", "running": "generating", "succeeded": "success"}
_RATES: Final = {"seedance-20": 40, "seedance2-fast": 28, "seedance2-5": 59}
_RATIOS: Final = ("16:9", "9:16", "1:1", "3:4", "4:3", "21:9")


class Kinovi(StandInBase):
    """Versions of the callback: `envelope` (once, `data.status`), `state` (`data.state`), `flat` (three more tries)."""

    submit_path = "/api/v1/jobs/createTask"
    callback_field = "callBackUrl"
    status_path = "/api/v1/jobs/recordInfo"

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"message"}` and, for some, what is needed."""
        return dict(_MESSAGES.get(status_code, _MESSAGES[500]))

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published limits; unknown inputs are ignored, as the repository says."""
        wrong = _wrong(body, allow_http) if isinstance(body, dict) else "body"
        if wrong is None:
            return None
        if wrong == "model":
            return JSONResponse({"message": "Unknown model"}, 400)
        return JSONResponse({"message": "Invalid inputs for model", "errors": [{"path": wrong}]}, 400)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `task_cl000001`."""
        return ProviderJob(
            id=f"task_cl{number:06d}",
            number=number,
            body=body,
            model=body["model"],
            seconds=int(body["inputs"].get("duration", "5")),
            created_s=now_s(),
        )

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Flat: the id and nothing else."""
        return {"taskId": job.id}

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """recordInfo."""
        good = job.state == "succeeded" and job.faults.outcome != "no_output"
        output = {"url": job.result_url, "width": 1280, "height": 720, "mediaType": "video/mp4", "seed": 10792}
        output["lastFrameImage"] = job.result_url.replace(".mp4", "_lastframe.png")
        failed = {"code": "2038", "message": "Your input text violates platform rules. Please modify and try again."}
        return {
            "taskId": job.id,
            "model": job.model,
            "status": _WORDS.get(job.state, "fail"),
            "creditsUsed": _RATES[job.model] * job.seconds,
            "output": [output] if good else None,
            "error": failed if job.state in ("failed", "canceled") else None,
            "createTime": job.created_s * 1000,
            "completeTime": job.updated_s * 1000 if job.ended else None,
        }

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """One of the three published forms."""
        task = self.status(job)
        if job.faults.version == "flat":
            return task | {"error": task["error"] and task["error"]["message"]}
        if job.faults.version == "state":
            task["state"] = task.pop("status")
            task |= {"orderId": f"order_{job.number}", "updateTime": job.updated_s * 1000}
        return {"code": 200, "message": "success", "data": task}

    def asked_id(self, request: Request) -> str:
        """Return the id in the query."""
        return request.query_params.get("taskId", "")


def _wrong(body: dict[str, Any], allow_http: bool) -> str | None:
    """Return the first field that is against the page."""
    inputs, url = body.get("inputs"), body.get("callBackUrl")
    if not isinstance(inputs, dict):
        return "inputs"
    newest = body.get("model") == "seedance2-5"
    images = inputs.get("urls", inputs.get("imageUrls", []))
    prompt = inputs.get("prompt", "" if "urls" in inputs else None)
    duration = inputs.get("duration", "5")
    rules = {
        "model": body.get("model") in _RATES,
        "inputs.urls": isinstance(images, list)
        and len(images) <= (30 if newest else 9)
        and all(is_url(image) for image in images),
        "inputs.prompt": isinstance(prompt, str) and len(prompt) <= (30_000 if newest else 10_000),
        "inputs.duration": str(duration).isdigit()
        and not isinstance(duration, bool)
        and 4 <= int(duration) <= (30 if newest else 15),
        "inputs.aspectRatio": inputs.get("aspectRatio", "16:9") in _RATIOS,
        "inputs.mode": inputs.get("mode", "keyframe") in ("keyframe", "reference"),
        "inputs.upscaleResolution": inputs.get("upscaleResolution", "4k") == "4k",
        "callBackUrl": url is None or (is_url(url) and (allow_http or url.startswith("https://"))),
    }
    return next((name for name, good in rules.items() if not good), None)
