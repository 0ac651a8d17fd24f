"""Watches for earlier boots of this process that were killed, and takes back what they had leased.

Only on PostgreSQL: on SQLite a start knows that all others have ended, and takes back before anything else.
"""

from collections.abc import Callable
from typing import Final

from relay.clock import Clock
from relay.storage.boots import Boots

LOOK_PAUSE_MS: Final = 1_000
"""The pause between the two looks that find a boot dead; a process that lost its connection has another by then."""
FIRST_LOOKS: Final = 10
FIRST_PAUSE_MS: Final = 200
"""The pause after each of the first looks: the own lock, without which none is judged, comes after the start."""
LATER_PAUSE_MS: Final = 5_000


async def watch(boots: Boots, clock: Clock, wake: Callable[[], None]) -> None:
    """Take back what dead boots of this process held, and call `wake` then, until cancelled.

    A predecessor may still be stopping when this process starts, so the looks go on.
    """
    looks, suspected = 0, set[int]()
    while True:
        found = await boots.dead()
        if dead := [boot for boot in found if boot["id"] in suspected]:
            await boots.take_back(dead, clock.now_ms())
            wake()
        suspected = {boot["id"] for boot in found} - {boot["id"] for boot in dead}
        looks += 1
        await clock.sleep(LOOK_PAUSE_MS if suspected else FIRST_PAUSE_MS if looks < FIRST_LOOKS else LATER_PAUSE_MS)
