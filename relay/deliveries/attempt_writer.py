"""Writes attempts that have ended: the attempt, its delivery's new state and the endpoint's health, in one commit."""

from functools import partial
from typing import Final

import msgspec

from relay.clock import Clock
from relay.context import write_again
from relay.errors import StorageUnavailable
from relay.storage.deliveries import AttemptResult, Deliveries

TRIES_MAX: Final = 20
"""After so many the attempt is lost: its delivery is due again when its lease runs out, and is sent again."""


async def write_attempt(deliveries: Deliveries, result: AttemptResult, clock: Clock, *, patient: bool = False) -> bool:
    """Return after COMMIT whether that disabled or enabled the endpoint, so that its notices are due now.

    What is `patient` may wait some milliseconds for another commit. Repeat the write while the database is away;
    StorageUnavailable after `TRIES_MAX`.
    """
    try:
        return await deliveries.write_attempt(result, patient=patient)
    except StorageUnavailable:
        repeated = msgspec.structs.replace(result, again=True)
        return await write_again(partial(deliveries.write_attempt, repeated), clock, TRIES_MAX - 1)
