"""Both ends of a stream at work at once: the next pieces are fetched while the last ones are used."""

from collections.abc import Generator, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
LOOK_SECONDS = 0.5


class _Ended:
    """The last word of a stream, with what went wrong."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(pieces: Iterator[T], depth: int = 8) -> Generator[T]:
    """The same pieces, made in a thread of their own, so many of them ahead. What they raise is raised here.

    Fetching, checksums, decryption, decompression and files are work outside of Python's lock, so a second core helps.
    """
    queue: Queue[T | _Ended] = Queue(depth)
    left = Event()

    def hand_over(item: T | _Ended) -> bool:
        while not left.is_set():
            try:
                queue.put(item, timeout=LOOK_SECONDS)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        error: BaseException | None = None
        try:
            for piece in pieces:
                if not hand_over(piece):
                    return
        except BaseException as caught:  # noqa: BLE001  # handed to whoever reads
            error = caught
        hand_over(_Ended(error))

    thread = Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _Ended):
            yield item
        if item.error:
            raise item.error
    finally:
        left.set()
        thread.join()
