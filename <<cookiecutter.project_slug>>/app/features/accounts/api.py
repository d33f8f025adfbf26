"""Routes of accounts."""

from fastapi import Response

from app.core.access import Access
from app.core.api import feature_router
from app.core.errors import problem_responses
from app.core.resources import AppResources
from app.core.security import CurrentUser, Principal, issue_token
from app.features.accounts import service
from app.features.accounts.schemas import Account, Credentials, Registration, Token

router = feature_router("accounts")
ACCESS = {
    "POST /api/v1/accounts/register": Access.ANYONE,
    "POST /api/v1/accounts/sign-in": Access.ANYONE,
    "GET /api/v1/accounts/me": Access.SIGNED_IN,
}


@router.post("/register", status_code=201, summary="Make an account", responses=problem_responses(409))
async def register(body: Registration, resources: AppResources) -> Account:
    """The password is kept only as an Argon2 hash."""
    hashed = await service.hash_password(body.password.get_secret_value())
    async with resources.db.transaction() as session:
        user = await service.register(session, body.email, hashed, body.display_name)
    return Account.model_validate(user)


@router.post("/sign-in", summary="Get an access token", responses=problem_responses(401))
async def sign_in(body: Credentials, resources: AppResources, response: Response) -> Token:
    """Valid for the time that `expires_in` says."""
    async with resources.db.read() as session:
        found = await service.find(session, body.email)
    # Outside the session: checking a password takes long enough to starve others of the connection.
    user = await service.verify(found, body.password.get_secret_value())
    token, seconds = issue_token(resources.settings.auth, Principal(user.id, frozenset(user.roles)))
    response.headers["Cache-Control"] = "no-store"
    return Token(access_token=token, expires_in=seconds)


@router.get("/me", summary="Who am I?", responses=problem_responses(401))
async def me(user: CurrentUser, resources: AppResources) -> Account:
    """The account that the token belongs to."""
    async with resources.db.read() as session:
        return Account.model_validate(await service.get_active(session, user.id))
