"""What every group is made of."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _without_slash(value: str) -> str:
    return value.rstrip("/")


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Address = Annotated[str, AfterValidator(_without_slash)]
NO_SECRET = SecretStr("")


def secret(description: str, *, generated: bool = True, required: bool = True) -> SecretStr:
    """A field for a secret.

    Args:
        description: what it protects.
        generated: `make setup` writes a fresh random value.
        required: production refuses to start without a strong one.
    """
    extra: dict[str, object] = {"generated": generated, "required": required}
    field: SecretStr = Field(default=NO_SECRET, description=description, json_schema_extra=extra)  # type: ignore[arg-type]
    return field


class FeatureSettings(BaseModel):
    """Base of a feature's own group; its variables begin with `prefix`."""

    model_config = ConfigDict(frozen=True)

    prefix: ClassVar[str]
    # Whether production has to choose an embedding provider because of this feature.
    compares_meaning: ClassVar[bool] = False


def extra_of(field: FieldInfo) -> dict[str, object]:
    """What a field says beside its type: whether it is `generated`, whether production requires it."""
    return dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
