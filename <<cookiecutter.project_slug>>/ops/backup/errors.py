"""What goes wrong with a backup, in the words of whoever has to act on it."""


class BackupError(Exception):
    """A step failed; `advice` says what to do next."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}\n  next: {advice}" if advice else reason)


class Damaged(BackupError):
    """A backup is not what its manifest says. Nothing was changed."""


class NoKey(Damaged):
    """A backup is encrypted with a key that BACKUP_KEYS does not name. Nothing was changed."""


class Refused(BackupError):
    """The restore would touch something live, and nobody said that it may. Nothing was changed."""


class Busy(BackupError):
    """Another run of the same kind is under way. Nothing was changed."""


# Not a failure: sysexits' EX_TEMPFAIL, by which a scheduler knows it.
BUSY_CODE = 75
