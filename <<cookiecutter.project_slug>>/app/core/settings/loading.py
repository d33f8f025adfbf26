"""Reading the settings."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.core.project import ROOT
from app.core.settings.base import FeatureSettings
from app.core.settings.production import production_faults
from app.core.settings.root import Environment, Settings

ENV_FILE_VARIABLE = "ENV_FILE"


class _FromEnvironment(Settings, BaseSettings):
    model_config = SettingsConfigDict(
        env_nested_delimiter="_", env_nested_max_split=1, env_ignore_empty=True, extra="ignore", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then `.env`."""
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)
            # Other programs set variables too: one that is called like a group (CACHE, LOG) is not meant for us, and
            # would be read as JSON.
            source.env_vars = {
                name: value
                for name, value in source.env_vars.items()
                if name == "environment" or name not in Settings.model_fields
            }
        return init_settings, env_settings, dotenv_settings


class SettingsError(Exception):
    """The environment cannot be used.

    Attributes:
        faults: one line for each fault, naming the variable and what to do.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(["the settings have faults:", *(f"  - {fault}" for fault in faults)]))


def env_file() -> Path | None:
    """The file read beside the environment: ENV_FILE, or `.env`; None when ENV_FILE is set and empty."""
    named = os.environ.get(ENV_FILE_VARIABLE)
    if named is None:
        return ROOT / ".env"
    return Path(named) if named else None


def load_settings(features: Iterable[type[FeatureSettings]] = ()) -> Settings:
    """Read the settings from the environment, and what is not there from the env file.

    Args:
        features: the groups of the features in use.

    Raises:
        SettingsError: every fault of every group at once.
    """
    faults: list[str] = []
    groups: dict[type[FeatureSettings], FeatureSettings] = {}
    for group in features:
        # The feature's class is wrapped only here, so that a test can build one from plain values.
        reader = type(
            group.__name__,
            (group, BaseSettings),
            {"__module__": group.__module__, "model_config": _feature_config(group)},
        )
        try:
            groups[group] = reader(_env_file=env_file())
        except ValidationError as error:
            faults += [_line(group.prefix + _name(fault["loc"]), fault["msg"]) for fault in error.errors()]
    try:
        settings = _read(groups)
    except ValidationError as error:
        faults += [_line(_name(fault["loc"]), fault["msg"]) for fault in error.errors()]
        # Read again with the bad values put aside, so that what else is wrong is said in the same breath.
        settings = _read(groups, **_replacements(error))
    faults += production_faults(settings)
    if faults:
        raise SettingsError(faults)
    return settings


def _read(groups: Mapping[type[FeatureSettings], FeatureSettings], **replaced: object) -> Settings:
    return _FromEnvironment(_env_file=env_file(), features=groups, **replaced)  # type: ignore[arg-type]  # checked by pydantic


def _replacements(error: ValidationError) -> dict[str, object]:
    replaced: dict[str, object] = {}
    for fault in error.errors():
        group, *rest = (str(part) for part in fault["loc"])
        if group == "environment":
            replaced[group] = Environment.PRODUCTION  # unknown: judge by the strictest rules
        elif rest:
            default = getattr(Settings.model_fields[group].default, rest[0])
            fields = replaced.setdefault(group, {})
            assert isinstance(fields, dict)
            fields[rest[0]] = default
        else:
            replaced[group] = Settings.model_fields[group].default
    return replaced


def _feature_config(group: type[FeatureSettings]) -> SettingsConfigDict:
    return SettingsConfigDict(env_prefix=group.prefix, env_ignore_empty=True, extra="ignore", frozen=True)


def _name(location: tuple[int | str, ...]) -> str:
    return "_".join(str(part) for part in location).upper()


def _line(variable: str, message: str) -> str:
    return f"{variable}: {message[0].lower()}{message[1:]}"
