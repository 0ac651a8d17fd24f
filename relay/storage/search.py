"""Finds what a text may mean: an id, or its beginning, a provider's id of a job, an endpoint's URL, a job's metadata.

Each of these is one read by an index, of at most `limit` rows. It searches no body, and no URL of an endpoint that was
made for one job alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from relay.model import ids
from relay.model.resources.search import Kind, Matched
from relay.storage import rows
from relay.storage.engine.database import Database, Purpose, Row

RECENT_JOBS: Final = 200
"""A text that is no pair is searched as a value of the names that the metadata of so many new jobs has."""
NAMES_MAX: Final = 50
"""So many of these names at most."""
_LETTERS: Final = 26


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was found: what it is, how it may be shown, and by which of its fields."""

    kind: Kind
    id: str
    job_id: str | None
    title: str
    matched: Matched
    created_at: int


def _job_title(row: Row) -> str:
    """Return what a job is called in a list of hits."""
    return f"{row['provider']} · {row['state']}"


class _Kind(msgspec.Struct, frozen=True):
    """What is found by its id: the statement, and what its rows are called."""

    name: Kind
    statement: str
    title: Callable[[Row], str]


_BY_PREFIX: Final = {
    ids.JOB: _Kind("job", "search_jobs_by_id", _job_title),
    ids.EVENT: _Kind("event", "search_events", lambda row: str(row["type"])),
    ids.DELIVERY: _Kind("delivery", "search_deliveries", lambda row: f"{row['state']} · {row['url']}"),
    ids.CALLBACK: _Kind("callback", "search_callbacks", lambda row: f"{row['provider']} · {row['disposition']}"),
    ids.ENDPOINT: _Kind("endpoint", "search_endpoints_by_id", lambda row: str(row["url"])),
    ids.REDELIVERY: _Kind(
        "redelivery", "search_redeliveries", lambda row: f"{row['which']} · {row['made']} of {row['total']}"
    ),
}


class Search:
    """Finds the project's own things by a text."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, project_id: str, text: str, limit: int) -> list[Hit]:
        """Return what the text may mean, at most `limit` of each kind, newest first within a kind."""
        params = {"project_id": project_id, "limit": limit}
        hits = await self._by_id(params, text)
        jobs = await self._rows("search_jobs_by_provider_job_id", params | {"text": text})
        hits += [_hit("job", row, _job_title(row), "provider_job_id") for row in jobs]
        pairs = [text] if "=" in text else await self._pairs(project_id, text)
        jobs = await self._rows("search_jobs_by_metadata", params | {"pairs": pairs}) if pairs else []
        hits += [_hit("job", row, _job_title(row), "metadata") for row in jobs]
        pattern = f"%{_escaped(text.lower())}%"
        endpoints = await self._rows("search_endpoints_by_text", params | {"pattern": pattern})
        hits += [_hit("endpoint", row, row["url"], row["matched"]) for row in endpoints]
        return _bounded(hits, limit)

    async def _by_id(self, params: dict[str, Any], text: str) -> list[Hit]:
        """Return what has this id, or one that begins so."""
        for prefix, kind in _BY_PREFIX.items():
            letters = text.removeprefix(prefix)
            if text.startswith(prefix) and letters and len(letters) <= _LETTERS and letters.isalnum():
                last = text.ljust(len(prefix) + _LETTERS, "z")
                found = await self._rows(kind.statement, params | {"first": text, "last": last})
                return [_hit(kind.name, row, kind.title(row), "id") for row in found]
        return []

    async def _pairs(self, project_id: str, value: str) -> list[str]:
        """Return the pairs of metadata that have this value, under the names that the project's new jobs have."""
        found = await self._rows("latest_metadata", {"project_id": project_id, "limit": RECENT_JOBS})
        names = {name: None for row in found for name in msgspec.json.decode(row["metadata"])}
        return [rows.metadata_pair(name, value) for name in [*names][:NAMES_MAX]]

    async def _rows(self, name: str, params: dict[str, Any]) -> Sequence[Row]:
        """Return the rows of a statement, read as a list is."""
        return await self._database.rows(name, params, Purpose.LIST)


def _hit(kind: Kind, row: Row, title: str, matched: Matched) -> Hit:
    """Return a hit of a row."""
    job_id = None if kind == "redelivery" else row["job_id"]
    return Hit(kind=kind, id=row["id"], job_id=job_id, title=title, matched=matched, created_at=row["created_at"])


def _bounded(hits: Sequence[Hit], limit: int) -> list[Hit]:
    """Return each thing once, and the first `limit` of each kind; what was found by its id stands first."""
    once = {hit.id: hit for hit in reversed(hits)}
    kept: dict[str, list[Hit]] = {}
    for hit in hits:
        of_kind = kept.setdefault(hit.kind, [])
        if once.pop(hit.id, None) is not None and len(of_kind) < limit:
            of_kind.append(hit)
    return [hit for of_kind in kept.values() for hit in of_kind]


def _escaped(text: str) -> str:
    """Return a text as LIKE matches it letter by letter."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
