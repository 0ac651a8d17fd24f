"""`python -m tests.chaos.sabotaged BREAK CONTROL serve`: relay with one promise broken, to show that a run finds it."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from relay.archive import copier
from relay.outbound.provider_client import ProviderClient
from relay.outbound.webhook_sender import PostResult, WebhookSender
from tests.chaos.control import Control
from tests.chaos.steered import end_with_parent, steer


def _notifications_lost() -> None:
    """Say of every fifth notification that it was accepted, and do not send it."""
    post, asked = WebhookSender.post, [0]
    results: list[PostResult] = []

    async def lossy(sender: WebhookSender, *arguments: Any) -> Any:
        asked[0] += 1
        if results and asked[0] % 5 == 0:
            return results[0]
        result = await post(sender, *arguments)
        if result.status_code == 200:
            results.append(result)
        return result

    WebhookSender.post = lossy  # type: ignore[method-assign, assignment]


def _submissions_repeated() -> None:
    """Send every submission twice."""
    send = ProviderClient.send

    async def twice(client: ProviderClient, origin: str, authorization: str, request: Any, timeout_s: float) -> Any:
        if request.method == "POST":
            await send(client, origin, authorization, request, timeout_s)
        return await send(client, origin, authorization, request, timeout_s)

    ProviderClient.send = twice  # type: ignore[method-assign, assignment]


def _results_halved() -> None:
    """Write half of each result, and say that all of it is there."""
    chained = copier._chained

    async def halved(start: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in chained(start, pieces):
            yield piece[: len(piece) // 2]

    copier._chained = halved


BREAKS: dict[str, Callable[[], None]] = {
    "events_reach_every_endpoint": _notifications_lost,
    "jobs_are_created_once": _submissions_repeated,
    "told_copies_are_there": _results_halved,
}
"""By the invariant that each breaks."""

if __name__ == "__main__":
    end_with_parent()
    BREAKS[sys.argv[1]]()
    steer(Control(Path(sys.argv[2])))
    del sys.argv[1:3]
    from relay.cli import main

    main()
