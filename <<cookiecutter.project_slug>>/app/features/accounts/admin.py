"""What accounts bring to the admin page: the door, people without their passwords, and where they are signed in."""

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import delete, func, select

from app.core.audit import record
from app.core.resources import Resources
from app.core.security import Role
from app.features.accounts import service
from app.features.accounts.models import RefreshToken, SignInSession, User
from app.features.accounts.sessions import digest

if TYPE_CHECKING:
    from sqladmin import ModelView


class AccountsDoor:
    """Lets superusers in by the same sign-in as everywhere. A session of the page is one of theirs, without tokens."""

    async def sign_in(self, resources: Resources, name: str, password: str, user_agent: str) -> UUID | None:
        """The id of the session that has begun; None for who is no superuser."""
        begun = await service.sign_in(resources, name, password, f"admin page: {user_agent}")
        own = RefreshToken.digest == digest(begun.token)
        allowed = Role.SUPERUSER in begun.user.roles
        async with resources.db.transaction() as session:
            session_id: UUID = (await session.scalars(select(RefreshToken.session_id).where(own))).one()
            # A page has no use for a token that lives for days.
            await session.execute(delete(RefreshToken).where(own))
            if not allowed:
                await session.execute(delete(SignInSession).where(SignInSession.id == session_id))
            record(session, "admin.signed_in" if allowed else "admin.refused", actor=begun.user.id)
        return session_id if allowed else None

    async def person(self, resources: Resources, session_id: UUID) -> UUID | None:
        """Whose session it is, asked of the database at every click."""
        async with resources.db.read() as session:
            found = await session.scalars(
                select(User.id)
                .join(SignInSession, SignInSession.user_id == User.id)
                .where(
                    SignInSession.id == session_id,
                    SignInSession.expires_at > func.now(),
                    User.active,
                    User.roles.contains([Role.SUPERUSER.value]),
                )
            )
            return found.one_or_none()

    async def sign_out(self, resources: Resources, session_id: UUID) -> None:
        """End the session."""
        async with resources.db.transaction() as session:
            ended = await session.scalar(
                delete(SignInSession).where(SignInSession.id == session_id).returning(SignInSession.user_id)
            )
            if ended:
                record(session, "admin.signed_out", actor=ended)


DOOR = AccountsDoor()


def views() -> list[type["ModelView"]]:
    """People, and their sessions."""
    from app.core.admin import read_only

    base = read_only()

    class Person(base, model=User):  # type: ignore[valid-type, misc, call-arg]  # made at run time
        name = "Person"
        name_plural = "People"
        column_list = (User.email, User.display_name, User.roles, User.active, User.email_verified_at, User.created_at)
        column_details_exclude_list = (User.password_hash,)
        column_searchable_list = (User.email,)
        column_default_sort = (User.created_at, True)

    class Session(base, model=SignInSession):  # type: ignore[valid-type, misc, call-arg]  # as above
        name = "Session"
        name_plural = "Sessions"
        column_list = (
            SignInSession.user_id,
            SignInSession.client,
            SignInSession.user_agent,
            SignInSession.last_used_at,
            SignInSession.expires_at,
        )
        column_default_sort = (SignInSession.last_used_at, True)

    return [Person, Session]
