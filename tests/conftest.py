"""What every test gets: one event loop for the async ones, and how hard the property tests try."""

import os

import pytest
from hypothesis import settings

pytest_plugins = ["tests.oracles"]

# No deadline per example: a busy machine is slow, not wrong.
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile("thorough" if os.environ.get("CI") else "quick")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The async tests run on asyncio, the only loop that relay is made for."""
    return "asyncio"
