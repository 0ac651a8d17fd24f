"""What relay is told by its environment: `load` reads every variable, and names all that are wrong at once.

So a deploy fails with the whole list.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.errors import SettingsError
from relay.reading import Network
from relay.variables import PROVIDER_SETTINGS, SETTINGS, Setting

FILE: Final = "_FILE"
FILE_BYTES_MAX: Final = 8192


class ProviderSettings(msgspec.Struct, frozen=True):
    """What an operator says of one provider: the key, another origin, and how far its callbacks are believed."""

    api_key: str | None = None
    base_url: str | None = None
    confirm: bool = True
    callback_secret: str | None = None
    pay_to: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings, read and checked; the defaults stand in the table of variables."""

    port: int
    host: str
    public_url: str | None
    secret_keys: tuple[str, ...]
    api_key: str | None
    database_url: str
    database_wait_s: float
    environment: str
    allow_networks: tuple[Network, ...]
    allow_http: bool
    log_format: str
    log_queue_max: int
    retry_schedule_s: tuple[int, ...] | None
    submit_wait_s: float
    submit_timeout_s: float
    status_check_first_s: float | None
    checks_in_flight_max: int
    checks_per_s: float
    checks_asked_per_job: int
    checks_asked_per_project: int
    confirm_wait_s: float
    heartbeat_s: float
    output_expiring_s: int
    wallet_key: str | None
    spend_max_per_job: int
    spend_max_per_day: int
    project_spend_max_per_day: int | None
    pay_chain_id: int
    pay_asset: str
    pay_asset_name: str
    chain_rpc_url: str | None
    stablestudio_schema: str
    relaydance_prices: str
    upload_max_bytes: int
    upload_min_bytes_per_s: int
    uploads_max: int
    uploads_per_project_max: int
    streams_max: int
    streams_per_project_max: int
    stream_buffer_bytes: int
    metrics_key: str | None
    request_body_max_bytes: int
    callback_body_max_bytes: int
    bodies_max_bytes: int
    connections_max: int
    header_deadline_s: float
    write_deadline_s: float
    body_deadline_s: float
    callback_grace_s: int
    endpoints_per_project_max: int
    callbacks_per_job_max: int
    callback_bytes_per_job_max: int
    page_max_bytes: int
    retention_days: int
    deliveries_in_flight_max: int
    keepalive_s: float
    lookups_max: int
    lookup_cache_s: float
    lease_s: float
    backlog_max: int
    shutdown_s: float
    providers: dict[str, ProviderSettings] = {}

    def __repr__(self) -> str:
        """Nothing of what they are: most are dull, some are secrets."""
        return "Settings(…)"

    def provider(self, name: str) -> ProviderSettings:
        """What is configured for a provider; empty when nothing is."""
        return self.providers.get(name, ProviderSettings())


def load(environ: Mapping[str, str], providers: tuple[str, ...]) -> Settings:
    """The settings of an environment; SettingsError names every one that is wrong."""
    values: dict[str, Any] = {}
    errors: list[str] = []
    for setting in SETTINGS:
        values[setting.field] = _read(setting, setting.name, environ, errors)
    values["providers"] = {name: _provider(name, environ, errors) for name in providers}
    public_url = values["public_url"]
    if public_url and public_url.startswith("http://") and not values["allow_http"]:
        errors.append("RELAY_PUBLIC_URL must be https; RELAY_ALLOW_HTTP=1 allows http for development")
    if errors:
        raise SettingsError("; ".join(errors))
    return Settings(**values)


def secret_names(providers: tuple[str, ...]) -> list[str]:
    """The variables that hold a secret."""
    of_providers = [
        s.name.replace("<PROVIDER>", name.upper()) for s in PROVIDER_SETTINGS if s.secret for name in providers
    ]
    return [setting.name for setting in SETTINGS if setting.secret] + of_providers


def unknown(environ: Mapping[str, str], providers: tuple[str, ...]) -> list[str]:
    """RELAY_ variables that no setting reads, typing errors mostly, each with the name that was probably meant."""
    known = {setting.name for setting in SETTINGS}
    known |= {setting.name.replace("<PROVIDER>", name.upper()) for setting in PROVIDER_SETTINGS for name in providers}
    known |= {f"{name}{FILE}" for name in secret_names(providers)}
    found = sorted(name for name in environ if name.startswith("RELAY_") and name not in known)
    meant = [difflib.get_close_matches(name, known, n=1, cutoff=0.8) for name in found]
    return [f"{name} (did you mean {close[0]}?)" if close else name for name, close in zip(found, meant, strict=True)]


def _provider(name: str, environ: Mapping[str, str], errors: list[str]) -> ProviderSettings:
    """One provider's settings."""
    found = {s.field: _read(s, s.name.replace("<PROVIDER>", name.upper()), environ, errors) for s in PROVIDER_SETTINGS}
    return ProviderSettings(**found)


def _read(setting: Setting, name: str, environ: Mapping[str, str], errors: list[str]) -> Any:
    """One variable; an empty one counts as not set. An error gives the default as an example."""
    try:
        text = (_of_file(name, environ) if setting.secret else environ.get(name, "").strip()) or setting.default
        return None if text is None else setting.read(text)
    except ValueError as error:
        said = str(error)
        has_one = any(words in said for words in ("such as", "one of", "1 or 0", "make one with"))
        example = f", such as {setting.default}" if setting.default and not has_one else ""
        errors.append(f"{name} {said}{example}")
        return None


def _of_file(name: str, environ: Mapping[str, str]) -> str:
    """A secret, from its variable or from the file that `…_FILE` names; ValueError for both, or no such file."""
    given, path = environ.get(name, "").strip(), environ.get(name + FILE, "").strip()
    if not path:
        return given
    if given:
        raise ValueError(f"must be set once: {name} or {name}{FILE}")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"must be in the file that {name}{FILE} names, which cannot be read: {error.strerror}"
        ) from None
    try:
        text = content[:FILE_BYTES_MAX].decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > FILE_BYTES_MAX:
        raise ValueError(f"must be in the file that {name}{FILE} names, as text of at most {FILE_BYTES_MAX} bytes")
    return text
