"""Which keys the database is sealed with: it knows them by their fingerprints, and `keys reseal` replaces them.

A relay that was started with other keys would answer 404 to every outstanding callback and could read no endpoint; so
it does not start.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.errors import SettingsError
from relay.security.encryption import DecryptionFailed, Encryption, place
from relay.storage.engine.database import Database, Row, Transaction
from relay.storage.signing_keys import seed_place

SAMPLE: Final = 20
STEP: Final = 200
Progress = Callable[[str, int, int], None]
"""What is being resealed, how many values are done, how many of these do not open."""
_WRONG: Final = (
    "RELAY_SECRET_KEYS lacks a key that this database is sealed with, so relay could not read its endpoints' secrets "
    "and would refuse every outstanding callback. Put the key back (newest last; without RELAY_SECRET_KEYS it is the "
    "file with the database's name and .secret beside the database, which belongs to every backup). To retire a key "
    "that you have, or to give one up that is lost: python -m relay keys reseal"
)


async def require_keys(database: Database, encryption: Encryption, now_ms: int) -> None:
    """Return if the keys are this database's, and remember the newest of them; SettingsError if not."""
    known = {bytes(row["fingerprint"]) for row in await database.rows("sealing_keys", {})}
    if known - set(encryption.fingerprints) or (not known and await _all_broken(database, encryption)):
        raise SettingsError(_WRONG)
    new = encryption.fingerprints[-1:] if known else encryption.fingerprints
    if set(new) - known:
        await database.transact(partial(_remember, fingerprints=new, now_ms=now_ms))


def is_encrypted(path: Path) -> bool:
    """Whether a SQLite file is there that something is sealed in; nothing is made, and the file stays as it is."""
    if not path.exists():
        return False
    import sqlite3  # noqa: PLC0415 - a relay on PostgreSQL needs none of it

    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM sealing_keys LIMIT 1").fetchone() is not None
    except sqlite3.Error:  # of a former version, or no database: opening it raises the error
        return False


async def _all_broken(database: Database, encryption: Encryption) -> bool:
    """Whether a database of a former version has secrets, and none that opens."""
    found = await database.rows("newest_secrets", {"limit": SAMPLE})
    return bool(found) and not any(
        _opens(encryption, row["secret"], place("endpoints", "secret", row["id"])) for row in found
    )


def _opens(encryption: Encryption, sealed: bytes, where: str) -> bool:
    """Whether one opens."""
    try:
        encryption.decrypt(sealed, where)
    except DecryptionFailed:
        return False
    return True


async def _remember(transaction: Transaction, fingerprints: Sequence[bytes], now_ms: int) -> None:
    """Keys that seal from now on."""
    for fingerprint in fingerprints:
        await transaction.rows("insert_sealing_key", {"fingerprint": fingerprint, "first_seen_at": now_ms})


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A table with sealed columns: how it is read from one row to the next, and how one is written back.

    `start` are the parameters that it is read by, and `key` the columns they stand for. `guards` are the columns that
    are compared with what was read. `where` gives a column's place.
    """

    table: str
    read: str
    write: str
    start: dict[str, Any]
    key: tuple[str, ...]
    columns: tuple[str, ...]
    guards: tuple[str, ...]
    where: Callable[[Row, str], str]

    def behind(self, row: dict[str, Any]) -> dict[str, Any]:
        """Where to go on behind a row."""
        return {name: row[column] for name, column in zip(self.start, self.key, strict=True)}


KINDS: Final = (
    Kind(
        table="endpoints",
        read="sealed_endpoints",
        write="reseal_endpoint",
        start={"after": ""},
        key=("id",),
        columns=("secret", "former_secret", "headers"),
        guards=("secret", "headers"),
        where=lambda row, column: place("endpoints", column, row["id"]),
    ),
    Kind(
        table="payments",
        read="sealed_payments",
        write="reseal_payment",
        start={"after": ""},
        key=("job_id",),
        columns=("header", "answers"),
        guards=("header", "answers"),
        where=lambda row, column: place("payments", column, row["job_id"]),
    ),
    Kind(
        table="idempotency_keys",
        read="sealed_answers",
        write="reseal_answer",
        start={"project_id": "", "key": ""},
        key=("project_id", "key"),
        columns=("answer",),
        guards=("answer",),
        where=lambda row, column: place("idempotency_keys", column, f"{row['project_id']}:{row['key']}"),
    ),
    Kind(
        table="signing_keys",
        read="sealed_seeds",
        write="reseal_seed",
        start={"project_id": "", "number": 0},
        key=("project_id", "number"),
        columns=("seed",),
        guards=("seed",),
        where=lambda row, _: seed_place(row["project_id"], row["number"]),
    ),
)


class Resealed(msgspec.Struct):
    """What became of all sealed values: under the newest key now, there before, and opened by no key."""

    resealed: int = 0
    already: int = 0
    broken: int = 0


async def reseal(
    database: Database, encryption: Encryption, progress: Progress, now_ms: int, *, accept_loss: bool
) -> Resealed:
    """Every sealed value under the newest key, bound to its row, while relay runs or not.

    What is done is done: broken off, it goes on from there when it is run again. If all opened, or the loss of what
    did not is accepted, the database forgets all other keys, so that they can be removed from RELAY_SECRET_KEYS.
    """
    await database.transact(partial(_remember, fingerprints=encryption.fingerprints[-1:], now_ms=now_ms))
    done = Resealed()
    for kind in KINDS:
        await _reseal_kind(database, encryption, kind, done, progress)
    if not done.broken or accept_loss:
        await database.transact(partial(_forget_others, newest=encryption.fingerprints[-1]))
    return done


async def _reseal_kind(
    database: Database, encryption: Encryption, kind: Kind, done: Resealed, progress: Progress
) -> None:
    """One table, some rows a transaction."""
    at = kind.start
    while found := [dict(row) for row in await database.rows(kind.read, at | {"limit": STEP})]:
        await database.transact(partial(_reseal_rows, encryption=encryption, kind=kind, rows=found, done=done))
        at = kind.behind(found[-1])
        progress(kind.table, done.resealed + done.already, done.broken)


async def _reseal_rows(
    transaction: Transaction, encryption: Encryption, kind: Kind, rows: Sequence[dict[str, Any]], done: Resealed
) -> None:
    """Those rows; one that was changed meanwhile was sealed by the newest key with that, or is met again."""
    for row in rows:
        values = {name: row[name] and bytes(row[name]) for name in kind.columns}
        given = [name for name, value in values.items() if value]
        if all(encryption.is_newest(values[name]) for name in given):
            done.already += 1
            continue
        try:
            texts = {name: encryption.decrypt(values[name], kind.where(row, name)) for name in given}
        except DecryptionFailed:
            done.broken += 1
            continue
        sealed = values | {name: encryption.encrypt(text, kind.where(row, name)) for name, text in texts.items()}
        before = {f"{name}_before": values[name] or b"" for name in kind.guards}
        await transaction.rows(kind.write, {**row, **sealed, **before, "nothing": b""})
        done.resealed += 1


async def _forget_others(transaction: Transaction, newest: bytes) -> None:
    """Only the newest key seals anything."""
    for row in await transaction.rows("sealing_keys", {}):
        if bytes(row["fingerprint"]) != newest:
            await transaction.rows("delete_sealing_key", {"fingerprint": bytes(row["fingerprint"])})
