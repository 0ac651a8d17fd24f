"""What a start says of its configuration: the log's first line, and later what the checks of `relay doctor` find."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from relay import __version__
from relay.settings import Settings
from relay.storage.engine.database_url import is_postgres, shown

if TYPE_CHECKING:
    from relay.app import App
    from relay.providers.base import Provider

CHECKED_AFTER_S: Final = 20.0
"""The checks of `relay doctor` come so long after a start: others start meanwhile, and what was due is sent."""


def summary(settings: Settings, providers: "Mapping[str, Provider]") -> dict[str, Any]:
    """Return the fields of the log line; none holds a key, a password or a token."""
    keyed = [name for name in providers if settings.wallet_key or settings.provider(name).api_key]
    usable = [name for name in keyed if _usable(settings, providers[name])]
    return {
        "version": __version__,
        "database": shown(settings.database_url),
        "environment": settings.environment,
        "public_url": settings.public_url or "none",
        "providers": ", ".join(usable) or "none",
        "missing": "; ".join(_missing(settings, providers, usable)) or "nothing",
    }


def _usable(settings: Settings, provider: "Provider") -> bool:
    """Return whether jobs can be submitted to a provider: it needs its API key, or the wallet if it is paid per job."""
    return bool(settings.wallet_key if provider.limits.paid else settings.provider(provider.name).api_key)


def _missing(settings: Settings, providers: "Mapping[str, Provider]", usable: list[str]) -> list[str]:
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


@asynccontextmanager
async def checked(app: "App", providers: "Mapping[str, Provider]") -> AsyncIterator[None]:
    """Make the checks of `relay doctor` once while the block runs, in the background, if the settings say so."""
    if not app.settings.check_at_start:
        yield
        return
    checking = asyncio.create_task(_check(app, providers), name="checks")
    try:
        yield
    finally:
        checking.cancel()
        with suppress(asyncio.CancelledError):
            await checking


async def _check(app: "App", providers: "Mapping[str, Provider]") -> None:
    """Log a warning for each finding, some time after the start."""
    await app.clock.sleep(round(CHECKED_AFTER_S * 1000))
    from relay.app import with_settings
    from relay.cli import diagnosis
    from relay.outbound.provider_client import ProviderClient
    from relay.storage.examination import Examination

    async with ProviderClient(redactor=app.redactor) as client:
        await diagnosis.warn(
            diagnosis.Examined(
                settings=app.settings,
                environ=dict(os.environ),
                adapters=with_settings(app.settings, providers),
                client=client,
                database=Examination(app.store.database),
                encryption=diagnosis.encryption_of(app.settings),
                now_ms=app.clock.now_ms,
                skews={},
            )
        )
