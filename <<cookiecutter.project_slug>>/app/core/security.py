"""Who is asking: access tokens, and the dependency that reads them.

Core only makes and reads tokens; who gets one is the business of `accounts`.
"""

import time
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

import jwt
from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.core.errors import Forbidden, Unauthorized
from app.core.logging import user_id
from app.core.project import project
from app.core.resources import AppResources
from app.core.settings import Auth

ALGORITHM = "HS256"
AUDIENCE = "api"
_REQUIRED_CLAIMS = ["sub", "exp", "iat", "iss", "aud"]

bearer = HTTPBearer(auto_error=False, description="The access token that `sign-in` returned.")


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


async def current_user(
    resources: AppResources, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Principal:
    """The person whose token the request carries.

    Raises:
        Unauthorized: there is no token.
        InvalidToken: it is not valid.
    """
    if credentials is None:
        raise Unauthorized
    principal = read_token(resources.settings.auth, credentials.credentials)
    user_id.set(str(principal.id))
    return principal


CurrentUser = Annotated[Principal, Depends(current_user)]


def require_role(principal: Principal, role: str) -> None:
    """Raise Forbidden unless the person has the role."""
    if role not in principal.roles:
        raise Forbidden
