"""Which ports the parts listen on."""

import contextlib
import random
import socket
from pathlib import Path

USUAL = {
    "nginx": 8080,
    "api": 8000,
    "postgres": 5432,
    "replica": 5433,
    "cache": 6379,
    "broker": 6380,
    "storage": 9000,
    "worker": 9101,
}
LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether nothing listens on the port.

    SO_REUSEADDR lets the connections of a stack stopped a moment ago linger without counting as "taken"; a listener
    still makes the bind fail.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def is_open(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def _first_ephemeral() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32768


def random_free(taken: set[int]) -> int:
    """A free port below those the kernel hands to outgoing connections.

    A port from the kernel's own range could be given to somebody's outgoing connection before the server binds it.
    """
    highest = max(21000, _first_ephemeral())
    for _ in range(200):
        port = random.randrange(20000, highest)  # noqa: S311  # nothing here is secret
        if port not in taken and is_free(port):
            return port
    raise OSError("no free port was found between 20000 and the first ephemeral one")


def choose(names: list[str], wanted: dict[str, int] | None) -> dict[str, int]:
    """A port for each name: the wanted one where it is free, else a random free one."""
    chosen: dict[str, int] = {}
    for name in names:
        port = (wanted or {}).get(name)
        taken = set(chosen.values())
        chosen[name] = port if port and port not in taken and is_free(port) else random_free(taken)
    return chosen
