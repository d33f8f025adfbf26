"""Reading one file in a process of its own: `python -m app.features.documents.extraction '{…}' < file > passages`.

What a hostile file makes of a parser ends with this process: it takes no more time and memory than it is given here by
the kernel, sees no setting or secret of the service, and a crash of it is a message about the file.
"""

import json
import resource
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from app.features.documents.chunking import cut
from app.features.documents.extraction import Limits, MediaType, UnreadableError

COMPLEX = "The file is too complex to be read."


def bind(seconds: int, memory_bytes: int) -> None:
    """Have the kernel end this process when it takes more than this, and let it write no file."""
    # One second more until it is killed, should a parser hold the first signal back.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(order: Mapping[str, Any], source: BinaryIO, target: BinaryIO) -> None:
    """Read a file from `source` and write its passages to `target` as JSON, or why there are none."""
    try:
        found = cut(
            source.read(),
            MediaType(order["media_type"]),
            Limits(**order["limits"]),
            characters=order["characters"],
            overlap=order["overlap"],
            most=order["most"],
        )
        answer: dict[str, Any] = {
            "passages": [[passage.position, passage.text, passage.heading, passage.page] for passage in found]
        }
    except UnreadableError as error:
        answer = {"unreadable": str(error)}
    except (MemoryError, RecursionError):
        answer = {"unreadable": COMPLEX}
    target.write(json.dumps(answer).encode())
    target.flush()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    bind(given["seconds"], given["memory_bytes"])
    run(given, sys.stdin.buffer, sys.stdout.buffer)
