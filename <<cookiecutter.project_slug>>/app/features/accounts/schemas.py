"""What accounts take and give."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, SecretStr, StringConstraints

MIN_PASSWORD = 12
# Longer than any password manager makes; a bound on what Argon2 is asked to chew.
MAX_PASSWORD = 256


def _lower(value: str) -> str:
    return value.lower()


def _no_nul(value: str) -> str:
    # PostgreSQL stores every character but this one.
    if "\x00" in value:
        raise ValueError("must not contain the NUL character")
    return value


def _text(value: SecretStr) -> SecretStr:
    # JSON can carry half a surrogate pair, which nothing can encode. Ordinary strings are checked for that by pydantic.
    if any("\ud800" <= character <= "\udfff" for character in value.get_secret_value()):
        raise ValueError("must be text")
    return value


Email = Annotated[EmailStr, AfterValidator(_lower)]
Password = Annotated[SecretStr, AfterValidator(_text)]
Name = Annotated[str, StringConstraints(max_length=100, strip_whitespace=True), AfterValidator(_no_nul)]


class Registration(BaseModel):
    """A new account."""

    model_config = ConfigDict(extra="forbid")

    email: Email = Field(examples=["ada@example.com"])
    password: Password = Field(min_length=MIN_PASSWORD, max_length=MAX_PASSWORD, examples=["correct horse battery"])
    display_name: Name = Field(default="", examples=["Ada Lovelace"])


class Credentials(BaseModel):
    """What signs a person in."""

    model_config = ConfigDict(extra="forbid")

    email: Email = Field(examples=["ada@example.com"])
    password: Password = Field(max_length=MAX_PASSWORD, examples=["correct horse battery"])


class Token(BaseModel):
    """Sent back in the header `Authorization: Bearer …`."""

    access_token: str = Field(examples=["eyJhbGciOi…"])
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # the kind, not a token
    expires_in: int = Field(description="Seconds.", examples=[1800])


class Account(BaseModel):
    """A person, as they see themselves."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str = Field(examples=["ada@example.com"])
    display_name: str = Field(examples=["Ada Lovelace"])
    roles: list[str] = Field(examples=[[]])
    created_at: datetime
