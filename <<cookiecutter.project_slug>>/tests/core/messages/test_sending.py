"""Sending: with the transaction or not at all, kept in the sandbox, erased and forgotten in time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import Text, cast, func, literal_column, select, update

from app.core.db import Base
from app.core.encryption import Encryption, NoKey, rotate, standing
from app.core.messages import (
    Channel,
    Email,
    MessageRow,
    Push,
    SlackNote,
    Sms,
    State,
    Template,
    kept,
    send,
    unseal,
)
from app.core.messages.kinds import Content
from app.core.messages.lanes import prune
from app.core.settings import Encryption as EncryptionSettings
from app.core.settings.encryption import new_key
from tests.core.commands import command, each

if TYPE_CHECKING:
    from app.core.resources import Resources
    from devstack import Stack

RunTasks = Callable[[], Awaitable[list[str]]]
MAIL = Email(to="ada@example.com", subject="Welcome", text="Hello")


async def test_a_message_is_kept_in_the_sandbox(resources: "Resources", run_tasks: RunTasks) -> None:
    """It can be read at once, a worker notes it as sandboxed, and it stays readable; nothing personal is beside it."""
    async with resources.db.transaction() as session:
        await send(session, MAIL)
    async with resources.db.read() as session:
        assert await kept(session, Channel.EMAIL) == [MAIL]
        assert await kept(session, Channel.SMS) == []
    assert await run_tasks() == ["done"]
    async with resources.db.read() as session:
        assert await kept(session) == [MAIL]
        (row,) = await session.scalars(select(MessageRow))
    assert (row.state, row.receiver, row.error) == (State.SANDBOXED, "a***@example.com", None)


async def test_what_waits_cannot_be_read_in_the_table(resources: "Resources") -> None:
    """Nor in a backup of it: neither what it says nor to whom, as text or as bytes."""
    link = "https://example.com/reset-password#token=a-secret-that-sets-a-password"
    async with resources.db.transaction() as session:
        await send(session, MAIL.model_copy(update={"text": link}))
        (row,) = await session.scalars(select(cast(literal_column("messages"), Text)).select_from(MessageRow))
    assert "a***@example.com" in row
    for said in (link, MAIL.subject, MAIL.to):
        assert said not in row
        assert said.encode().hex() not in row


async def test_waiting_messages_are_rotated(resources: "Resources") -> None:
    """With everything else that is sealed; the new key alone reads them then, and the old one no longer does."""
    async with resources.db.transaction() as session:
        await send(session, MAIL)
    old, new = resources.settings.encryption.keys.get_secret_value(), new_key(date(2026, 11, 21))
    both, alone = (Encryption(EncryptionSettings(keys=SecretStr(keys))) for keys in (f"{new},{old}", new))
    assert (await rotate(resources.db, both, Base.metadata)).refused == []
    under = {entry.column: list(entry.keys) for entry in await standing(resources.db, Base.metadata)}
    assert under["messages.sealed"] == [alone.current]
    async with resources.db.read() as session:
        (row,) = await session.scalars(select(MessageRow))
    assert unseal(alone, row) == MAIL
    with pytest.raises(NoKey):
        unseal(resources.encryption, row)


async def test_nothing_goes_out_of_a_transaction_that_fails(resources: "Resources", run_tasks: RunTasks) -> None:
    """Neither row nor task is left."""

    async def fail() -> None:
        async with resources.db.transaction() as session:
            await send(session, MAIL)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await run_tasks() == []
    async with resources.db.read() as session:
        assert await kept(session) == []


async def test_the_same_key_is_one_message(resources: "Resources", run_tasks: RunTasks) -> None:
    """In the same transaction and in a later one; several messages of a channel ask for one run."""
    async with resources.db.transaction() as session:
        first = await send(session, MAIL, key="welcome:1")
        assert await send(session, MAIL, key="welcome:1") == first
        await send(session, MAIL, key="welcome:2")
        await send(session, SlackNote(text="Somebody has come"))
    async with resources.db.transaction() as session:
        assert await send(session, MAIL, key="welcome:1") == first
    assert await run_tasks() == ["done", "done"]
    async with resources.db.read() as session:
        assert len(await kept(session)) == 3


async def test_a_savepoint_takes_its_messages_along(resources: "Resources", run_tasks: RunTasks) -> None:
    """And a message sent after it asks for a run of its own."""
    async with resources.db.transaction() as session:
        nested = await session.begin_nested()
        await send(session, MAIL)
        await nested.rollback()
        await send(session, MAIL)
    assert await run_tasks() == ["done"]
    async with resources.db.read() as session:
        assert await kept(session) == [MAIL]


async def test_at_a_terminal(resources: "Resources", stack: "Stack") -> None:
    """The list shows no address and no text; what a message in the sandbox says is shown by its id."""
    async with resources.db.transaction() as session:
        identity = await send(session, MAIL)
        await send(session, SlackNote(text="x"))

    listed, shown, unknown, wrong = await asyncio.to_thread(
        each,
        stack.env,
        command("messages", "list", "--channel", "email", "--state", "queued"),
        command("messages", "show", str(identity)),
        command("messages", "show", str(UUID(int=0))),
        command("messages", "list", "--state", "lost"),
    )
    (line,) = [line for line in listed.stdout.splitlines() if "***" in line]
    assert line.split("  ")[2:] == ["email", "queued", "a***@example.com"]
    assert str(identity) in line
    assert "subject: Welcome" in shown.stdout
    assert "to: ada@example.com" in shown.stdout
    assert "no such message" in unknown.stderr
    assert "'lost' is not a valid State" in wrong.stderr


async def test_what_is_over_is_forgotten(resources: "Resources", run_tasks: RunTasks) -> None:
    """After MESSAGES_KEEP_DAYS; what still waits is not."""
    async with resources.db.transaction() as session:
        old = await send(session, MAIL)
        await send(session, MAIL)
    await run_tasks()
    async with resources.db.transaction() as session:
        waiting = await send(session, MAIL)
        days = timedelta(days=resources.settings.messages.keep_days + 1)
        await session.execute(update(MessageRow).where(MessageRow.id == old).values(settled_at=func.now() - days))
        await session.execute(update(MessageRow).where(MessageRow.id == waiting).values(created_at=func.now() - days))
    await prune(resources)
    async with resources.db.read() as session:
        left = set(await session.scalars(select(MessageRow.id)))
    assert len(left) == 2
    assert old not in left


GOOD: dict[type[Content], dict[str, str]] = {
    Email: {"to": "ada@example.com", "subject": "x", "text": "x"},
    Sms: {"to": "+4915112345678", "text": "x"},
    Push: {"to": "ExponentPushToken[abc]", "title": "x"},
    SlackNote: {"text": "x"},
}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (Email, {"to": "ada@example.com\nBcc: eve@example.com"}),
        (Email, {"to": "ada@example.com, eve@example.com"}),
        (Email, {"subject": "x\r\nBcc: eve@example.com"}),
        (Email, {"subject": "x\u2028y"}),
        (Email, {"name": "Ada\nBcc: eve@example.com"}),
        (Email, {"reply_to": "a@example.com\r\nX: y"}),
        (Email, {"text": "nul \x00"}),
        (Email, {"subject": ""}),
        (Email, {"bcc": "eve@example.com"}),
        (Sms, {"to": "0151 1234567"}),
        (Sms, {"to": "+49151\n1234567"}),
        (Sms, {"to": "+4915112345678\n"}),
        (Push, {"to": "https://example.com"}),
        (Push, {"to": "ExponentPushToken[a]\n"}),
        (SlackNote, {"text": ""}),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(kind: type[Content], fault: dict[str, str]) -> None:
    """A line break in a header begins the next header, and a list of addresses is not an address."""
    kind(**GOOD[kind])
    with pytest.raises(ValidationError):
        kind(**GOOD[kind] | fault)


def test_receivers_are_masked() -> None:
    """What stays in the table and in the logs tells a person from another at best."""
    assert Sms(to="+4915112345678", text="x").receiver == "+49***678"
    assert Push(to="ExponentPushToken[abc]", title="x").receiver == "ExponentPushToken[***]"
    assert SlackNote(text="x").receiver == "webhook"


class TestTemplate:
    """Texts with gaps."""

    TEMPLATE = Template(subject="Hello {name}", text="{name}: {link}", html="<p>{name}</p>")

    def test_values_are_only_values(self) -> None:
        """What a person has for a name breaks neither the subject nor the HTML, and is no template itself."""
        mail = self.TEMPLATE.email("ada@example.com", name="<b>A\nda</b> {link}", link="https://x", more=1)
        assert mail.subject == "Hello <b>A da</b> {link}"
        assert mail.text == "<b>A\nda</b> {link}: https://x"
        assert mail.html == "<p>&lt;b&gt;A\nda&lt;/b&gt; {link}</p>"

    def test_a_missing_value_is_noticed(self) -> None:
        """Rather than sent."""
        with pytest.raises(KeyError):
            self.TEMPLATE.email("ada@example.com", name="Ada")

    def test_html_is_optional(self) -> None:
        """Text alone is a mail."""
        assert Template("a", "b").email("ada@example.com").html is None
