"""People: register, sign in, and be nobody else."""

from collections.abc import Callable

import httpx

from tests.system.helpers import Person, assert_problem


def test_a_person_registers_signs_in_and_sees_themselves(new_person: Callable[[], Person]) -> None:
    """And nobody else."""
    ada, grace = new_person(), new_person()
    for person in (ada, grace):
        me = person.client.get("/api/v1/accounts/me")
        assert me.status_code == 200
        assert me.json()["email"] == person.email
        assert "password" not in me.text


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
