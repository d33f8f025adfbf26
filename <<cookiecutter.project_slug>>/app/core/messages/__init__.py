"""Messages to people outside: e-mail, SMS, push, Slack.

    async with db.transaction() as session:
        ...
        await send(session, Email(to=user.email, subject="Welcome", text="…"), key=f"welcome:{user.id}")

`send` writes a row in the caller's transaction, encrypted: nothing goes out when that rolls back, and nothing is lost once it has
committed. A worker hands it to the provider, again and again for MESSAGES_GIVE_UP_HOURS while the provider is away, and
erases what it said once it is over.

In the sandbox (everywhere but in production, see MESSAGES_MODE) nothing leaves the house: messages stay in the table
`messages` with the state "sandboxed". Read them with `python -m app.cli messages list` and `… show`, and in tests with
`kept`, right after the commit and without a worker:

    (mail,) = await kept(session, Channel.EMAIL)
    assert "https://" in mail.text
"""

from app.core.messages.kinds import Channel, Email, Message, Push, SlackNote, Sms
from app.core.messages.lanes import TASKS, periodic, send
from app.core.messages.models import MessageRow, State
from app.core.messages.queue import device_is_back, devices_gone
from app.core.messages.report import kept, newest, sample_messages
from app.core.messages.sealing import unseal
from app.core.messages.templates import Template

__all__ = [
    "TASKS",
    "Channel",
    "Email",
    "Message",
    "MessageRow",
    "Push",
    "SlackNote",
    "Sms",
    "State",
    "Template",
    "device_is_back",
    "devices_gone",
    "kept",
    "newest",
    "periodic",
    "sample_messages",
    "send",
    "unseal",
]
