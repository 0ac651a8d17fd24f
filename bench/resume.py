"""How long after a kill -9 relay needs, from its new start on, until what was in flight has gone out again."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack

import click

from bench.databases import Databases
from bench.ingest import load
from bench.processes import program
from bench.receiver import receiving
from bench.stock import stocked

PATIENCE_S = 60.0


async def resumed_s(made: Databases, events: int) -> float:
    """Return the seconds from the second start to the last arrival; the receiver answers nothing before the kill."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        receiver.silent = True
        database = made.fresh()
        stock = await stocked(database, made.folder, events, [f"{origin}/hook"])
        async with program(made, database) as running:
            await load(running.port, 16, 0, stock.callbacks)
            async with asyncio.timeout(PATIENCE_S):
                while not receiver.ids:  # noqa: ASYNC110 - it comes by HTTP
                    await asyncio.sleep(0.05)
            running.child.send_signal(signal.SIGKILL)
            await running.child.wait()
        receiver.silent = False
        receiver.ids.clear()
        began_s = time.time()
        await stack.enter_async_context(program(made, database))
        while len(receiver.ids) < events:
            if time.time() - began_s > PATIENCE_S:
                raise click.ClickException(f"{len(receiver.ids)} of {events} arrived within {PATIENCE_S:g} s")
            await asyncio.sleep(0.05)
        return receiver.last_s - began_s
