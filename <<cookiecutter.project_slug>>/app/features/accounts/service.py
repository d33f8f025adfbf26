"""Registering, signing in, passwords, and what superusers change of people.

What a stranger can ask about an address - register, sign in, forgot - does the same work and gives the same answer
whether the address has an account or not.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.audit import record
from app.core.db import new_id
from app.core.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthorized, UnprocessableContent
from app.core.resources import Resources
from app.core.security import Role
from app.core.settings import Settings
from app.features.accounts import mails, sessions, throttle
from app.features.accounts.mails import Kind, Purpose
from app.features.accounts.models import User
from app.features.accounts.passwords import passwords
from app.features.accounts.sessions import Renewed
from app.features.accounts.settings import AccountsSettings

# Somebody's password hash changes while it is checked when they sign in twice at once, or change their password.
HASHES_LOOKED_AT = 3


class WrongCredentials(Unauthorized):
    """Unknown address, wrong password, not confirmed, switched off; which of them is nobody's business."""

    detail = "E-mail address or password is wrong, or the address has not been confirmed yet."


class WrongPassword(BadRequest):
    """The present password is another one."""

    detail = "The present password is wrong."


class EmailDomainNotAllowed(UnprocessableContent):
    """Only addresses of some domains may register."""

    detail = "Addresses of this domain cannot register here."


class RegistrationClosed(Forbidden):
    """Nobody registers by themselves."""

    detail = "Accounts are made by the people who run this service."


class MailedTokenInvalid(BadRequest):
    """Used, expired, replaced by a newer one, or never ours."""

    detail = "This link has been used or has expired. Ask for a new one."


class NotYourself(Conflict):
    """A superuser who locks themselves out may be the last one."""

    detail = "Somebody else has to do this to you."


def needs_verified_email(settings: Settings) -> bool:
    """Whether signing in needs a confirmed address."""
    asked = settings.of(AccountsSettings).verified_email
    return settings.production if asked is None else asked


async def register(resources: Resources, email: str, password: str, display_name: str) -> None:
    """Make an account, or let the owner of the one there is know by mail.

    Raises:
        RegistrationClosed: nobody may.
        EmailDomainNotAllowed: not with this address.
    """
    settings = resources.settings.of(AccountsSettings)
    if not settings.registration:
        raise RegistrationClosed
    domain = email.rpartition("@")[2]
    if settings.email_domains and domain not in {allowed.lower() for allowed in settings.email_domains}:
        raise EmailDomainNotAllowed
    hashed = await passwords(settings).hash(password)
    async with resources.db.transaction() as session:
        made = await session.scalar(_new_user(email, hashed, display_name).returning(User.id))
        record(session, "accounts.registered" if made else "accounts.register_refused", actor=made)
        mails.ask(session, Kind.WELCOME if made else Kind.TAKEN, email)


async def sign_in(resources: Resources, email: str, password: str, user_agent: str) -> Renewed:
    """Sign in by address and password.

    Raises:
        TooManyAttempts: no password is looked at now.
        WrongCredentials: in every other case in which it is not so.
    """
    settings = resources.settings.of(AccountsSettings)
    async with resources.db.transaction() as session:
        wait = await throttle.begin(session, settings, email)
        found = await session.scalar(select(User).where(User.email == email))
        if wait:
            record(session, "accounts.sign_in_throttled", actor=None, subject=str(found.id) if found else "")
    if wait:
        raise throttle.TooManyAttempts(wait)
    hashed = found.password_hash if found else None
    for _ in range(HASHES_LOOKED_AT):
        # Outside of the transaction: checking a password takes long enough to starve others of the connection.
        right, renewed_hash = await passwords(settings).verify(password, hashed)
        async with resources.db.transaction() as session:
            # Read again: it may have been switched off, or got another password, while this one was checked.
            user = await session.get(User, found.id, with_for_update=True) if found and right else None
            if user is not None and user.password_hash != hashed:
                hashed = user.password_hash  # or the same one hashed anew, by somebody who signed in meanwhile
                continue
            confirmed = user and (user.email_verified_at or not needs_verified_email(resources.settings))
            if user is None or not user.active or not confirmed:
                record(session, "accounts.sign_in_failed", actor=None, subject=str(found.id) if found else "")
                break
            if renewed_hash:
                user.password_hash = renewed_hash
            await throttle.succeed(session, email)
            record(session, "accounts.signed_in", actor=user.id)
            return await sessions.begin(session, settings, user, user_agent)
    raise WrongCredentials


async def sign_out_everywhere(session: AsyncSession, user_id: UUID) -> None:
    """End every session of a person."""
    count = await sessions.end_all(session, user_id)
    record(session, "accounts.signed_out_everywhere", actor=user_id, count=count)


async def ask_for_mail(resources: Resources, kind: Kind, email: str) -> None:
    """Have a mail sent to whoever has this address; whoever asks is not told whether anybody has."""
    async with resources.db.transaction() as session:
        record(session, f"accounts.{kind}_mail_asked", actor=None)
        mails.ask(session, kind, email)


async def verify_email(resources: Resources, token: str) -> None:
    """Somebody has read a mail at the address of an account, so it is theirs.

    Raises:
        MailedTokenInvalid: not with this token.
    """
    async with resources.db.transaction() as session:
        user = await mails.redeem(session, Purpose.VERIFY, token)
        if user is None:
            raise MailedTokenInvalid
        user.email_verified_at = func.now()
        record(session, "accounts.email_verified", actor=user.id)


async def reset_password(resources: Resources, token: str, password: str, user_agent: str) -> Renewed:
    """Set a new password by a mailed token, sign out every device, and sign in this one.

    Raises:
        MailedTokenInvalid: not with this token.
    """
    settings = resources.settings.of(AccountsSettings)
    async with resources.db.read() as session:
        if not await mails.is_good(session, Purpose.RESET, token):
            raise MailedTokenInvalid
    hashed = await passwords(settings).hash(password)
    async with resources.db.transaction() as session:
        user = await mails.redeem(session, Purpose.RESET, token)
        if user is None:
            raise MailedTokenInvalid
        # Whoever has read the mail has the address, so it is confirmed as well.
        user.email_verified_at = user.email_verified_at or func.now()
        await throttle.forgive(session, user.email)
        record(session, "accounts.password_reset", actor=user.id)
        return await _set_password(session, settings, user, hashed, user_agent)


async def change_password(resources: Resources, user_id: UUID, present: str, new: str, user_agent: str) -> Renewed:
    """Set a new password by the present one, sign out every device, and sign in this one.

    Raises:
        Unauthorized: there is no such person any more.
        TooManyAttempts: no password is looked at now.
        WrongPassword: the present one is another.
    """
    settings = resources.settings.of(AccountsSettings)
    async with resources.db.transaction() as session:
        found = await get_active(session, user_id)
        wait = await throttle.begin(session, settings, found.email)
    if wait:
        raise throttle.TooManyAttempts(wait)
    right, _ = await passwords(settings).verify(present, found.password_hash)
    hashed = await passwords(settings).hash(new) if right else ""
    async with resources.db.transaction() as session:
        user = await session.get(User, user_id, with_for_update=True)
        if right and user and user.active and user.password_hash == found.password_hash:
            await throttle.succeed(session, user.email)
            record(session, "accounts.password_changed", actor=user.id)
            return await _set_password(session, settings, user, hashed, user_agent)
        record(session, "accounts.password_change_refused", actor=user_id)
    raise WrongPassword


async def get_active(session: AsyncSession, user_id: UUID) -> User:
    """The person a token names.

    Raises:
        Unauthorized: deleted or switched off since the token was issued.
    """
    user = await session.get(User, user_id)
    if user is None or not user.active:
        raise Unauthorized
    return user


async def find(session: AsyncSession, email: str) -> User:
    """The person with this address.

    Raises:
        NotFound: nobody has it.
    """
    user = await session.scalar(select(User).where(User.email == email))
    if user is None:
        raise NotFound
    return user


async def newest(session: AsyncSession, limit: int) -> Sequence[User]:
    """The people who came last."""
    return (await session.scalars(select(User).order_by(User.id.desc()).limit(limit))).all()


async def change_person(
    resources: Resources, actor: UUID, user_id: UUID, roles: Collection[Role] | None, active: bool | None
) -> User:
    """Change what somebody may do. Whoever is switched off, or loses a role, is signed out, from their sockets too.

    Raises:
        NotFound: there is nobody with this id.
        NotYourself: it is the actor.
    """
    async with resources.db.transaction() as session:
        user, lost = await _change_person(session, actor, user_id, roles, active)
        if lost:
            await sessions.end_all(session, user.id)
    if lost:
        await resources.events.disconnect(user.id)
    return user


async def _change_person(
    session: AsyncSession, actor: UUID, user_id: UUID, roles: Collection[Role] | None, active: bool | None
) -> tuple[User, bool]:
    """Who it is, and whether they may do less than before."""
    user = await session.get(User, user_id, with_for_update=True)
    if user is None:
        raise NotFound
    if user.id == actor:
        raise NotYourself
    lost = False
    if roles is not None and set(roles) != set(user.roles):
        lost = not set(user.roles) <= set(roles)
        record(
            session, "accounts.roles_changed", actor=actor, subject=str(user.id), before=user.roles, after=sorted(roles)
        )
        user.roles = sorted(roles)
    if active is not None and active != user.active:
        lost = lost or not active
        record(session, "accounts.activated" if active else "accounts.deactivated", actor=actor, subject=str(user.id))
        user.active = active
    return user, lost


async def create_superuser(resources: Resources, email: str, password: str) -> bool:
    """Make a superuser; an account that is there already gets the role and this password, and its devices are signed out.

    The password is replaced because anybody may have registered the address with one of their own.

    Returns:
        Whether the account is new.
    """
    hashed = await passwords(resources.settings.of(AccountsSettings)).hash(password)
    async with resources.db.transaction() as session:
        made = await session.scalar(_new_user(email, hashed, "").returning(User.id))
        user = (await session.scalars(select(User).where(User.email == email).with_for_update())).one()
        user.password_hash = hashed
        user.active = True
        user.email_verified_at = user.email_verified_at or func.now()
        user.roles = sorted({*user.roles, Role.SUPERUSER})
        await sessions.end_all(session, user.id)
        record(session, "accounts.superuser_created", actor=None, subject=str(user.id))
    return made is not None


async def sweep(resources: Resources) -> None:
    """Delete what has expired."""
    settings = resources.settings.of(AccountsSettings)
    async with resources.db.transaction() as session:
        await sessions.sweep(session, settings)
        await mails.sweep(session)
        await throttle.sweep(session, settings)


async def _set_password(
    session: AsyncSession, settings: AccountsSettings, user: User, hashed: str, user_agent: str
) -> Renewed:
    await session.execute(update(User).where(User.id == user.id).values(password_hash=hashed))
    await sessions.end_all(session, user.id)
    await mails.tell_changed(session, user.email)
    return await sessions.begin(session, settings, user, user_agent)


def _new_user(email: str, hashed: str, display_name: str) -> Insert:
    values = {
        "id": new_id(),
        "email": email,
        "password_hash": hashed,
        "display_name": display_name,
        "roles": [],
        "active": True,
    }
    return insert(User).values(values).on_conflict_do_nothing(index_elements=[User.email])
