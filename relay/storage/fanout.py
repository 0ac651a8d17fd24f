"""Who listens to what: the endpoints that an event may be for, and whether its type is one they asked for."""

from collections.abc import Iterable, Sequence

from relay.model import EventType
from relay.storage import rows
from relay.storage.database import Row, Transaction


async def listeners(transaction: Transaction, projects: Iterable[str], jobs: Iterable[str]) -> Sequence[Row]:
    """The standing endpoints of these projects, and those made for one of these jobs."""
    wanted = {"projects": rows.text(sorted(set(projects))), "jobs": rows.text(sorted(set(jobs)))}
    return await transaction.rows("endpoints_listening", wanted)


def matches(pattern: str, kind: EventType) -> bool:
    """`job.succeeded` matches itself, `job.*` every event of a job, `*` everything."""
    return pattern in ("*", kind) or (pattern.endswith(".*") and kind.startswith(pattern[:-1]))
