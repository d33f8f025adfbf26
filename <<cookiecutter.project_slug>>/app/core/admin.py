"""The admin page at /admin, by sqladmin: for superusers, when ADMIN_ENABLED asks for it. The library is loaded only then.

Core shows what is its own: tasks that failed for good, messages without what they say, the audit trail. A feature adds
its tables in `admin.py`: `views()` returns them. One of the features brings the door, an object `DOOR` (`Door`); without
one there is nobody to let in and no admin page. Tables are shown, not edited: what an administrator does are actions,
each of which goes through the same functions as everything else and leaves a row in the audit trail.

A session is one of the door's own, so that signing out everywhere, switching an account off or taking its role away
counts from the next click on. The browser holds its id in a signed cookie that is sent to this page alone, by nothing
but this page: `SameSite=Strict`, and whatever changes something has to say that it comes from here.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.access import Access
from app.core.audit import AuditEntry, record
from app.core.errors import AppError
from app.core.logging import user_id
from app.core.messages.models import MessageRow
from app.core.outbox import Outbox, OutboxTask, State
from app.core.project import project
from app.core.settings import Environment, Settings
from app.core.tasks import rerun

if TYPE_CHECKING:
    from sqladmin import ModelView
    from starlette.requests import Request
    from starlette.responses import Response

    from app.core.resources import Resources

PATH = "/admin"
ACCESS = {f"MOUNT {PATH}": Access.OWN}
COOKIE = "admin"
# The library serves its own scripts and styles; its menus set styles by attribute.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Door(Protocol):
    """Who signs people in: a feature."""

    async def sign_in(self, resources: "Resources", name: str, password: str, user_agent: str) -> UUID | None:
        """Begin a session of a superuser; its id, or None. Throttled and audited like every other way in."""

    async def person(self, resources: "Resources", session_id: UUID) -> UUID | None:
        """Whose session this is, if it lives and they are an active superuser at this moment."""

    async def sign_out(self, resources: "Resources", session_id: UUID) -> None:
        """End the session."""


def mount(app: FastAPI, settings: Settings, modules: Sequence[ModuleType]) -> dict[str, Access]:
    """Put the admin page into `app`, if it is asked for and somebody can come in.

    Args:
        app: keeps the resources in its state.
        settings: whether, and how.
        modules: the features' `admin`.

    Returns:
        Its rows of the table of access.
    """
    doors: list[Door] = [module.DOOR for module in modules if hasattr(module, "DOOR")]
    if not (settings.admin.enabled and doors):
        return {}
    from sqladmin import Admin
    from sqlalchemy.ext.asyncio import async_sessionmaker
    from starlette.middleware import Middleware

    sessions = async_sessionmaker()

    def resources() -> "Resources":
        opened: Resources = app.state.resources
        sessions.configure(bind=opened.db.engine)
        return opened

    page = Admin(
        app,
        session_maker=sessions,
        base_url=PATH,
        title=project().title,
        authentication_backend=_backend(settings, doors[0], resources),
        middlewares=[Middleware(_Fence)],
    )
    for view in [*_views(resources), *(view for module in modules for view in module.views())]:
        page.add_view(view)
    return ACCESS


def read_only() -> type["ModelView"]:
    """The base of views: nothing is made, changed or deleted, and a list is no copy of the table."""
    from sqladmin import ModelView

    class ReadOnly(ModelView):
        can_create = False
        can_edit = False
        can_delete = False
        can_export = False
        can_import = False
        page_size = 50

    return ReadOnly


def _views(resources: Callable[[], "Resources"]) -> list[type["ModelView"]]:
    from sqladmin import action
    from starlette.responses import RedirectResponse

    base = read_only()

    async def settle(request: "Request", what: str) -> "Response":
        ids = [UUID(key) for key in request.query_params.get("pks", "").split(",") if key]
        opened = resources()
        actor = UUID(user_id.get())
        if what == "rerun":
            await rerun(opened, ids)
        else:
            await Outbox(opened.db, opened.settings.tasks).discard(ids)
        async with opened.db.transaction() as session:
            record(session, f"admin.task_{what}", actor=actor, tasks=[str(key) for key in ids])
        return RedirectResponse(request.url_for("admin:list", identity="outbox-task"), 303)

    class DeadTask(base, model=OutboxTask):  # type: ignore[valid-type, misc, call-arg]  # made at run time
        name = "Dead task"
        name_plural = "Dead tasks"
        column_list = (OutboxTask.name, OutboxTask.queue, OutboxTask.attempts, OutboxTask.due_at, OutboxTask.error)
        column_details_exclude_list = (OutboxTask.args,)  # what a task was asked with may be somebody's
        column_default_sort = (OutboxTask.due_at, True)

        def list_query(self, request: "Request") -> Any:
            return super().list_query(request).where(OutboxTask.state == State.DEAD)

        def count_query(self, request: "Request") -> Any:
            return super().count_query(request).where(OutboxTask.state == State.DEAD)

        @action("rerun", "Run again", "Run these tasks again?", add_in_detail=True, add_in_list=True)
        async def rerun(self, request: "Request") -> "Response":
            return await settle(request, "rerun")

        @action("discard", "Discard", "Forget these tasks for good?", add_in_detail=True, add_in_list=True)
        async def discard(self, request: "Request") -> "Response":
            return await settle(request, "discarded")

    class Message_(base, model=MessageRow):  # type: ignore[valid-type, misc, call-arg]  # as above  # noqa: N801
        name = "Message"
        name_plural = "Messages"
        column_list = (
            MessageRow.channel,
            MessageRow.state,
            MessageRow.attempts,
            MessageRow.created_at,
            MessageRow.error,
        )
        column_details_exclude_list = (MessageRow.sealed, MessageRow.content, MessageRow.receiver)
        column_default_sort = (MessageRow.created_at, True)

    class Audit(base, model=AuditEntry):  # type: ignore[valid-type, misc, call-arg]  # as above
        name = "Act"
        name_plural = "Audit trail"
        column_list = (
            AuditEntry.created_at,
            AuditEntry.action,
            AuditEntry.actor,
            AuditEntry.subject,
            AuditEntry.client,
            AuditEntry.details,
        )
        column_searchable_list = (AuditEntry.action, AuditEntry.subject)
        column_default_sort = (AuditEntry.created_at, True)

    return [DeadTask, Message_, Audit]


def _backend(settings: Settings, door: Door, resources: Callable[[], "Resources"]) -> Any:
    from sqladmin.authentication import AuthenticationBackend

    class Sessions(AuthenticationBackend):
        async def login(self, request: "Request") -> bool:
            form = await request.form()
            name, password = form.get("username"), form.get("password")
            request.session.clear()
            if not (isinstance(name, str) and isinstance(password, str)):
                return False
            agent = request.headers.get("user-agent", "")
            try:
                begun = await door.sign_in(resources(), name.strip().lower(), password, agent)
            except AppError:  # wrong, or too many were: which, is nobody's business
                return False
            if begun is None:
                return False
            request.session["id"] = str(begun)
            return True

        async def logout(self, request: "Request") -> bool:
            if begun := request.session.get("id"):
                await door.sign_out(resources(), UUID(begun))
            request.session.clear()
            return False  # to the page where one signs in

        async def authenticate(self, request: "Request") -> bool:
            begun = request.session.get("id")
            person = await door.person(resources(), UUID(begun)) if begun else None
            if person is None:
                request.session.clear()
                return False
            user_id.set(str(person))
            # Written anew at every click, so that only who does nothing is signed out.
            request.session["id"] = begun
            return True

        async def get_user_id(self, request: "Request") -> str:  # noqa: ARG002  # the signature is sqladmin's
            return user_id.get()

    return Sessions(
        settings.admin.secret_key.get_secret_value(),
        session_cookie=COOKIE,
        max_age=settings.admin.idle_minutes * 60,
        path=PATH,
        same_site="strict",
        https_only=settings.environment is not Environment.DEVELOPMENT,
    )


class _Fence:
    """The page's own policy for browsers, and no act that another site has sent.

    An act is whatever is no GET, and sqladmin's actions and its sign-out, which are.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode())]
                if not scope["path"].startswith(f"{PATH}/statics/"):
                    own.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *own]
            await send(message)

        acts = (
            scope["method"] not in ("GET", "HEAD") or "/action/" in scope["path"] or scope["path"].endswith("/logout")
        )
        if acts and not _from_here(Headers(scope=scope)):
            await send_with_headers(
                {"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]}
            )
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send_with_headers)


def _from_here(headers: Headers) -> bool:
    """Whether a browser says that one of our pages sent this; a browser that says nothing is not believed."""
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = headers.get("origin") or headers.get("referer") or ""
    return bool(origin) and urlsplit(origin).netloc == headers.get("host")
