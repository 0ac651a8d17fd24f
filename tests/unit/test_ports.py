"""Ports of the tests' programs: given once, and to one process of a run alone."""

import socket

import pytest

from tests.support import ports
from tests.support.ports import FIRST, NUMBER, free_port, share


@pytest.mark.parametrize("workers", [1, 2, 6, 7])
def test_no_two_workers_have_a_port_in_common(workers: int) -> None:
    """Part the ports between the workers, and give none beyond them."""
    all_ports = [port for number in range(workers) for port in share(f"gw{number}", workers)]
    assert len(all_ports) == len(set(all_ports)) > NUMBER - workers
    assert set(all_ports) <= set(share("", 1)) == set(range(FIRST, FIRST + NUMBER))


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give other ports each time, and none that a program listens on."""
    monkeypatch.setattr(ports, "_given", set())
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw11")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1000")
    with socket.create_server(("127.0.0.1", FIRST + 11 * (NUMBER // 1000))) as taken:
        given = [free_port() for _ in range(5)]
        assert len(set(given)) == len(given)
        assert taken.getsockname()[1] not in given
