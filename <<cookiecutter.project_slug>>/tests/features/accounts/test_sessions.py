"""Refresh tokens: each works once, a copied one ends its family, and what is kept of them opens nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import jwt
import pytest
from sqlalchemy import func, select, update

from app.core.security import Principal
from app.features.accounts import service
from app.features.accounts.models import RefreshToken, SignInSession, User
from tests.features.accounts.conftest import PASSWORD, Person

if TYPE_CHECKING:
    from app.core.audit import AuditEntry
    from app.core.resources import Resources
    from app.features.accounts.sessions import Renewed

Begin = Callable[[Person], Awaitable["Renewed"]]
HeadersFor = Callable[[Principal], dict[str, str]]
Trail = Callable[[Person], Awaitable["list[AuditEntry]"]]


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    """Exchange a refresh token."""
    return await client.post("/api/v1/accounts/refresh", json={"refresh_token": token})


async def test_a_refresh_token_gives_the_next_one(client: httpx.AsyncClient, ada: Person, begin: Begin) -> None:
    """And an access token; again and again, each different."""
    token, seen = (await begin(ada)).token, set()
    for _ in range(3):
        response = await refresh(client, token)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        token = response.json()["refresh_token"]
        claims = jwt.decode(response.json()["access_token"], options={"verify_signature": False})
        assert claims["sub"] == str(ada.id)
        seen.add(token)
    assert len(seen) == 3


async def test_a_copied_token_ends_its_family(
    client: httpx.AsyncClient, resources: "Resources", ada: Person, begin: Begin, trail: Trail
) -> None:
    """Thief and owner are both out, also from their sockets, and it is on record; other devices stay signed in."""
    stolen, other = (await begin(ada)).token, (await begin(ada)).token
    owner = (await refresh(client, stolen)).json()["refresh_token"]
    gate = await resources.events.gate(ada.id)
    again = await refresh(client, stolen)
    assert await resources.events.gate(ada.id) != gate, "her sockets are ended"
    assert (again.status_code, again.json()["code"]) == (401, "invalid_refresh_token")
    assert (await refresh(client, owner)).status_code == 401
    assert (await refresh(client, other)).status_code == 200
    (entry,) = await trail(ada)
    assert entry.action == "accounts.refresh_token_reused"
    assert stolen not in repr(entry.details)


async def test_two_at_once(client: httpx.AsyncClient, ada: Person, begin: Begin) -> None:
    """Of simultaneous exchanges of one token exactly one succeeds, and the family has ended: there is no grace."""
    for _ in range(3):
        token = (await begin(ada)).token
        answers = await asyncio.gather(*(refresh(client, token) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
        (won,) = [answer.json()["refresh_token"] for answer in answers if answer.status_code == 200]
        assert (await refresh(client, won)).status_code == 401


async def test_only_digests_are_kept(resources: "Resources", ada: Person, begin: Begin) -> None:
    """What is in the database, or in a backup of it, signs nobody in."""
    token = (await begin(ada)).token
    async with resources.db.read() as session:
        (kept,) = (await session.scalars(select(RefreshToken.digest))).all()
    assert len(kept) == 32
    assert token.encode() not in kept
    assert kept.hex() != token


async def test_what_is_no_refresh_token(
    client: httpx.AsyncClient, ada: Person, begin: Begin, headers_for: HeadersFor
) -> None:
    """An access token is none, and the other way round."""
    access = headers_for(Principal(ada.id, frozenset()))["Authorization"].removeprefix("Bearer ")
    for wrong in ("", "x", access[:200], "ü" * 50):
        assert (await refresh(client, wrong)).status_code == 401
    assert (await refresh(client, access + "x" * 200)).status_code == 422
    token = (await begin(ada)).token
    headers = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/api/v1/accounts/me", headers=headers)).status_code == 401


async def age(resources: "Resources", **changed: Any) -> None:
    """Let time pass for every session."""
    async with resources.db.transaction() as session:
        await session.execute(update(SignInSession).values(**changed))


async def test_a_session_ends_in_time(
    client: httpx.AsyncClient, resources: "Resources", ada: Person, begin: Begin
) -> None:
    """After REFRESH_TOKEN_DAYS unused, and after SESSION_DAYS however often it was renewed."""
    token = (await begin(ada)).token
    await age(resources, expires_at=func.now() - timedelta(seconds=1))
    assert (await refresh(client, token)).status_code == 401
    token = (await begin(ada)).token
    await age(resources, created_at=func.now() - timedelta(days=88))
    renewed = (await refresh(client, token)).json()
    assert 1.9 * 86400 < renewed["refresh_expires_in"] < 2.1 * 86400
    await age(resources, created_at=func.now() - timedelta(days=91))
    assert (await refresh(client, renewed["refresh_token"])).status_code == 401


async def test_who_is_switched_off_gets_no_further_token(
    client: httpx.AsyncClient, resources: "Resources", ada: Person, begin: Begin
) -> None:
    """However they were switched off."""
    token = (await begin(ada)).token
    async with resources.db.transaction() as session:
        await session.execute(update(User).values(active=False))
    assert (await refresh(client, token)).status_code == 401


async def test_sign_out(client: httpx.AsyncClient, ada: Person, begin: Begin, trail: Trail) -> None:
    """Ends this session and no other; twice is as good as once, and so is nonsense."""
    here, there = (await begin(ada)).token, (await begin(ada)).token
    for token in (here, here, "nonsense"):
        response = await client.post("/api/v1/accounts/sign-out", json={"refresh_token": token})
        assert response.status_code == 204
    assert (await refresh(client, here)).status_code == 401
    assert (await refresh(client, there)).status_code == 200
    assert [entry.action for entry in await trail(ada)] == ["accounts.signed_out"]


async def test_sign_out_everywhere(
    client: httpx.AsyncClient,
    resources: "Resources",
    ada: Person,
    make_person: Callable[..., Awaitable[Person]],
    begin: Begin,
    headers_for: HeadersFor,
    trail: Trail,
) -> None:
    """Every session of one person."""
    bob = await make_person()
    own, others = [(await begin(ada)).token for _ in range(2)], (await begin(bob)).token
    headers = headers_for(Principal(ada.id, frozenset()))
    gate = await resources.events.gate(ada.id)
    assert (await client.post("/api/v1/accounts/sign-out-everywhere", headers=headers)).status_code == 204
    assert await resources.events.gate(ada.id) != gate, "her sockets are ended"
    assert [(await refresh(client, token)).status_code for token in own] == [401, 401]
    assert (await refresh(client, others)).status_code == 200
    assert [(entry.action, entry.details) for entry in await trail(ada)] == [
        ("accounts.signed_out_everywhere", {"count": 2})
    ]


async def test_one_sees_and_ends_ones_own_sessions(
    client: httpx.AsyncClient,
    resources: "Resources",
    ada: Person,
    make_person: Callable[..., Awaitable[Person]],
    begin: Begin,
    headers_for: HeadersFor,
    from_address: Callable[[str], Any],
) -> None:
    """And nobody else's."""
    bob = await make_person()
    token = (await begin(ada)).token
    async with from_address("203.0.113.7") as phone:
        token = (await refresh(phone, token)).json()["refresh_token"]
    mine, his = headers_for(Principal(ada.id, frozenset())), headers_for(Principal(bob.id, frozenset()))
    (seen,) = (await client.get("/api/v1/accounts/sessions", headers=mine)).json()
    assert (seen["client"], seen["user_agent"]) == ("203.0.113.7", "a test")
    assert set(seen) == {"id", "client", "user_agent", "created_at", "last_used_at", "expires_at"}
    assert (await client.get("/api/v1/accounts/sessions", headers=his)).json() == []
    address = f"/api/v1/accounts/sessions/{seen['id']}"
    assert (await client.delete(address, headers=his)).status_code == 404
    assert await resources.events.gate(ada.id) == "", "her sockets go on"
    assert (await client.delete(address, headers=mine)).status_code == 204
    assert await resources.events.gate(ada.id) != "", "her sockets are ended"
    assert (await client.delete(address, headers=mine)).status_code == 404
    assert (await refresh(client, token)).status_code == 401


async def test_what_is_over_is_swept(
    resources: "Resources", ada: Person, begin: Begin, client: httpx.AsyncClient
) -> None:
    """Sessions that are over with their tokens, and used tokens that would be over anyway; living ones stay."""
    await begin(ada)
    await age(resources, expires_at=func.now() - timedelta(seconds=1))
    token = (await begin(ada)).token
    token = (await refresh(client, token)).json()["refresh_token"]
    async with resources.db.transaction() as session:
        long_ago = datetime.now(UTC) - timedelta(days=8)
        await session.execute(update(RefreshToken).where(RefreshToken.used_at.is_not(None)).values(used_at=long_ago))
    await service.sweep(resources)
    async with resources.db.read() as session:
        assert len((await session.scalars(select(SignInSession))).all()) == 1
        assert len((await session.scalars(select(RefreshToken))).all()) == 1
    assert (await refresh(client, token)).status_code == 200


ENDS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "sign out": ("post", "sign-out", {"refresh_token": "{token}"}),
    "everywhere": ("post", "sign-out-everywhere", {}),
    "that session": ("delete", "sessions/{session}", None),
    "reuse": ("post", "refresh", {"refresh_token": "{used}"}),
    "password": ("post", "password", {"present": PASSWORD, "new": "another long password"}),
    "switched off": ("patch", "people/{person}", {"active": False}),
    "role lost": ("patch", "people/{person}", {"roles": []}),
}


@pytest.mark.parametrize("way", ENDS)
async def test_an_access_token_ends_with_its_session(
    client: httpx.AsyncClient,
    resources: "Resources",
    make_person: Callable[..., Awaitable[Person]],
    begin: Begin,
    headers_for: HeadersFor,
    way: str,
) -> None:
    """Whichever way that ends, as soon as the process has looked; the token that replaces it is good."""
    ada = await make_person("ada@example.com", roles=["staff"])
    used = (await begin(ada)).token
    tokens = (await refresh(client, used)).json()
    mine = {"Authorization": f"Bearer {tokens['access_token']}"}
    (session,) = (await client.get("/api/v1/accounts/sessions", headers=mine)).json()
    method, path, body = ENDS[way]
    values = {"token": tokens["refresh_token"], "used": used, "session": session["id"], "person": str(ada.id)}
    boss = headers_for(Principal(uuid4(), frozenset({"superuser"})))
    ended = await client.request(
        method,
        f"/api/v1/accounts/{path.format(**values)}",
        headers=boss if path.startswith("people") else mine,
        json=body
        and {name: value.format(**values) if isinstance(value, str) else value for name, value in body.items()},
    )
    assert ended.is_success or way == "reuse", ended.text
    await resources.sign_outs.read()
    refused = await client.get("/api/v1/accounts/sessions", headers=mine)
    assert (refused.status_code, "invalid_token" in refused.text) == (401, True)
    if way == "password":
        fresh = {"Authorization": f"Bearer {ended.json()['access_token']}"}
        assert (await client.get("/api/v1/accounts/sessions", headers=fresh)).status_code == 200
