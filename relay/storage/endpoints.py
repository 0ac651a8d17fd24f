"""Subscribers' endpoints in the database; their secrets and headers are sealed there and open only here."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from relay import log
from relay.model.delivery import Endpoint
from relay.security.encryption import DecryptionFailed, Encryption, place
from relay.storage import endpoint_history, endpoint_status, rows
from relay.storage.endpoint_history import note
from relay.storage.engine.database import Database, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.idempotency import Tie

UNBOUNDED: Final = 1 << 31
DISABLED_BY_HAND: Final = "disabled by hand"


_logger = log.get("storage")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscriber changes of an endpoint at a time: `active` enables or disables it, None leaves that as it is.

    `apply` is given the endpoint as it is by then. `key_id` is the client's key.
    """

    endpoint_id: str
    project_id: str
    at: int
    apply: Callable[[Endpoint], Endpoint]
    active: bool | None = None
    key_id: str | None = None


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """A new secret for an endpoint, at `now`; the former one signs too until `until` (both in unix ms)."""

    id: str
    project_id: str
    secret: str
    until: int
    now: int
    key_id: str | None = None


class _NewEndpoint(msgspec.Struct, frozen=True):
    """An endpoint to store, if its project has fewer than `project_max`."""

    endpoint: Endpoint
    project_max: int
    key_id: str | None


class _Deletion(msgspec.Struct, frozen=True):
    """An endpoint to delete."""

    endpoint_id: str
    project_id: str
    now_ms: int


class Endpoints:
    """The endpoints."""

    def __init__(self, database: Database, writer: Writer, encryption: Encryption) -> None:
        self._database = database
        self._writer = writer
        self._encryption = encryption
        self.changes = 0
        """How often this process has changed, rotated or deleted an endpoint: what was read of one before is old."""

    async def create(
        self, endpoint: Endpoint, project_max: int = UNBOUNDED, tie: Tie | None = None, key_id: str | None = None
    ) -> bool:
        """Store a new endpoint; it receives what is committed after it, or once it is enabled.

        False, and nothing is stored, where its project has as many as it may.
        """
        return await self._writer.write(self._insert, _NewEndpoint(endpoint, project_max, key_id), tie=tie)

    async def change(self, change: Change, tie: Tie | None = None) -> Endpoint | None:
        """Apply a subscriber's change; deliveries that wait use it from their next attempt on. None where it is gone.

        The endpoint is locked from its read to its switch: what another request or an attempt does to it comes before
        or after, and what an endpoint that is enabled has missed is decided in the same transaction.
        """
        try:
            return await self._writer.write(self._change, change, tie=tie, locks=change.endpoint_id)
        finally:
            self.changes += 1

    async def rotate(self, rotation: Rotation, tie: Tie | None = None) -> None:
        """Store a new secret, used from the next attempt on; the former one signs too until its time is over."""
        try:
            await self._writer.write(self._rotate, rotation, tie=tie, locks=rotation.id)
        finally:
            self.changes += 1

    async def delete(self, endpoint_id: str, project_id: str, now_ms: int, tie: Tie | None = None) -> bool:
        """Delete the endpoint and cancel its deliveries; return False if there was none."""
        try:
            return await self._writer.write(
                _delete, _Deletion(endpoint_id, project_id, now_ms), tie=tie, locks=endpoint_id
            )
        finally:
            self.changes += 1

    async def get(self, endpoint_id: str, project_id: str) -> Endpoint | None:
        """Return the project's endpoint."""
        found = await self._database.rows("endpoint_of_project", {"id": endpoint_id, "project_id": project_id})
        return rows.endpoint_shown(found[0], self._encryption) if found else None

    async def urls(self, ids: Collection[str], project_id: str) -> dict[str, str]:
        """Return the URL of each of these endpoints of a project, without those that were deleted."""
        found = await self._database.rows("endpoint_urls", {"ids": sorted(ids), "project_id": project_id})
        return {row["id"]: row["url"] for row in found}

    async def page(self, project_id: str, before: str | None, limit: int) -> list[Endpoint]:
        """Endpoints newest first."""
        found = await self._database.rows("endpoint_page", {"project_id": project_id, "before": before, "limit": limit})
        return [rows.endpoint_shown(row, self._encryption) for row in found]

    async def _insert(self, transaction: Transaction, wanted: Sequence[_NewEndpoint]) -> list[bool]:
        """Store each that its project has room for; the projects are locked in their order."""
        for project_id in sorted({new.endpoint.project_id for new in wanted}):
            await transaction.rows("hold_project", {"id": project_id})
        stored = []
        for new in wanted:
            endpoint = new.endpoint
            counted = {"project_id": endpoint.project_id, "limit": new.project_max}
            made = note(endpoint.project_id, endpoint.id, endpoint.created_at, "created")
            room = (await transaction.rows("count_endpoints", counted))[0]["number"] < new.project_max
            if room:
                await transaction.run_many("insert_endpoint", [rows.endpoint_params(endpoint, self._encryption)])
            if room and endpoint.disabled_at is not None:
                off = {"id": endpoint.id, "now": endpoint.disabled_at, "reason": endpoint.disabled_reason}
                await transaction.rows("disable_endpoint", off)
            if room:
                await endpoint_history.write(transaction, [msgspec.structs.replace(made, key_id=new.key_id)])
            stored.append(room)
        return stored

    async def _change(self, transaction: Transaction, changes: Sequence[Change]) -> list[Endpoint | None]:
        """Apply each in turn."""
        return [await self._one_change(transaction, change) for change in changes]

    async def _one_change(self, transaction: Transaction, change: Change) -> Endpoint | None:
        """One change, and the endpoint after it."""
        of = {"id": change.endpoint_id, "project_id": change.project_id}
        await transaction.rows("hold_endpoint", {"id": change.endpoint_id})
        found = await transaction.rows("endpoint_of_project", of)
        if not found:
            return None
        before = rows.endpoint(found[0], self._encryption)
        changed = msgspec.structs.replace(change.apply(before), updated_at=change.at)
        if names := _changes(before, changed):
            made = note(change.project_id, change.endpoint_id, change.at, "changed", ", ".join(names))
            await endpoint_history.write(transaction, [msgspec.structs.replace(made, key_id=change.key_id)])
        await transaction.rows("update_endpoint", rows.endpoint_params(changed, self._encryption))
        if change.active is True:
            await endpoint_status.enable(transaction, change.endpoint_id, change.at, change.key_id)
        elif change.active is False:
            await endpoint_status.disable(transaction, change.endpoint_id, change.at, DISABLED_BY_HAND, change.key_id)
        return rows.endpoint((await transaction.rows("endpoint_of_project", of))[0], self._encryption)

    async def _rotate(self, transaction: Transaction, wanted: Sequence[Rotation]) -> list[None]:
        """Rotates for each caller in turn."""
        for one in wanted:
            params = msgspec.structs.asdict(one)
            for row in await transaction.rows("secret_of_endpoint", {"id": one.id, "project_id": one.project_id}):
                await transaction.rows("rotate_secret", params | self._rotated(row, one.secret))
                made = note(one.project_id, one.id, one.now, "secret_rotated")
                made = msgspec.structs.replace(made, until=one.until, key_id=one.key_id)
                await endpoint_history.write(transaction, [made])
        return [None] * len(wanted)

    def _rotated(self, row: Row, secret: str) -> dict[str, bytes | None]:
        """Return the encrypted columns after a rotation, which replaces a secret that cannot be decrypted."""
        places = {name: place("endpoints", name, row["id"]) for name in ("secret", "former_secret", "headers")}
        sealed: dict[str, bytes | None] = {
            "secret": self._encryption.encrypt(secret, places["secret"]),
            "former_secret": None,
        }
        try:
            sealed["former_secret"] = self._encryption.encrypt(
                self._encryption.decrypt(row["secret"], places["secret"]), places["former_secret"]
            )
            self._encryption.decrypt(row["headers"], places["headers"])
            sealed["headers"] = row["headers"]
        except DecryptionFailed:
            _logger.warning("endpoint.unreadable_replaced", endpoint=row["id"])
            sealed["headers"] = self._encryption.encrypt("{}", places["headers"])
        return sealed


def _changes(before: Endpoint, after: Endpoint) -> list[str]:
    """Return the names of the settings that differ."""
    names = [name for name in before.__struct_fields__ if name != "updated_at"]
    return [name for name in names if getattr(before, name) != getattr(after, name)]


async def _delete(transaction: Transaction, wanted: Sequence[_Deletion]) -> list[bool]:
    """Delete each endpoint, and cancel the deliveries that wait for it."""
    deleted = []
    for one in wanted:
        params = {"id": one.endpoint_id, "project_id": one.project_id, "now": one.now_ms, "nothing": b""}
        found = await transaction.rows("delete_endpoint", params)
        if found:
            await transaction.rows("cancel_deliveries_of_endpoint", {"id": one.endpoint_id, "now": one.now_ms})
        deleted.append(bool(found))
    return deleted
