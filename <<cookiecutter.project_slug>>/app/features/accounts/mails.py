"""What accounts say by e-mail, and the tokens in it.

Nothing in these mails is chosen by whoever asked for them, or registering an address would be a way to send its owner
any text. Links lead where a setting says, never where the request's Host header does.
"""

import secrets
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import new_id
from app.core.messages import Email, Template, send
from app.core.project import project
from app.core.resources import Resources
from app.core.tasks import enqueue
from app.features.accounts.models import MailedToken, MailRequest, User
from app.features.accounts.sessions import digest
from app.features.accounts.settings import AccountsSettings


class Kind(StrEnum):
    """Why a mail is sent."""

    WELCOME = "welcome"
    VERIFY = "verify"
    TAKEN = "taken"
    RESET = "reset"
    CHANGED = "changed"


class Purpose(StrEnum):
    """What a mailed token is good for."""

    VERIFY = "verify"
    RESET = "reset"


_VERIFY = Template(
    subject="{title}: confirm your e-mail address",
    text="Somebody has registered with this address at {title}. If it was you, confirm that it is yours:\n\n{how}\n\n"
    "This works once, within {hours} hours. If it was not you, do nothing.\n",
)
_TAKEN = Template(
    subject="{title}: you have an account already",
    text="Somebody wanted to register with this address at {title}, and it has an account already. If it was you and you"
    " do not know your password, set a new one:\n\n{how}\n\nThis works once, within {minutes} minutes. If it was not"
    " you, do nothing: nothing has changed.\n",
)
_RESET = Template(
    subject="{title}: set a new password",
    text="Somebody has asked for a new password for your account at {title}. If it was you, set it here:\n\n{how}\n\n"
    "This works once, within {minutes} minutes. If it was not you, do nothing: nothing has changed.\n",
)
_CHANGED = Template(
    subject="{title}: your password was changed",
    text="The password of your account at {title} has just been changed, and every other device was signed out. If it was"
    " not you, ask for a new password at once: that signs out whoever did it.\n",
)
_TEMPLATES = {
    Kind.WELCOME: (_VERIFY, Purpose.VERIFY),
    Kind.VERIFY: (_VERIFY, Purpose.VERIFY),
    Kind.TAKEN: (_TAKEN, Purpose.RESET),
    Kind.RESET: (_RESET, Purpose.RESET),
}
_PAGES = {Purpose.VERIFY: "verify-email", Purpose.RESET: "reset-password"}


def ask(session: AsyncSession, kind: Kind, email: str) -> None:
    """Have a worker send a mail to whoever has this address. Costs the same whether anybody has."""
    from app.features.accounts.tasks import mail  # which calls back into here

    request = MailRequest(kind=kind, email=email)
    request.id = new_id()
    session.add(request)
    enqueue(session, mail, str(request.id))


async def deliver(resources: Resources, request_id: UUID) -> None:
    """Send the mail that was asked for, if somebody has the address and it makes sense for them."""
    settings = resources.settings.of(AccountsSettings)
    async with resources.db.transaction() as session:
        asked = await session.scalar(delete(MailRequest).where(MailRequest.id == request_id).returning(MailRequest))
        user = await session.scalar(select(User).where(User.email == asked.email).with_for_update()) if asked else None
        if asked is None or user is None or not user.active:
            return
        template, purpose = _TEMPLATES[Kind(asked.kind)]
        if purpose is Purpose.VERIFY and user.email_verified_at:
            return
        token = await _new_token(session, settings, user.id, purpose)
        if token is None:
            return  # they have had one just now
        await send(
            session, _written(settings, template, purpose, user.email, token), valid_for=_life(settings, purpose)
        )


async def tell_changed(session: AsyncSession, email: str) -> None:
    """Tell somebody that their password is another one."""
    await send(session, _CHANGED.email(email, title=project().title))


async def redeem(session: AsyncSession, purpose: Purpose, token: str) -> User | None:
    """Whose token it is; it does not work a second time."""
    good = (MailedToken.digest == digest(token), MailedToken.purpose == purpose, MailedToken.expires_at > func.now())
    user_id = await session.scalar(delete(MailedToken).where(*good).returning(MailedToken.user_id))
    user = await session.get(User, user_id) if user_id else None
    return user if user and user.active else None


async def is_good(session: AsyncSession, purpose: Purpose, token: str) -> bool:
    """Whether `redeem` would find somebody; for asking before a password is hashed in vain."""
    good = (MailedToken.digest == digest(token), MailedToken.purpose == purpose, MailedToken.expires_at > func.now())
    return await session.scalar(select(MailedToken.digest).where(*good)) is not None


async def sweep(session: AsyncSession) -> None:
    """Delete tokens that have expired, and requests that no worker has got to for a day."""
    await session.execute(delete(MailedToken).where(MailedToken.expires_at < func.now()))
    await session.execute(delete(MailRequest).where(MailRequest.created_at < func.now() - timedelta(days=1)))


async def _new_token(session: AsyncSession, settings: AccountsSettings, user_id: UUID, purpose: Purpose) -> str | None:
    """A fresh token, which ends the former ones; None when there has been one just now."""
    own = (MailedToken.user_id == user_id, MailedToken.purpose == purpose)
    pause = func.now() - timedelta(seconds=settings.mail_pause_seconds)
    if await session.scalar(select(MailedToken.digest).where(*own, MailedToken.created_at > pause).limit(1)):
        return None
    await session.execute(delete(MailedToken).where(*own))
    token = secrets.token_urlsafe(32)
    ends = func.now() + _life(settings, purpose)
    session.add(MailedToken(digest=digest(token), user_id=user_id, purpose=purpose, expires_at=ends))
    return token


def _life(settings: AccountsSettings, purpose: Purpose) -> timedelta:
    if purpose is Purpose.VERIFY:
        return timedelta(hours=settings.verification_hours)
    return timedelta(minutes=settings.reset_minutes)


def _written(settings: AccountsSettings, template: Template, purpose: Purpose, email: str, token: str) -> Email:
    # Behind the #, which browsers keep to themselves: the token stands in no access log and in no Referer.
    page = f"{settings.link_base_url}/{_PAGES[purpose]}#token={token}"
    return template.email(
        email,
        title=project().title,
        how=page if settings.link_base_url else f"    {token}",
        hours=settings.verification_hours,
        minutes=settings.reset_minutes,
    )
