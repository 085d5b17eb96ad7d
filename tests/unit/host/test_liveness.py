import socket

import pytest

from agi_core.host.liveness import is_alive
from tests.support.health_services import health_service


def test_what_serves_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # loopback is asked without the hospital's proxy
    with health_service() as port:
        assert is_alive(port)
    assert not is_alive(port)


def test_what_says_that_it_does_not_serve_is_not() -> None:
    with health_service(serving=False) as port:
        assert not is_alive(port)


def test_another_program_on_the_port_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agi_core.host.liveness.TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as other:  # accepts, and says nothing
        assert not is_alive(other.getsockname()[1])
