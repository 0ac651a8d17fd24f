"""What a stand-in has to give the sandbox's world, and a job as its provider sees it."""

import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay.sandbox.faults import FINAL, Faults
from relay.sandbox.payment import Till


class ProviderJob(msgspec.Struct, kw_only=True):
    """A job as its provider sees it; `state` is one of pending, running, succeeded, failed, canceled."""

    id: str
    number: int
    body: dict[str, Any]
    callback_url: str | None
    faults: Faults
    model: str
    seconds: int
    created_s: int
    state: str = "pending"
    checks: int = 0
    """How often the status route was asked about it."""
    signature: int = 1
    """Of its result URLs, where they are signed."""
    owner: str = ""
    """The address that paid for it, where it was paid for by itself."""
    results_at: str = "https://cdn.example.com/sandbox"
    """Where its results are said to be."""

    @property
    def ended(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.state in FINAL

    @property
    def result_url(self) -> str:
        """Return a plausible URL; there is a video behind it only if the sandbox serves one."""
        signed = f"?signature={self.signature}" if self.faults.changed else ""
        return f"{self.results_at}/{self.id}.mp4{signed}"


class StandIn(Protocol):
    """What a provider's file gives the world."""

    submit_path: str
    status_path: str
    cancel_path: str | None
    pauses_s: Sequence[float]
    """Before each further try of a callback that got no 2xx."""
    callback_timeout_s: float

    def refusal(self, status_code: int) -> dict[str, Any]:
        """Return the published error body of a status."""

    def check(self, body: Any, allow_http: bool) -> Response | None:
        """Return the refusal of a body that is against the published limits."""

    def accept(self, body: dict[str, Any], number: int) -> ProviderJob:
        """Return the job of an accepted body."""

    def answer(self, job: ProviderJob) -> dict[str, Any]:
        """Return the published answer to a submission."""

    def status(self, job: ProviderJob) -> dict[str, Any]:
        """Return the published answer to a status check."""

    def announces(self, job: ProviderJob) -> bool:
        """Whether a callback is sent for the state the job is in."""

    def callback(self, job: ProviderJob) -> dict[str, Any]:
        """Return the published callback for the state the job is in."""

    def asked_id(self, request: Request) -> str:
        """Return the job a status check or a cancellation is about."""


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


class Silent:
    """A stand-in whose provider sends no callbacks and cannot cancel jobs."""

    cancel_path: str | None = None
    pauses_s: Sequence[float] = ()
    callback_timeout_s = 10.0

    def announces(self, job: ProviderJob) -> bool:  # noqa: ARG002 - the contract's signature
        """Return False: no callback is sent."""
        return False

    def callback(self, job: ProviderJob) -> dict[str, Any]:  # noqa: ARG002 - the contract's signature
        """Return no callback."""
        return {}

    def asked_id(self, request: Request) -> str:
        """Return the id in the path."""
        return str(request.path_params["id"])


def now_s() -> int:
    """Unix seconds."""
    return int(time.time())
