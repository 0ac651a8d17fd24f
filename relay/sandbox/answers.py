"""What the stand-ins answer, as well or as badly as a job's faults say."""

import asyncio
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from relay.sandbox.bodies import reworded
from relay.sandbox.contract import ProviderJob, StandIn
from relay.sandbox.faults import FINAL, Faults
from relay.sandbox.serving import hang_up

HTML: Final = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>"
HANG_S: Final = 600


def refused(stand_in: StandIn, status_code: int) -> Response:
    """Return a refusal in the provider's own shape."""
    return JSONResponse(stand_in.refusal(status_code), status_code)


async def to_refused_submission(stand_in: StandIn, faults: Faults) -> Response | None:
    """Return the refusal that the faults ask for, if they do."""
    inside_200 = faults.submit == "error_in_200"
    if not faults.html and faults.status_code == 200 and not inside_200:
        return None
    await asyncio.sleep(faults.slow_s)
    if inside_200:
        return JSONResponse(stand_in.refusal(400 if faults.status_code == 200 else faults.status_code))
    return _html(faults.status_code) if faults.html else refused(stand_in, faults.status_code)


async def to_submission(stand_in: StandIn, job: ProviderJob, request: Request) -> Response:
    """Return the answer to the submission that made the job."""
    await asyncio.sleep(job.faults.slow_s)
    match job.faults.submit:
        case "hang":
            await asyncio.sleep(HANG_S)
        case "reset_after":
            await hang_up(request)
        case "empty":
            return Response(status_code=200)
        case "id_missing":
            return JSONResponse({"status": "submitted"})
        case "wrong_id":
            other = stand_in.answer(msgspec.structs.replace(job, id=job.id + "w"))
            return JSONResponse(other, stand_in.accepted_status)
        case _:
            pass
    return JSONResponse(stand_in.answer(job), stand_in.accepted_status)


async def to_check(stand_in: StandIn, job: ProviderJob, request: Request) -> Response:
    """Return the answer to the job's latest status check."""
    faults = job.faults
    if 0 < faults.check_times < job.checks:
        return JSONResponse(stand_in.status(job))
    match faults.check:
        case "not_found":
            return refused(stand_in, 404)
        case "html":
            return _html(faults.check_status)
        case "hang":
            await asyncio.sleep(HANG_S)
        case "reset":
            await hang_up(request)
        case "empty":
            return Response(status_code=200)
        case "lies":
            return JSONResponse(_lie(stand_in, job))
        case _ if faults.check_status != 200:
            return _busy(stand_in, faults)
        case _:
            pass
    return JSONResponse(stand_in.status(job))


async def to_cancellation(stand_in: StandIn, job: ProviderJob) -> Response | None:
    """Return the refusal of a cancellation; None when the job can be canceled."""
    if job.faults.cancel == "hang":
        await asyncio.sleep(HANG_S)
    if job.faults.cancel == "refused" or stand_in.cancel_effect(job) == "refused":
        return refused(stand_in, 409)
    return None


def _html(status_code: int) -> Response:
    """Return a proxy's page; a proxy has no page that says 200."""
    return HTMLResponse(HTML, status_code if status_code != 200 else 502)


def _busy(stand_in: StandIn, faults: Faults) -> Response:
    """Return a refusal, with the time to come back where one is to be said."""
    answer = refused(stand_in, faults.check_status)
    if faults.check_retry_after_s and faults.check_status in (429, 503):
        answer.headers["retry-after"] = str(faults.check_retry_after_s)
    return answer


def _lie(stand_in: StandIn, job: ProviderJob) -> dict[str, object]:
    """Return the status of a state that the job is not in, or a status word that means nothing."""
    lie = job.faults.lie
    if lie in ("pending", "running", *FINAL):
        return stand_in.status(msgspec.structs.replace(job, state=lie))
    return reworded(stand_in, stand_in.status(job), lie)
