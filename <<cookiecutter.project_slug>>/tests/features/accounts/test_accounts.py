"""Registering and signing in: who registers can sign in, and nobody learns who else has."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import argon2
import httpx
import jwt
import pytest
from sqlalchemy import delete, select, update

from app.core.security import Principal
from app.features.accounts.models import User
from app.features.accounts.schemas import MAX_PASSWORD, MIN_PASSWORD
from tests.features.accounts.conftest import PASSWORD, Person

if TYPE_CHECKING:
    from app.core.audit import AuditEntry
    from app.core.resources import Resources

MakePerson = Callable[..., Awaitable[Person]]
HeadersFor = Callable[[Principal], dict[str, str]]
Trail = Callable[[Person], Awaitable["list[AuditEntry]"]]


async def register(client: httpx.AsyncClient, email: str = "ada@example.com", **changed: Any) -> httpx.Response:
    """Make an account."""
    return await client.post("/api/v1/accounts/register", json={"email": email, "password": PASSWORD, **changed})


async def sign_in(
    client: httpx.AsyncClient, email: str = "ada@example.com", password: str = PASSWORD
) -> httpx.Response:
    """Ask for tokens."""
    return await client.post("/api/v1/accounts/sign-in", json={"email": email, "password": password})


async def stored(resources: "Resources", email: str = "ada@example.com") -> User:
    """The row of somebody."""
    async with resources.db.read() as session:
        return (await session.scalars(select(User).where(User.email == email))).one()


async def test_register_sign_in_me(client: httpx.AsyncClient, resources: "Resources") -> None:
    """The way of a new person."""
    registered = await register(client, "Ada@Example.com", display_name="  Ada Lovelace ")
    assert registered.status_code == 202
    assert PASSWORD not in registered.text
    signed_in = await sign_in(client)
    assert signed_in.status_code == 200
    assert signed_in.headers["cache-control"] == "no-store"
    tokens = signed_in.json()
    assert (tokens["token_type"], tokens["expires_in"], tokens["refresh_expires_in"]) == ("bearer", 1800, 604800)
    me = await client.get("/api/v1/accounts/me", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    account = me.json()
    assert (account["email"], account["display_name"], account["roles"]) == ("ada@example.com", "Ada Lovelace", [])
    assert set(account) == {"id", "email", "email_verified_at", "display_name", "roles", "created_at"}, "and no hash"
    user = await stored(resources)
    assert (
        jwt.decode(tokens["access_token"], options={"verify_signature": False})["sub"] == str(user.id) == account["id"]
    )
    assert user.password_hash.startswith("$argon2id$")


async def test_an_address_has_one_account(client: httpx.AsyncClient, resources: "Resources", ada: Person) -> None:
    """In whatever case it is written, and also when both ask at the same moment; the first password stays."""
    before = await stored(resources)
    again = await register(client, "ADA@EXAMPLE.COM", password="another long password", display_name="Mallory")
    assert again.status_code == 202
    after = await stored(resources)
    assert (after.password_hash, after.display_name) == (before.password_hash, before.display_name)
    answers = await asyncio.gather(*(register(client, "bob@example.com") for _ in range(3)))
    assert {answer.status_code for answer in answers} == {202}
    assert (await stored(resources, "bob@example.com")).email == "bob@example.com"


async def test_registering_tells_nothing(
    client: httpx.AsyncClient, ada: Person, statements: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the answer nor the work done tells whether the address has an account."""
    hashed: list[str] = count_hashing(monkeypatch)
    await register(client, "warm-up@example.com")  # whatever is made once
    seen = []
    for email in (ada.email, "new@example.com"):
        hashed.clear()
        async with statements() as sent:
            response = await register(client, email)
        seen.append((facts(response), sent, list(hashed)))
    assert seen[0] == seen[1]
    assert seen[0][2] == ["hash"]


def facts(response: httpx.Response) -> tuple[int, Any, Any]:
    """What a client can see: status, body and headers, without the id of the request."""
    headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return response.status_code, response.json() | {"request_id": ""}, headers


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which the library adds each time it hashes or checks."""
    seen: list[str] = []
    for name in ("hash", "verify"):
        original = getattr(argon2.PasswordHasher, name)

        def counted(*arguments: Any, original: Any = original, name: str = name, **named: Any) -> Any:
            seen.append(name)
            return original(*arguments, **named)

        monkeypatch.setattr(argon2.PasswordHasher, name, counted)
    return seen


async def test_sign_in_refusals_are_all_alike(
    client: httpx.AsyncClient,
    ada: Person,
    make_person: MakePerson,
    statements: Callable[[], Any],
    served_with: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status, words, headers, statements and hashing are the same: whether an address has an account is not told.

    That a password was right but did not help is told by one statement more, to whoever knows the password.
    """
    idle = await make_person("idle@example.com", active=False)
    unconfirmed = await make_person("unconfirmed@example.com", email_verified_at=None)
    asks = {
        "wrong password": (ada.email, "wrong horse battery"),
        "unknown address": ("nobody@example.com", PASSWORD),
        "empty password": ("nobody@example.com", ""),
        "wrong password of one switched off": (idle.email, "wrong horse battery"),
        "wrong password of one not confirmed": (unconfirmed.email, "wrong horse battery"),
        "switched off": (idle.email, PASSWORD),
        "not confirmed": (unconfirmed.email, PASSWORD),
    }
    hashed = count_hashing(monkeypatch)
    with served_with(verified_email=True):
        await sign_in(client, "warm-up@example.com")  # makes the hash that stands in for one
        seen = {}
        for name, (email, password) in asks.items():
            hashed.clear()
            async with statements() as sent:
                response = await sign_in(client, email, password)
            seen[name] = (facts(response), sent, list(hashed))
    first = seen["wrong password"]
    assert (first[0][0], first[0][1]["code"]) == (401, "wrong_credentials")
    assert first[2] == ["verify"]
    for name, what in seen.items():
        assert (what[0], what[2]) == (first[0], first[2]), name
        assert (what[1] == first[1]) == (asks[name][1] != PASSWORD or "unknown" in name), name


async def test_sign_in_does_not_mind_case(client: httpx.AsyncClient, ada: Person) -> None:
    """Of the address; of the password it does."""
    assert (await sign_in(client, "aDA@EXAMPLE.com")).status_code == 200
    assert (await sign_in(client, password=PASSWORD.upper())).status_code == 401


@pytest.mark.parametrize("password", ["пароль 🔑 päßwörd", " leading, trailing, nul\x00 ", "x" * MAX_PASSWORD])
async def test_passwords_may_hold_anything(client: httpx.AsyncClient, password: str) -> None:
    """As it is typed, to the last character."""
    assert (await register(client, password=password)).status_code == 202
    assert (await sign_in(client, password=password)).status_code == 200
    assert (await sign_in(client, password=password[:-1])).status_code == 401


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
        ("email", {"email": "a@example.com\r\nBcc: b@example.com", "password": PASSWORD}),
        ("email", {"email": "a@example.com, b@example.com", "password": PASSWORD}),
        ("email", {"email": "a" * 300 + "@example.com", "password": PASSWORD}),
        ("display_name", {"email": "a@example.com", "password": PASSWORD, "display_name": "x" * 101}),
        ("display_name", {"email": "a@example.com", "password": PASSWORD, "display_name": "a\x00b"}),
        ("display_name", {"email": "a@example.com", "password": PASSWORD, "display_name": "Ada\r\nBcc: b@example.com"}),
        ("roles", {"email": "a@example.com", "password": PASSWORD, "roles": ["superuser"]}),
        ("active", {"email": "a@example.com", "password": PASSWORD, "active": True}),
    ],
)
async def test_what_does_not_fit(client: httpx.AsyncClient, field: str, body: dict[str, Any]) -> None:
    """422 that names the field and shows no value; nobody makes a superuser of themselves."""
    response = await client.post(
        "/api/v1/accounts/register", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
    assert [fault["field"] for fault in response.json()["errors"]] == [f"body.{field}"]
    assert PASSWORD not in response.text


async def test_sign_in_takes_no_more_than_it_needs(client: httpx.AsyncClient) -> None:
    """An endless password is not chewed, and an unknown field is said to be one."""
    assert (await sign_in(client, password="x" * (MAX_PASSWORD + 1))).status_code == 422
    body = {"email": "a@example.com", "password": PASSWORD, "remember": True}
    assert (await client.post("/api/v1/accounts/sign-in", json=body)).status_code == 422


async def test_only_some_domains_may_register(client: httpx.AsyncClient, served_with: Callable[..., Any]) -> None:
    """Exactly those, in whatever case; and when nobody may, nobody may."""
    with served_with(email_domains=("Example.com", "example.org")):
        assert (await register(client, "ada@EXAMPLE.COM")).status_code == 202
        for refused in ("ada@evil-example.com", "ada@sub.example.com", "ada@example.com.evil.net"):
            response = await register(client, refused)
            assert (response.status_code, response.json()["code"]) == (422, "email_domain_not_allowed")
    with served_with(registration=False):
        response = await register(client, "bob@example.com")
        assert (response.status_code, response.json()["code"]) == (403, "registration_closed")


async def test_a_token_of_someone_who_is_gone(
    client: httpx.AsyncClient, resources: "Resources", headers_for: HeadersFor, ada: Person
) -> None:
    """Switched off or deleted since: the token alone does not open what is theirs here."""
    headers = headers_for(Principal(ada.id, frozenset()))
    assert (await client.get("/api/v1/accounts/me", headers=headers)).status_code == 200
    async with resources.db.transaction() as session:
        await session.execute(update(User).values(active=False))
    assert (await client.get("/api/v1/accounts/me", headers=headers)).status_code == 401
    async with resources.db.transaction() as session:
        await session.execute(delete(User))
    assert (await client.get("/api/v1/accounts/me", headers=headers)).status_code == 401


async def test_roles_are_in_the_token(client: httpx.AsyncClient, make_person: MakePerson) -> None:
    """Features decide by the token alone."""
    await make_person("ada@example.com", roles=["staff"])
    token = (await sign_in(client)).json()["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["roles"] == ["staff"]


async def test_a_hash_with_former_parameters_is_renewed(
    client: httpx.AsyncClient, resources: "Resources", make_person: MakePerson
) -> None:
    """When its owner signs in, as only then the password is known; once, and not by a wrong password."""
    from app.features.accounts.settings import AccountsSettings

    old = argon2.PasswordHasher(time_cost=2, memory_cost=8192, parallelism=1).hash(PASSWORD)
    await make_person("ada@example.com", password_hash=old)
    assert (await sign_in(client, password="wrong horse battery")).status_code == 401
    assert (await stored(resources)).password_hash == old
    assert (await sign_in(client)).status_code == 200
    renewed = (await stored(resources)).password_hash
    wanted = resources.settings.of(AccountsSettings)
    cost = f"m={wanted.argon2_memory_kib},t={wanted.argon2_passes},p={wanted.argon2_lanes}"
    assert renewed.startswith(f"$argon2id$v=19${cost}$")
    assert (await sign_in(client)).status_code == 200
    assert (await stored(resources)).password_hash == renewed


async def test_checking_passwords_leaves_the_loop_free(
    client: httpx.AsyncClient, make_person: Callable[..., Awaitable[Person]]
) -> None:
    """Argon2 is slow on purpose; other requests are answered meanwhile.

    All four get in, although each of them finds the hash renewed by another one.
    """
    from app.features.accounts.passwords import passwords
    from app.features.accounts.settings import AccountsSettings

    # What a check costs is written in the hash: this one is as production makes it.
    await make_person("ada@example.com", password_hash=await passwords(AccountsSettings()).hash(PASSWORD))
    signing_in = [asyncio.create_task(sign_in(client)) for _ in range(4)]
    answered = 0
    while not all(task.done() for task in signing_in):
        assert (await client.get("/health")).status_code == 200
        answered += 1
        await asyncio.sleep(0.001)  # a client within this process does not wait for anything else
    assert {task.result().status_code for task in signing_in} == {200}
    assert answered > 3


async def test_what_happens_is_on_record(
    client: httpx.AsyncClient, ada: Person, trail: Trail, from_address: Callable[[str], Any]
) -> None:
    """Who signed in and who did not, from where; never with what."""
    async with from_address("203.0.113.7") as elsewhere:
        await sign_in(elsewhere, password="wrong horse battery")
        await sign_in(elsewhere)
    entries = await trail(ada)
    assert [(entry.action, entry.client) for entry in entries] == [
        ("accounts.sign_in_failed", "203.0.113.7"),
        ("accounts.signed_in", "203.0.113.7"),
    ]
    assert all(entry.request_id for entry in entries)
    assert "horse" not in repr([entry.details for entry in entries])
