"""Whom relay trusts: the system's authorities, those of SSL_CERT_FILE and SSL_CERT_DIR, and no file that is none."""

import asyncio
import os
import ssl
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from relay.errors import SettingsError
from relay.outbound.trust import Trust, tls_context
from tests.flow.test_receivers import certificate
from tests.support.processes import ROOT

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


def loaded(context: ssl.SSLContext) -> str:
    """Return the names of the authorities that are loaded."""
    return str([authority["subject"] for authority in context.get_ca_certs()])


def test_without_a_word_the_public_authorities_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust public authorities though the system may have none, and verify name and certificate by TLS 1.2 at least."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    context = tls_context()
    assert "ISRG Root X1" in loaded(context)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(("word", "bundled"), [("", True), ("/etc", False)])
def test_a_system_without_authorities_gets_the_bundled_ones(
    monkeypatch: pytest.MonkeyPatch, word: str, bundled: bool
) -> None:
    """Bring authorities along where the system has no file of them, unless the operator named a folder."""
    monkeypatch.setenv("SSL_CERT_FILE", "")  # for OpenSSL this is a file that is not there
    monkeypatch.setenv("SSL_CERT_DIR", word)
    assert ("ISRG Root X1" in loaded(tls_context())) == bundled


def test_a_file_of_ones_own_replaces_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load what `SSL_CERT_FILE` holds in place of the bundled authorities."""
    _, root = certificate(tmp_path, "localhost", -HOUR, HOUR)
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    names = loaded(tls_context())
    assert "tests" in names
    assert "ISRG Root X1" not in names


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_holds_no_authority_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """Say at the start that `SSL_CERT_FILE` is no use, rather than fail every call later."""
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(SettingsError, match="SSL_CERT_FILE must name a file of PEM certificates"):
        tls_context()


def test_a_folder_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say the same of `SSL_CERT_DIR`, each of its folders."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}{os.pathsep}{tmp_path}")
    tls_context()
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}{os.pathsep}{tmp_path}/missing")
    with pytest.raises(SettingsError, match="SSL_CERT_DIR must name a folder"):
        tls_context()


async def test_the_authorities_are_loaded_for_the_first_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load them once for all callers, and at the start where a setting names them, so that a start shows its fault."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    trust = Trust()
    cancelled, *waiting = [asyncio.create_task(trust.context()) for _ in range(3)]
    await asyncio.sleep(0)  # each task has a turn of the loop: the authorities are being loaded
    cancelled.cancel()
    first, second = await asyncio.gather(*waiting)
    assert first is second is await trust.context()
    assert "ISRG Root X1" in loaded(first)
    monkeypatch.setenv("SSL_CERT_FILE", "/there/is/none.pem")
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        Trust()


STARTED = """
import asyncio, os, sys
from relay import log
from relay.app import opened
from relay.providers import PROVIDERS
from relay.settings import load
from relay.web.server import server

async def main():
    async with opened(load(os.environ, PROVIDERS), PROVIDERS) as app:
        server(app, "127.0.0.1", 0)

log.configure("json")
asyncio.run(main())
log.flush()
print(*sys.modules)
"""


async def test_a_start_loads_no_more_than_callbacks_need(tmp_path: Path) -> None:
    """Leave what calls, deliveries and uploads need unloaded until then: it is time and memory of every start."""
    modules: set[str] = set()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db"}
    for _ in range(2):  # the first start makes keys
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", STARTED), env=environ, stdout=asyncio.subprocess.PIPE
        )
        modules = set((await child.communicate())[0].decode().splitlines()[-1].split())
    assert "relay.web.server" in modules
    lazy = {"asyncpg", "cryptography", "eth_account", "httpcore", "httpx", "prometheus_client", "structlog", "zipfile"}
    assert not lazy & modules


async def test_relay_does_not_start_with_it(tmp_path: Path) -> None:
    """Exit 78 with the setting's name."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    environ |= {
        "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
        "RELAY_API_KEY": "rk_" + os.urandom(24).hex(),
        "SSL_CERT_FILE": "/nowhere.pem",
        "PORT": "0",
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "serve"),
        cwd=ROOT,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 78
    assert b"SSL_CERT_FILE must name a file" in said
