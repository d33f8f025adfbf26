"""Reading the settings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings import SettingsError as UnreadableValue

from app.core.settings.base import FeatureSettings
from app.core.settings.production import production_faults
from app.core.settings.root import Environment, Settings
from app.core.settings.sources import Variables, read_variables

G = TypeVar("G", bound=BaseModel)


class SettingsError(Exception):
    """The environment cannot be used.

    Attributes:
        faults: one line for each fault, naming the variable and what to do.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(["the settings have faults:", *(f"  - {fault}" for fault in faults)]))


def load_settings(
    features: Iterable[type[FeatureSettings]] = (),
    *,
    variables: Variables | None = None,
    environment: Environment | None = None,
) -> Settings:
    """Read the settings from their sources: the environment, AWS Secrets Manager, the env file.

    Args:
        features: the groups of the features in use.
        variables: what the sources say, where that has been read before.
        environment: judge as if this were ENVIRONMENT.

    Raises:
        SettingsError: every fault of every source and group at once.
    """
    features = list(features)
    found = variables or read_variables(features)
    values = dict(found.values)
    if environment:
        values["ENVIRONMENT"] = environment.value
    faults = dict(found.faults)
    groups: dict[type[FeatureSettings], FeatureSettings] = {
        group: _read(group, values, faults, prefix=group.prefix) for group in features
    }
    settings = _read(Settings, values, faults, features=groups)
    # What could not be read is not missing as well.
    lines = [*faults.values(), *(line for line in production_faults(settings) if line.split(":")[0] not in faults)]
    if lines:
        raise SettingsError(lines)
    return settings


def _read(group: type[G], values: dict[str, str], faults: dict[str, str], prefix: str = "", **more: object) -> G:
    """One group. A value that it refuses becomes a fault and gives way to its default, so that the rest is judged too."""
    while True:
        try:
            return group.model_validate({**_parsed(group, values, prefix), **more})
        except ValidationError as error:
            for fault in error.errors():
                variable = (prefix + "_".join(str(part) for part in fault["loc"][: 1 if prefix else 2])).upper()
                faults[variable] = _line(variable, fault["msg"])
                del values[variable]
                if variable == "ENVIRONMENT":
                    values[variable] = Environment.PRODUCTION.value  # unknown: judge by the strictest rules
        except UnreadableValue:
            variable = next(name for name, value in values.items() if not _parses(group, {name: value}, prefix))
            faults[variable] = f"{variable}: not valid JSON"
            del values[variable]


def _parses(group: type[BaseModel], values: Mapping[str, str], prefix: str) -> bool:
    try:
        _parsed(group, values, prefix)
    except UnreadableValue:
        return False
    return True


def _parsed(group: type[BaseModel], values: Mapping[str, str], prefix: str) -> dict[str, object]:
    """What the variables say, in the shape of the group."""
    source = EnvSettingsSource(
        cast("type[BaseSettings]", group),
        env_prefix=prefix,
        env_nested_delimiter=None if prefix else "_",
        env_nested_max_split=None if prefix else 1,
    )
    # Other programs set variables too: one that is called like a group (CACHE, LOG) is not meant for us, and would be
    # read as JSON.
    ours = {name.lower(): value for name, value in values.items() if name == "ENVIRONMENT" or not _is_group(name)}
    source.env_vars = ours
    return source()


def _is_group(name: str) -> bool:
    return name.lower() in Settings.model_fields


def _line(variable: str, message: str) -> str:
    return f"{variable}: {message[0].lower()}{message[1:]}"
