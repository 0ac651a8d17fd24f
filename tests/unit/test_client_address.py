"""RELAY_CLIENT_IP: a client cannot choose the address that relay logs for it."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from relay.web.client_address import client_address
from tests.support.rows import rows
from tests.support.running import relay

PEER, CLIENT, SPOOFED = "10.0.0.9", "203.0.113.7", "198.51.100.1"


def scope(*headers: tuple[str, str], client: tuple[str, int] | None = (PEER, 4711)) -> Scope:
    """Return a request's scope with these headers."""
    return {"headers": [(name.encode(), value.encode()) for name, value in headers], "client": client}


@rows(
    ("rule", "headers", "address"),
    [
        ("peer", [("x-forwarded-for", SPOOFED), ("x-real-ip", SPOOFED)], PEER),
        ("xff:1", [("x-forwarded-for", CLIENT)], CLIENT),
        ("xff:1", [("x-forwarded-for", f"{SPOOFED}, {CLIENT}")], CLIENT),
        ("xff:1", [("x-forwarded-for", SPOOFED), ("x-forwarded-for", CLIENT)], CLIENT),
        ("xff:2", [("x-forwarded-for", f"{SPOOFED}, {CLIENT}, 10.0.0.1")], CLIENT),
        ("xff:2", [("x-forwarded-for", SPOOFED)], PEER),
        ("xff:1", [("x-forwarded-for", "a.name")], PEER),
        ("xff:1", [], PEER),
        ("xff:1", [("x-forwarded-for", " 2001:DB8::1 ")], "2001:db8::1"),
        ("header:fly-client-ip", [("fly-client-ip", CLIENT), ("x-forwarded-for", SPOOFED)], CLIENT),
        ("header:x-real-ip", [("x-real-ip", SPOOFED), ("x-real-ip", CLIENT)], PEER),
        ("header:x-real-ip", [("x-forwarded-for", SPOOFED)], PEER),
    ],
)
def test_the_rule_finds_the_address(rule: str, headers: list[tuple[str, str]], address: str) -> None:
    """Return what the known proxies wrote, and the connection's own address where they wrote none."""
    assert client_address(rule)(scope(*headers)) == address


def test_a_connection_without_an_address_has_none() -> None:
    """Return None for a Unix socket."""
    assert client_address("xff:1")(scope(client=None)) is None


@given(
    forged=st.lists(st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=40), max_size=4),
    proxies=st.integers(1, 9),
    client=st.ip_addresses(v=4),
)
def test_nothing_that_a_client_sends_is_believed(forged: list[str], proxies: int, client: IPv4Address) -> None:
    """Find the client behind so many proxies, whatever X-Forwarded-For it sent itself."""
    appended = [str(client), *(f"10.0.0.{number}" for number in range(1, proxies))]
    headers = [("x-forwarded-for", one) for one in forged] + [("x-forwarded-for", ", ".join(appended))]
    assert client_address(f"xff:{proxies}")(scope(*headers)) == str(client)


@pytest.mark.anyio
async def test_a_proxy_that_no_setting_names_is_logged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warn of the first request with X-Forwarded-For, and name the setting; warn no more, and not where it is set."""
    headers = {"x-forwarded-for": CLIENT}
    async with relay(tmp_path) as running:
        await running.client.get("/v1/jobs")
        assert "settings.client_ip" not in "".join(capsys.readouterr())
        for _ in range(3):
            await running.client.get("/v1/jobs", headers=headers)
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if "settings.client_ip" in line]
    assert [part in line for part in ("RELAY_CLIENT_IP", "xff:1", "peer=127.0.0.1", "warning")] == [True] * 4
    async with relay(tmp_path, RELAY_CLIENT_IP="xff:1") as running:
        await running.client.get("/v1/jobs", headers=headers)
    assert "settings.client_ip" not in "".join(capsys.readouterr())


@pytest.mark.anyio
async def test_a_refusal_is_logged_with_the_address_that_the_proxy_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log a refused API key and a refused callback URL with the proxy's entry, and nowhere the client's own."""
    async with relay(tmp_path, RELAY_CLIENT_IP="xff:1") as running:
        headers = {"authorization": "Bearer wrong", "x-forwarded-for": f"{SPOOFED}, {CLIENT}"}
        assert (await running.client.get("/v1/jobs", headers=headers)).status_code == 401
        assert (await running.client.post("/callbacks/evolink/none", headers=headers)).status_code == 404
    said = "".join(capsys.readouterr())
    assert (said.count(f"client={CLIENT}"), SPOOFED in said) == (2, False)
