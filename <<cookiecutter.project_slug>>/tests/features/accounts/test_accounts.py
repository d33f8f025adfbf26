"""Accounts: who registers can sign in, and nobody learns who else has."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import jwt
import pytest
from sqlalchemy import delete, update

from app.core.security import Principal
from app.features.accounts.models import User
from app.features.accounts.schemas import MAX_PASSWORD, MIN_PASSWORD

if TYPE_CHECKING:
    from app.core.resources import Resources

PASSWORD = "correct horse battery"


async def register(client: httpx.AsyncClient, email: str = "ada@example.com", **changed: Any) -> httpx.Response:
    """Make an account."""
    return await client.post("/api/v1/accounts/register", json={"email": email, "password": PASSWORD, **changed})


async def sign_in(
    client: httpx.AsyncClient, email: str = "ada@example.com", password: str = PASSWORD
) -> httpx.Response:
    """Ask for a token."""
    return await client.post("/api/v1/accounts/sign-in", json={"email": email, "password": password})


async def test_register_sign_in_me(client: httpx.AsyncClient) -> None:
    """The way of a new person."""
    registered = await register(client, "Ada@Example.com", display_name="  Ada Lovelace ")
    assert registered.status_code == 201
    account = registered.json()
    assert (account["email"], account["display_name"], account["roles"]) == ("ada@example.com", "Ada Lovelace", [])
    assert set(account) == {"id", "email", "display_name", "roles", "created_at"}, "and no hash"
    signed_in = await sign_in(client)
    assert signed_in.status_code == 200
    assert signed_in.headers["cache-control"] == "no-store"
    token = signed_in.json()
    assert (token["token_type"], token["expires_in"]) == ("bearer", 1800)
    assert jwt.decode(token["access_token"], options={"verify_signature": False})["sub"] == account["id"]
    me = await client.get("/api/v1/accounts/me", headers={"Authorization": f"Bearer {token['access_token']}"})
    assert (me.status_code, me.json()) == (200, account)


async def test_the_password_is_kept_as_a_hash(client: httpx.AsyncClient, resources: "Resources") -> None:
    """Argon2id, and a different one for the same password."""
    ids = [(await register(client, f"{name}@example.com")).json()["id"] for name in ("one", "other")]
    async with resources.db.read() as session:
        users = [await session.get_one(User, UUID(identity)) for identity in ids]
    assert all(user.password_hash.startswith("$argon2id$") for user in users)
    assert users[0].password_hash != users[1].password_hash
    assert PASSWORD not in users[0].password_hash


async def test_an_address_has_one_account(client: httpx.AsyncClient) -> None:
    """In whatever case it is written, and also when both ask at the same moment."""
    assert (await register(client)).status_code == 201
    again = await register(client, "ADA@EXAMPLE.COM")
    assert (again.status_code, again.json()["code"]) == (409, "email_taken")
    answers = await asyncio.gather(*(register(client, "bob@example.com") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_sign_in_does_not_mind_case(client: httpx.AsyncClient) -> None:
    """Of the address; of the password it does."""
    await register(client, "Ada@example.com")
    assert (await sign_in(client, "aDA@EXAMPLE.com")).status_code == 200
    assert (await sign_in(client, password=PASSWORD.upper())).status_code == 401


@pytest.mark.parametrize(
    "password",
    [
        "ünïcödé päßwörd",
        "пароль пароль",
        "🔑" * MIN_PASSWORD,
        " leading and trailing ",
        "nul\x00 in the middle",
        "x" * MAX_PASSWORD,
    ],
)
async def test_passwords_may_hold_anything(client: httpx.AsyncClient, password: str) -> None:
    """As it is typed, to the last character."""
    assert (await register(client, password=password)).status_code == 201
    assert (await sign_in(client, password=password)).status_code == 200
    assert (await sign_in(client, password=password[:-1])).status_code == 401
    assert (await sign_in(client, password=password.strip() + "x")).status_code in (401, 422)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("password", {"email": "a@example.com", "password": "x" * (MIN_PASSWORD - 1)}),
        ("password", {"email": "a@example.com", "password": "x" * (MAX_PASSWORD + 1)}),
        ("password", {"email": "a@example.com", "password": 123456789012}),
        ("password", {"email": "a@example.com"}),
        ("password", {"email": "a@example.com", "password": "half a pair \ud800 of surrogates"}),
        ("email", {"email": "nobody", "password": PASSWORD}),
        ("email", {"email": "a@b@example.com", "password": PASSWORD}),
        ("email", {"email": "a\x00@example.com", "password": PASSWORD}),
        ("email", {"email": "a" * 300 + "@example.com", "password": PASSWORD}),
        ("email", {"email": "Ada <a@example.com>", "password": PASSWORD, "display_name": "x"}),
        ("display_name", {"email": "a@example.com", "password": PASSWORD, "display_name": "x" * 101}),
        ("display_name", {"email": "a@example.com", "password": PASSWORD, "display_name": "a\x00b"}),
        ("roles", {"email": "a@example.com", "password": PASSWORD, "roles": ["admin"]}),
        ("active", {"email": "a@example.com", "password": PASSWORD, "active": True}),
    ],
)
async def test_what_does_not_fit(client: httpx.AsyncClient, field: str, body: dict[str, Any]) -> None:
    """422 that names the field and shows no value; nobody makes an administrator of themselves."""
    response = await client.post(
        "/api/v1/accounts/register", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    if body["email"].startswith("Ada <"):
        # A name beside the address is read as the address alone, or refused: never kept as it is.
        assert response.status_code in (201, 422)
        assert "<" not in response.text
        return
    assert response.status_code == 422
    assert [fault["field"] for fault in response.json()["errors"]] == [f"body.{field}"]
    assert PASSWORD not in response.text


async def test_sign_in_takes_no_more_than_it_needs(client: httpx.AsyncClient) -> None:
    """An endless password is not chewed, and an unknown field is said to be one."""
    assert (await sign_in(client, password="x" * (MAX_PASSWORD + 1))).status_code == 422
    body = {"email": "a@example.com", "password": PASSWORD, "remember": True}
    assert (await client.post("/api/v1/accounts/sign-in", json=body)).status_code == 422


async def refusals(client: httpx.AsyncClient, resources: "Resources") -> dict[str, Callable[[], Any]]:
    """Every reason for which a sign-in is refused."""
    await register(client)
    await register(client, "idle@example.com")
    async with resources.db.transaction() as session:
        await session.execute(update(User).where(User.email == "idle@example.com").values(active=False))
    return {
        "wrong password": lambda: sign_in(client, password="wrong horse battery"),
        "unknown address": lambda: sign_in(client, "nobody@example.com"),
        "inactive": lambda: sign_in(client, "idle@example.com"),
        "empty password": lambda: sign_in(client, password=""),
    }


async def test_refusals_are_all_alike(client: httpx.AsyncClient, resources: "Resources") -> None:
    """Status, words and headers do not tell whether an address has an account."""
    seen = []
    for ask in (await refusals(client, resources)).values():
        response = await ask()
        headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
        seen.append((response.status_code, response.json() | {"request_id": ""}, headers))
    assert all(answer == seen[0] for answer in seen)
    assert (seen[0][0], seen[0][1]["code"]) == (401, "wrong_credentials")


async def test_refusals_cost_the_same(client: httpx.AsyncClient, resources: "Resources") -> None:
    """The clock does not tell either: a hash is checked also where there is no account. Measured as the CPU's time."""
    asks = await refusals(client, resources)
    costs: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(4):
        for name, ask in asks.items():
            began = time.process_time()
            await ask()
            costs[name].append(time.process_time() - began)
    typical = {name: statistics.median(values[1:]) for name, values in costs.items()}
    assert min(typical.values()) > 0.4 * max(typical.values()), typical


async def test_a_token_of_someone_who_is_gone(
    client: httpx.AsyncClient, resources: "Resources", headers_for: Callable[[Principal], dict[str, str]]
) -> None:
    """Switched off or deleted since: the token alone opens nothing."""
    account = (await register(client)).json()
    headers = headers_for(Principal(UUID(account["id"]), frozenset()))
    assert (await client.get("/api/v1/accounts/me", headers=headers)).status_code == 200
    async with resources.db.transaction() as session:
        await session.execute(update(User).values(active=False))
    assert (await client.get("/api/v1/accounts/me", headers=headers)).status_code == 401
    async with resources.db.transaction() as session:
        await session.execute(delete(User))
    assert (await client.get("/api/v1/accounts/me", headers=headers)).status_code == 401
    assert (await client.get("/api/v1/accounts/me")).status_code == 401


async def test_roles_are_in_the_token(client: httpx.AsyncClient, resources: "Resources") -> None:
    """Features decide by the token alone."""
    await register(client)
    async with resources.db.transaction() as session:
        await session.execute(update(User).values(roles=["staff"]))
    token = (await sign_in(client)).json()["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["roles"] == ["staff"]


async def test_checking_passwords_leaves_the_loop_free(client: httpx.AsyncClient) -> None:
    """Argon2 is slow on purpose; other requests are answered meanwhile."""
    await register(client)
    signing_in = [asyncio.create_task(sign_in(client)) for _ in range(8)]
    answered = 0
    while not all(task.done() for task in signing_in):
        assert (await client.get("/health")).status_code == 200
        answered += 1
        await asyncio.sleep(0.001)  # a client within this process does not wait for anything else
    assert {task.result().status_code for task in signing_in} == {200}
    assert answered > 3
