"""Who is asking: access tokens, and the dependency that reads them.

Core only makes and reads tokens; who gets one is the business of a feature, or of an outside identity provider whose
public keys are set. A token is stateless: whoever has one is who it says for as long as it lives, which is why that is
short. Only those of a session that has ended are refused sooner (`sign_outs`).
"""

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import jwt
from fastapi import Depends, Request
from starlette.types import Scope

from app.core.errors import Unauthorized
from app.core.logging import user_id
from app.core.project import project
from app.core.settings import Auth
from app.core.signing import keyring

_REQUIRED_CLAIMS = ["sub", "exp", "iat", "iss", "aud"]

# Under which key of the ASGI scope the guard of `access` leaves the person.
PRINCIPAL = "principal"


class Role(StrEnum):
    """What somebody may do beyond what everybody signed in may. A superuser may all that staff may."""

    STAFF = "staff"
    SUPERUSER = "superuser"


@dataclass(frozen=True, slots=True)
class Principal:
    """The person behind a request, as the token tells: features know an owner by this id alone.

    Attributes:
        session: the sign-in that the token is from; empty where it does not say.
    """

    id: UUID
    roles: frozenset[str]
    session: str = ""


class InvalidToken(Unauthorized):
    """The token is not ours, or its time is over."""

    detail = "This access token is not valid, or has expired. Sign in again."


def issue_token(settings: Auth, principal: Principal) -> tuple[str, int]:
    """A signed access token and its life in seconds.

    Raises:
        NoSigningKey: tokens come from an outside provider.
    """
    key = keyring(settings).signing
    seconds = settings.access_token_minutes * 60
    now = int(time.time())
    claims = {
        "sub": str(principal.id),
        settings.roles_claim: sorted(principal.roles),
        "iat": now,
        "exp": now + seconds,
        "iss": issuer_of(settings),
        "aud": settings.audience,
        "jti": uuid4().hex,
        **({"sid": principal.session} if principal.session else {}),
    }
    headers = {"kid": key.id, "typ": settings.token_types[0]}
    return jwt.encode(claims, key.signing, algorithm=key.algorithm, headers=headers), seconds


def read_token(settings: Auth, token: str) -> Principal:
    """Whom a token names.

    Raises:
        InvalidToken: key, signature, time, issuer, audience, kind or form is wrong.
    """
    try:
        header = jwt.get_unverified_header(token)
        # Neither the key nor the algorithm is the token's choice: it names one of our keys, and that is for one algorithm.
        key = keyring(settings).known[header["kid"]]
        if header["typ"].lower().removeprefix("application/") not in settings.token_types:
            raise InvalidToken
        claims = jwt.decode(
            token,
            key.verifying,
            algorithms=[key.algorithm],
            issuer=issuer_of(settings),
            audience=settings.audience,
            options={"require": _REQUIRED_CLAIMS},
        )
        roles = frozenset(claims.get(settings.roles_claim, ()))
        return Principal(_identity(settings, claims["sub"]), roles, str(claims.get("sid", "")))
    except (jwt.InvalidTokenError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise InvalidToken from error


def issuer_of(settings: Auth) -> str:
    """Who issues the tokens."""
    return settings.issuer or project().name


def _identity(settings: Auth, subject: str) -> UUID:
    """The id of whom a token names. An outside provider may call people as it likes; the same name is the same id."""
    try:
        return UUID(subject)
    except ValueError:
        if not settings.outside:
            raise
        return uuid5(NAMESPACE_URL, f"{issuer_of(settings)}#{subject}")


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
