"""The event loop of the tests: what fails a test, and what does not."""

import gc

import pytest
from asyncpg.connect_utils import TLSUpgradeProto

from tests.support.quiescence import WatchedLoop


@pytest.mark.parametrize(("asks_for_tls", "count"), [(True, 0), (False, 1)])
def test_only_what_asyncpg_leaves_is_passed_over(asks_for_tls: bool, count: int) -> None:
    """Report each error that nobody reads, except that of a request for TLS that asyncpg has given up."""
    loop, reported = WatchedLoop(), []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    if asks_for_tls:
        TLSUpgradeProto(loop, "127.0.0.1", 5432, None, True).connection_lost(None)
    else:
        loop.create_future().set_exception(ConnectionError("another"))
    gc.collect()
    loop.close()
    assert len(reported) == count
