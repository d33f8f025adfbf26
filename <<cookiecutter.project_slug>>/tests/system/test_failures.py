"""Parts that fail: what stays up, what is said, and that it mends itself."""

import httpx

from devstack import Stack
from tests.system.conftest import NewClient, Service
from tests.system.helpers import NOWHERE, Person, assert_problem, eventually


def protected(client: httpx.Client) -> list[str]:
    """What a person who is signed in may read without naming anything: one of each feature, whichever there are."""
    document = client.get("/openapi.json").json()
    found: dict[str, str] = {}
    for path, operations in document["paths"].items():
        read = operations.get("get", {})
        signed_in = {"access_token": []} in read.get("security", [])
        if signed_in and "{" not in path and "403" not in read["responses"]:
            found.setdefault(path.split("/")[3], path)
    return list(found.values())


def parts(service: Service, client: httpx.Client) -> dict[str, str]:
    """The state of every part, as health tells it."""
    response = client.get("/health/detailed", headers={"Authorization": f"Bearer {service.health_token}"})
    return {name: part["status"] for name, part in response.json()["parts"].items()}


def test_without_the_api_nginx_says_so_and_recovers(stack: Stack, client: httpx.Client) -> None:
    """503 with the same document and headers as ever, never a bare 502; and no restart of nginx afterwards."""
    api = stack.processes["api"]
    api.kill()
    response = client.get(NOWHERE)
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) > 0
    api.start()
    eventually(lambda: client.get(NOWHERE).status_code, lambda status: status == 404, "the API answers")


def test_without_the_cache_everything_goes_on(stack: Stack, service: Service, person: Person) -> None:
    """A cache may forget anything at any time, also itself."""
    before = [person.client.get(path).status_code for path in protected(person.client)]
    cache = stack.processes["cache"]
    cache.kill()
    assert [person.client.get(path).status_code for path in protected(person.client)] == before
    assert person.client.get("/health/ready").status_code == 200
    state = parts(service, person.client)
    assert state.pop("cache") == "unhealthy"
    assert set(state.values()) == {"healthy"}
    cache.start()
    eventually(lambda: parts(service, person.client)["cache"], lambda status: status == "healthy", "the cache is back")


def test_without_the_database_it_is_not_ready_and_recovers(
    stack: Stack, service: Service, person: Person, new_client: NewClient
) -> None:
    """Requests are answered with 503 instead of hanging, and connections that broke are made anew."""
    database, prober, paths = stack.processes["postgres"], new_client(), protected(person.client)
    before = [person.client.get(path).status_code for path in paths]
    database.kill()
    for path in paths:
        assert_problem(person.client.get(path), 503)
    assert prober.get("/health").status_code == 200
    assert prober.get("/health/ready").status_code == 503
    assert parts(service, prober)["database"] == "unhealthy"
    database.start()
    eventually(lambda: prober.get("/health/ready").status_code, lambda status: status == 200, "ready again")
    assert [person.client.get(path).status_code for path in paths] == before
