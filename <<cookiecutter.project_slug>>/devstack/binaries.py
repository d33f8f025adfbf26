"""`python -m devstack.binaries`: fetch what the machine lacks, and say where each program is. Part of `make setup`."""

import sys

from devstack import programs
from devstack.errors import StackError


def main() -> None:
    """Fetch and print."""
    try:
        for name, path in (
            ("postgres", programs.postgres_bin() / "postgres"),
            ("redis", programs.redis()),
            ("storage", programs.rclone()),
            ("nginx", programs.nginx()),
        ):
            print(f"{name:9} {path}")
    except StackError as error:
        sys.exit(f"devstack: {error}")


if __name__ == "__main__":
    main()
