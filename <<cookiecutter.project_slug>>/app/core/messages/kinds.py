"""What can be sent: a class for each channel. Each refuses what could break out of a header or cannot be delivered."""

import unicodedata
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, StringConstraints


class Channel(StrEnum):
    """The ways out. Each has a lane of its own: one that is down holds up no other."""

    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    SLACK = "slack"


def _one_line(value: str) -> str:
    # A line break in a header begins the next header. Other control characters have no business there either.
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError("must be one line without control characters")
    return value


def _no_nul(value: str) -> str:
    # PostgreSQL stores every character but this one.
    if "\x00" in value:
        raise ValueError("must not contain the NUL character")
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Text = Annotated[str, AfterValidator(_no_nul)]


class Content(BaseModel, ABC):
    """What every kind has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: ClassVar[Channel]

    @property
    @abstractmethod
    def receiver(self) -> str:
        """To whom, masked: for logs and for the table, where it stays when the rest is erased."""


class Email(Content):
    """An e-mail.

    Attributes:
        to: one address; a message for several people is several messages.
        name: the receiver's, shown beside the address.
        html: a second form of the same text, for those who look at that.
    """

    channel: ClassVar[Channel] = Channel.EMAIL

    to: EmailStr
    subject: Line = Field(min_length=1, max_length=200)
    text: Text = Field(min_length=1, max_length=200_000)
    html: Text | None = Field(default=None, max_length=500_000)
    name: Line = Field(default="", max_length=100)
    reply_to: EmailStr | None = None

    @property
    def receiver(self) -> str:
        """`a***@example.com`."""
        local, _, domain = self.to.rpartition("@")
        return f"{local[:1]}***@{domain}"


class Sms(Content):
    """A text message.

    Attributes:
        to: a number in the form of E.164: +4915112345678.
    """

    channel: ClassVar[Channel] = Channel.SMS

    to: Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$")]
    text: Text = Field(min_length=1, max_length=1600)

    @property
    def receiver(self) -> str:
        """`+49***678`."""
        return f"{self.to[:3]}***{self.to[-3:]}"


class Push(Content):
    """A notification on a mobile device, by Expo.

    Attributes:
        to: the device's token: ExponentPushToken[…].
        data: for the app; at most about 4 KiB together with the texts.
    """

    channel: ClassVar[Channel] = Channel.PUSH

    to: Annotated[str, StringConstraints(pattern=r"^Expo(nent)?PushToken\[[A-Za-z0-9_-]{1,100}\]$")]
    title: Text = Field(min_length=1, max_length=200)
    body: Text = Field(default="", max_length=2000)
    data: dict[str, Any] = {}

    @property
    def receiver(self) -> str:
        """Nothing of the token, which is all it takes to send to the device."""
        return "ExponentPushToken[***]"


class SlackNote(Content):
    """A note in the team's own channel: the webhook is a setting, never somebody's wish.

    Attributes:
        text: plain; what a person wrote cannot mention anybody or forge a link.
    """

    channel: ClassVar[Channel] = Channel.SLACK

    text: Text = Field(min_length=1, max_length=4000)

    @property
    def receiver(self) -> str:
        """There is one."""
        return "webhook"


Message = Email | Sms | Push | SlackNote
_KINDS: dict[Channel, type[Message]] = {kind.channel: kind for kind in (Email, Sms, Push, SlackNote)}


def parse(channel: str, content: str) -> Message:
    """The message that `model_dump_json` has written."""
    return _KINDS[Channel(channel)].model_validate_json(content)
