"""Copies of results on the pages: what a job's page shows of them, the way to one, and the verb that copies again."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from relay.web.dashboard.in_process import ApiCall
from relay.web.dashboard.view import Form, PageRoute, Verb, View

Json = dict[str, Any]
ROUTE: Final = "/v1/jobs/{id}/copies"


async def of_job(view: View, job: Json) -> list[Json]:
    """Return the copies of a job's results; none are asked for where no output has one."""
    if all(output["archive"] is None for output in job["outputs"]):
        return []
    copies: list[Json] = (await view.get(ROUTE, id=job["id"]))["data"]
    return copies


def by_output(job: Json, copies: Sequence[Json]) -> list[tuple[Json, Json | None]]:
    """Return each output of a job with its copy; None without one."""
    found = {copy["number"]: copy for copy in copies}
    return [(output, found.get(number)) for number, output in enumerate(job["outputs"])]


def can_copy(view: View, job: Json, copies: Sequence[Json]) -> bool:
    """Return whether a result of the job has no copy, or one that failed or waits for its next try."""
    if view.app.archive is None or job["status"] != "succeeded":
        return False
    wait = any(copy["state"] == "failed" or copy["next_try_at"] is not None for copy in copies)
    return wait or any(output["archive"] is None for output in job["outputs"])


async def download(view: View) -> Response:
    """Answer with a result as the API does: by the way to its copy, or with the copy itself."""
    path = {"id": view.path("id"), "n": view.path("n")}
    return await view.answer(ApiCall(route="GET /v1/jobs/{id}/outputs/{n}", path=path))


def _ordered(answered: Json, _: Form) -> str:
    """Return how many results are copied now."""
    number = sum(copy["state"] == "pending" for copy in answered["data"])
    return f"{number} result{' is' if number == 1 else 's are'} being copied."


PAGES: Final = (PageRoute("/jobs/{id}/outputs/{n}", download),)
VERBS: Final = (Verb(path="/jobs/{id}/copies", route=f"POST {ROUTE}", title="Copy", done=_ordered),)
