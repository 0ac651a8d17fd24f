"""DATABASE_URL as hosts and tools hand it out, read into what relay needs to connect; nothing is connected here.

libpq, ORMs and hosts put options of their own into it. What relay does not need and can ignore without a risk is
ignored, what it cannot honour is refused by name, and an unknown one counts as a typing error.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlencode

import msgspec

from relay.errors import SettingsError

FORMS: Final = "DATABASE_URL must be postgres://user:password@host:5432/name or sqlite:///./data/relay.db"
PORT: Final = 5432
CONNECT_S: Final = 10.0
CONNECT_MIN_S: Final = 2.0
_POSTGRES: Final = frozenset({"postgres", "postgresql"})
_SQLITE: Final = frozenset({"sqlite", "sqlite3"})
_QUOTES: Final = "\"'"

_SERVER_SETTINGS: Final = frozenset(
    {
        *("application_name", "options", "search_path", "timezone", "TimeZone"),
        *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    }
)
"""Options that are sent to the server."""
_FILES: Final = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
_DRIVER: Final = frozenset(
    {
        *(*_FILES, "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("krbsrvname", "gsslib", "passfile", "service"),
    }
)
"""Options that asyncpg reads itself."""
_READ_HERE: Final = frozenset(
    {
        *("host", "hostaddr", "port", "user", "password", "dbname", "database", "connect_timeout", "schema"),
        *("sslmode", "ssl", "sslaccept", "target_session_attrs", "pgbouncer", "pool_mode", "prepared_statements"),
        *("gssencmode", "fallback_application_name", "client_encoding", "encoding", "charset"),
    }
)
_IGNORED: Final = frozenset(
    {
        # libpq's: TCP and TLS details, and channel binding, which asyncpg does not speak; TLS protects what it would.
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        *("channel_binding", "sslcompression", "sslsni", "load_balance_hosts", "require_auth", "requiressl"),
        *("sslcertmode", "gssdelegation", "min_protocol_version", "max_protocol_version", "scram_client_key"),
        # How other programs' pools and statement caches are set.
        *("connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size", "max_idle_connection_lifetime"),
        *("sslidentity", "uselibpqcompat", "pool", "pool_size", "pool_max_conns", "pool_min_conns", "max_overflow"),
        *("pool_max_conn_lifetime", "pool_max_conn_idle_time", "pool_health_check_period", "default_query_exec_mode"),
        *("statement_cache_capacity", "statement_cache_mode", "description_cache_capacity", "checkout_timeout"),
        *("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback", "reaping_frequency"),
        *("binary_parameters", "conn_max_age", "conn_health_checks", "idle_timeout", "max_connections", "workaround"),
        *("supa", "adapter", "engine_config", "variables", "min_messages"),
    }
)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_WORDS: Final = {
    "true": "require",
    "1": "require",
    "on": "require",
    "false": "disable",
    "0": "disable",
    "off": "disable",
    "no-verify": "prefer",
    "accept_invalid_certs": "prefer",
    "strict": "verify-full",
}
"""What drivers other than libpq write for its modes. Who proves no server is as safe without TLS as with it."""


class PostgresTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where a PostgreSQL is and how to connect: asyncpg's arguments, what is sent to the server, what was ignored.

    `at` is `host:port` for messages; `pooled` says that a pooler is in between that shares its sessions.
    """

    arguments: dict[str, Any]
    settings: dict[str, str]
    pooled: bool
    at: str
    user: str | None
    database: str | None
    ignored: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Nothing but the place: the arguments hold the password."""
        return f"PostgresTarget({self.at})"


def scheme_of(database_url: str) -> str:
    """Return the scheme without an ORM's driver: `postgresql+asyncpg` is `postgresql`."""
    return database_url.strip().strip(_QUOTES).partition(":")[0].partition("+")[0].lower()


def is_postgres(database_url: str) -> bool:
    """`postgres://` and `postgresql://` are the same."""
    return scheme_of(database_url) in _POSTGRES


def sqlite_path(database_url: str) -> Path:
    """Return the file of `sqlite:///relative` or `sqlite:////absolute`."""
    url = database_url.strip().strip(_QUOTES)
    scheme, _, rest = url.partition("://")
    if scheme_of(url) not in _SQLITE or not rest or "://" not in url:
        raise SettingsError(f"{FORMS}; it begins with {scheme[:20]!r}" if "://" in url else FORMS)
    if not rest.startswith("/"):
        raise SettingsError(
            "DATABASE_URL needs three slashes for a file: sqlite:///relay.db, or four: sqlite:////data/…"
        )
    path, _, options = rest.removeprefix("/").partition("?")
    if options:
        name = options.partition("=")[0][:40]
        raise SettingsError(f"DATABASE_URL has the option {name!r}: sqlite:///path takes none")
    if not path or path == ":memory:":
        raise SettingsError(
            "DATABASE_URL names no file: relay keeps its data in one, such as sqlite:///./data/relay.db"
        )
    return Path(unquote(path))


def shown(database_url: str) -> str:
    """Return the database to show: a file's whole path, or a server's host, port and database; never a password."""
    if not is_postgres(database_url):
        return str(sqlite_path(database_url).absolute())
    scheme, _, rest = database_url.strip().strip(_QUOTES).partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def postgres_target(database_url: str) -> PostgresTarget:
    """Read a PostgreSQL's URL; SettingsError names the part or the option that is wrong, and never the password."""
    _, _, rest = database_url.strip().strip(_QUOTES).partition("://")
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    if "@" in path or "@" in query.partition("=")[0]:
        raise SettingsError(
            "DATABASE_URL cannot be read: in the password / is written %2F, ? is %3F, @ is %40, # is %23"
        )
    login, _, listed = authority.rpartition("@")
    user, _, password = login.partition(":")
    options = _options(query)
    hosts, ports = _hosts(options.get("host") or options.get("hostaddr") or unquote(listed), options.get("port", ""))
    arguments: dict[str, Any] = {
        "dsn": _driver_dsn(options),
        "user": options.get("user") or unquote(user) or None,
        "password": options.get("password") or unquote(password) or None,
        "database": options.get("dbname") or options.get("database") or unquote(path) or None,
        "timeout": _connect_s(options),
        **({"host": hosts, "port": ports} if hosts else {}),
        **_tls(options),
    }
    if wanted := options.get("target_session_attrs"):
        arguments["target_session_attrs"] = wanted
    at = ", ".join(host if host.startswith("/") else f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
    return PostgresTarget(
        arguments=arguments,
        settings=_server_settings(options),
        pooled=_pooled(options),
        at=at or "the local server",
        user=arguments["user"],
        database=arguments["database"],
        ignored=tuple(sorted(options.keys() & _IGNORED)),
    )


def _options(query: str) -> dict[str, str]:
    """Return the options behind `?`, the last of each; SettingsError for one that is unknown or cannot be honoured."""
    options: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name:
            options[unquote(name)] = unquote(value)
    known = _SERVER_SETTINGS | _DRIVER | _READ_HERE | _IGNORED
    for name in options:
        if name not in known:
            raise SettingsError(f"DATABASE_URL has the option {name[:40]!r}, which relay does not know: take it out")
    if options.get("gssencmode") == "require":
        raise SettingsError("DATABASE_URL has gssencmode=require: relay encrypts with TLS alone (sslmode=require)")
    if options.get("client_encoding", "utf8").lower() not in ("utf8", "utf-8", "unicode", "auto"):
        raise SettingsError("DATABASE_URL has a client_encoding that is not UTF8: relay speaks no other")
    return options


def _hosts(listed: str, ports: str) -> tuple[list[str], list[int]]:
    """Hosts and their ports, one for each; none where libpq's own default is meant."""
    if not listed:
        return ([], []) if not ports else (["localhost"], [_port(ports)])
    hosts: list[str] = []
    found: list[int] = []
    spare = ports.split(",") if ports else [""]
    for index, entry in enumerate(listed.split(",")):
        host, port = entry, ""
        if entry.startswith("["):
            host, _, port = entry[1:].partition("]")
            port = port.removeprefix(":")
        elif not entry.startswith("/"):
            host, _, port = entry.partition(":")
        hosts.append(host or "localhost")
        found.append(_port(port or spare[min(index, len(spare) - 1)]))
    return hosts, found


def _port(text: str) -> int:
    """Return a port; the usual one where there is none."""
    if not text:
        return PORT
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536):
        raise SettingsError("DATABASE_URL has a port that is no number from 1 to 65535")
    return int(text)


def _connect_s(options: Mapping[str, str]) -> float:
    """How long a connection may take; 0 or less means, as for libpq, as long as it takes: here the usual time."""
    text = options.get("connect_timeout", "")
    try:
        wanted = int(text or 0)
    except ValueError:
        raise SettingsError("DATABASE_URL has a connect_timeout that is no whole number of seconds") from None
    return max(CONNECT_MIN_S, wanted) if wanted > 0 else CONNECT_S


def _server_settings(options: Mapping[str, str]) -> dict[str, str]:
    """Return what is sent to the server besides relay's own settings."""
    sent = {name: value for name, value in options.items() if name in _SERVER_SETTINGS and value}
    if "fallback_application_name" in options:
        sent.setdefault("application_name", options["fallback_application_name"])
    if schema := options.get("schema"):
        sent.setdefault("search_path", schema)
    return {name: value for name, value in sent.items() if (name, value) != ("search_path", "public")}


def _pooled(options: Mapping[str, str]) -> bool:
    """Whether the URL says that sessions are shared: then relay need not find out."""
    return (
        options.get("pgbouncer", "").lower() in ("true", "1")
        or options.get("pool_mode", "") in ("transaction", "statement")
        or options.get("prepared_statements", "") in ("false", "0")
    )


def _driver_dsn(options: Mapping[str, str]) -> str:
    """Return what asyncpg reads by itself, in its own form; SettingsError for a file that cannot be read."""
    known = {name: value for name, value in options.items() if name in _DRIVER and value}
    if known.get("sslrootcert") == "system":
        del known["sslrootcert"]
    for name in _FILES:
        if name in known and not Path(known[name]).is_file():
            raise SettingsError(f"DATABASE_URL has {name}={known[name]}: there is no such file")
    return f"postgresql://?{urlencode(known)}" if known else "postgresql://"


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    """How far the server is proven: libpq's modes, where the machine's own authorities count as a root certificate."""
    given = options.get("sslmode") or options.get("ssl") or options.get("sslaccept")
    if given is None:
        return {}
    mode = _SSL_WORDS.get(given.lower(), given.lower())
    if mode not in _SSL_MODES:
        raise SettingsError(f"DATABASE_URL has sslmode={given[:40]}: it must be one of {', '.join(_SSL_MODES)}")
    root = options.get("sslrootcert")
    by_system = root == "system" and mode in ("require", "verify-ca", "verify-full")
    no_root = root is None and mode.startswith("verify") and not _own_root_there()
    if not by_system and not no_root:
        return {"ssl": mode}
    context = ssl.create_default_context()
    context.check_hostname = mode != "verify-ca"
    if certificate := options.get("sslcert"):
        context.load_cert_chain(certificate, options.get("sslkey"), options.get("sslpassword"))
    return {"ssl": context}


def _own_root_there() -> bool:
    """Whether the user has a root certificate where libpq looks for one."""
    try:
        return Path("~/.postgresql/root.crt").expanduser().exists()
    except RuntimeError:  # a user without a home
        return False
