"""Fixtures of the tests of accounts: people without the cost of a hash each, other addresses, other settings."""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import event, func, select

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.audit import AuditEntry
    from app.core.messages import Email
    from app.core.resources import Resources
    from app.core.settings import Settings
    from app.features.accounts.sessions import Renewed

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Person:
    """Somebody who has an account with the usual password."""

    id: UUID
    email: str


@pytest.fixture(scope="session")
async def usual_hash(settings: "Settings") -> str:
    """The hash of the usual password, made once."""
    from app.features.accounts.passwords import passwords
    from app.features.accounts.settings import AccountsSettings

    return await passwords(settings.of(AccountsSettings)).hash(PASSWORD)


@pytest.fixture
def make_person(resources: "Resources", usual_hash: str) -> Callable[..., Awaitable[Person]]:
    """Makes somebody: `make_person(roles=["staff"])`."""
    from app.features.accounts.models import User

    async def make(email: str = "", **changed: Any) -> Person:
        values = {"email_verified_at": func.now(), "password_hash": usual_hash, **changed}
        user = User(email=email or f"{uuid4().hex[:12]}@example.com", **values)
        async with resources.db.transaction() as session:
            session.add(user)
        return Person(user.id, user.email)

    return make


@pytest.fixture
async def ada(make_person: Callable[..., Awaitable[Person]]) -> Person:
    """Somebody."""
    return await make_person("ada@example.com", display_name="Ada Lovelace")


@pytest.fixture
def begin(resources: "Resources") -> "Callable[[Person], Awaitable[Renewed]]":
    """Signs somebody in without asking for the password."""
    from app.features.accounts import sessions
    from app.features.accounts.models import User
    from app.features.accounts.settings import AccountsSettings

    async def sign_in(person: Person) -> "Renewed":
        async with resources.db.transaction() as session:
            user = await session.get_one(User, person.id)
            return await sessions.begin(session, resources.settings.of(AccountsSettings), user, "a test")

    return sign_in


@pytest.fixture
def from_address(
    application: "FastAPI", client: httpx.AsyncClient
) -> Callable[[str], AbstractAsyncContextManager[httpx.AsyncClient]]:
    """A client that comes from another address."""

    @asynccontextmanager
    async def opened(address: str) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as other:
            yield other

    return opened


@pytest.fixture
def resources_with(resources: "Resources") -> "Callable[..., Resources]":
    """The resources with other settings of accounts."""
    from app.features.accounts.settings import AccountsSettings

    def changed(**values: Any) -> "Resources":
        settings = resources.settings
        own = settings.of(AccountsSettings).model_copy(update=values)
        return replace(
            resources, settings=settings.model_copy(update={"features": {**settings.features, AccountsSettings: own}})
        )

    return changed


@pytest.fixture
def served_with(
    application: "FastAPI", client: httpx.AsyncClient, resources_with: "Callable[..., Resources]"
) -> Callable[..., Any]:
    """Has the API work with other settings of accounts for the length of a block."""

    @contextlib.contextmanager
    def changed(**values: Any) -> Any:
        before = application.state.resources
        application.state.resources = resources_with(**values)
        yield
        application.state.resources = before

    return changed


@pytest.fixture
def statements(resources: "Resources") -> Callable[[], AbstractAsyncContextManager[list[str]]]:
    """The statements that the database is sent during a block, without the values in them."""

    @asynccontextmanager
    async def noted() -> AsyncIterator[list[str]]:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        engine = resources.db.engine.sync_engine
        event.listen(engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(engine, "before_cursor_execute", note)

    return noted


@pytest.fixture
def mails(
    resources: "Resources", run_tasks: Callable[[], Awaitable[list[str]]]
) -> "Callable[[], Awaitable[list[Email]]]":
    """Lets the worker's part happen, and returns the mails there are, oldest first."""
    from app.core.messages import Channel, Email, kept

    async def read() -> "list[Email]":
        await run_tasks()
        async with resources.db.read() as session:
            return [mail for mail in await kept(session, Channel.EMAIL) if isinstance(mail, Email)]

    return read


def token_in(mail: "Email") -> str:
    """The token that a mail holds."""
    found = re.search(r"(?m)(?:#token=|^ {4})([\w-]{40,})$", mail.text)
    assert found, mail.text
    return found[1]


@pytest.fixture
def trail(resources: "Resources") -> "Callable[[Person], Awaitable[list[AuditEntry]]]":
    """What the audit trail says of somebody, oldest first."""
    from app.core.audit import AuditEntry

    async def read(person: Person) -> "list[AuditEntry]":
        about = (AuditEntry.actor == person.id) | (AuditEntry.subject == str(person.id))
        async with resources.db.read() as session:
            return list((await session.scalars(select(AuditEntry).where(about).order_by(AuditEntry.id))).all())

    return read
