"""`relay work`: deliver, check and sweep without an HTTP server; several may run on one PostgreSQL."""

import asyncio

import click

from relay import log
from relay.cli import load_settings, tune_gc
from relay.errors import SettingsError
from relay.settings import Settings


@click.command("work")
def command() -> None:
    """Deliver, check and sweep only; needs PostgreSQL, and `serve --no-dispatch` beside it."""
    import uvloop

    from relay.cli.starting import summary
    from relay.providers import PROVIDERS

    loaded = load_settings()
    log.configure(loaded.log_format, queue_max=loaded.log_queue_max)
    log.get("work").info("relay.starting", **summary(loaded, PROVIDERS))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(loaded))


async def _work(loaded: Settings) -> None:
    """Run the loops until a signal."""
    from relay.app import opened
    from relay.cli.starting import checked
    from relay.cli.stopping import signals
    from relay.providers import PROVIDERS
    from relay.shutdown import Stop
    from relay.storage.engine.database_url import is_postgres

    if not is_postgres(loaded.database_url):
        raise SettingsError("work needs PostgreSQL: on SQLite, serve does everything in one process")
    stop = Stop(loaded.shutdown_s)
    with signals(stop, loaded.shutdown_s) as starting:
        async with opened(loaded, PROVIDERS, stop=stop) as app:
            starting.over()
            tune_gc()
            log.get("work").info("relay.working")
            async with checked(app, PROVIDERS):
                await stop.draining.wait()
