"""Each project's ed25519 keys: random seeds, sealed, which reveal nothing about RELAY_SECRET_KEYS."""

import base64
from collections.abc import Sequence
from typing import Any, Final

from relay.errors import NotFound
from relay.security import signatures
from relay.security.encryption import Encryption, place
from relay.security.signatures import PublicKey
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.group_commit import Writer

FIRST: Final = 1
PUBLIC_MAX: Final = 10_000
"""So many keys are published in one answer; those of one project are asked for by its id."""


class SigningSeeds:
    """The signing keys in the database."""

    def __init__(self, database: Database, writer: Writer, encryption: Encryption) -> None:
        self._database = database
        self._writer = writer
        self._encryption = encryption

    async def seeds(self, project_id: str, now_ms: int) -> list[bytes]:
        """Return a project's seeds, newest last; make its first one. Raise DecryptionFailed if one does not open."""
        found = await self._database.rows("signing_keys_of_project", {"project_id": project_id})
        if not found:
            await self._writer.write(_insert, new_params(self._encryption, project_id, FIRST, now_ms))
            found = await self._database.rows("signing_keys_of_project", {"project_id": project_id})
        opened = [self._encryption.decrypt(row["seed"], seed_place(project_id, row["number"])) for row in found]
        return [base64.b64decode(seed) for seed in opened]

    async def public(self, project_id: str | None) -> list[PublicKey]:
        """Return the public keys, newest last: all projects', or one's."""
        name = "signing_keys_public" if project_id is None else "signing_keys_public_of_project"
        wanted = {"limit": PUBLIC_MAX, "project_id": project_id}
        found = await self._database.rows(name, wanted)
        return [PublicKey(row["project_id"], bytes(row["public_key"])) for row in found]

    async def complete(self, now_ms: int) -> None:
        """Make the first key of each project that an older relay made."""
        for row in await self._database.rows("projects_without_signing_key", {}):
            await self._writer.write(_insert, new_params(self._encryption, row["id"], FIRST, now_ms))

    async def renew(self, project: str, now_ms: int, *, drop_former: bool) -> None:
        """Add a key to the project of that name; a process signs with it from its next start on.

        The former ones stay published, so that what they signed still verifies, unless they are to be dropped.
        """
        projects = await self._database.rows("project_by_name", {"name": project})
        if not projects:
            raise NotFound(f"there is no project {project}")
        project_id = projects[0]["id"]
        found = await self._database.rows("signing_keys_of_project", {"project_id": project_id})
        number = found[-1]["number"] + 1 if found else FIRST
        await self._writer.write(_insert, new_params(self._encryption, project_id, number, now_ms))
        if drop_former:
            await self._writer.write(_drop, {"project_id": project_id, "number": number})


def seed_place(project_id: str, number: int) -> str:
    """Return the place of a seed."""
    return place("signing_keys", "seed", f"{project_id}:{number}")


def new_params(encryption: Encryption, project_id: str, number: int, now_ms: int) -> dict[str, Any]:
    """Return the columns of a new key."""
    seed = signatures.new_seed()
    return {
        "project_id": project_id,
        "number": number,
        "public_key": signatures.public_key(seed),
        "seed": encryption.encrypt(base64.b64encode(seed).decode(), seed_place(project_id, number)),
        "created_at": now_ms,
    }


async def _insert(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[None]:
    """Insert each."""
    for params in wanted:
        await transaction.rows("insert_signing_key", params)
    return [None] * len(wanted)


async def _drop(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[None]:
    """Drop what came before each."""
    for params in wanted:
        await transaction.rows("delete_former_signing_keys", params)
    return [None] * len(wanted)
