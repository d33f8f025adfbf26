"""What accounts take and give."""

import unicodedata
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, SecretStr, StringConstraints

from app.core.security import Role

MIN_PASSWORD = 12
# Longer than any password manager makes; a bound on what Argon2 is asked to chew.
MAX_PASSWORD = 256


def _lower(value: str) -> str:
    return value.lower()


def _one_line(value: str) -> str:
    # Names end up in headers and in logs. PostgreSQL, too, stores every character but NUL.
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError("must not contain control characters")
    return value


def _text(value: SecretStr) -> SecretStr:
    # JSON can carry half a surrogate pair, which nothing can encode. Ordinary strings are checked for that by pydantic.
    if any("\ud800" <= character <= "\udfff" for character in value.get_secret_value()):
        raise ValueError("must be text")
    return value


Email = Annotated[EmailStr, AfterValidator(_lower)]
Password = Annotated[
    SecretStr, AfterValidator(_text), Field(max_length=MAX_PASSWORD, examples=["correct horse battery"])
]
NewPassword = Annotated[Password, Field(min_length=MIN_PASSWORD)]
Name = Annotated[str, StringConstraints(max_length=100, strip_whitespace=True), AfterValidator(_one_line)]
OpaqueToken = Annotated[SecretStr, AfterValidator(_text), Field(max_length=200, examples=["dGhpcyBpcyBub3Qg…"])]


class Taken(BaseModel):
    """What is taken: nothing else than this."""

    model_config = ConfigDict(extra="forbid")


class Registration(Taken):
    """A new account."""

    email: Email = Field(examples=["ada@example.com"])
    password: NewPassword
    display_name: Name = Field(default="", examples=["Ada Lovelace"])


class Credentials(Taken):
    """What signs a person in."""

    email: Email = Field(examples=["ada@example.com"])
    password: Password


class Address(Taken):
    """To whom to send a mail."""

    email: Email = Field(examples=["ada@example.com"])


class Refresh(Taken):
    """The newest refresh token."""

    refresh_token: OpaqueToken


class MailedProof(Taken):
    """A token out of a mail."""

    token: OpaqueToken


class PasswordReset(MailedProof):
    """A new password, by a mailed token."""

    password: NewPassword


class PasswordChange(Taken):
    """A new password, by the present one."""

    present: Password
    new: NewPassword


class Accepted(BaseModel):
    """The same for every address, whether it has an account or not."""

    detail: str = Field(examples=["If this address can have an account, it has a mail from us."])


class Tokens(BaseModel):
    """The access token goes into the header `Authorization: Bearer …`; the refresh token, once, into `refresh`."""

    access_token: str = Field(examples=["eyJhbGciOi…"])
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # the kind, not a token
    expires_in: int = Field(description="Seconds.", examples=[1800])
    refresh_token: str = Field(description="Works once.", examples=["dGhpcyBpcyBub3Qg…"])
    refresh_expires_in: int = Field(description="Seconds.", examples=[604800])


class Account(BaseModel):
    """A person, as they see themselves."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str = Field(examples=["ada@example.com"])
    email_verified_at: datetime | None
    display_name: str = Field(examples=["Ada Lovelace"])
    roles: list[str] = Field(examples=[[]])
    created_at: datetime


class Session(BaseModel):
    """One sign-in on one device."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    client: str = Field(description="The address it was last renewed from.", examples=["203.0.113.7"])
    user_agent: str = Field(description="What the device calls itself.", examples=["Mozilla/5.0"])
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


class Person(Account):
    """A person, as superusers see them."""

    active: bool


class PersonChange(Taken):
    """What a superuser changes of a person; what is left out stays."""

    roles: list[Role] | None = Field(default=None, max_length=len(Role), examples=[[Role.STAFF]])
    active: bool | None = Field(default=None, examples=[False])
