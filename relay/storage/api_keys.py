"""Who may do what: projects, API keys (only digests are kept), ended sessions, idempotency keys and their answers."""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.errors import NotFound
from relay.model import ids
from relay.security.encryption import Encryption, place
from relay.storage import signing_keys
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.idempotency import Tie, Tied

SCOPES: Final = ("submit", "read", "admin")
IDEMPOTENCY_LIFE_MS: Final = 24 * 3_600_000
ABANDONED_AFTER_MS: Final = 60_000


class ApiKey(msgspec.Struct, frozen=True):
    """A live key: the project it belongs to, what it may do, what it is for, and when it was made (unix ms)."""

    id: str
    project_id: str
    scopes: frozenset[str]
    name: str
    created_at: int


class KeyInUse(msgspec.Struct, frozen=True):
    """A live key that was used before: its id, and the `digest` of its text."""

    id: str
    digest: bytes


class CreatedKey(msgspec.Struct, frozen=True):
    """A new key: its id, and its text, which is stored nowhere."""

    id: str
    text: str


class _NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key's columns, and the name of its project."""

    id: str
    project: str
    name: str
    scopes: str
    digest: bytes
    created_at: int


class _Named(msgspec.Struct, frozen=True):
    """A named statement to run, with its parameters."""

    name: str
    params: Mapping[str, Any]


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """An idempotency key of a request; `fingerprint` is of the request's method, path and body."""

    project_id: str
    key: str
    fingerprint: bytes
    now: int


class Known(msgspec.Struct, frozen=True):
    """What stands behind a key: the request it was made for, its job, and the answer once there is one."""

    fingerprint: bytes
    reserved_at: int
    job_id: str | None
    answer: bytes | None


class Access:
    """Keys of both kinds."""

    def __init__(self, database: Database, writer: Writer, encryption: Encryption) -> None:
        self._database = database
        self._writer = writer
        self._encryption = encryption

    async def api_key(self, key_digest: bytes) -> ApiKey | None:
        """Return the live key whose text has this `digest`; no text is compared, so no comparison can be timed."""
        return _live_key(await self._database.rows("api_key_by_digest", {"digest": key_digest}, Purpose.KEY))

    async def keys_in_use(self, limit: int) -> list[KeyInUse]:
        """Return the live keys that were used last, the latest first."""
        found = await self._database.rows("api_keys_in_use", {"limit": limit})
        return [KeyInUse(row["id"], bytes(row["digest"])) for row in found]

    async def key_by_id(self, key_id: str) -> ApiKey | None:
        """Return the live key with this id, which a client has proven before."""
        return _live_key(await self._database.rows("live_api_key", {"id": key_id}, Purpose.KEY))

    async def create_api_key(self, project: str, name: str, scopes: Sequence[str], now_ms: int) -> CreatedKey:
        """Create a key in a project, which is made if it is new."""
        created = CreatedKey(ids.new_id(ids.API_KEY), "rk_" + secrets.token_urlsafe(32))
        row = _NewKey(
            id=created.id,
            project=project,
            name=name,
            scopes=" ".join(scopes),
            digest=digest(created.text),
            created_at=now_ms,
        )
        await self._writer.write(self._create_key, row)
        return created

    async def api_keys(self) -> Sequence[Row]:
        """Every key without its text: `id name project scopes created_at revoked_at`."""
        return await self._database.rows("api_keys", {})

    async def revoke_api_key(self, key_id: str, now_ms: int) -> None:
        """Revoke the key; raise NotFound if there is no such live key."""
        if not await self._writer.write(_run, _Named("revoke_api_key", {"id": key_id, "now": now_ms})):
            raise NotFound(f"there is no live key {key_id}")

    async def reserve(self, wanted: Reservation) -> bool:
        """Reserve the key; return True for the one caller that is to run the request."""
        params = {
            **msgspec.to_builtins(wanted),
            "fingerprint": wanted.fingerprint,
            "forgotten_before": wanted.now - IDEMPOTENCY_LIFE_MS,
            "abandoned_before": wanted.now - ABANDONED_AFTER_MS,
        }
        return bool(await self._writer.write(_run, _Named("reserve_idempotency_key", params)))

    async def known(self, project_id: str, key: str) -> Known | None:
        """Return what stands behind a key."""
        found = await self._database.rows("idempotency_key", {"project_id": project_id, "key": key}, Purpose.KEY)
        if not found:
            return None
        answer = found[0]["answer"] and self._encryption.decrypt(found[0]["answer"], _place(project_id, key)).encode()
        return Known(bytes(found[0]["fingerprint"]), found[0]["reserved_at"], found[0]["job_id"], answer)

    def tie(self, held: Reservation, of: Callable[[Any], Tied | None]) -> Tie:
        """Return what ties the key to the work that is done for it, in the transaction that does it.

        `of` makes of the work's result the answer, which is encrypted here, and the id of the job that it shows; None
        if nothing was done.
        """
        where = _place(held.project_id, held.key)

        def tied(result: Any) -> Tied | None:
            made = of(result)
            return None if made is None else Tied(self._encryption.encrypt(made.answer.decode(), where), made.job_id)

        return Tie(project_id=held.project_id, key=held.key, reserved_at=held.now, of=tied)

    async def answer(self, held: Reservation, answer: bytes) -> None:
        """Keep the answer, sealed: it may show a secret that is shown once. Nothing happens where the key was lost."""
        params = _of(held) | {"answer": self._encryption.encrypt(answer.decode(), _place(held.project_id, held.key))}
        await self._writer.write(_run, _Named("answer_idempotency_key", params))

    async def release(self, held: Reservation) -> None:
        """Free the key again, since the request came to nothing; one that was lost or tied stays as it is."""
        await self._writer.write(_run, _Named("release_idempotency_key", _of(held)))

    async def forget(self, now_ms: int) -> None:
        """Drop keys that are past their life, and ended sessions whose cookies have expired."""
        await self._writer.write(_run, _Named("forget_idempotency_keys", {"before": now_ms - IDEMPOTENCY_LIFE_MS}))
        await self._writer.write(_run, _Named("forget_ended_sessions", {"now": now_ms}))

    async def end_session(self, text: str, expires_at: int) -> None:
        """End the session that `text` identifies, until its cookie expires (unix ms); return after COMMIT."""
        params = {"id": digest(text).hex(), "expires_at": expires_at}
        await self._writer.write(_run, _Named("end_session", params))

    async def session_ended(self, text: str) -> bool:
        """Return whether the session that `text` identifies was ended."""
        return bool(await self._database.rows("ended_session", {"id": digest(text).hex()}, Purpose.KEY))

    async def _create_key(self, transaction: Transaction, wanted: Sequence[_NewKey]) -> list[None]:
        """Insert the project if it is new, with the key that its notifications are signed by; then the API key."""
        for new in wanted:
            made = {"id": ids.new_id(ids.PROJECT), "name": new.project, "created_at": new.created_at}
            await transaction.rows("insert_project", made)
            found = await transaction.rows("project_by_name", {"name": new.project})
            project_id = found[0]["id"]
            signs = signing_keys.new_params(self._encryption, project_id, signing_keys.FIRST, new.created_at)
            await transaction.rows("insert_signing_key", signs)
            await transaction.rows("insert_api_key", {**msgspec.structs.asdict(new), "project_id": project_id})
        return [None] * len(wanted)


def _live_key(found: Sequence[Row]) -> ApiKey | None:
    """Return the key of a row, None for none."""
    if not found:
        return None
    row = found[0]
    return ApiKey(row["id"], row["project_id"], frozenset(row["scopes"].split()), row["name"], row["created_at"])


def _place(project_id: str, key: str) -> str:
    """Return the place of an idempotency key's answer."""
    return place("idempotency_keys", "answer", f"{project_id}:{key}")


def _of(held: Reservation) -> dict[str, Any]:
    """Return what names a reservation."""
    return {"project_id": held.project_id, "key": held.key, "reserved_at": held.now}


def digest(text: str) -> bytes:
    """SHA-256 of a key: enough, since the keys are 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


async def _run(transaction: Transaction, wanted: Sequence[_Named]) -> list[Sequence[Row]]:
    """Run one named statement for each caller."""
    return [await transaction.rows(one.name, one.params) for one in wanted]
