"""People: register, sign in, and be nobody else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest

from tests.system.conftest import NewClient
from tests.system.helpers import assert_problem, eventually

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Person:
    """Somebody who has registered and is signed in; `client` carries the token."""

    email: str
    password: str
    client: httpx.Client


@pytest.fixture
def new_person(new_client: NewClient) -> Callable[[], Person]:
    """Registers people and signs them in."""

    def make() -> Person:
        client = new_client()
        email, password = f"person-{uuid4().hex[:12]}@example.com", f"pass-{uuid4()}"
        registered = client.post("/api/v1/accounts/register", json={"email": email, "password": password})
        assert registered.status_code == 202, registered.text
        signed_in = client.post("/api/v1/accounts/sign-in", json={"email": email, "password": password})
        assert signed_in.status_code == 200, signed_in.text
        client.headers["Authorization"] = f"Bearer {signed_in.json()['access_token']}"
        return Person(email, password, client)

    return make


@pytest.fixture
def person(new_person: Callable[[], Person]) -> Person:
    """Somebody who is signed in."""
    return new_person()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/accounts/me", 401, "unauthorized"),
        ("DELETE", "/api/v1/accounts/me", 405, None),
        ("POST", "/api/v1/accounts/register", 422, None),
    ],
)
def test_refusals_are_problem_documents(
    client: httpx.Client, method: str, path: str, status: int, code: str | None
) -> None:
    """As everywhere."""
    assert_problem(client.request(method, path), status, code)


def test_a_person_registers_signs_in_and_sees_themselves(new_person: Callable[[], Person]) -> None:
    """And nobody else."""
    ada, grace = new_person(), new_person()
    for person in (ada, grace):
        me = person.client.get("/api/v1/accounts/me")
        assert me.status_code == 200
        assert me.json()["email"] == person.email
        assert "password" not in me.text


def test_an_access_token_ends_with_its_session(person: Person) -> None:
    """Every process hears of it within seconds, long before the token expires."""
    assert person.client.post("/api/v1/accounts/sign-out-everywhere").status_code == 204
    eventually(
        lambda: person.client.get("/api/v1/accounts/sessions"), lambda answer: answer.status_code == 401, "refused"
    )


def test_an_address_registers_once(person: Person) -> None:
    """Also when it is written in capitals. The answer is the same, and the second password opens nothing."""
    body = {"email": person.email.upper(), "password": "another long password"}
    assert person.client.post("/api/v1/accounts/register", json=body).status_code == 202
    assert_problem(person.client.post("/api/v1/accounts/sign-in", json=body), 401)
    body["password"] = person.password
    assert person.client.post("/api/v1/accounts/sign-in", json=body).status_code == 200


def test_a_refresh_token_works_once(client: httpx.Client, person: Person) -> None:
    """The second time it ends the session."""
    body = {"email": person.email, "password": person.password}
    first = client.post("/api/v1/accounts/sign-in", json=body).json()["refresh_token"]
    renewed = client.post("/api/v1/accounts/refresh", json={"refresh_token": first})
    assert renewed.status_code == 200
    assert_problem(client.post("/api/v1/accounts/refresh", json={"refresh_token": first}), 401)
    second = {"refresh_token": renewed.json()["refresh_token"]}
    assert_problem(client.post("/api/v1/accounts/refresh", json=second), 401)


def test_a_wrong_password_and_an_unknown_person_look_the_same(client: httpx.Client, person: Person) -> None:
    """Who tries addresses learns nothing."""
    answers = [
        client.post("/api/v1/accounts/sign-in", json={"email": email, "password": "not the password"})
        for email in (person.email, "nobody-at-all@example.com")
    ]
    for answer in answers:
        assert_problem(answer, 401)
    first, second = ({**answer.json(), "request_id": ""} for answer in answers)
    assert first == second


def test_a_forged_token_is_refused(client: httpx.Client, person: Person) -> None:
    """A changed one, one without a signature, and rubbish."""
    token = person.client.headers["Authorization"].removeprefix("Bearer ")
    header, payload, signature = token.split(".")
    changed = signature[:-6] + ("AAAAAA" if signature[-6:] != "AAAAAA" else "BBBBBB")
    none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"
    for forged in (f"{header}.{payload}.{changed}", f"{none}.{payload}.", f"{header}.{payload}.", "rubbish", "a.b.c"):
        response = client.get("/api/v1/accounts/me", headers={"Authorization": f"Bearer {forged}"})
        assert_problem(response, 401)


def test_guessing_passwords_is_slowed_down_sooner(new_client: NewClient, person: Person) -> None:
    """Sign-in has a limit of its own, and a person elsewhere can still sign in."""
    guesser, elsewhere = new_client(), new_client()

    def guess(client: httpx.Client, password: str) -> int:
        body = {"email": person.email, "password": password}
        return client.post("/api/v1/accounts/sign-in", json=body).status_code

    statuses = [guess(guesser, f"wrong-guess-{number}") for number in range(15)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert statuses.count(401) < 10
    assert guess(elsewhere, person.password) == 200


def test_a_body_that_turns_out_too_large_is_refused(client: httpx.Client) -> None:
    """One that does not say its length is counted as it comes."""

    def pieces() -> Iterator[bytes]:
        for _ in range(12):
            yield b"x" * MEGABYTE

    response = client.post("/api/v1/accounts/sign-in", content=pieces())
    assert_problem(response, 413, "payload_too_large")
