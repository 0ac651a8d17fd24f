"""`relay serve`: run the HTTP server and the background loops in one process."""

import asyncio
import os

import click

from relay import log, settings
from relay.cli import load_settings, tune_gc
from relay.errors import RelayError
from relay.settings import Settings


@click.command("serve")
@click.option("--no-dispatch", is_flag=True, help="Serve requests only; `work` delivers, on the same PostgreSQL.")
def command(no_dispatch: bool) -> None:
    """Run relay: API, callbacks and deliveries in one process."""
    import uvloop

    from relay.cli.starting import summary
    from relay.providers import DEV_PROVIDERS, PROVIDERS

    loaded = load_settings()
    log.configure(loaded.log_format, queue_max=loaded.log_queue_max)
    logger = log.get("serve")
    if unknown := settings.unknown(os.environ, (*PROVIDERS, *DEV_PROVIDERS)):
        logger.warning("settings.unknown", names=", ".join(unknown))
    if os.environ.get("WEB_CONCURRENCY", "1") != "1":
        logger.info(
            "settings.web_concurrency",
            advice="relay serves in one process; on PostgreSQL start more of `serve --no-dispatch` to use more cores",
        )
    logger.info("relay.starting", **summary(loaded, PROVIDERS))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(loaded, dispatches=not no_dispatch))


async def serve(loaded: Settings, *, dispatches: bool = True) -> None:
    """Run relay until a signal or an error."""
    from relay.app import opened
    from relay.cli.starting import checked
    from relay.cli.stopping import signals
    from relay.providers import PROVIDERS
    from relay.shutdown import Stop
    from relay.web.server import server

    stop = Stop(loaded.shutdown_s)
    with signals(stop, loaded.shutdown_s) as starting:
        async with opened(loaded, PROVIDERS, dispatches=dispatches, stop=stop) as app:
            starting.over()
            tune_gc()
            try:
                async with checked(app, PROVIDERS):
                    await server(app, loaded.host, loaded.port).serve()
            except RelayError:
                stop.end_now()  # it never listened: nothing is waited for
                raise
