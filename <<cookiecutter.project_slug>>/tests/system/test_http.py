"""What every answer keeps, whoever gives it: nginx or the application."""

import http.client
import re
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.system.conftest import NewClient, Service
from tests.system.helpers import NOWHERE, ORIGIN, assert_problem, assert_secure, eventually

MEGABYTE = 1024 * 1024


def test_an_answer_carries_the_security_headers_once(client: httpx.Client) -> None:
    """Nginx and the application both know them; a client must not see them twice."""
    assert_secure(client.get("/health"))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/no/such/place", 404, "not_found"),
        ("GET", NOWHERE, 404, "not_found"),
        ("POST", "/health", 405, None),
    ],
)
def test_every_error_is_a_problem_document(
    client: httpx.Client, method: str, path: str, status: int, code: str | None
) -> None:
    """From nginx and from the application alike, with the same headers."""
    assert_problem(client.request(method, path), status, code)


def test_the_request_id_is_made_by_nginx(client: httpx.Client) -> None:
    """A client cannot put its own text into our logs."""
    response = client.get(NOWHERE, headers={"X-Request-ID": "chosen-by-the-client"})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert client.get("/health").headers["x-request-id"] != response.headers["x-request-id"]


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/api/../metrics",
        "/api/%2e%2e/metrics",
        "/api/v1/../../metrics",
        "/health/../metrics",
        "/health/metrics",
        "/static/../metrics",
        "/static/../nginx.conf",
        "/nginx-alive",
        "/.env",
        "/METRICS",
    ],
)
def test_what_is_internal_stays_inside(service: Service, path: str) -> None:
    """Metrics and files are not to be had, however the address is written. Sent raw: clients would tidy it up."""
    place = urlsplit(service.url)
    assert place.hostname
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname, place.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    assert response.status in (400, 404), path
    assert b"# HELP" not in body
    assert b"PASSWORD" not in body


def test_a_body_that_says_it_is_too_large_is_refused(client: httpx.Client) -> None:
    """Before it is read."""
    response = client.post(NOWHERE, content=b"x" * (12 * MEGABYTE))
    assert_problem(response, 413, "payload_too_large")


def test_another_host_name_is_sent_away(client: httpx.Client) -> None:
    """A forged Host header ends up in no link and in no cache."""
    response = client.get("/health", headers={"Host": "evil.example.net"})
    assert_problem(response, 421, "misdirected_request")


def test_cors_lets_the_named_origin_in_and_no_other(service: Service, client: httpx.Client) -> None:
    """A browser application on another host may call the API only if it is listed."""
    if service.stack is None:
        pytest.skip("only our own stack is known to allow that origin")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = client.options(NOWHERE, headers={"Origin": ORIGIN, **asked})
    assert allowed.status_code in (200, 204)
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    refused = client.options(NOWHERE, headers={"Origin": "https://evil.example.net", **asked})
    assert "access-control-allow-origin" not in refused.headers
    answer = client.get(NOWHERE, headers={"Origin": "https://evil.example.net"})
    assert "access-control-allow-origin" not in answer.headers


def test_too_many_requests_are_slowed_down_for_their_sender_only(new_client: NewClient) -> None:
    """429 with Retry-After for one address; another one does not notice."""
    greedy, patient = new_client(), new_client()
    answers = [greedy.get(NOWHERE) for _ in range(120)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[0] == 404
    assert 429 in statuses
    refused = answers[statuses.index(429)]
    assert_problem(refused, 429, "too_many_requests")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["cache-control"] == "no-store"
    assert patient.get(NOWHERE).status_code == 404


def test_health_tells_strangers_nothing(client: httpx.Client) -> None:
    """That it lives and whether it is ready; the parts are for who holds the token."""
    assert client.get("/health").json()["status"] == "healthy"
    assert client.get("/health/ready").json() == {"status": "healthy"}
    assert_problem(client.get("/health/detailed"), 401)
    assert_problem(client.get("/health/detailed", headers={"Authorization": "Bearer wrong"}), 401)


def test_health_names_every_part_to_who_holds_the_token(service: Service, client: httpx.Client) -> None:
    """All of them work."""
    if not service.health_token:
        pytest.skip("SYSTEM_TEST_HEALTH_TOKEN is not set")
    response = client.get("/health/detailed", headers={"Authorization": f"Bearer {service.health_token}"})
    assert response.status_code == 200, response.text
    parts = response.json()["parts"]
    assert {"database", "cache", "broker", "storage", "worker", "migrations"} <= parts.keys()
    assert {part["status"] for part in parts.values()} == {"healthy"}, parts


def test_a_request_can_be_followed_through_the_logs(client: httpx.Client, log_folder: Path) -> None:
    """The id in the answer stands in nginx' line and in the application's."""
    request_id = client.get(NOWHERE).headers["x-request-id"]
    for part in ("nginx", "api"):
        log = log_folder / f"{part}.log"
        eventually(log.read_text, lambda text: request_id in text, f"{request_id} in {log.name}")
