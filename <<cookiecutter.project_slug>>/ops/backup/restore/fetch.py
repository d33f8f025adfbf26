"""PostgreSQL's restore_command: `python -I -S fetch.py SOCKET NAME TARGET`. Asks the restore for a file of the log.

Needs nothing but the standard library, so that it starts in a hundredth of a second for each segment, and holds no key: the
restore holds them. An exit code of 1 says that there is no such file, which is how a recovery finds the end of the log; any
other failure is 255, at which PostgreSQL gives up instead of taking it for the end.
"""

import socket
import sys
from pathlib import Path

FOUND, MISSING = b"+", b"-"
GIVE_UP = 255


def main(address: str, name: str, target: str) -> int:
    """Fetch one file; returns the exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(name.encode() + b"\n")
        with connection.makefile("rb") as answer:
            head = answer.readline()
            if head == MISSING + b"\n":
                return 1
            if not head.startswith(FOUND):
                return GIVE_UP
            size = int(head[1:])
            data = answer.read(size)
    if len(data) != size:
        return GIVE_UP
    Path(target).write_bytes(data)
    return 0


if __name__ == "__main__":
    try:
        code = main(*sys.argv[1:])
    except OSError as error:
        print(f"fetch: {error}", file=sys.stderr)  # it goes to the server's log, whose last lines the restore shows
        code = GIVE_UP
    sys.exit(code)
