"""The providers as seen by health: nobody is asked, because an answer costs money."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Watched(Protocol):
    """A provider that knows how its last calls went."""

    @property
    def trouble(self) -> str | None:
        """Why it would fail now; None when nothing is known."""


class AiHealth:
    """What this process knows of the providers from its own calls."""

    name = "ai"

    def __init__(self, providers: Sequence[Watched]) -> None:
        self._providers = providers

    async def check(self) -> None:
        """Raise when one of them failed lately."""
        troubles = [trouble for provider in self._providers if (trouble := provider.trouble)]
        if troubles:
            raise RuntimeError("; ".join(troubles))
