"""Access tokens: who signs them, and whose are believed."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from app.core.settings.base import CommaList, secret


def _lines(value: SecretStr) -> SecretStr:
    # Many ways to set a variable allow no line break; a PEM block then has \n where its lines end.
    return SecretStr(value.get_secret_value().replace("\\n", "\n").strip())


def _plain_lines(value: str) -> str:
    return value if value.lstrip().startswith("{") else value.replace("\\n", "\n").strip()


def _lower(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.lower() for part in value)


class Auth(BaseModel):
    """Access tokens: who signs them, and whose are believed."""

    model_config = ConfigDict(frozen=True)  # the keys made of it are kept by it

    algorithm: Literal["HS256", "EdDSA", "RS256"] = Field(
        default="HS256",
        description="HS256 signs with AUTH_SECRET_KEY. EdDSA and RS256 sign with AUTH_PRIVATE_KEY; others can then check tokens by /.well-known/jwks.json.",
    )
    secret_key: SecretStr = secret(
        "Signs the tokens with HS256. Changing it at one stroke signs everyone out: docs/runbook/rotate-signing-keys.md.",
        required=False,  # another kind of key may do: see production.py
    )
    further_secret_keys: SecretStr = secret(
        "Secrets that sign nothing and are believed, comma-separated: the next one before it signs, and the former one until its tokens have expired.",
        generated=False,
        required=False,
    )
    private_key: Annotated[SecretStr, AfterValidator(_lines)] = secret(
        "Signs the tokens with EdDSA or RS256: PEM, lines separated by \\n where a line break cannot be.",
        generated=False,
        required=False,
    )
    public_keys: Annotated[str, AfterValidator(_plain_lines)] = Field(
        default="",
        description="Public keys that are believed: PEM blocks one after another, or a JWKS document. The next and the former ones of our own; or those of an outside identity provider, without a key of ours.",
        json_schema_extra={"file": True},
    )
    issuer: str = Field(
        default="", description="Who issues the tokens, as they say it themselves. Empty: this project's name."
    )
    audience: str = Field(default="api", min_length=1, description="For whom a token must be issued.")
    token_types: Annotated[CommaList, AfterValidator(_lower)] = Field(
        default=("at+jwt",),
        min_length=1,
        description="What the header `typ` of an access token may be. Ours say at+jwt; many outside providers say JWT.",
    )
    roles_claim: str = Field(default="roles", min_length=1, description="The claim that lists a person's roles.")
    access_token_minutes: int = Field(default=30, ge=1, le=1440, description="Life of an access token.")
    sign_out_seconds: float = Field(
        default=2,
        ge=0.05,
        le=300,
        description="How often each process looks which sessions have ended: so long somebody who is signed out or switched off may get in with an access token.",
    )

    @field_validator("private_key")
    @classmethod
    def private_key_can_be_read(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        """It is a key, and one for the algorithm."""
        if value.get_secret_value() and (algorithm := info.data.get("algorithm", "HS256")) != "HS256":
            from app.core.signing import private_key  # brings cryptography along

            private_key(value.get_secret_value(), algorithm)
        return value

    @field_validator("public_keys")
    @classmethod
    def public_keys_can_be_read(cls, value: str) -> str:
        """They are keys."""
        if value:
            from app.core.signing import public_keys

            public_keys(value)
        return value

    @property
    def outside(self) -> bool:
        """Whether tokens come from somebody else alone: there are keys to check with and none to sign with."""
        own = self.secret_key if self.algorithm == "HS256" else self.private_key
        return bool(self.public_keys) and not own.get_secret_value()
