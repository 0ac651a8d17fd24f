"""Summarize the configuration for the log's first line: version, database, providers, public URL, what is not set."""

from collections.abc import Mapping
from typing import Any

from relay import __version__
from relay.providers.base import Provider
from relay.settings import Settings
from relay.storage.engine.database_url import is_postgres, shown


def summary(settings: Settings, providers: Mapping[str, Provider]) -> dict[str, Any]:
    """Return the fields of the log line; none holds a key, a password or a token."""
    usable = [name for name, provider in providers.items() if _usable(settings, provider)]
    return {
        "version": __version__,
        "database": shown(settings.database_url),
        "environment": settings.environment,
        "public_url": settings.public_url or "none",
        "providers": ", ".join(usable) or "none",
        "missing": "; ".join(_missing(settings, providers, usable)) or "nothing",
    }


def _usable(settings: Settings, provider: Provider) -> bool:
    """Return whether jobs can be submitted to a provider: it needs its API key, or the wallet if it is paid per job."""
    return bool(settings.wallet_key if provider.limits.paid else settings.provider(provider.name).api_key)


def _missing(settings: Settings, providers: Mapping[str, Provider], usable: list[str]) -> list[str]:
    """Return each setting that is not set, with the consequence or what to do."""
    found = []
    if not usable:
        keys = [f"RELAY_{name.upper()}_API_KEY" for name, one in providers.items() if not one.limits.paid]
        found.append(f"no provider: set {' or '.join(keys)}")
    if settings.public_url is None:
        found.append("RELAY_PUBLIC_URL: providers cannot call back, jobs end by status checks alone")
    if settings.api_key is None:
        found.append("RELAY_API_KEY: only keys of the database work (python -m relay keys create)")
    if not settings.secret_keys and not is_postgres(settings.database_url):
        found.append("RELAY_SECRET_KEYS: the key is in a file beside the database, which belongs in every backup")
    return found
