"""Every setting of relay, once: one field says its type, bounds, default, environment variable, secrecy and meaning.

A new setting is one field, and a line of docs/settings.md. msgspec converts its text, or a parser that stands in the
annotation. `load` names all wrong variables in one error, so that a deploy fails with the whole list.
"""

import ipaddress
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta, field

from relay.errors import SettingsError

SECRET: Final = "secret"
"""A setting with this mark may be given as a file (`…_FILE`), and leaves the environment once it is read."""
FILE: Final = "_FILE"
FILE_BYTES_MAX: Final = 8192
SECRET_KEY_CHARS_MIN: Final = 32
"""A key of `openssl rand -base64 32` has 44 characters, one of `openssl rand -hex 24` has 48."""
API_KEY_CHARS_MIN: Final = 16
"""It cannot be guessed offline: the database keeps nothing of it."""
FORMER_KEY_CHARS_MIN: Final = 16
PIECE: Final = 3
PIECES_SHARE: Final = 0.65
"""Of a random key, 46 of 48 pieces of three hexadecimal digits are different, and never fewer than 40."""
STEPS_MIN: Final = 6
LETTERS_MIN: Final = 7
MAKE_SECRET: Final = "make one with: openssl rand -base64 32"
RETENTION_MIN_DAYS: Final = 5
"""The default schedule of a delivery takes up to four."""
RETENTION_MAX_DAYS: Final = 3_650
DIGITS_MAX: Final = 12
FLAGS: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

COMMAND_VARIABLES: Final = frozenset({"RELAY_URL", "RELAY_PROFILES", "RELAY_ENDPOINT_SECRET", "RELAY_LISTEN_SECRET"})
"""What the commands of the command line read that talk to a running relay."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What bounds some texts; the description is the error, which does not repeat the text, since it may be a secret.
PROVIDER_KEY: Final = Meta(
    pattern=r"^(?=.*[^.*<>xX_-])(?!your-key)[!-~]+$",
    description="must be the provider's key, not a placeholder: ASCII without blanks, such as sk-4f1c9a27e0",
)
CALLBACK_SECRETS: Final = Meta(
    pattern=r"^[!-~]{8,512}( [!-~]{8,512}){0,3}$",
    description="must be the secret that the provider shows, such as whsec_C2FVsBQIhrsc, or two to four of them",
)
WALLET_KEY: Final = Meta(
    pattern=r"^(0x)?(?!0+$)[0-9a-fA-F]{64}$",
    description="must be a private key: 64 hexadecimal digits, with or without 0x in front",
)

# Parsers of the other types. Each returns the value, or raises a ValueError that says what the text must be.


def parse_number(text: str, kind: type[int] | type[float], must: str) -> int | float:
    """Return the number in a text; ValueError for another text says what it must be, and how long it is."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{must}, not a text of {len(text)} character{'' if len(text) == 1 else 's'}") from None


def parse_flag(text: str) -> bool:
    """Return whether a text is `1`, not `0`, or one of the other texts for yes."""
    if text.lower() not in FLAGS:
        raise ValueError("must be 1 or 0 (or true, false, yes, no, on, off)")
    return FLAGS[text.lower()]


def parse_retention_days(text: str) -> int:
    """Return days that are more than the longest usual delivery schedule takes; 0 for ever."""
    must = f"must be 0 (for ever) or an integer from {RETENTION_MIN_DAYS} to {RETENTION_MAX_DAYS}"
    days = int(parse_number(text, int, must))
    if days != 0 and not RETENTION_MIN_DAYS <= days <= RETENTION_MAX_DAYS:
        raise ValueError(must)
    return days


def parse_schedule(text: str) -> tuple[int, ...]:
    """Return the seconds before each attempt, the first entry being the first attempt."""
    must = "must be a comma list of 1 to 50 integers, seconds from 0 to 604800, such as 0,5,300,3600"
    delays = tuple(int(parse_number(item, int, must)) for item in _items(text))
    if not 1 <= len(delays) <= 50 or any(not 0 <= delay <= 604_800 for delay in delays):
        raise ValueError(must)
    return delays


def parse_usdc(text: str) -> int:
    """Return an amount of USDC in atomic units, a millionth of one each."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise ValueError("must be an amount of USDC such as 2.50, with six decimals at most")
    whole, _, part = text.partition(".")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0") or "0")


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a comma list in CIDR notation."""
    try:
        return tuple(ipaddress.ip_network(item, strict=False) for item in _items(text))
    except ValueError:
        raise ValueError("must be a comma list of networks such as 10.0.0.0/8,fd00::/8,127.0.0.1/32") from None


def parse_addresses(text: str) -> tuple[str, ...]:
    """Return the chain addresses of a comma list, in lower case."""
    return tuple(parse_address(item) for item in _items(text))


def parse_address(text: str) -> str:
    """Return an address on the chain, in lower case."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        raise ValueError(
            "must be an address: 0x and 40 hexadecimal digits, such as 0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
        )
    return text.lower()


def parse_base_url(text: str) -> str:
    """Return the URL that comes before a provider's paths: an origin, and the path of a gateway if there is one."""
    parts = _web_url(text, "must be a URL such as https://api.example.com", ("query", "fragment", "username"))
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def parse_public_url(text: str) -> str:
    """Return the public URL, which may have a path in front of relay's own."""
    parts = _web_url(text, "must be a URL such as https://relay.example.com", ("query", "fragment", "username"))
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def parse_client_ip(text: str) -> str:
    """Return the rule by which a client's address is found, in lower case."""
    if not re.fullmatch(r"peer|xff:[1-9]|header:[a-z0-9-]{1,64}", text.lower()):
        raise ValueError("must be peer, xff:N with N proxies from 1 to 9, or header:NAME, such as header:x-real-ip")
    return text.lower()


def parse_rpc_url(text: str) -> str:
    """Return the URL of a node as it is given: its path or query may hold a key."""
    _web_url(text, "must be an http or https URL such as https://mainnet.base.org", ("fragment",))
    return text


_PARTS: Final = {"query": "a query (?…)", "fragment": "a fragment (#…)", "username": "a user name"}


def _web_url(text: str, must: str, barred: tuple[str, ...]) -> SplitResult:
    """Return the parts of an http or https URL; ValueError `must` for another text, or one with a barred part.

    The barred part is named, and not repeated: it may hold a password.
    """
    try:
        parts = urlsplit(text.strip().rstrip("/"))
    except ValueError:
        raise ValueError(must) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(must)
    if found := [_PARTS[part] for part in barred if getattr(parts, part)]:
        raise ValueError(f"{must}, without {' or '.join(found)}")
    return parts


def _items(text: str) -> tuple[str, ...]:
    """Return the items of a comma list without their blanks."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def parse_api_key(text: str) -> str:
    """Return a key that gives everything."""
    if weakness := guessable(text, API_KEY_CHARS_MIN):
        raise ValueError(
            f"must be a key that cannot be guessed; this one {weakness} (make one with: openssl rand -hex 24)"
        )
    return text


def parse_secret_keys(text: str) -> tuple[str, ...]:
    """Return the keys to sign and seal with; ValueError if the newest, which is last, is easy to guess.

    Those before it are only as long as they always had to be, since a weak one is retired with its successor beside it.
    """
    keys = _items(text)
    if any(len(key) < FORMER_KEY_CHARS_MIN for key in keys[:-1]):
        raise ValueError(f"each key needs at least {FORMER_KEY_CHARS_MIN} characters ({MAKE_SECRET})")
    if keys and (weakness := guessable(keys[-1], SECRET_KEY_CHARS_MIN)):
        raise ValueError(
            f"must end with a key that cannot be guessed; the last {weakness} ({MAKE_SECRET}; where a database is "
            "sealed with the present one, add the new one behind it, comma between, and see SECURITY.md)"
        )
    return keys


def guessable(key: str, chars_min: int) -> str | None:
    """Return what makes a key easy to guess, None for one that looks random: long, and of pieces that do not repeat."""
    if len(key) < chars_min:
        return f"has fewer than {chars_min} characters"
    if len({key[at : at + PIECE] for at in range(len(key) - PIECE + 1)}) < len(key) * PIECES_SHARE:
        return "repeats itself"
    if len({ord(after) - ord(before) for before, after in pairwise(key)}) < STEPS_MIN:
        return "is a row of neighbours"
    if len(set(key.lower())) < LETTERS_MIN:
        return f"has fewer than {LETTERS_MIN} different characters"
    return None


KEY_CHARS_MAX: Final = 500
KEY_PART_CHARS_MAX: Final = 200
ARCHIVE_URL_CHARS_MAX: Final = 500
"""A key and the prefix before it together are at most 1,024 bytes in S3, a file's name 255."""
LONGEST: Final = {
    name: "x" * chars
    for name, chars in {"project": 30, "provider": 30, "date": 10, "job": 30, "n": 10, "kind": 10, "ext": 10}.items()
}


def parse_archive_url(text: str) -> str:
    """Return the URL of a bucket, or of a folder, without a slash at its end."""
    if len(text) > ARCHIVE_URL_CHARS_MAX:
        raise ValueError(f"must have at most {ARCHIVE_URL_CHARS_MAX} characters, not {len(text)}")
    must = "must be a bucket or folder such as s3://bucket/prefix, gs://bucket, az://container or file:///path"
    parts = urlsplit(text)
    if parts.scheme not in ("s3", "gs", "az", "file") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{must}, without credentials, which are read from the store's own variables")
    if (parts.scheme == "file") == bool(parts.netloc) or (parts.scheme == "file" and len(parts.path) < 2):
        raise ValueError(must)
    return text.rstrip("/")


def parse_archive_key(text: str) -> str:
    """Return the template of a copy's key, which two copies never share."""
    fields = set(re.findall(r"\{([a-z]+)\}", text))
    known = {"project", "provider", "date", "job", "n", "kind", "ext"}
    plain = re.fullmatch(r"(?:[A-Za-z0-9_-]|\{[a-z]+\})(?:[A-Za-z0-9._/-]|\{[a-z]+\})*", text)
    odd = any(part in text for part in ("..", "//", "/.")) or text.endswith("/")
    if not plain or odd or fields - known or not {"job", "n"} <= fields:
        raise ValueError(
            "must be letters, digits, . _ - / and {job} {n}, both needed, {project} {provider} {date} {kind} {ext}"
        )
    longest = text.format(**LONGEST)
    if len(longest) > KEY_CHARS_MAX or max(map(len, longest.split("/"))) > KEY_PART_CHARS_MAX:
        raise ValueError(
            f"must make keys of at most {KEY_CHARS_MAX} characters, {KEY_PART_CHARS_MAX} between two slashes:"
            f" {{project}} and {{job}} have {len(LONGEST['job'])} each"
        )
    return text


def parse_types(text: str) -> tuple[str, ...]:
    """Return the content types of a comma list, in lower case."""
    types = tuple(item.lower() for item in _items(text))
    if not types or not all(re.fullmatch(r"[a-z]+/([a-z0-9.+-]+|\*)", item) for item in types):
        raise ValueError("must be a comma list of content types such as video/*,image/png")
    return types


Usdc = Annotated[int, parse_usdc]


class ProviderSettings(
    msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: f"RELAY_<PROVIDER>_{name.upper()}"
):
    """What an operator configures for one provider."""

    api_key: Annotated[str, PROVIDER_KEY, SECRET] | None = None
    """the provider's API key; without one the provider is not configured"""
    base_url: Annotated[str, parse_base_url] | None = None
    """a URL that replaces the provider's published origin; it may have a path, such as that of a gateway"""
    confirm: Literal["always", "never"] = "always"
    """always: a callback that ends a job is announced after a status check confirms it; never: it is believed"""
    callback_secret: Annotated[str, CALLBACK_SECRETS, SECRET] | None = None
    """secrets of signed callbacks, in the provider's form, blanks between them; a wrong signature is quarantined"""
    pay_to: Annotated[tuple[str, ...], parse_addresses] = ()
    """comma list of the addresses that a paid provider may be paid at; empty allows any that it names"""

    def __repr__(self) -> str:
        """Return no value of a field: some are secrets."""
        return "ProviderSettings(…)"


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: f"RELAY_{name.upper()}"):
    """The settings of a process, by the environment variables that they are read from."""

    port: Annotated[int, Meta(ge=0, le=65_535)] = field(default=8000, name="PORT")
    """the port to listen on; 0 takes a free one"""
    host: str = ""
    """the address to listen on; empty for every one, IPv4 and IPv6"""
    public_url: Annotated[str, parse_public_url] | None = None
    """where providers reach this relay: callback URLs begin with it; default what the platform says, where it does"""
    client_ip: Annotated[str, parse_client_ip] = "peer"
    """where a client's address is, for log and rates: peer, xff:N behind N proxies, header:NAME; default by platform"""
    secret_keys: Annotated[tuple[str, ...], parse_secret_keys, SECRET] = ()
    """comma list, newest last: signs callback tokens, seals secrets at rest"""
    api_key: Annotated[str, parse_api_key, SECRET] | None = None
    """an admin key of project `default`, without a row in the database"""
    database_url: str = field(default="sqlite:///./data/relay.db", name="DATABASE_URL")
    """sqlite:///path or postgres://…"""
    allow_ephemeral: Annotated[bool, parse_flag] = False
    """1 allows SQLite on a disk that the platform wipes when the process ends"""
    litestream_socket: str = ""
    """Litestream's control socket: a 2xx then also means that the replica has it; without it the disk counts"""
    database_wait_s: Annotated[float, Meta(ge=0, le=600)] = 30.0
    """how long a start waits for a database that does not answer"""
    environment: str = field(default="default", name="RELAY_ENV")
    """the environment's name; a callback made for another one is kept, not applied"""
    allow_networks: Annotated[tuple[Network, ...], parse_networks] = ()
    """CIDR list that notifications may reach besides public addresses"""
    allow_http: Annotated[bool, parse_flag] = False
    """1 allows plain http for the public URL and for endpoints (development, tests)"""
    log_format: Literal["json", "console"] = "json"
    """json: one object a line; console: for people"""
    log_queue_max: Annotated[int, Meta(ge=16, le=1_000_000)] = 10_000
    """log lines that wait for whatever reads standard output; more are dropped and counted"""
    submit_wait_s: Annotated[float, Meta(ge=0, le=25)] = 8.0
    """how long POST /v1/jobs waits for the provider before it answers 202"""
    submit_timeout_s: Annotated[float, Meta(ge=0.1, le=300)] = 30.0
    """how long a provider may take to answer a submission"""
    status_check_first_s: Annotated[float, Meta(ge=0.1, le=86_400)] | None = None
    """when a job is first asked about if no callback came; default 1.5 times the provider's own estimate"""
    checks_in_flight_max: Annotated[int, Meta(ge=1, le=1000)] = 10
    """concurrent status checks, for each provider"""
    checks_per_s: Annotated[float, Meta(ge=0.1, le=1000)] = 20.0
    """status checks begun in a second, for each provider"""
    confirmations_per_s_max: Annotated[float, Meta(ge=0.1, le=10_000)] = 500.0
    """how fast confirmations may become at one provider while they wait: they start at the two limits above"""
    checks_asked_per_job: Annotated[int, Meta(ge=1, le=1000)] = 12
    """status checks of one job that POST …/status-checks may ask for in a minute; more are answered 429"""
    checks_asked_per_project: Annotated[int, Meta(ge=1, le=100_000)] = 120
    """status checks that one project may ask for in a minute by POST …/status-checks; more are answered 429"""
    doubts_free: Annotated[int, Meta(ge=0, le=1000)] = 3
    """status checks of one job after which a callback that proves nothing is followed by a check after a pause only"""
    doubt_pause_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    """the first such pause; it doubles with each status check"""
    doubt_pause_max_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 60.0
    """the longest such pause"""
    confirm_wait_s: Annotated[float, Meta(ge=0.1, le=60)] = 5.0
    """how long a callback that ends a job waits to be confirmed by a status check before it is believed as it is"""
    heartbeat_s: Annotated[float, Meta(ge=1, le=604_800)] = 3600.0
    """how long a provider may give no sign of life about a job before the job is lost"""
    output_expiring_s: Annotated[int, Meta(ge=0, le=604_800)] = 3600
    """how long before a result is gone that is announced, if half of its time is over by then; 0: never"""
    wallet_key: Annotated[str, WALLET_KEY, SECRET] | None = None
    """the private key that pays StableStudio and x402.org in USDC; needs the extra x402"""
    spend_max_per_job: Usdc = 1_000_000
    """the most USDC that one job may cost"""
    spend_max_per_day: Usdc = 10_000_000
    """the most USDC to spend in a day (UTC)"""
    project_spend_max_per_day: Usdc | None = None
    """the most USDC that one project may spend in a day (UTC); `RELAY_SPEND_MAX_PER_DAY` if not set"""
    spend_max_per_hour: Usdc | None = None
    """the most USDC to spend in an hour of the clock; only the day's cap if not set"""
    project_spend_max_per_hour: Usdc | None = None
    """the most USDC that one project may spend in an hour of the clock; `RELAY_SPEND_MAX_PER_HOUR` if not set"""
    approval_above: Usdc | None = None
    """the most USD that a job may cost, or be of unknown price, without an admin key's approval; all may if not set"""
    pay_chain_id: Annotated[int, Meta(ge=1, le=1 << 53)] = 8453
    """the one chain to pay on; 8453 is Base"""
    pay_asset: Annotated[str, parse_address] = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
    """the only token that is paid with; the default is USDC on Base"""
    pay_asset_name: str = "USD Coin"
    """the name in the signing domain of that token; USDC on Base Sepolia is named USDC"""
    chain_rpc_url: Annotated[str, parse_rpc_url, SECRET] | None = None
    """a JSON-RPC node of the chain: with it, a payment of unknown fate is proven made or void"""
    stablestudio_schema: Literal["a", "b"] = "a"
    """which of StableStudio's two published request bodies a unified input becomes"""
    ark_region: Literal["world", "china"] = "world"
    """`world` is BytePlus ModelArk, `china` Volcengine Ark: the origin, and the model of an input that names none"""
    relaydance_prices: str = ""
    """RelayDance publishes no price list to programs: prices to quote, as docs/api.md says"""
    upload_max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 104_857_600
    """the largest file that POST /v1/files takes; a provider's own limit may be lower"""
    upload_min_bytes_per_s: Annotated[int, Meta(ge=1, le=1 << 30)] = 16_384
    """the slowest that an upload may come, once it has begun"""
    uploads_max: Annotated[int, Meta(ge=1, le=10_000)] = 32
    """uploads that may be open, in all"""
    uploads_per_project_max: Annotated[int, Meta(ge=1, le=10_000)] = 4
    """uploads that one project may have open"""
    archive_url: Annotated[str, parse_archive_url] | None = None
    """where results are copied: s3://bucket/prefix, gs://…, az://… (these need the extra archive) or file:///path"""
    archive: Literal["off", "after", "before_notify"] = "after"
    """whether jobs' results are copied, where neither job nor project says it; before_notify: the event waits for it"""
    archive_key: Annotated[str, parse_archive_key] = "{project}/{date}/{job}-{n}.{ext}"
    """the key of a copy"""
    archive_types: Annotated[tuple[str, ...], parse_types] = ()
    """comma list of the content types, by a result's first bytes, that are copied; default video/*,image/*,audio/*"""
    archive_max_bytes: Annotated[int, Meta(ge=1024, le=5_000_000_000)] = 1_073_741_824
    """the largest result that is copied; stores take no more than 5 GB in one PUT"""
    archive_timeout_s: Annotated[float, Meta(ge=1, le=3000)] = 900.0
    """how long one try of a copy may take, from the name's look-up to the bucket's answer"""
    archive_in_flight_max: Annotated[int, Meta(ge=1, le=100)] = 4
    """concurrent copies, of which each holds at most 16 MiB; a project leaves one in eight to others"""
    archive_bytes_per_s: Annotated[int, Meta(ge=100_000, le=10_000_000_000)] = 6_000_000
    """bytes in a second of all copies of a process together; more makes notifications wait for disk and processor"""
    archive_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 60.0
    """with before_notify: how long the event of a job's end waits for the copies of its results"""
    archive_retry_s: Annotated[int, Meta(ge=1, le=259_200)] = 86_400
    """how long a copy is tried again, from the job's end"""
    archive_link_s: Annotated[int, Meta(ge=1, le=604_800)] = 900
    """how long a link to a copy works"""
    archive_retention_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    """days until relay deletes a copy; 0: never"""
    streams_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """streams that may be open, in all"""
    streams_per_project_max: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """streams that one project may have open"""
    stream_buffer_bytes: Annotated[int, Meta(ge=1, le=1 << 30)] = 262_144
    """bytes of events that a stream holds while its client reads them; one event in any case"""
    dashboard: Annotated[bool, parse_flag] = True
    """0 turns the pages at `/` off; the API stays"""
    metrics_key: str | None = None
    """when set, /metrics needs it as Authorization: Bearer; when not, anyone who reaches relay can read its counts"""
    request_body_max_bytes: Annotated[int, Meta(ge=1024, le=1 << 26)] = 262_144
    """the largest request body under /v1"""
    callback_body_max_bytes: Annotated[int, Meta(ge=1024, le=1 << 26)] = 1_048_576
    """the largest callback body"""
    bodies_max_bytes: Annotated[int, Meta(ge=1 << 23, le=1 << 36)] = 67_108_864
    """memory for all bodies that are being read; a request beyond it is answered 503"""
    bodies_per_owner_max_bytes: Annotated[int, Meta(ge=1024, le=1 << 36)] | None = None
    """memory for bodies of one project, or of one job's callbacks; default an eighth of `RELAY_BODIES_MAX_BYTES`"""
    bodies_for_callbacks_bytes: Annotated[int, Meta(ge=0, le=1 << 36)] | None = None
    """how much of `RELAY_BODIES_MAX_BYTES` is kept for callbacks; default a quarter of it"""
    rate_per_key: Annotated[float, Meta(ge=0, le=1_000_000)] = 1000.0
    """API requests in a second of one key, to one process; one more is answered 429; 0: any number"""
    burst_per_key: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    """API requests that one key may make without a pause, before its rate counts"""
    rate_per_address: Annotated[float, Meta(ge=0, le=1_000_000)] = 50.0
    """requests in a second without a valid key, session or callback token of one address (IPv6: /64); 0: any number"""
    burst_per_address: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """such requests that one address may make without a pause, before its rate counts"""
    connections_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    """connections that may be open; half of the files that the system allows is the limit where that is less"""
    idle_s: Annotated[float, Meta(ge=0.1, le=3600)] = 100.0
    """how long a connection to relay is kept between two requests; longer than the router in front keeps it"""
    pipelined_max: Annotated[int, Meta(ge=1, le=1000)] = 8
    """requests that may wait on a connection behind one that is being answered; with one more, relay closes it"""
    head_max_bytes: Annotated[int, Meta(ge=1024, le=1 << 20)] = 65_536
    """bytes of the URL and headers of a request; a larger head is answered 431"""
    headers_max: Annotated[int, Meta(ge=16, le=10_000)] = 256
    """headers of a request; one with more is answered 431"""
    header_deadline_s: Annotated[float, Meta(ge=0.1, le=60)] = 10.0
    """how long the head of a request may take to arrive, from the connection or its first byte on"""
    write_deadline_s: Annotated[float, Meta(ge=0.1, le=600)] = 30.0
    """how long an answer waits for a client that takes none of it"""
    linger_s: Annotated[float, Meta(ge=0, le=60)] = 2.0
    """how long a client that still sends a body may go on after an answer that did not wait for that body"""
    linger_max_bytes: Annotated[int, Meta(ge=0, le=1 << 30)] = 4_194_304
    """bytes that such a client may still send before the connection is cut"""
    body_deadline_s: Annotated[float, Meta(ge=0.1, le=60)] = 8.0
    """how long a request body may take to arrive, in all"""
    callback_grace_s: Annotated[int, Meta(ge=0, le=31_536_000)] = 604_800
    """how long after a job's deadline its callback URL still works"""
    endpoints_per_project_max: Annotated[int, Meta(ge=1, le=100_000)] = 500
    """standing endpoints of one project, each of which may want every event; one more is 409"""
    notify_max: Annotated[int, Meta(ge=1, le=1000)] = 10
    """endpoints that the `notify` of one job may name; one more is 422"""
    callbacks_per_job_max: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """callbacks kept for one job; more are answered and counted"""
    callback_bytes_per_job_max: Annotated[int, Meta(ge=1024, le=1 << 40)] = 16_777_216
    """bytes of callbacks kept for one job; more are answered and counted, and the job is checked"""
    page_max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 4_194_304
    """about how large a page of a list may be; one that would be larger is shorter"""
    retention_days: Annotated[int, parse_retention_days] = 30
    """days an ended job is kept; 0: for ever"""
    audit_retention_days: Annotated[int, parse_retention_days] = 400
    """days an entry of the audit is kept; 0: for ever"""
    retry_schedule_s: Annotated[tuple[int, ...], parse_schedule] | None = None
    """seconds before each attempt of a delivery; default 75.5 hours in ten attempts"""
    deliveries_in_flight_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    """concurrent attempts in all; a project leaves one in eight to others, hanging endpoints one in four to the rest"""
    keepalive_s: Annotated[float, Meta(ge=0, le=600)] = 30.0
    """how long a connection to an endpoint is kept for its next notification"""
    lookups_max: Annotated[int, Meta(ge=4, le=1000)] = 64
    """concurrent look-ups of host names; a quarter is kept for names that resolved before"""
    lookup_cache_s: Annotated[float, Meta(ge=0, le=300)] = 5.0
    """how long the addresses of a host name are used again; they are judged at every connection"""
    lease_s: Annotated[float, Meta(ge=2, le=600)] = 25.0
    """how long a claimed delivery belongs to one process; due again then, or when that process is back after a crash"""
    backlog_max: Annotated[int, Meta(ge=16, le=1_000_000)] = 4096
    """writes waiting for the database before relay answers 503"""
    otel: Annotated[bool, parse_flag] = False
    """1 exports a trace of each job by OpenTelemetry, to OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra otel"""
    check_at_start: Annotated[bool, parse_flag] = True
    """1 makes the checks of `relay doctor` 20 s after a start, and logs what they find; 0: only the command does"""
    shutdown_s: Annotated[float, Meta(ge=0, le=300)] = 8.0
    """how long a stop waits for work under way"""
    providers: dict[str, ProviderSettings] = {}

    def __repr__(self) -> str:
        """Return no value of a field: some are secrets."""
        return "Settings(…)"

    def provider(self, name: str) -> ProviderSettings:
        """Return what is configured for a provider: the defaults if nothing is."""
        return self.providers.get(name, ProviderSettings())


class Setting(msgspec.Struct, frozen=True):
    """One environment variable, as a field declares it; `marks` are its bounds or its parser, and SECRET if it is one.

    `plain` is its type without them and without `| None`.
    """

    name: str
    field: str
    default: Any
    plain: Any
    marks: tuple[Any, ...]

    def named(self, provider: str) -> str:
        """Return the variable of a provider."""
        return self.name.replace("<PROVIDER>", provider.upper())

    def parse(self, text: str) -> Any:
        """Return the value of a text; ValueError says what the text must be."""
        mark: Any = next((mark for mark in self.marks if mark is not SECRET), None)
        if callable(mark):
            return mark(text)
        value: Any = text
        if self.plain in (int, float):
            wrong = f"must be {'an integer' if self.plain is int else 'a number'} from {mark.ge} to {mark.le}"
            value = parse_number(text, self.plain, wrong)
            wrong += f", not {text if len(text) <= DIGITS_MAX else 'so long a number'}"
        else:
            wrong = mark.description if mark else f"must be one of {', '.join(get_args(self.plain))}"
        try:
            return msgspec.convert(value, Annotated[self.plain, mark])
        except msgspec.ValidationError:
            raise ValueError(wrong) from None


def declared(struct: type[msgspec.Struct]) -> tuple[Setting, ...]:
    """Return the variables that the fields of a struct declare."""
    found = []
    for one in msgspec.structs.fields(struct):
        if one.name == "providers":
            continue
        kind = get_args(one.type)[0] if NoneType in get_args(one.type) else one.type
        plain, *marks = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        found.append(Setting(one.encode_name, one.name, one.default, plain, tuple(marks)))
    return tuple(found)


SETTINGS: Final = declared(Settings)
PROVIDER_SETTINGS: Final = declared(ProviderSettings)


def load(environ: Mapping[str, str], providers: tuple[str, ...]) -> Settings:
    """Return the settings of an environment; SettingsError names every variable that is wrong."""
    errors: list[str] = []
    values = {one.field: _read(one, one.name, environ, errors) for one in SETTINGS}
    of_providers = {
        name: ProviderSettings(**{one.field: _read(one, one.named(name), environ, errors) for one in PROVIDER_SETTINGS})
        for name in providers
    }
    public_url = values["public_url"]
    if public_url and public_url.startswith("http://") and not values["allow_http"]:
        errors.append("RELAY_PUBLIC_URL must be https; RELAY_ALLOW_HTTP=1 allows http for development")
    kept, bodies = values["bodies_for_callbacks_bytes"], values["bodies_max_bytes"]
    if kept and bodies and kept >= bodies:
        errors.append(f"RELAY_BODIES_FOR_CALLBACKS_BYTES must be less than RELAY_BODIES_MAX_BYTES, which is {bodies}")
    if errors:
        raise SettingsError(*errors)
    return Settings(**values, providers=of_providers)


def _variables(providers: tuple[str, ...]) -> dict[str, Setting]:
    """Return each variable that is read, with its setting."""
    of_providers = {one.named(name): one for name in providers for one in PROVIDER_SETTINGS}
    return {one.name: one for one in SETTINGS} | of_providers


def secret_names(providers: tuple[str, ...]) -> list[str]:
    """Return the variables that hold a secret."""
    return [name for name, one in _variables(providers).items() if SECRET in one.marks]


def unknown(environ: Mapping[str, str], providers: tuple[str, ...]) -> list[str]:
    """Return the RELAY_ variables that no setting reads, each with the name that was probably meant."""
    known = {*_variables(providers), *(f"{name}{FILE}" for name in secret_names(providers)), *COMMAND_VARIABLES}
    found = sorted(name for name in environ if name.startswith("RELAY_") and name not in known)
    if not found:
        return []
    import difflib  # noqa: PLC0415 - needed for mistakes alone

    meant = [difflib.get_close_matches(name, known, n=1, cutoff=0.8) for name in found]
    return [f"{name} (did you mean {close[0]}?)" if close else name for name, close in zip(found, meant, strict=True)]


def _read(one: Setting, name: str, environ: Mapping[str, str], errors: list[str]) -> Any:
    """Return a variable's value, and add to `errors` if it is wrong; one that is empty counts as not set."""
    try:
        text = _secret(name, environ) if SECRET in one.marks else environ.get(name, "").strip()
        return one.parse(text) if text else one.default
    except ValueError as error:
        needs_example = type(one.default) in (int, float) and "such as" not in str(error)
        example = f", such as {str(one.default).removesuffix('.0')}" if needs_example else ""
        errors.append(f"{name} {error}{example}")
        return None


def _secret(name: str, environ: Mapping[str, str]) -> str:
    """Return a secret, from its variable or from the file that `…_FILE` names; ValueError for both, or no such file."""
    given, path = environ.get(name, "").strip(), environ.get(name + FILE, "").strip()
    if not path:
        return given
    if given:
        raise ValueError(f"must be set once: {name} or {name}{FILE}")
    must = f"must be in the file that {name}{FILE} names"
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{must}, which cannot be read: {error.strerror}") from None
    text = content[:FILE_BYTES_MAX].decode(errors="replace").strip()
    if not text or "\ufffd" in text or len(content) > FILE_BYTES_MAX:
        raise ValueError(f"{must}, as text of at most {FILE_BYTES_MAX} bytes")
    return text
