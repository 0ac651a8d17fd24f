"""Keys that can be guessed or are not the database's, signing keys of each project, and how keys are retired."""

import base64
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import cli
from relay.cli import load_settings
from relay.cli.keys import command as keys_command
from relay.cli.migrate import command as migrate_command
from relay.clock import SystemClock
from relay.errors import SettingsError
from relay.sandbox.sink import Received
from relay.security.encryption import Encryption, place
from relay.security.signatures import new_secret
from relay.settings import FILE_BYTES_MAX, FORMER_KEY_CHARS_MIN, load, parse_api_key, parse_secret_keys, unknown
from relay.storage import encryption_keys
from relay.storage.engine.database import Database, Transaction
from relay.storage.store import open_database
from tests.support.running import DATABASES, SECRET_KEY, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NEW_KEY = "the-key-that-takes-the-place-of-the-old"
BOTH = f"{SECRET_KEY},{NEW_KEY}"


@asynccontextmanager
async def database_of(folder: Path) -> AsyncIterator[Database]:
    """Yield the database of a folder's relay, while none runs on it."""
    database = await open_database(DATABASES.url(folder))
    try:
        yield database
    finally:
        await database.close()


async def told(running: Running, number: int) -> list[Received]:
    """So many notifications."""
    await running.sink.wait_for(lambda sink: len(sink.received) >= number)
    return running.sink.received


async def endpoint(running: Running, **fields: Any) -> dict[str, Any]:
    """Return a standing endpoint at the sink."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def project_of(received: Received) -> str:
    """Return the project that a notification names."""
    return str(msgspec.json.decode(received.body)["project"])


def genuine(received: Received, jwk: dict[str, str]) -> bool:
    """Whether the key's holder signed the notification."""
    (signature,) = [part for part in received.headers["webhook-signature"].split() if part.startswith("v1a,")]
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(jwk["x"] + "="))
    try:
        public.verify(base64.b64decode(signature[4:]), signed)
    except InvalidSignature:
        return False
    return True


@settings(max_examples=500)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=24, max_size=24))
def test_random_keys_always_pass(base64_bytes: bytes, hex_bytes: bytes) -> None:
    """Take whatever `openssl rand -base64 32` and `openssl rand -hex 24` give, as either key, if it looks random."""
    if len(set(base64_bytes)) < 20 or len(set(hex_bytes)) < 16:
        return  # hypothesis likes bytes that repeat, which a random source gives less often than once in 10^20
    for key in (base64.b64encode(base64_bytes).decode(), hex_bytes.hex()):
        assert parse_secret_keys(key) == (key,)
        assert parse_api_key(key) == key


@given(st.randoms(use_true_random=True))
@settings(max_examples=500)
def test_keys_of_a_random_source_pass(source: Any) -> None:
    """Take every key that a random source gives."""
    key = source.randbytes(24).hex()
    assert (parse_secret_keys(key), parse_api_key(key)) == ((key,), key)
    key = base64.b64encode(source.randbytes(32)).decode()
    assert (parse_secret_keys(key), parse_api_key(key)) == ((key,), key)


@pytest.mark.parametrize(
    "weak",
    [
        "changemechangeme",
        "changeme" * 6,
        "k" * 64,
        "0123456789abcdef" * 2,
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "a-key-that-is-long-enough-to-si",  # 31 characters
        "ab12ba21" * 5,
    ],
)
def test_a_guessable_secret_key_is_refused(weak: str) -> None:
    """Refuse a short key, one that repeats itself and a row of neighbours; name the command that makes one."""
    with pytest.raises(ValueError, match="openssl rand -base64 32") as refused:
        parse_secret_keys(weak)
    assert weak not in str(refused.value)
    assert parse_secret_keys("a-key-that-is-long-enough-to-sig") == ("a-key-that-is-long-enough-to-sig",)
    if len(weak) >= FORMER_KEY_CHARS_MIN:
        assert parse_secret_keys(f"{weak},{SECRET_KEY}") == (weak, SECRET_KEY), "a weak key is retired by a good one"


@pytest.mark.parametrize("weak", ["x", "changemechangeme", "fifteen-letters", "abcdefghijklmnopqrst"])
def test_a_guessable_api_key_is_refused(weak: str) -> None:
    """Refuse it, with the command that makes a good one; take one of 16 varied characters."""
    with pytest.raises(ValueError, match="openssl rand -hex 24"):
        parse_api_key(weak)
    assert parse_api_key("sixteen-letters!") == "sixteen-letters!"


async def test_a_signature_names_its_project(tmp_path: Path) -> None:
    """Sign each project's notifications by its own key, listed under it, and name the project in the body."""
    async with relay(tmp_path, clock=SystemClock()) as running:
        made = await endpoint(running)
        await running.submit()
        (own,) = await told(running, 1)
        key = (await running.app.store.access.create_api_key("films", "", ["submit", "read", "admin"], 1)).text
        running.client.headers["authorization"] = f"Bearer {key}"
        other_made = await endpoint(running)
        await running.submit()
        _, other = await told(running, 2)
        listed = (await running.get("/.well-known/webhook-keys"))["keys"]
        alone = (await running.get(f"/.well-known/webhook-keys?project={other_made['project']}"))["keys"]
        nobody = (await running.get("/.well-known/webhook-keys?project=prj_none"))["keys"]
    by_project = {key["project"]: key for key in listed}
    assert by_project.keys() == {made["project"], other_made["project"]}
    assert alone == [by_project[other_made["project"]]]
    assert nobody == []
    assert (project_of(own), project_of(other)) == (made["project"], other_made["project"])
    assert genuine(own, by_project[made["project"]])
    assert genuine(other, by_project[other_made["project"]])
    assert not genuine(other, by_project[made["project"]])
    assert not genuine(own, by_project[other_made["project"]])


async def test_a_project_of_an_older_relay_gets_a_key(tmp_path: Path) -> None:
    """Make the key of a project that has none when relay starts, and once."""
    keys = []
    for _ in range(2):
        async with relay(tmp_path) as running:
            keys.append((await running.get("/.well-known/webhook-keys"))["keys"])
    async with database_of(tmp_path) as database:
        await database.transact(
            lambda transaction: transaction.rows(
                "delete_former_signing_keys", {"project_id": "prj_default", "number": 9}
            )
        )
    async with relay(tmp_path) as running:
        again = (await running.get("/.well-known/webhook-keys"))["keys"]
    assert keys[0] == keys[1]
    assert [key["project"] for key in again] == ["prj_default"]
    assert again != keys[0]


async def test_other_keys_than_the_databases_are_refused(tmp_path: Path) -> None:
    """Refuse to start with a key that is not the database's, whether or not anything is sealed by it yet."""
    async with relay(tmp_path):
        pass
    with pytest.raises(SettingsError, match="python -m relay keys reseal") as refused:
        async with relay(tmp_path, RELAY_SECRET_KEYS=NEW_KEY):
            pass
    assert NEW_KEY not in str(refused.value)
    async with relay(tmp_path, RELAY_SECRET_KEYS=BOTH):
        pass
    with pytest.raises(SettingsError):
        async with relay(tmp_path, RELAY_SECRET_KEYS=SECRET_KEY):
            pass


async def test_a_lost_secret_file_is_missed(tmp_path: Path) -> None:
    """Refuse a database whose key file is gone, and make no other in its place; with the file back, relay starts."""
    own_key = partial(relay, tmp_path, RELAY_SECRET_KEYS="", DATABASE_URL=f"sqlite:///{tmp_path}/relay.db")
    async with own_key():
        pass
    file = tmp_path / "relay.db.secret"
    key = file.read_text()
    file.unlink()
    with pytest.raises(SettingsError, match=r"RELAY_SECRET_KEYS is not set, and relay\.db\.secret is not beside it"):
        async with own_key():
            pass
    assert not file.exists()
    file.write_text(key)
    async with own_key():
        pass


async def test_a_database_of_a_former_version_tells_its_keys_by_its_secrets(tmp_path: Path) -> None:
    """Refuse keys that open none of the secrets of a database without fingerprints, and take those that do."""
    async with relay(tmp_path) as running:
        await endpoint(running)
    await _as_before(tmp_path)
    with pytest.raises(SettingsError, match="Put the key back"):
        async with relay(tmp_path, RELAY_SECRET_KEYS=NEW_KEY):
            pass
    async with relay(tmp_path) as running:
        (shown,) = (await running.get("/v1/endpoints"))["data"]
        assert shown["secret_readable"]


async def test_one_unreadable_endpoint_takes_no_list_down(tmp_path: Path) -> None:
    """Show it with a marker among the others, answer 409 for its secret, and mend it by a rotation."""
    async with relay(tmp_path, clock=SystemClock()) as running:
        bad, good = await endpoint(running), await endpoint(running)
        await running.app.store.database.transact(lambda transaction: _damage(transaction, bad["id"]))
        shown = {one["id"]: one["secret_readable"] for one in (await running.get("/v1/endpoints"))["data"]}
        assert shown == {bad["id"]: False, good["id"]: True}
        answer = await running.client.get(f"/v1/endpoints/{bad['id']}/secret")
        assert (answer.status_code, answer.json()["code"]) == (409, "seal_broken")
        changed = await running.client.patch(f"/v1/endpoints/{bad['id']}", json={"description": "x"})
        assert changed.status_code == 409, "what may still be put right is not written over"
        rotated = await running.client.post(f"/v1/endpoints/{bad['id']}/secret-rotations", json={"grace_s": 0})
        assert rotated.status_code == 200
        assert (await running.get(f"/v1/endpoints/{bad['id']}/secret"))["secret"] == rotated.json()["secret"]


async def test_a_leaked_key_is_retired(tmp_path: Path) -> None:
    """Seal everything under the newest key, also what an older release sealed, so that relay runs without the other."""
    async with relay(tmp_path, clock=SystemClock()) as running:
        made = await endpoint(running, headers={"x-key": "value"})
        headers = {"idempotency-key": "k"}
        body = {"url": "https://app.example/hook"}
        first = await running.client.post("/v1/endpoints", json=body, headers=headers)
        await running.client.post(f"/v1/endpoints/{made['id']}/secret-rotations")
        secret = (await running.get(f"/v1/endpoints/{made['id']}/secret"))["secret"]
        keys = await running.get("/.well-known/webhook-keys")
    await _as_before(tmp_path)
    said: list[tuple[str, int, int]] = []
    async with database_of(tmp_path) as database:
        for expected in ((4, 0), (0, 4)):  # two endpoints, an answer and a seed; a second run finds nothing to do
            done = await encryption_keys.reseal(
                database, Encryption(BOTH.split(",")), lambda *step: said.append(step), 1, accept_loss=False
            )
            assert (done.resealed, done.already, done.broken) == (*expected, 0)
    assert [step[0] for step in said[:3]] == ["endpoints", "idempotency_keys", "signing_keys"]
    async with relay(tmp_path, clock=SystemClock(), RELAY_SECRET_KEYS=NEW_KEY) as running:
        assert (await running.get(f"/v1/endpoints/{made['id']}/secret"))["secret"] == secret
        again = await running.client.post("/v1/endpoints", json=body, headers=headers)
        assert (again.headers["idempotent-replayed"], again.json()["id"]) == ("true", first.json()["id"])
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"url": running.hook})
        await running.submit()
        assert genuine((await told(running, 1))[0], keys["keys"][0])


async def test_a_reseal_that_was_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin again where it ended, count what is done, and forget the old key only when nothing needs it."""
    monkeypatch.setattr(encryption_keys, "STEP", 2)
    async with relay(tmp_path) as running:
        for _ in range(5):
            await endpoint(running)

    def broken_off(table: str, done: int, broken: int) -> None:
        raise KeyboardInterrupt(f"{table} {done} {broken}")

    encryption = Encryption(BOTH.split(","))
    async with database_of(tmp_path) as database:
        with pytest.raises(KeyboardInterrupt, match="endpoints 2 0"):
            await encryption_keys.reseal(database, encryption, broken_off, 1, accept_loss=False)
        assert len(await database.rows("sealing_keys", {})) == 2
        done = await encryption_keys.reseal(database, encryption, lambda *_: None, 1, accept_loss=False)
        assert (done.already, done.resealed, done.broken) == (2, 4, 0)
        assert [
            bytes(row["fingerprint"]) for row in await database.rows("sealing_keys", {})
        ] == encryption.fingerprints[1:]


async def test_a_lost_key_is_given_up_only_when_asked(tmp_path: Path) -> None:
    """Keep refusing while something opens with no key; with the loss accepted relay starts, and rotations mend it."""
    async with relay(tmp_path) as running:
        made = await endpoint(running)
    lost = Encryption([NEW_KEY])
    async with database_of(tmp_path) as database:
        done = await encryption_keys.reseal(database, lost, lambda *_: None, 1, accept_loss=False)
        assert (done.resealed, done.broken) == (0, 2)
    with pytest.raises(SettingsError):
        async with relay(tmp_path, RELAY_SECRET_KEYS=NEW_KEY):
            pass
    async with database_of(tmp_path) as database:
        await encryption_keys.reseal(database, lost, lambda *_: None, 1, accept_loss=True)
    async with relay(tmp_path, RELAY_SECRET_KEYS=NEW_KEY) as running:
        rotated = await running.client.post(f"/v1/endpoints/{made['id']}/secret-rotations")
        assert rotated.status_code == 200
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"url": running.hook})
        await running.submit()
        assert (await told(running, 1))[0].headers["webhook-signature"].startswith("v1,")


def test_the_commands_retire_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`keys create` with the old key, `keys reseal` with both, and `keys list` with the new one alone."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/relay.db")
    runner = CliRunner()
    assert runner.invoke(migrate_command, []).exit_code == 0
    for secret_keys, arguments, said in (
        (SECRET_KEY, ["create", "--name", "first"], "key_"),
        (BOTH, ["reseal"], "encrypted 1 again with the newest key, 0 already were, 0 decrypt with none"),
        (NEW_KEY, ["list"], "default"),
        (NEW_KEY, ["renew-signing", "--drop-former"], "made a new signing key"),
    ):
        monkeypatch.setenv("RELAY_SECRET_KEYS", secret_keys)
        done = runner.invoke(keys_command, arguments)
        assert done.exit_code == 0, done
        assert said in done.output


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    """Take a secret from the file that `…_FILE` names; name one that is set twice, or whose file is no text."""
    file, odd = tmp_path / "key", tmp_path / "odd"
    file.write_text(f"{SECRET_KEY}\n")
    odd.write_bytes(b"\xff" * 40)
    loaded = load({"RELAY_SECRET_KEYS_FILE": str(file), "RELAY_EVOLINK_API_KEY_FILE": str(file)}, ("evolink",))
    assert loaded.secret_keys == (SECRET_KEY,)
    assert loaded.provider("evolink").api_key == SECRET_KEY
    file.write_bytes(b"k" * (FILE_BYTES_MAX + 1))
    for environ in (
        {"RELAY_API_KEY": SECRET_KEY, "RELAY_API_KEY_FILE": str(file)},
        {"RELAY_API_KEY_FILE": str(tmp_path / "absent")},
        {"RELAY_API_KEY_FILE": str(odd)},
        {"RELAY_API_KEY_FILE": str(file)},
    ):
        with pytest.raises(SettingsError, match="RELAY_API_KEY_FILE") as refused:
            load(environ, ())
        assert SECRET_KEY not in str(refused.value)
    assert unknown({"RELAY_API_KEY_FILE": "x", "RELAY_EVOLINK_API_KEY_FILE": "x", "RELAY_PORT_FILE": "x"}, ("evolink",))


def test_what_the_command_line_reads_is_known() -> None:
    """Take no variable of a command that talks to a running relay for a misspelled setting."""
    sources = (Path(cli.__file__).parent / "remote").glob("*.py")
    read = {name for path in sources for name in re.findall(r'"(RELAY_[A-Z_]+)"', path.read_text())}
    assert {"RELAY_URL", "RELAY_PROFILES", "RELAY_ENDPOINT_SECRET"} <= read
    assert unknown(dict.fromkeys(read, "x"), ()) == []


def test_secrets_leave_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every secret, and leave none of them to children; what is no secret stays."""
    values = {
        "RELAY_SECRET_KEYS": SECRET_KEY,
        "RELAY_API_KEY": SECRET_KEY,
        "RELAY_WALLET_KEY": "0x" + "12" * 32,
        "RELAY_EVOLINK_API_KEY": "sk-evolink",
        "RELAY_EVOLINK_CALLBACK_SECRET": new_secret(),
        "RELAY_CHAIN_RPC_URL": "https://rpc.example/key",
        "RELAY_ENV": "tests",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    loaded = load_settings()
    assert (loaded.api_key, loaded.wallet_key) == (values["RELAY_API_KEY"], values["RELAY_WALLET_KEY"])
    done = subprocess.run([sys.executable, "-c", "import os; print(os.environ)"], capture_output=True, check=True)
    assert [name for name in values if name in done.stdout.decode()] == ["RELAY_ENV"]


async def _damage(transaction: Transaction, endpoint_id: str) -> None:
    """Make an endpoint's secret unreadable."""
    await transaction.run_text(
        f"UPDATE endpoints SET secret = {_bytes(b'no key made this')} WHERE id = '{endpoint_id}'"
    )


def _bytes(value: bytes) -> str:
    """Bytes as either database writes them."""
    return f"X'{value.hex()}'" if DATABASES.postgres is None else f"'\\x{value.hex()}'::bytea"


async def _as_before(folder: Path) -> None:
    """Leave the database as a relay does that seals for no place and keeps no fingerprint."""
    encryption, unbound = Encryption([SECRET_KEY]), _former_seal(SECRET_KEY)

    async def rewrite(transaction: Transaction) -> None:
        await transaction.run_text("DELETE FROM sealing_keys")
        for row in await transaction.rows("sealed_endpoints", {"after": "", "limit": 100}):
            for column in ("secret", "former_secret", "headers"):
                if row[column]:
                    text = encryption.decrypt(bytes(row[column]), place("endpoints", column, row["id"]))
                    sealed = _bytes(unbound.encrypt(text.encode()))
                    await transaction.run_text(f"UPDATE endpoints SET {column} = {sealed} WHERE id = '{row['id']}'")

    async with database_of(folder) as database:
        await database.transact(rewrite)


def _former_seal(key: str) -> Fernet:
    """How an earlier release sealed."""
    derived = HKDF(SHA256(), 32, salt=None, info=b"relay: secrets at rest").derive(key.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
