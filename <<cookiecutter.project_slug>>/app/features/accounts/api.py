"""Routes of accounts."""

from typing import Annotated
from uuid import UUID

from fastapi import Header, Query, Response

from app.core.access import Access
from app.core.api import feature_router
from app.core.errors import problem_responses
from app.core.idempotency import IDEMPOTENT
from app.core.rate_limit import limited
from app.core.resources import AppResources
from app.core.security import CurrentUser, Principal, issue_token
from app.features.accounts import service, sessions
from app.features.accounts.mails import Kind
from app.features.accounts.schemas import (
    Accepted,
    Account,
    Address,
    Credentials,
    Email,
    MailedProof,
    PasswordChange,
    PasswordReset,
    Person,
    PersonChange,
    Refresh,
    Registration,
    Session,
    Tokens,
)
from app.features.accounts.sessions import Renewed

router = feature_router("accounts")
ACCESS = {
    "POST /api/v1/accounts/register": Access.ANYONE,
    "POST /api/v1/accounts/sign-in": Access.ANYONE,
    "POST /api/v1/accounts/refresh": Access.ANYONE,
    "POST /api/v1/accounts/sign-out": Access.ANYONE,
    "POST /api/v1/accounts/sign-out-everywhere": Access.SIGNED_IN,
    "GET /api/v1/accounts/sessions": Access.SIGNED_IN,
    "DELETE /api/v1/accounts/sessions/{session_id}": Access.SIGNED_IN,
    "GET /api/v1/accounts/me": Access.SIGNED_IN,
    "POST /api/v1/accounts/password": Access.SIGNED_IN,
    "POST /api/v1/accounts/password/forgot": Access.ANYONE,
    "POST /api/v1/accounts/password/reset": Access.ANYONE,
    "POST /api/v1/accounts/email/verify": Access.ANYONE,
    "POST /api/v1/accounts/email/verify/again": Access.ANYONE,
    "GET /api/v1/accounts/people": Access.SUPERUSER,
    "PATCH /api/v1/accounts/people/{person_id}": Access.SUPERUSER,
}

_MAIL_UNDER_WAY = "If this address can have an account, it has a mail from us."

UserAgent = Annotated[str, Header(include_in_schema=False)]


@router.post(
    "/register",
    dependencies=[limited("register"), IDEMPOTENT],
    status_code=202,
    summary="Make an account",
    responses=problem_responses(403),
)
async def register(body: Registration, resources: AppResources) -> Accepted:
    """The answer is the same when the address has an account: its owner learns of it by mail, and nobody else does.

    The password is kept only as an Argon2 hash.
    """
    await service.register(resources, body.email, body.password.get_secret_value(), body.display_name)
    return Accepted(detail=_MAIL_UNDER_WAY)


@router.post("/sign-in", dependencies=[limited("sign-in")], summary="Sign in", responses=problem_responses(401))
async def sign_in(body: Credentials, resources: AppResources, response: Response, user_agent: UserAgent = "") -> Tokens:
    """By address and password."""
    signed_in = await service.sign_in(resources, body.email, body.password.get_secret_value(), user_agent)
    return _tokens(resources, response, signed_in)


@router.post("/refresh", summary="Get new tokens", responses=problem_responses(401))
async def refresh(body: Refresh, resources: AppResources, response: Response) -> Tokens:
    """By the newest refresh token, which works once. One that comes a second time ends its session on every device that has it."""
    return _tokens(resources, response, await sessions.renew(resources, body.refresh_token.get_secret_value()))


@router.post("/sign-out", status_code=204, summary="Sign out")
async def sign_out(body: Refresh, resources: AppResources) -> None:
    """Ends the session of this refresh token, and its access token within seconds."""
    await sessions.sign_out(resources, body.refresh_token.get_secret_value())


@router.post("/sign-out-everywhere", status_code=204, summary="Sign out every device")
async def sign_out_everywhere(user: CurrentUser, resources: AppResources) -> None:
    """Ends all your sessions, and their access tokens within seconds."""
    async with resources.db.transaction() as session:
        await service.sign_out_everywhere(session, user.id)
    await resources.events.disconnect(user.id)


@router.get("/sessions", summary="Where are you signed in?")
async def list_sessions(user: CurrentUser, resources: AppResources) -> list[Session]:
    """The last used one first."""
    async with resources.db.read() as session:
        return [Session.model_validate(one) for one in await sessions.living(session, user.id)]


@router.delete(
    "/sessions/{session_id}", status_code=204, summary="Sign out one device", responses=problem_responses(404)
)
async def end_session(session_id: UUID, user: CurrentUser, resources: AppResources) -> None:
    """Ends one of your sessions, and every WebSocket: the devices that stay come back with a fresh access token."""
    async with resources.db.transaction() as session:
        await sessions.end_one(session, user.id, session_id)
    await resources.events.disconnect(user.id)


@router.get("/me", summary="Who am I?")
async def me(user: CurrentUser, resources: AppResources) -> Account:
    """The account that the token belongs to."""
    async with resources.db.read() as session:
        return Account.model_validate(await service.get_active(session, user.id))


@router.post(
    "/password", dependencies=[limited("password")], summary="Change your password", responses=problem_responses(400)
)
async def change_password(
    body: PasswordChange, user: CurrentUser, resources: AppResources, response: Response, user_agent: UserAgent = ""
) -> Tokens:
    """Signs out every device but this one, which gets new tokens; you are told by mail."""
    changed = await service.change_password(
        resources, user.id, body.present.get_secret_value(), body.new.get_secret_value(), user_agent
    )
    await resources.events.disconnect(user.id)
    return _tokens(resources, response, changed)


@router.post("/password/forgot", dependencies=[limited("forgot")], status_code=202, summary="Ask for a new password")
async def forgot_password(body: Address, resources: AppResources) -> Accepted:
    """Sends a mail with a token for `password/reset`. The answer is the same for every address."""
    await service.ask_for_mail(resources, Kind.RESET, body.email)
    return Accepted(detail=_MAIL_UNDER_WAY)


@router.post(
    "/password/reset",
    dependencies=[limited("reset")],
    summary="Set a new password by a mailed token",
    responses=problem_responses(400),
)
async def reset_password(
    body: PasswordReset, resources: AppResources, response: Response, user_agent: UserAgent = ""
) -> Tokens:
    """Signs out every device, and signs this one in; you are told by mail."""
    token, password = body.token.get_secret_value(), body.password.get_secret_value()
    renewed = await service.reset_password(resources, token, password, user_agent)
    await resources.events.disconnect(renewed.user.id)
    return _tokens(resources, response, renewed)


@router.post(
    "/email/verify",
    dependencies=[limited("verify")],
    status_code=204,
    summary="Confirm your address",
    responses=problem_responses(400),
)
async def verify_email(body: MailedProof, resources: AppResources) -> None:
    """By the token that was mailed when you registered."""
    await service.verify_email(resources, body.token.get_secret_value())


@router.post(
    "/email/verify/again",
    dependencies=[limited("verify-again")],
    status_code=202,
    summary="Ask for another mail to confirm your address",
)
async def verify_email_again(body: Address, resources: AppResources) -> Accepted:
    """The answer is the same for every address."""
    await service.ask_for_mail(resources, Kind.VERIFY, body.email)
    return Accepted(detail=_MAIL_UNDER_WAY)


@router.get("/people", summary="List people", responses=problem_responses(404))
async def people(
    resources: AppResources,
    email: Annotated[Email | None, Query(description="Only who has this address.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> list[Person]:
    """The newest first. For superusers."""
    async with resources.db.read() as session:
        found = [await service.find(session, email)] if email else await service.newest(session, limit)
    return [Person.model_validate(one) for one in found]


@router.patch("/people/{person_id}", summary="Change what somebody may do", responses=problem_responses(404, 409))
async def change_person(person_id: UUID, body: PersonChange, user: CurrentUser, resources: AppResources) -> Person:
    """Roles, and whether they may sign in at all. For superusers, and not for oneself."""
    return Person.model_validate(await service.change_person(resources, user.id, person_id, body.roles, body.active))


def _tokens(resources: AppResources, response: Response, renewed: Renewed) -> Tokens:
    user = renewed.user
    principal = Principal(user.id, frozenset(user.roles), str(renewed.session_id))
    access, seconds = issue_token(resources.settings.auth, principal)
    response.headers["Cache-Control"] = "no-store"
    return Tokens(
        access_token=access, expires_in=seconds, refresh_token=renewed.token, refresh_expires_in=renewed.seconds
    )
