"""Claims due deliveries from the table: one call that finds something to send if there is anything for a free lane."""

import msgspec

from relay.storage.deliveries import Deliveries, DueDelivery
from relay.storage.fan_out import NewDelivery


class ClaimRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a poll may claim, in unix milliseconds: `limit` deliveries in all, leased until `leased_until_ms`.

    `endpoint_limits` bounds what may be claimed for an endpoint; 0 for a lane that is full or blocked. `refills` are
    those of them for which the table is known to hold more. `full_projects` have enough in memory.
    """

    now_ms: int
    leased_until_ms: int
    limit: int
    endpoint_limits: dict[str, int]
    refills: dict[str, int]
    full_projects: set[str]


class ClaimResult(msgspec.Struct, frozen=True):
    """What was claimed: with its row (DueDelivery) or without it (Fresh).

    `next_due_at` is when the next delivery is due, leased ones included; None where none is pending. `unfinished` is
    whether another claim may find more now.
    """

    deliveries: list[DueDelivery | NewDelivery]
    next_due_at: int | None
    unfinished: bool


class Claims:
    """Claims deliveries for one dispatcher, and knows the endpoint at which a walk over a long backlog continues."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._walked_to = ""

    async def claim(self, request: ClaimRequest) -> ClaimResult:
        """Return due deliveries, leased until `leased_until_ms`.

        Lanes with a limit of their own are refilled one by one, all others together in the order of their due times.
        Where that finds nothing although something is due, the endpoints are walked a part at a time, because what is
        due first may all belong to full lanes.
        """
        now_ms, leased_until_ms, limits = request.now_ms, request.leased_until_ms, request.endpoint_limits
        claimed: list[DueDelivery | NewDelivery] = [
            *await self._deliveries.claim_for(now_ms, leased_until_ms, request.refills)
        ]
        claimed += await self._deliveries.claim(now_ms, leased_until_ms, request.limit, limits, request.full_projects)
        next_due_at: int | None = now_ms
        walks = False
        if not claimed:
            next_due_at, backlog = await self._deliveries.next_due(now_ms)
            walks = backlog or (next_due_at is not None and next_due_at <= now_ms and any(limits.values()))
        if walks:
            found, self._walked_to = await self._deliveries.claim_behind(
                now_ms, leased_until_ms, request.limit, limits, self._walked_to, request.full_projects
            )
            claimed += found
        else:
            self._walked_to = ""
        return ClaimResult(claimed, next_due_at, unfinished=bool(claimed or self._walked_to))
