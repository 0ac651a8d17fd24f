"""DATABASE_URL in every form that hosts and tools write, and one sentence for each way in which it opens nothing."""

import asyncio
import sqlite3
import ssl
import sys
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import SettingsError, StorageUnavailable
from relay.storage.engine.database_url import is_postgres, postgres_target, sqlite_path
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import PostgreSQL
from relay.storage.store import open_migrated
from tests.support import processes
from tests.support.ports import free_port
from tests.support.postgres import Server
from tests.support.running import SECRET_KEY

FORMS = (
    *("{base}", "{base}?sslmode=prefer", "{base}?sslmode=no-verify", "{base}?ssl=false", "{base}?sslmode=allow"),
    *("{base}?sslmode=prefer&channel_binding=prefer", "{base}?connect_timeout=10", "{base}?application_name=films"),
    *("{base}?schema=public", "{base}?connection_limit=1&pool_timeout=0", "{base}?target_session_attrs=read-write"),
    *(
        "{base}?keepalives=1&keepalives_idle=30",
        "{base}?gssencmode=disable",
        "{base}?sslmode=prefer&sslrootcert=system",
    ),
    *("{base}?options=-c%20statement_timeout%3D5s", "{base}?uselibpqcompat=true", "{base}?pool_mode=session"),
    *(
        "{base}?pgbouncer=true",
        "{base}?pool_mode=transaction",
        "{base}?prepared_statements=false",
        "'{base}'",
        "{base} ",
    ),
    *("{base}?", "{base}?&", "{base}?sslmode=", "{base}?statement_timeout=9s", "{base}?client_encoding=utf8"),
    *("postgres://{at}/{name}", "postgresql+asyncpg://{at}/{name}", "postgresql+psycopg2://{at}/{name}"),
    *(
        "postgres://{at},{host}/{name}",
        "postgres://relay:p%40ss%2Fw%23@{host}/{name}",
        "postgres://relay:p#w@{host}/{name}",
    ),
    *("postgres:///{name}?host=127.0.0.1&port={port}&user=relay", "postgres://relay@/{name}?host={socket}&port={port}"),
    "postgres://relay@127.0.0.1:1,127.0.0.1:{port}/{name}",
)


@pytest.mark.anyio
async def test_every_form_opens(database_server: Server) -> None:
    """Open, migrate and read a database by each form that hosts, libpq, ORMs and other drivers write."""
    base = database_server.database()
    at, name = base.removeprefix("postgresql://").split("/")
    connection = await asyncpg.connect(base)
    folder = (await connection.fetchval("SHOW unix_socket_directories")).split(",")[0]
    await connection.close()
    updates = {"at": at, "host": at.partition("@")[2], "port": database_server.port, "name": name, "socket": folder}
    for form in FORMS:
        database = await PostgreSQL.open(form.format(base=base, **updates))
        try:
            await migrate(database, 1)
            assert (await database.rows("schema_version", {}))[0]["version"] >= 1, form
        finally:
            await database.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres://u:secret@h/d?sslmod=require", "sslmod"),
        ("postgres://u:secret@h/d?sslmode=sure", "sslmode=sure.*verify-full"),
        ("postgres://u:secret@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgres://u:secret@h/d?gssencmode=require", "gssencmode"),
        ("postgres://u:secret@h/d?client_encoding=LATIN1", "client_encoding"),
        ("postgres://u:secret@h/d?sslmode=verify-ca&sslrootcert=/no/such.pem", "sslrootcert=/no/such.pem"),
        ("postgres://u:secret@h:0/d", "port"),
        ("postgres://u:secret@h:65536/d", "port"),
        ("postgres://u:secret@h:54x/d", "port"),
        ("postgres://u:sec/ret@h/d", "%2F"),
        ("postgres://u:sec?ret@h/d", "%3F"),
    ],
)
def test_what_is_wrong_is_named(url: str, said: str) -> None:
    """Name the part or the option that is wrong, and never the password."""
    with pytest.raises(SettingsError, match=said) as refused:
        postgres_target(url)
    assert not any(word in str(refused.value) for word in ("secret", "sec/", "sec?", "ret@"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://relay.db", "three slashes"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///x.db?mode=ro", "'mode'"),
        ("mysql://u:secret@h/d", "'mysql'"),
        ("relay.db", "must be"),
        ("", "must be"),
    ],
)
def test_a_file_that_is_none_is_named(url: str, said: str) -> None:
    """Say what is wrong with a URL that names no file."""
    with pytest.raises(SettingsError, match=said) as refused:
        sqlite_path(url)
    assert "secret" not in str(refused.value)


def test_a_file_in_every_form() -> None:
    """Read a file's path as SQLAlchemy, Rails and shells write it."""
    for url in ("sqlite:///a%20b.db", "sqlite3:///a b.db", "sqlite+aiosqlite:///a b.db", '"sqlite:///a b.db"'):
        assert sqlite_path(url) == Path("a b.db")
    assert sqlite_path("sqlite:////data/relay.db") == Path("/data/relay.db")
    assert [is_postgres(url) for url in ("Postgres://h/d", "postgresql+psycopg://h/d", "pg://h/d")] == [
        True,
        True,
        False,
    ]


def test_hosts_ports_and_sockets() -> None:
    """Pair each host with its port, an IPv6 address and a socket's folder with colons in it too."""
    for url, hosts, ports in (
        ("postgres://u@[::1]:6432/d", ["::1"], [6432]),
        ("postgres://u@a,b:2,[::1]/d", ["a", "b", "::1"], [5432, 2, 5432]),
        ("postgres:///d?host=/cloudsql/films:europe:pg", ["/cloudsql/films:europe:pg"], [5432]),
        ("postgres://%2Fvar%2Frun/d?port=6432", ["/var/run"], [6432]),
        ("postgres:///d?host=a,b&port=1,2", ["a", "b"], [1, 2]),
    ):
        target = postgres_target(url)
        assert (target.arguments["host"], target.arguments["port"]) == (hosts, ports)


def test_how_far_a_server_is_proven() -> None:
    """Let the machine's authorities judge where no root certificate is named, and nobody where none is asked for."""
    for query, checked in (
        ("sslmode=verify-full&sslrootcert=system", (ssl.CERT_REQUIRED, True)),
        ("sslmode=verify-ca&sslrootcert=system", (ssl.CERT_REQUIRED, False)),
        ("sslmode=require&sslrootcert=system", (ssl.CERT_REQUIRED, True)),
        ("sslaccept=strict&sslrootcert=system", (ssl.CERT_REQUIRED, True)),
    ):
        context = postgres_target(f"postgres://h/d?{query}").arguments["ssl"]
        assert (context.verify_mode, context.check_hostname) == checked, query
    for query, mode in (("sslmode=require", "require"), ("ssl=true", "require"), ("sslmode=no-verify", "prefer")):
        assert postgres_target(f"postgres://h/d?{query}").arguments["ssl"] == mode


def test_how_long_a_connection_may_take() -> None:
    """Take `connect_timeout` from 2 s on, and 10 s where it says nothing or no bound."""
    given_s = {"": 10, "0": 10, "-1": 10, "1": 2, "2": 2, "3": 3}
    found = {text: postgres_target(f"postgres://h/d?connect_timeout={text}").arguments["timeout"] for text in given_s}
    assert found == given_s


@given(st.text(), st.text(), st.text())
def test_no_url_breaks_the_reader(login: str, host: str, rest: str) -> None:
    """Read any URL, or refuse it with a SettingsError; a target never shows its password."""
    try:
        shown = repr(postgres_target(f"postgres://{login}:p4ssw0rd@{host}/{rest}"))
    except SettingsError as refused:
        shown = str(refused)
    assert "p4ssw0rd" not in shown


async def refusal(url: str) -> str:
    """Return what is said of a database that relay cannot use; it is the operator's to mend."""
    with pytest.raises(SettingsError) as refused:
        await open_migrated(url, 1, 0.0)
    return str(refused.value)


@pytest.mark.anyio
async def test_a_database_that_relay_cannot_use_is_one_sentence(database_server: Server) -> None:
    """Say what is wrong with the role, the database, its encoding or an option, and where, in one sentence."""
    base = database_server.database()
    host = f"127.0.0.1:{database_server.port}"
    admin = await asyncpg.connect(base)
    try:
        hba = await admin.fetchval("SHOW hba_file")
        await admin.execute("CREATE ROLE locked LOGIN PASSWORD 'right'; CREATE ROLE reader LOGIN")
        await admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        lines = ("host all locked 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 trust", "local all all trust")
        await admin.execute(f"COPY (VALUES {', '.join(f'($${line}$$)' for line in lines)}) TO '{hba}'")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    finally:
        await admin.close()
    name = base.rpartition("/")[2]
    said = {
        f"postgres://locked:wrong@{host}/{name}": ("locked", host),
        f"postgres://nobody@{host}/{name}": ("nobody", host),
        f"postgres://relay@{host}/nowhere": ("'nowhere'", host, "create it"),
        f"postgres://relay@{host}/latin": ("LATIN1", "UTF8", "'latin'"),
        f"postgres://reader@{host}/{name}": ("permission denied for schema public", "GRANT"),
        f"postgres://relay@{host}/{name}?sslmode=require": ("TLS", "sslmode", host),
        f"postgres://relay@{host}/{name}?options=-c%20no_such=1": ("no_such", host),
        f"postgres://relay@{host}/{name}?schema=nowhere": ("schema", "GRANT"),
    }
    for url, wanted in said.items():
        told = await refusal(url)
        assert all(word in told for word in wanted), (url, told)
        assert "wrong" not in told.replace("wrong password", "")
        assert "\n" not in told


@pytest.mark.anyio
async def test_a_role_that_may_make_no_tables_uses_those_there_are(database_server: Server) -> None:
    """Start as a role without CREATE where another role has migrated the database."""
    base = database_server.database()
    database = await open_migrated(base, 1, 0.0)
    await database.close()
    admin = await asyncpg.connect(base)
    await admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE worker LOGIN")
    await admin.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker")
    await admin.close()
    database = await open_migrated(base.replace("relay@", "worker@"), 1, 0.0)
    await database.close()


OTHERS = {
    "CREATE TABLE jobs (id INTEGER)": "jobs",
    "CREATE TABLE schema_migrations (version VARCHAR(255) PRIMARY KEY)": "schema_migrations",
    "CREATE VIEW events AS SELECT 1 AS id": "events",
    "CREATE TABLE work (id INTEGER); CREATE INDEX jobs_open ON work (id)": "jobs_open",
}


@pytest.mark.anyio
@pytest.mark.parametrize("made", OTHERS)
async def test_a_file_of_another_program_is_left_alone(tmp_path: Path, made: str) -> None:
    """Say which names are taken in a SQLite file that another program uses, and make nothing in it."""
    file = tmp_path / "app.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(made)
        before = connection.execute("SELECT name FROM sqlite_master").fetchall()
    told = await refusal(f"sqlite:///{file}")
    assert f"({OTHERS[made]})" in told
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == before


@pytest.mark.anyio
@pytest.mark.parametrize("made", OTHERS)
async def test_a_database_of_another_program_is_left_alone(database_server: Server, made: str) -> None:
    """Say which names are taken in a PostgreSQL database of another program; in a schema of its own relay starts."""
    url = database_server.database()
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(made)
        told = await refusal(url)
        assert f"({OTHERS[made]})" in told
        assert await admin.fetchval("SELECT to_regclass('callbacks')") is None
        await admin.execute("CREATE SCHEMA relay")
    finally:
        await admin.close()
    for _ in range(2):
        database = await open_migrated(f"{url}?schema=relay", 1, 0.0)
        await database.close()


@pytest.mark.anyio
async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Name a file that holds something else, and leave it as it is."""
    file = tmp_path / "notes.txt"
    file.write_text("not a database\n" * 100)
    assert f"{file} (DATABASE_URL) is no SQLite database" in await refusal(f"sqlite:///{file}")
    assert file.read_text() == "not a database\n" * 100


@pytest.mark.anyio
@pytest.mark.parametrize("wait_s", [0.0, 0.3])
async def test_a_server_that_is_away_is_named(wait_s: float) -> None:
    """Name the host and port where nobody listens, and give up when the wait is over."""
    port = free_port()
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(StorageUnavailable, match=f"127.0.0.1:{port} does not answer: connection refused"):
        await open_migrated(f"postgres://relay@127.0.0.1:{port}/x", 1, wait_s)
    assert asyncio.get_running_loop().time() - began_s >= wait_s


@pytest.mark.anyio
async def test_a_start_waits_for_a_server_that_restarts(database_server: Server) -> None:
    """Open as soon as a server answers that was stopped when the start began."""
    base = database_server.database()
    database_server.stop()
    opening = asyncio.create_task(open_migrated(base, 1, 60.0))
    await asyncio.sleep(0)  # it has begun to connect
    await asyncio.to_thread(database_server.start)
    database = await asyncio.wait_for(opening, 60)
    await database.close()


@pytest.mark.anyio
async def test_a_start_that_cannot_is_an_exit_status_and_a_sentence(tmp_path: Path) -> None:
    """Exit 78 for a wrong DATABASE_URL and 1 for a server that is away, with one line and no traceback."""
    environ = {"RELAY_SECRET_KEYS": SECRET_KEY, "RELAY_DATABASE_WAIT_S": "0", "PORT": "0"}
    port = free_port()
    for url, status, said in (
        ("postgres://h/d?sslmod=require", 78, "sslmod"),
        (f"postgres://u@127.0.0.1:{port}/d", 1, f"127.0.0.1:{port}"),
        ("sqlite:///", 78, "names no file"),
    ):
        for command in ("serve", "migrate"):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "relay", command),
                cwd=processes.ROOT,
                env=processes.clean(environ | {"DATABASE_URL": url}),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, told = await asyncio.wait_for(child.communicate(), 60)
            assert (child.returncode, told.decode().count("\n")) == (status, 1), told
            assert said in told.decode()
