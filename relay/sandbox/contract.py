"""What a stand-in has to give the sandbox's world, and a job as its provider sees it."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.faults import FINAL, Faults
from relay.sandbox.payment import Till

API_KEY: Final = "sandbox-key"
SECRET: Final = "sandbox-secret"
"""What a stand-in signs its callbacks with; a scheme whose secrets have another form adds to it."""


class ProviderJob(msgspec.Struct, kw_only=True):
    """A job as its provider sees it; `state` is one of pending, running, succeeded, failed, canceled."""

    id: str
    number: int
    body: dict[str, Any]
    model: str
    seconds: int
    created_s: int
    callback_url: str | None = None
    faults: Faults = Faults()
    state: str = "pending"
    updated_s: int = 0
    """When it came into its state, at first when it was made; every copy of a callback says the same."""
    checks: int = 0
    """How often the status route was asked about it."""
    signature: int = 1
    """Of its result URLs, where they are signed."""
    owner: str = ""
    """The address that paid for it, where it was paid for by itself."""
    results_at: str = "https://cdn.example.com/sandbox"
    """Where its results are said to be."""

    def __post_init__(self) -> None:
        """Begin with the time when it was made."""
        self.updated_s = self.updated_s or self.created_s

    def enter(self, state: str) -> None:
        """Come into a state."""
        self.state, self.updated_s = state, now_s()

    @property
    def ended(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.state in FINAL

    @property
    def result_url(self) -> str:
        """Return a plausible URL; there is a video behind it only if the sandbox serves one."""
        signed = f"?signature={self.signature}" if self.faults.changed else ""
        return f"{self.results_at}/{self.id}.mp4{signed}"


FurtherHandler = Callable[[Mapping[str, ProviderJob], Request], Awaitable[Response]]
"""Answers a further route; it receives the sandbox's jobs by their ids, and checks the key itself."""
FurtherRoute = tuple[str, str, FurtherHandler]
"""A method, a path, and what answers there."""


class StandIn(Protocol):
    """What a provider's file gives the world; most of it has defaults in `StandInBase`."""

    prefix: str
    """What its base URL has after the sandbox's origin: `/kie`; it keeps its paths apart from those of others."""
    accepted_status: int
    """The HTTP status of an accepted submission."""
    cancel_path: str | None
    cancel_method: str
    pauses_s: Sequence[float]
    """Before each further try of a callback that got no 2xx."""
    callback_timeout_s: float

    @property
    def submit_paths(self) -> Sequence[str]:
        """Return the paths of its submissions."""

    @property
    def status_paths(self) -> Sequence[str]:
        """Return the paths of its status checks."""

    def authorized(self, request: Request) -> bool:
        """Return whether the request has the sandbox's key, in the provider's own way."""

    def prompt_of(self, body: dict[str, Any]) -> object:
        """Return the prompt of a submission, in which faults can be asked for."""

    def callback_url_of(self, request: Request, body: dict[str, Any]) -> str | None:
        """Return where a submission wants to be called back."""

    def refusal(self, status_code: int) -> dict[str, Any]:
        """Return the published error body of a status."""

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the refusal of a body that is against the published limits."""

    def accept(self, body: dict[str, Any], number: int, request: Request) -> ProviderJob:
        """Return the job of an accepted body; a model in the path is in `request.path_params`."""

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the published answer to a submission."""

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the published answer to a status check."""

    def status_holder(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return the object that holds the status in a callback or a status answer, and its key there."""

    def announces(self, job: ProviderJob) -> bool:
        """Whether a callback is sent for the state the job is in."""

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the published callback for the state the job is in."""

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Return the headers that sign a callback, as well as `job.faults.signed` says: `ok`, `forged`, `unknown_key`.

        None of them if that is empty, or if the provider signs nothing.
        """

    def handshake(self, job: ProviderJob) -> dict[str, Any] | None:
        """Return what is posted to the callback URL during a submission, and must come back as it is; None for none."""

    def handshake_failed(self, job: ProviderJob) -> Response | None:
        """Return the refusal of a submission whose callback URL did not answer so; None if it only loses the URL."""

    def asked_id(self, request: Request) -> str:
        """Return the job a status check or a cancellation is about."""

    def unknown(self, request: Request) -> Response:
        """Return the answer to a status check about a job that the provider does not know."""

    def cancel_effect(self, job: ProviderJob) -> str:
        """Return what a cancellation does: `canceled`, `refused`, `erased` (it is forgotten), or `kept` as it is."""

    def cancel_answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the answer to a cancellation that was not refused."""

    def further_routes(self) -> Sequence[FurtherRoute]:
        """Return the provider's other routes: the second step of a result, a look-up, a list of keys, files."""


class StandInBase:
    """A stand-in as most providers are: a bearer key, one route for each request, unsigned callbacks at the end."""

    prefix: str = ""
    submit_path: str = ""
    accepted_status: int = 200
    status_path: str = ""
    cancel_path: str | None = None
    cancel_method: str = "POST"
    pauses_s: Sequence[float] = ()
    callback_timeout_s: float = 10.0
    callback_field: str = ""
    """Where the callback URL is in a submission's body: `metadata.callback_url`."""

    @property
    def submit_paths(self) -> Sequence[str]:
        """The paths of its submissions."""
        return (self.submit_path,)

    @property
    def status_paths(self) -> Sequence[str]:
        """The paths of its status checks."""
        return (self.status_path,)

    def authorized(self, request: Request) -> bool:
        """Return whether the key is in the Authorization header."""
        return request.headers.get("authorization") == f"Bearer {API_KEY}"

    def prompt_of(self, body: dict[str, Any]) -> object:
        """Return the prompt of the body, or of its `inputs` or `input`."""
        holders = (body, body.get("inputs"), body.get("input"))
        return next((one["prompt"] for one in holders if isinstance(one, dict) and one.get("prompt")), None)

    def callback_url_of(self, request: Request, body: dict[str, Any]) -> str | None:
        """Return the URL at `callback_field`."""
        found: Any = body
        for name in self.callback_field.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) else None

    def status_holder(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return the body, or its `data` if the status is in there; `state` comes before `status`."""
        inner = body.get("data")
        held = inner if isinstance(inner, dict) and not {"status", "state"}.isdisjoint(inner) else body
        return held, "state" if "state" in held else "status"

    def announces(self, job: ProviderJob) -> bool:
        """Return whether the job has ended."""
        return job.ended

    def sign(self, raw: bytes, job: ProviderJob, now_s: int) -> dict[str, str]:
        """Return no header."""
        return {}

    def handshake(self, job: ProviderJob) -> dict[str, Any] | None:
        """Return None: the URL is not tested."""
        return None

    def handshake_failed(self, job: ProviderJob) -> Response | None:
        """Return None."""
        return None

    def asked_id(self, request: Request) -> str:
        """Return the id in the path."""
        return str(request.path_params["id"])

    def unknown(self, request: Request) -> Response:
        """Return the refusal of a 404."""
        return JSONResponse(self.refusal(404), 404)  # type: ignore[attr-defined]

    def cancel_effect(self, job: ProviderJob) -> str:
        """Cancel a job that has not ended."""
        return "refused" if job.ended else "canceled"

    def cancel_answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the status."""
        status: dict[str, Any] = self.status(job)  # type: ignore[attr-defined]
        return status

    def further_routes(self) -> Sequence[FurtherRoute]:
        """Return none."""
        return ()


@runtime_checkable
class PaidStandIn(StandIn, Protocol):
    """A stand-in whose jobs are paid for one by one; it knows no key, and sends no callbacks."""

    till: Till
    answers_at_the_end: bool
    """Whether a submission is answered when the job has ended, unless the job's faults say otherwise."""

    def price(self, body: Any, request: Request) -> int | Response:
        """Return what a job costs, in millionths of a USDC; the refusal of a body for which there is no price."""

    def sold(self, job: ProviderJob, request: Request) -> ProviderJob:
        """Return the job with what only its request tells."""

    def locked(self, request: Request, job: ProviderJob | None) -> Response | None:
        """Return the refusal of a client that may not see the job."""


class Silent(StandInBase):
    """A stand-in whose provider sends no callbacks and cannot cancel jobs."""

    def authorized(self, request: Request) -> bool:
        """Return True: jobs are paid for one by one, and no key is needed."""
        return True

    def announces(self, job: ProviderJob) -> bool:
        """Return False: no callback is sent."""
        return False

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return no callback."""
        return {}


def now_s() -> int:
    """Unix seconds."""
    return int(time.time())
