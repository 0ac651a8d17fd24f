"""Every variable that relay reads, in one table: name, meaning, default, and how its text is read."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from relay import reading


class Setting(msgspec.Struct, frozen=True):
    """One environment variable: its name, the field it fills, its default as text, how it is read, its meaning.

    One that is `secret` may also be given as a file (`…_FILE`), and leaves the process's environment once it is read.
    """

    name: str
    field: str
    default: str | None
    read: Callable[[str], Any]
    meaning: str
    secret: bool = False


SETTINGS: Final = (
    Setting("PORT", "port", "8000", reading.number(0, 65535), "the port to listen on; 0 takes a free one"),
    Setting("RELAY_HOST", "host", "", str, "the address to listen on; empty for every one, IPv4 and IPv6"),
    Setting(
        "RELAY_PUBLIC_URL",
        "public_url",
        None,
        reading.public_url,
        "where providers reach this relay: callback URLs begin with it",
    ),
    Setting(
        "RELAY_SECRET_KEYS",
        "secret_keys",
        "",
        reading.secret_keys,
        "comma list, newest last: signs callback tokens, seals secrets at rest",
        secret=True,
    ),
    Setting(
        "RELAY_API_KEY",
        "api_key",
        None,
        reading.api_key,
        "an admin key of project `default`, without a row in the database",
        secret=True,
    ),
    Setting("DATABASE_URL", "database_url", "sqlite:///./data/relay.db", str, "sqlite:///path or postgres://…"),
    Setting(
        "RELAY_DATABASE_WAIT_S",
        "database_wait_s",
        "30",
        reading.number(0, 600, float),
        "how long a start waits for a database that does not answer",
    ),
    Setting(
        "RELAY_ENV",
        "environment",
        "default",
        str,
        "the environment's name; a callback made for another one is kept, not applied",
    ),
    Setting(
        "RELAY_ALLOW_NETWORKS",
        "allow_networks",
        "",
        reading.networks,
        "CIDR list that notifications may reach besides public addresses",
    ),
    Setting(
        "RELAY_ALLOW_HTTP",
        "allow_http",
        "0",
        reading.flag,
        "1 allows plain http for the public URL and for endpoints (development, tests)",
    ),
    Setting(
        "RELAY_LOG_FORMAT",
        "log_format",
        "json",
        reading.choice("json", "console"),
        "json: one object a line; console: for people",
    ),
    Setting(
        "RELAY_LOG_QUEUE_MAX",
        "log_queue_max",
        "10000",
        reading.number(16, 1_000_000),
        "log lines that wait for whatever reads standard output; more are dropped and counted",
    ),
    Setting(
        "RELAY_RETRY_SCHEDULE_S",
        "retry_schedule_s",
        None,
        reading.schedule,
        "seconds before each attempt of a delivery; default 75.5 hours in ten attempts",
    ),
    Setting(
        "RELAY_SUBMIT_WAIT_S",
        "submit_wait_s",
        "8",
        reading.number(0, 25, float),
        "how long POST /v1/jobs waits for the provider before it answers 202",
    ),
    Setting(
        "RELAY_SUBMIT_TIMEOUT_S",
        "submit_timeout_s",
        "30",
        reading.number(0.1, 300, float),
        "how long a provider may take to answer a submission",
    ),
    Setting(
        "RELAY_STATUS_CHECK_FIRST_S",
        "status_check_first_s",
        None,
        reading.number(0.1, 86_400, float),
        "when a job is first asked about if no callback came; default 1.5 times the provider's own estimate",
    ),
    Setting(
        "RELAY_CHECKS_IN_FLIGHT_MAX",
        "checks_in_flight_max",
        "10",
        reading.number(1, 1000),
        "status checks under way at once, for each provider",
    ),
    Setting(
        "RELAY_CHECKS_PER_S",
        "checks_per_s",
        "20",
        reading.number(0.1, 1000, float),
        "status checks begun in a second, for each provider",
    ),
    Setting(
        "RELAY_CHECKS_ASKED_PER_JOB",
        "checks_asked_per_job",
        "12",
        reading.number(1, 1000),
        "status checks of one job that POST …/status-checks may ask for in a minute; more are answered 429",
    ),
    Setting(
        "RELAY_CHECKS_ASKED_PER_PROJECT",
        "checks_asked_per_project",
        "120",
        reading.number(1, 100_000),
        "status checks that one project may ask for in a minute by POST …/status-checks; more are answered 429",
    ),
    Setting(
        "RELAY_CONFIRM_WAIT_S",
        "confirm_wait_s",
        "5",
        reading.number(0.1, 60, float),
        "how long a callback that ends a job waits to be confirmed by a status check before it is believed as it is",
    ),
    Setting(
        "RELAY_HEARTBEAT_S",
        "heartbeat_s",
        "3600",
        reading.number(1, 604_800, float),
        "how long a provider may give no sign of life about a job before the job is lost",
    ),
    Setting(
        "RELAY_OUTPUT_EXPIRING_S",
        "output_expiring_s",
        "3600",
        reading.number(0, 604_800),
        "how long before a result is gone that is announced, if half of its time is over by then; 0: never",
    ),
    Setting(
        "RELAY_WALLET_KEY",
        "wallet_key",
        None,
        reading.wallet_key,
        "the private key that pays StableStudio and x402.org in USDC; needs the extra x402",
        secret=True,
    ),
    Setting(
        "RELAY_SPEND_MAX_PER_JOB", "spend_max_per_job", "1.00", reading.usdc, "the most USDC that one job may cost"
    ),
    Setting(
        "RELAY_SPEND_MAX_PER_DAY", "spend_max_per_day", "10.00", reading.usdc, "the most USDC to spend in a day (UTC)"
    ),
    Setting(
        "RELAY_PROJECT_SPEND_MAX_PER_DAY",
        "project_spend_max_per_day",
        None,
        reading.usdc,
        "the most USDC that one project may spend in a day (UTC); `RELAY_SPEND_MAX_PER_DAY` if not set",
    ),
    Setting(
        "RELAY_PAY_CHAIN_ID", "pay_chain_id", "8453", reading.number(1, 2**53), "the one chain to pay on; 8453 is Base"
    ),
    Setting(
        "RELAY_PAY_ASSET",
        "pay_asset",
        "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913",
        reading.address,
        "the only token that is paid with; the default is USDC on Base",
    ),
    Setting(
        "RELAY_PAY_ASSET_NAME",
        "pay_asset_name",
        "USD Coin",
        str,
        "the name in the signing domain of that token; USDC on Base Sepolia is named USDC",
    ),
    Setting(
        "RELAY_CHAIN_RPC_URL",
        "chain_rpc_url",
        None,
        reading.rpc_url,
        "a JSON-RPC node of the chain: with it, a payment of unknown fate is proven made or void",
        secret=True,
    ),
    Setting(
        "RELAY_STABLESTUDIO_SCHEMA",
        "stablestudio_schema",
        "a",
        reading.choice("a", "b"),
        "which of StableStudio's two published request bodies a unified input becomes",
    ),
    Setting(
        "RELAY_RELAYDANCE_PRICES",
        "relaydance_prices",
        "",
        str,
        "RelayDance publishes no price list to programs: prices to quote, as docs/api.md says",
    ),
    Setting(
        "RELAY_UPLOAD_MAX_BYTES",
        "upload_max_bytes",
        "104857600",
        reading.number(1024, 1 << 30),
        "the largest file that POST /v1/files takes; a provider's own limit may be lower",
    ),
    Setting(
        "RELAY_UPLOAD_MIN_BYTES_PER_S",
        "upload_min_bytes_per_s",
        "16384",
        reading.number(1, 1 << 30),
        "the slowest that an upload may come, once it has begun",
    ),
    Setting("RELAY_UPLOADS_MAX", "uploads_max", "32", reading.number(1, 10_000), "uploads that may be open, in all"),
    Setting(
        "RELAY_UPLOADS_PER_PROJECT_MAX",
        "uploads_per_project_max",
        "4",
        reading.number(1, 10_000),
        "uploads that one project may have open",
    ),
    Setting(
        "RELAY_STREAMS_MAX",
        "streams_max",
        "1000",
        reading.number(1, 100_000),
        "streams that may be open, in all",
    ),
    Setting(
        "RELAY_STREAMS_PER_PROJECT_MAX",
        "streams_per_project_max",
        "200",
        reading.number(1, 100_000),
        "streams that one project may have open",
    ),
    Setting(
        "RELAY_STREAM_BUFFER_BYTES",
        "stream_buffer_bytes",
        "262144",
        reading.number(1, 1 << 30),
        "bytes of events that a stream holds while its client reads them; one event in any case",
    ),
    Setting(
        "RELAY_METRICS_KEY",
        "metrics_key",
        None,
        str,
        "when set, /metrics needs it as Authorization: Bearer; when not, anyone who reaches relay can read its counts",
    ),
    Setting(
        "RELAY_REQUEST_BODY_MAX_BYTES",
        "request_body_max_bytes",
        "262144",
        reading.number(1024, 1 << 26),
        "the largest request body under /v1",
    ),
    Setting(
        "RELAY_CALLBACK_BODY_MAX_BYTES",
        "callback_body_max_bytes",
        "1048576",
        reading.number(1024, 1 << 26),
        "the largest callback body",
    ),
    Setting(
        "RELAY_BODIES_MAX_BYTES",
        "bodies_max_bytes",
        "67108864",
        reading.number(1 << 23, 1 << 36),
        "memory for all bodies that are being read; an eighth of it for one project, or the callbacks of one job",
    ),
    Setting(
        "RELAY_CONNECTIONS_MAX",
        "connections_max",
        "4096",
        reading.number(1, 1_000_000),
        "connections that may be open; half of the files that the system allows is the limit where that is less",
    ),
    Setting(
        "RELAY_HEADER_DEADLINE_S",
        "header_deadline_s",
        "10",
        reading.number(0.1, 60, float),
        "how long the head of a request may take to arrive, from the connection or its first byte on",
    ),
    Setting(
        "RELAY_WRITE_DEADLINE_S",
        "write_deadline_s",
        "30",
        reading.number(0.1, 600, float),
        "how long an answer waits for a client that takes none of it",
    ),
    Setting(
        "RELAY_BODY_DEADLINE_S",
        "body_deadline_s",
        "8",
        reading.number(0.1, 60, float),
        "how long a request body may take to arrive, in all",
    ),
    Setting(
        "RELAY_CALLBACK_GRACE_S",
        "callback_grace_s",
        "604800",
        reading.number(0, 31_536_000),
        "how long after a job's deadline its callback URL still works",
    ),
    Setting(
        "RELAY_ENDPOINTS_PER_PROJECT_MAX",
        "endpoints_per_project_max",
        "500",
        reading.number(1, 100_000),
        "standing endpoints of one project, each of which may want every event; one more is 409",
    ),
    Setting(
        "RELAY_CALLBACKS_PER_JOB_MAX",
        "callbacks_per_job_max",
        "200",
        reading.number(1, 100_000),
        "callbacks kept for one job; more are answered and counted",
    ),
    Setting(
        "RELAY_CALLBACK_BYTES_PER_JOB_MAX",
        "callback_bytes_per_job_max",
        "16777216",
        reading.number(1024, 2**40),
        "bytes of callbacks kept for one job; more are answered and counted, and the job is checked",
    ),
    Setting(
        "RELAY_PAGE_MAX_BYTES",
        "page_max_bytes",
        "4194304",
        reading.number(1024, 2**30),
        "about how large a page of a list may be; one that would be larger is shorter",
    ),
    Setting(
        "RELAY_RETENTION_DAYS", "retention_days", "30", reading.retention_days, "days an ended job is kept; 0: for ever"
    ),
    Setting(
        "RELAY_DELIVERIES_IN_FLIGHT_MAX",
        "deliveries_in_flight_max",
        "256",
        reading.number(1, 10_000),
        "attempts under way at once, over all endpoints; one project alone leaves one in eight to others",
    ),
    Setting(
        "RELAY_KEEPALIVE_S",
        "keepalive_s",
        "30",
        reading.number(0, 600, float),
        "how long a connection to an endpoint is kept for its next notification",
    ),
    Setting(
        "RELAY_LOOKUPS_MAX",
        "lookups_max",
        "64",
        reading.number(4, 1000),
        "look-ups of host names under way at once; a quarter is kept for names that resolved before",
    ),
    Setting(
        "RELAY_LOOKUP_CACHE_S",
        "lookup_cache_s",
        "5",
        reading.number(0, 300, float),
        "how long the addresses of a host name are used again; they are judged at every connection",
    ),
    Setting(
        "RELAY_LEASE_S",
        "lease_s",
        "25",
        reading.number(2, 600, float),
        "how long a claimed delivery belongs to one process; after a crash it is due again then",
    ),
    Setting(
        "RELAY_BACKLOG_MAX",
        "backlog_max",
        "4096",
        reading.number(16, 1_000_000),
        "writes waiting for the database before relay answers 503",
    ),
    Setting(
        "RELAY_SHUTDOWN_S", "shutdown_s", "8", reading.number(0, 300, float), "how long a stop waits for work under way"
    ),
)
PROVIDER_SETTINGS: Final = (
    Setting(
        "RELAY_<PROVIDER>_API_KEY",
        "api_key",
        None,
        reading.header_text,
        "the provider's API key; without one the provider is not configured",
        secret=True,
    ),
    Setting(
        "RELAY_<PROVIDER>_BASE_URL",
        "base_url",
        None,
        reading.origin,
        "an origin that replaces the provider's published one",
    ),
    Setting(
        "RELAY_<PROVIDER>_CONFIRM",
        "confirm",
        "always",
        reading.confirm,
        "always: a callback that ends a job is confirmed by a status check before it is told; never: it is believed",
    ),
    Setting(
        "RELAY_<PROVIDER>_CALLBACK_SECRET",
        "callback_secret",
        None,
        reading.webhook_secret,
        "whsec_…: callbacks must carry a Standard Webhooks signature; one that does not is quarantined",
        secret=True,
    ),
    Setting(
        "RELAY_<PROVIDER>_PAY_TO",
        "pay_to",
        "",
        reading.addresses,
        "comma list of the addresses that a paid provider may be paid at; empty allows any that it names",
    ),
)
