"""Events from outside: a ticket, a socket through nginx, and what it hears."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.system.conftest import Service
from tests.system.helpers import ORIGIN, Person

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30


@contextmanager
def socket(service: Service, **options: Any) -> Iterator[ClientConnection]:
    """A socket that has said nothing yet."""
    with connect(service.url.replace("http", "ws", 1) + "/ws", open_timeout=SECONDS, **options) as client:
        yield client


def hello(person: Person) -> str:
    """The first message, with a fresh ticket."""
    response = person.client.post("/api/v1/realtime/tickets")
    assert response.status_code == 201, response.text
    return json.dumps({"type": "hello", "ticket": response.json()["ticket"]})


def test_a_socket_is_opened_by_a_ticket_and_by_nothing_else(service: Service, person: Person) -> None:
    """Through nginx, which passes the upgrade on; a page of ours may, a page of somebody else may not."""
    said = hello(person)
    with socket(service, origin=ORIGIN if service.stack else None) as client:
        client.send(said)
        assert json.loads(client.recv(SECONDS))["type"] == "ready"
        client.send('{"type":"ping"}')
        assert json.loads(client.recv(SECONDS)) == {"type": "pong"}
    with socket(service) as client:
        client.send(said)
        with pytest.raises(ConnectionClosed) as ended:
            client.recv(SECONDS)
        assert ended.value.rcvd
        assert ended.value.rcvd.code == 4401
    with pytest.raises(InvalidStatus) as refused, socket(service, origin="https://evil.example.net"):
        pass
    assert refused.value.response.status_code == 403


def test_nginx_leaves_a_quiet_socket_alone() -> None:
    """For a day; the application's own pings tell a dead one much sooner."""
    routes = (ROOT / "ops/nginx/templates/conf.d/site/routes.conf.template").read_text()
    block = re.search(r"location = /ws \{.*?\n\}", routes, re.DOTALL)
    assert block
    assert "proxy_read_timeout 24h;" in block[0]
    assert "proxy_send_timeout 24h;" in block[0]
    assert "proxy_set_header Upgrade $upgrade;" in routes
