"""Open psql on the database of the environment: `make psql`, or `make psql SQL="SELECT 1"`.

The address comes from the settings, and the program from where the backups have theirs; the password is on no command line.
"""

import os
import sys

from app.core.settings import SettingsError, load_settings
from ops.backup.errors import BackupError
from ops.backup.postgres import Address, Tools

OLDEST = 15  # the oldest server that the service runs on


def main(statement: str) -> None:
    """Become psql.

    Args:
        statement: what to ask before it ends; without one a person asks.

    Raises:
        SettingsError: the settings have faults.
        BackupError: there is no psql.
    """
    settings = load_settings()
    plain, env = Address(settings.database.dsn()).for_tools()
    program = str(Tools(settings.backup.pg_bin, OLDEST).program("psql"))
    asked = ["--set", "ON_ERROR_STOP=1", "--command", statement] if statement else []
    os.execve(program, [program, "--no-psqlrc", *asked, plain], env)  # noqa: S606  # in this process's place, so that Ctrl-C is psql's


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except (SettingsError, BackupError) as error:
        sys.exit(f"psql: {error}")
