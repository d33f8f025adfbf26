"""The features of this service. This is the one list: router, tasks, models, settings and schedule follow from it.

A feature is a folder here and may hold api, schemas, models, service, tasks, settings, metrics, objects and cli. To delete one,
delete its folders and its name below.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.core.settings import FeatureSettings

FEATURES = ("accounts",)


def modules(kind: str) -> list[ModuleType]:
    """Import every feature's module of one kind: `modules("api")`. A feature need not have each."""
    names = [f"{__name__}.{feature}.{kind}" for feature in FEATURES]
    return [import_module(name) for name in names if find_spec(name)]


def settings_of_features() -> "list[type[FeatureSettings]]":
    """Every feature's group of settings."""
    # Here, because a helper process of one feature passes this file on its way in and needs no settings.
    from app.core.settings import FeatureSettings

    return [
        value
        for module in modules("settings")
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, FeatureSettings) and value is not FeatureSettings
    ]
