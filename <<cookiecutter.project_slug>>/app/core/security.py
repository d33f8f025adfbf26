"""Who is asking: access tokens, and the dependency that reads them.

Core only makes and reads tokens; who gets one is the business of `accounts`.
"""

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

import jwt
from fastapi import Depends, Request
from starlette.types import Scope

from app.core.errors import Unauthorized
from app.core.logging import user_id
from app.core.project import project
from app.core.settings import Auth

ALGORITHM = "HS256"
AUDIENCE = "api"
_REQUIRED_CLAIMS = ["sub", "exp", "iat", "iss", "aud"]

# Under which key of the ASGI scope the guard of `access` leaves the person.
PRINCIPAL = "principal"


class Role(StrEnum):
    """What somebody may do beyond what everybody signed in may. A superuser may all that staff may."""

    STAFF = "staff"
    SUPERUSER = "superuser"


@dataclass(frozen=True, slots=True)
class Principal:
    """The person behind a request, as the token tells: features know an owner by this id alone."""

    id: UUID
    roles: frozenset[str]


class InvalidToken(Unauthorized):
    """The token is not ours, or its time is over."""

    detail = "This access token is not valid, or has expired. Sign in again."


def issue_token(settings: Auth, principal: Principal) -> tuple[str, int]:
    """A signed access token and its life in seconds."""
    seconds = settings.access_token_minutes * 60
    now = int(time.time())
    claims = {
        "sub": str(principal.id),
        "roles": sorted(principal.roles),
        "iat": now,
        "exp": now + seconds,
        "iss": project().name,
        "aud": AUDIENCE,
        "jti": uuid4().hex,
    }
    return jwt.encode(claims, settings.secret_key.get_secret_value(), algorithm=ALGORITHM), seconds


def read_token(settings: Auth, token: str) -> Principal:
    """Whom a token names.

    Raises:
        InvalidToken: signature, time, issuer, audience or form is wrong.
    """
    try:
        claims = jwt.decode(
            token,
            settings.secret_key.get_secret_value(),
            algorithms=[ALGORITHM],
            issuer=project().name,
            audience=AUDIENCE,
            options={"require": _REQUIRED_CLAIMS},
        )
        return Principal(UUID(claims["sub"]), frozenset(claims.get("roles", ())))
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError) as error:
        raise InvalidToken from error


def principal_of(settings: Auth, scope: Scope) -> Principal:
    """The person whose token a request carries, who stands in its log lines from here on.

    Raises:
        Unauthorized: there is no token.
        InvalidToken: it is not valid.
    """
    token = bearer_of(scope)
    if not token:
        raise Unauthorized
    principal = read_token(settings, token)
    user_id.set(str(principal.id))
    return principal


def bearer_of(scope: Scope) -> str:
    """What the header `Authorization: Bearer …` of a request holds; empty when it has none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = bytes(value).partition(b" ")
            return token.strip().decode("latin-1") if kind.lower() == b"bearer" else ""
    return ""


async def current_user(request: Request) -> Principal:
    """The person who is signed in; the route's row in the table of access has seen to that."""
    principal: Principal = request.scope[PRINCIPAL]
    return principal


CurrentUser = Annotated[Principal, Depends(current_user)]
