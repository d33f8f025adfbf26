"""Ctrl-C ends it, whatever the main thread is at in that moment."""

import io
import signal
import threading
from pathlib import Path

from devstack import Stack
from devstack.console import Console
from devstack.develop import Development


def test_a_signal_that_finds_the_main_thread_in_the_event_is_heard(tmp_path: Path) -> None:
    """A handler runs in the thread that it interrupts: were it to take that thread's lock, both would wait for ever."""
    development = Development(Stack(tmp_path, []), Console(io.StringIO()), tmp_path / ".env", reload=False)
    heard = threading.Event()

    def interrupted() -> None:
        with development._stopping._cond:  # type: ignore[attr-defined]  # as in the middle of `wait`
            development._on_signal(signal.SIGINT, None)
        heard.set()

    threading.Thread(target=interrupted, daemon=True).start()
    assert heard.wait(10)
    assert development._stopping.wait(10)
