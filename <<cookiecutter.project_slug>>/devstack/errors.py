"""The one error of the devstack: what went wrong, and what to do next."""


class StackError(Exception):
    """A part of the stack cannot run; `advice` says what the reader can do about it."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}\n  next: {advice}" if advice else reason)


class Interrupted(StackError):
    """The stack was asked to stop while it was still starting."""
