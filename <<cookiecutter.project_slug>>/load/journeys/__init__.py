"""What people do, a file for each part of the service; found by being here.

A journey has `STEPS` and `walk(person)`. One that people come in by also has `ENTRY`: whoever is asked for a token goes through it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from load.objectives import Step

if TYPE_CHECKING:
    from load.person import Person


@dataclass(frozen=True)
class Entry:
    """How people come in and go.

    Attributes:
        enter: makes somebody known; afterwards `person.token` is theirs.
        leave: what they do at the end.
    """

    enter: Callable[[Person], None]
    leave: Callable[[Person], None]
    first: tuple[Step, ...]
    last: tuple[Step, ...]


@dataclass(frozen=True)
class Journey:
    """One file of this folder."""

    name: str
    steps: tuple[Step, ...]
    walk: Callable[[Person], None]
    entry: Entry | None


def found() -> list[Journey]:
    """All there are, by name."""
    journeys = []
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        journeys.append(Journey(module.name, loaded.STEPS, loaded.walk, getattr(loaded, "ENTRY", None)))
    return journeys


def entry(journeys: list[Journey]) -> Entry | None:
    """How people come in; None where another service gives them their tokens."""
    return next((journey.entry for journey in journeys if journey.entry), None)


def steps(journeys: list[Journey], *, tokens: bool) -> list[Step]:
    """Every step that a run takes, in order.

    Args:
        tokens: people come with tokens that were given, and not through the door.
    """
    way = None if tokens else entry(journeys)
    walked = [step for journey in journeys for step in journey.steps]
    return [*(way.first if way else ()), *walked, *(way.last if way else ())]
