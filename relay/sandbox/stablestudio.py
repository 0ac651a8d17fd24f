"""StableStudio's stand-in: https://stablestudio.dev and its agents' pages; both published bodies of a request.

Guessed: the prices between the published ends, the words of its refusals, and that a stranger's sign-in is a 403.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.contract import ProviderJob, Silent, now_s
from relay.sandbox.evolink import is_url
from relay.sandbox.payment import Till
from relay.sandbox.signing_in import SignIns

_SECONDS: Final = tuple(str(seconds) for seconds in range(4, 13))
_RESOLUTIONS: Final = ("480p", "720p", "1080p")
_RATIOS: Final = ("16:9", "9:16", "4:3", "3:4", "1:1", "21:9")
_OLDER: Final = {
    *("image", "prompt", "duration", "resolution", "aspect_ratio"),
    *("camera_fixed", "generate_audio", "seed", "last_image"),
}
_NEWER: Final = {"prompt", "duration", "aspectRatio", "outputResolution", "mode", "urls", "urlMediaTypes"}
_PRICES: Final = {"seedance": (330_000, 41_250, 165_000), "seedance-fast": (40_000, 5_000, 20_000)}
"""Millionths of a USDC for 4 s of 480p, for each further second, and for each further resolution."""
_ERRORS: Final = {
    400: "Invalid request",
    402: "Payment required",
    403: "This job belongs to another wallet",
    404: "Job not found",
    429: "Too many requests",
}
_WORDS: Final = {"pending": "pending", "running": "loading", "succeeded": "complete"}


class StableStudio(Silent):
    """Paid in version 2 of x402 before a job is made; its status is for the wallet that paid. No callbacks."""

    submit_path = "/api/generate/{model}/{kind}"
    status_path = "/api/jobs/{id}"
    answers_at_the_end = False

    def __init__(self, now_s: Callable[[], int] = now_s) -> None:
        self.till = Till(2, now_s)
        self._sign_ins = SignIns(now_s)

    def refusal(self, status_code: int) -> dict[str, Any]:
        """`{"success":false,"error"}`."""
        return {"success": False, "error": _ERRORS.get(status_code, "Internal server error")}

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the published limits; a field of neither body is refused."""
        wrong = _wrong(body) if isinstance(body, dict) else "body"
        return JSONResponse({"success": False, "error": f"Invalid {wrong}"}, 400) if wrong else None

    def price(self, body: Any, request: Request) -> int | Response:
        """Return what this very body costs: from $0.33 to $0.99, of the fast model from $0.04 to $0.12."""
        model, kind = request.path_params["model"], request.path_params["kind"]
        if model not in _PRICES or kind not in ("i2v", "t2v"):
            return JSONResponse({"success": False, "error": "Not found"}, 404)
        if (refused := self.check(body, True)) is not None:
            return refused
        if (kind == "i2v") != bool(body.get("image") or body.get("urls")):
            return JSONResponse({"success": False, "error": "Invalid image"}, 400)
        base, second, step = _PRICES[model]
        resolution = body.get("resolution", body.get("outputResolution", "720p"))
        return base + second * (int(body.get("duration", "5")) - 4) + step * _RESOLUTIONS.index(resolution)

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return a job with an id such as `job_000000000001`."""
        return ProviderJob(
            id=f"job_{number:012d}",
            number=number,
            body=body,
            model="seedance",
            seconds=int(body.get("duration", "5")),
            created_s=self.till.now_s(),
        )

    def sold(self, job: ProviderJob, request: Request) -> ProviderJob:
        """Return the job with what its path says: the model, and what the video is made of."""
        return msgspec.structs.replace(job, model=f"{request.path_params['model']}-{request.path_params['kind']}")

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the id, and that nothing has happened yet."""
        return {
            "type": job.model,
            "jobId": job.id,
            "status": "pending",
            "success": True,
            "pollUrl": f"https://stablestudio.dev/api/jobs/{job.id}",
        }

    def locked(self, request: Request, job: ProviderJob | None) -> Response | None:
        """Return a sign-in, anew each time, by the wallet that paid."""
        who = self._sign_ins.signed_in(request)
        if isinstance(who, Response):
            return who
        return JSONResponse(self.refusal(403), 403) if job and job.owner.lower() != who.lower() else None

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the job, with its progress while it is made."""
        status: dict[str, Any] = {"jobId": job.id, "status": _WORDS.get(job.state, "failed")}
        if job.state == "running":
            status["progress"] = 40
        if job.state == "succeeded":
            thumbnail = job.result_url.replace(".mp4", ".png")
            good = job.faults.outcome != "no_output"
            status["result"] = {"videoUrl": job.result_url, "thumbnailUrl": thumbnail} if good else {}
        if job.state in ("failed", "canceled"):
            status["error"] = "The input was flagged as sensitive. (E005)"
        return status


def _wrong(body: dict[str, Any]) -> str | None:
    """Return the first field that is against the page whose body it is."""
    newer = not _NEWER.isdisjoint(set(body) - _OLDER)
    older = [body[name] for name in ("image", "last_image") if name in body]
    images = body.get("urls", []) if newer else older
    seed = body.get("seed", 0)
    rules = {
        "body": set(body) <= (_NEWER if newer else _OLDER),
        "prompt": isinstance(body.get("prompt"), str) and body["prompt"] != "",
        "image": isinstance(images, list)
        and len(images) <= 9
        and all(is_url(image) for image in images)
        and ("last_image" not in body or "image" in body),
        "duration": body.get("duration", "5") in _SECONDS,
        "resolution": body.get("outputResolution" if newer else "resolution", "720p") in _RESOLUTIONS,
        "aspect ratio": body.get("aspectRatio" if newer else "aspect_ratio", "16:9") in _RATIOS,
        "camera_fixed": isinstance(body.get("camera_fixed", True), bool),
        "generate_audio": isinstance(body.get("generate_audio", True), bool),
        "seed": isinstance(seed, int) and not isinstance(seed, bool),
        "mode": body.get("mode", "keyframe") in ("keyframe", "reference"),
    }
    return next((name for name, good in rules.items() if not good), None)
