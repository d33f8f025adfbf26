"""What goes wrong with a backup, in the words of whoever has to act on it."""


class BackupError(Exception):
    """A step failed; `advice` says what to do next."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}\n  next: {advice}" if advice else reason)


class Damaged(BackupError):
    """A backup is not what its manifest says. Nothing was changed."""


class Refused(BackupError):
    """The restore would touch a live database, and nobody said that it may. Nothing was changed."""
