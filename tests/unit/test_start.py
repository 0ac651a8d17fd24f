"""What a start does not load, so that it does not wait for it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["relay.web.dashboard", "relay.web.openapi", "jinja2", "prometheus_client"])
def test_a_start_loads_no_page(module: str) -> None:
    """Load the modules of pages, of the API's description and of metrics for the first request that needs them."""
    program = f"import sys, relay.web.server, relay.cli.serve; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
