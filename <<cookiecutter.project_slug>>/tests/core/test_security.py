"""Tokens: ours are read, and nothing else is."""

import base64
import json
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import jwt
import pytest
from pydantic import SecretStr

from app.core.project import project
from app.core.security import ALGORITHM, AUDIENCE, InvalidToken, Principal, issue_token, read_token
from app.core.settings import Auth

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.settings import Settings

KEY = "k" * 16 + "0123456789abcdef" * 3
AUTH = Auth(secret_key=SecretStr(KEY))


def claims(**changed: Any) -> dict[str, Any]:
    """Good claims, with some changed; None leaves one out."""
    now = int(time.time())
    good = {"sub": str(uuid4()), "iat": now, "exp": now + 60, "iss": project().name, "aud": AUDIENCE, "roles": []}
    return {name: value for name, value in (good | changed).items() if value is not None}


def signed(key: str = KEY, algorithm: str = ALGORITHM, **changed: Any) -> str:
    """A token with those claims."""
    return jwt.encode(claims(**changed), key, algorithm=algorithm)


def unsigned(algorithm: str) -> str:
    """A token that says it needs no signature."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims())}."


def test_there_and_back() -> None:
    """Whoever a token was made for is whom it names, with roles; and it says how long it lives."""
    principal = Principal(uuid4(), frozenset({"staff", "admin"}))
    token, seconds = issue_token(AUTH, principal)
    assert seconds == AUTH.access_token_minutes * 60
    assert read_token(AUTH, token) == principal
    assert read_token(AUTH, signed(sub=str(principal.id), roles=["staff", "admin"])) == principal
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["exp"] - payload["iat"] == seconds
    assert issue_token(AUTH, principal)[0] != token, "each can be told apart"


BAD: "dict[str, Callable[[], str]]" = {
    "expired": lambda: signed(exp=int(time.time()) - 1),
    "issued in the future": lambda: signed(iat=int(time.time()) + 600),
    "not yet valid": lambda: signed(nbf=int(time.time()) + 600),
    "another audience": lambda: signed(aud="other"),
    "another issuer": lambda: signed(iss="other"),
    "another key": lambda: signed(key=KEY[::-1]),
    "another algorithm": lambda: signed(algorithm="HS512"),
    "no algorithm": lambda: unsigned("none"),
    "no algorithm, shouted": lambda: unsigned("NONE"),
    "no signature": lambda: unsigned("HS256"),
    "no expiry": lambda: signed(exp=None),
    "no subject": lambda: signed(sub=None),
    "no issuer": lambda: signed(iss=None),
    "no audience": lambda: signed(aud=None),
    "no time of issue": lambda: signed(iat=None),
    "a subject that is no id": lambda: signed(sub="ada"),
    "an expiry that is no time": lambda: signed(exp="tomorrow"),
    "roles that are none": lambda: signed(roles=5),
    "a changed claim": lambda: ".".join(
        [signed().split(".")[0], signed(roles=["admin"]).split(".")[1], signed().split(".")[2]]
    ),
    "garbage": lambda: "garbage",
    "dots": lambda: "..",
    "nothing": lambda: "",
    "no letters of ASCII": lambda: "ü.ü.ü",
    "an endless one": lambda: "a" * 100_000,
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_tokens(make: "Callable[[], str]") -> None:
    """All are refused alike."""
    with pytest.raises(InvalidToken):
        read_token(AUTH, make())


async def test_who_is_refused_is_told_how_to_sign_in(
    web: httpx.AsyncClient, settings: "Settings", auth_headers: dict[str, str]
) -> None:
    """401 without or with a bad token, 403 without the role, 200 with it."""
    path = "/api/v1/probe/staff"
    for headers in ({}, {"Authorization": "Basic eDp4"}, {"Authorization": "Bearer"}, {"Authorization": "Bearer x"}):
        response = await web.get(path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    forbidden = await web.get(path, headers=auth_headers)
    assert (forbidden.status_code, forbidden.json()["code"]) == (403, "forbidden")
    principal = Principal(uuid4(), frozenset({"staff"}))
    token, _ = issue_token(settings.auth, principal)
    allowed = await web.get(path, headers={"Authorization": f"bearer {token}"})
    assert (allowed.status_code, allowed.json()) == (200, {"id": str(principal.id)})


async def test_odd_tokens_are_no_fault_of_ours(web: httpx.AsyncClient) -> None:
    """Any bytes in the header end as 401."""
    for make in BAD.values():
        header = f"Bearer {make()}".encode()
        response = await web.get("/api/v1/probe/staff", headers=[(b"Authorization", header)])
        assert response.status_code == 401
