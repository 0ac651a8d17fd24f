"""What every test gets: one event loop for the async ones, and how hard the property tests try."""

import asyncio
import gc
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings

from tests.support import contract, memory, postgres, running, spreading
from tests.support.quiescence import WatchedLoop
from tests.support.thorough import THOROUGH

pytest_plugins = ["tests.support.oracles"]

FOLDERS_BYTES = 6 << 30
"""A run of all tests writes some three gigabytes at the same time at most, should nothing be removed before its end."""

# No deadline per example: a busy machine is slow, not wrong.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=150)
settings.load_profile("thorough" if THOROUGH else "quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--database postgres` runs what uses a database on a real PostgreSQL, instead of SQLite."""
    parser.addoption("--database", choices=("sqlite", "postgres"), default="sqlite", help="what relay stores in")


def pytest_configure() -> None:
    """Take SIGINT again where a shell has started the tests in the background: the programs they start inherit it.

    The tests' folders, and so their SQLite files, are in memory where there is enough: a tenth of the run is less.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if folder := memory.folder(FOLDERS_BYTES):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests, all of which live to the end, without the garbage collector, and keep them out of its sight.

    It takes a third of the collection's time, in each worker, and would go through thousands of tests again in each.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each of several workers have its share of what takes long."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = spreading.spread(items, workers)


@pytest.fixture(scope="session", autouse=True)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Provide the databases of the tests' relays: on a server that runs as long as they do, or as files."""
    with ExitStack() as stack:
        if request.config.getoption("--database") == "postgres":
            running.DATABASES.postgres = stack.enter_context(postgres.server())
        asyncio.run(running.DATABASES.make_template(tmp_path_factory.mktemp("template")))
        yield


@pytest.fixture(autouse=True)
def databases_dropped() -> Iterator[None]:
    """Drop the databases of each test."""
    with running.DATABASES.kept():
        yield


@pytest.fixture(scope="session", autouse=True)
def answers_checked() -> Iterator[None]:
    """Hold every answer that a test receives of relay against what its route declares."""
    with contract.watched():
        yield


@pytest.fixture(scope="session")
def one_server() -> Iterator[postgres.Server]:
    """Yield a PostgreSQL for the tests that need one, whatever the others run on."""
    if postgres.programs() is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL is not installed")
    with postgres.server() as running_server:
        yield running_server


@pytest.fixture(scope="module")
def database_server(one_server: postgres.Server) -> postgres.Server:
    """Return the server, running, though a test of another file may have stopped it; a test may stop it."""
    one_server.ensure()
    return one_server


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, type[WatchedLoop]]]:
    """Return asyncio, the only library that relay is made for, with a loop that knows when nothing is under way."""
    return "asyncio", {"loop_factory": WatchedLoop}
