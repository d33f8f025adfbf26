"""Registering, signing in, and who am I."""

import httpx
import pytest

PERSON = {"email": "ada@example.com", "password": "correct horse battery", "display_name": "Ada"}


async def test_a_registered_person_signs_in_and_sees_themselves(client: httpx.AsyncClient) -> None:
    """The journey of a new person."""
    registered = await client.post("/api/v1/accounts/register", json=PERSON)
    assert registered.status_code == 201
    signed_in = await client.post(
        "/api/v1/accounts/sign-in", json={"email": "ADA@example.com", "password": PERSON["password"]}
    )
    assert signed_in.status_code == 200
    assert signed_in.headers["Cache-Control"] == "no-store"
    token = signed_in.json()["access_token"]
    me = await client.get("/api/v1/accounts/me", headers={"Authorization": f"Bearer {token}"})
    assert me.json() == registered.json()
    assert me.json()["email"] == "ada@example.com"


async def test_the_password_is_kept_only_as_an_argon2_hash(client: httpx.AsyncClient) -> None:
    """Neither the answer nor the table holds it."""
    from sqlalchemy import select

    from app.features.accounts.models import User

    registered = await client.post("/api/v1/accounts/register", json=PERSON)
    assert "password" not in registered.text
    async with client._transport.app.state.resources.db.read() as session:  # type: ignore[attr-defined]
        kept = (await session.scalars(select(User.password_hash))).one()
    assert kept.startswith("$argon2id$")
    assert PERSON["password"] not in kept


@pytest.mark.parametrize(
    "credentials",
    [
        {"email": PERSON["email"], "password": "wrong horse battery"},
        {"email": "nobody@example.com", "password": PERSON["password"]},
    ],
)
async def test_a_stranger_learns_nothing_from_a_refusal(client: httpx.AsyncClient, credentials: dict[str, str]) -> None:
    """A wrong password and an unknown address get the same answer."""
    await client.post("/api/v1/accounts/register", json=PERSON)
    refused = await client.post("/api/v1/accounts/sign-in", json=credentials)
    assert refused.status_code == 401
    assert refused.json()["code"] == "wrong_credentials"
    assert refused.json()["detail"] == "E-mail address or password is wrong."
