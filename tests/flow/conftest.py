"""What several tests of flows share: an S3 server, and what stands before it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import s3


@pytest.fixture(scope="session")
def server() -> Iterator[s3.S3]:
    """Yield the S3 server of all tests of one worker."""
    with s3.server() as running:
        yield running


@pytest.fixture
async def gate(server: s3.S3, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[s3.Gate]:
    """Yield what stands before the server, whose bucket is empty; relay's environment leads there."""
    server.empty()
    async with s3.Gate(server.endpoint).served() as gate:
        for name, value in (server.environment | {"AWS_ENDPOINT_URL": gate.endpoint}).items():
            monkeypatch.setenv(name, value)
        yield gate
