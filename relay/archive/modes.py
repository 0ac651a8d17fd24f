"""Which mode a new job has that names none: its project's own, or that of the setting."""

from typing import Final

from relay.clock import Clock
from relay.model.archive import ArchiveMode
from relay.storage.copies import Copies
from relay.storage.idempotency import Tie

KEPT_MS: Final = 5_000
"""So long after another process changed a project's mode, jobs here may still have the former one."""


class Modes:
    """The projects' modes, read now and then."""

    def __init__(self, copies: Copies, clock: Clock, default: ArchiveMode) -> None:
        self._copies = copies
        self._clock = clock
        self.default = default
        self._own: dict[str, ArchiveMode] = {}
        self._read_at_ms: int | None = None

    async def of(self, project_id: str) -> ArchiveMode:
        """Return the mode of a project's jobs."""
        return await self.own(project_id) or self.default

    async def own(self, project_id: str) -> ArchiveMode | None:
        """Return the mode that a project has of its own."""
        now_ms = self._clock.monotonic_ms()
        if self._read_at_ms is None or now_ms - self._read_at_ms >= KEPT_MS:
            self._own, self._read_at_ms = await self._copies.modes(), now_ms
        return self._own.get(project_id)

    async def set(self, project_id: str, mode: ArchiveMode | None, tie: Tie | None = None) -> None:
        """Give a project a mode of its own, or none."""
        await self._copies.set_mode(project_id, mode, tie)
        self._read_at_ms = None
