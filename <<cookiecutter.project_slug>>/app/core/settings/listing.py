"""The settings as a list: for `.env.example`, for the log, for the checks."""

from collections.abc import Iterable

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.core.settings.base import FeatureSettings, extra_of
from app.core.settings.root import Settings


def fields_of(settings: Settings) -> Iterable[tuple[str, FieldInfo, object]]:
    """Every setting as (variable, field, value)."""
    for name, group in settings:
        if isinstance(group, BaseModel):
            for key, field in type(group).model_fields.items():
                yield f"{name}_{key}".upper(), field, getattr(group, key)
    for feature in settings.features.values():
        for key, field in type(feature).model_fields.items():
            yield f"{feature.prefix}{key}".upper(), field, getattr(feature, key)


def redacted(settings: Settings) -> dict[str, object]:
    """The settings for the log: secrets as `**********`, or empty where none is set."""
    return {
        variable.lower(): str(value) if isinstance(value, SecretStr) else value
        for variable, _, value in fields_of(settings)
    }


def documented(
    features: Iterable[type[FeatureSettings]],
) -> Iterable[tuple[str, str, list[tuple[str, FieldInfo]]]]:
    """Every group as (heading, text, [(variable, field)]), in the order of `.env.example`."""
    yield "General", "", [("ENVIRONMENT", Settings.model_fields["environment"])]
    for name, group in Settings.model_fields.items():
        if isinstance(kind := group.annotation, type) and issubclass(kind, BaseModel):
            fields = [(f"{name}_{key}".upper(), field) for key, field in kind.model_fields.items()]
            yield name.capitalize(), first_line(kind), fields
    for feature in features:
        fields = [(f"{feature.prefix}{key.upper()}", field) for key, field in feature.model_fields.items()]
        yield feature.prefix.rstrip("_").capitalize(), first_line(feature), fields


def default_text(field: FieldInfo) -> str:
    """The default of a field as it is written in an env file."""
    value = field.default
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def is_generated(field: FieldInfo) -> bool:
    """Whether `make setup` makes a fresh random value for this field."""
    return bool(extra_of(field).get("generated"))


def first_line(thing: type) -> str:
    """The first line of a class's documentation."""
    return (thing.__doc__ or "").strip().splitlines()[0]
