"""What a person sees: one line at a time, each with the name of the part that wrote it."""

import contextlib
import os
import threading
from typing import TextIO

OWN_NAME = "devstack"
WIDTH = len("migrations")
COLOURS = {
    OWN_NAME: "1;37",
    "postgres": "34",
    "cache": "31",
    "broker": "35",
    "storage": "33",
    "api": "32",
    "worker": "36",
    "beat": "96",
    "nginx": "92",
}
LOUD = "1;31"


class Console:
    """Writes whole lines from any thread; coloured where the stream is a terminal (and NO_COLOR is not set)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._coloured = stream.isatty() and not os.environ.get("NO_COLOR")

    def line(self, name: str, text: str) -> None:
        """A line that a part wrote."""
        prefix = self._paint(COLOURS.get(name, "37"), f"{name:{WIDTH}} |")
        self._write("".join(f"{prefix} {part}\n" for part in text.split("\n")))

    def say(self, text: str) -> None:
        """Something that the devstack itself has to tell."""
        self.line(OWN_NAME, text)

    def shout(self, text: str) -> None:
        """Something that must not be overlooked."""
        self.say("\n".join(self._paint(LOUD, part) for part in text.split("\n")))

    def _paint(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._coloured else text

    def _write(self, text: str) -> None:
        # A terminal that was closed must not keep the stack from stopping in order.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
