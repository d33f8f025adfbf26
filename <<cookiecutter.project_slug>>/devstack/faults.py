"""A TCP proxy that fails as it is told to: in front of a real neighbour it is dead, hangs, or is slow.

    with FaultProxy(target=5432) as proxy:      # clients go to proxy.port
        proxy.set(Fault.HANG)
        ...
        proxy.set(Fault.NONE)

By hand, with a line for each change on standard input:

    python -m devstack.faults 15432 5432
    hang
"""

import argparse
import asyncio
import contextlib
import sys
import threading
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from devstack.ports import LOOPBACK, random_free

CHUNK = 65536


class Fault(StrEnum):
    """How it fails."""

    NONE = "none"
    # Open connections are cut and new ones refused.
    DEAD = "dead"
    # Open connections stay, new ones are accepted, and nothing comes through until the fault is over.
    HANG = "hang"
    # Everything comes through, late.
    SLOW = "slow"


class FaultProxy:
    """A proxy on the loopback interface, on a thread of its own.

    Attributes:
        port: where clients connect.
    """

    def __init__(self, target: int, port: int = 0, slow_seconds: float = 0.1) -> None:
        """Plan a proxy.

        Args:
            target: port of the neighbour.
            port: its own; any free one unless given.
            slow_seconds: how late each piece comes through, in either direction, under `Fault.SLOW`.
        """
        self.port = port or random_free(set())
        self._target = target
        self._slow_seconds = slow_seconds
        self._fault = Fault.NONE
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"faults before {target}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.set(Fault.NONE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._await(self._refuse())
        self._await(self._drain())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, fault: Fault) -> None:
        """Fail in this way from now on, or no more."""
        self._await(self._become(fault))

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _become(self, fault: Fault) -> None:
        self._fault = fault
        if fault is Fault.DEAD:
            self._flows.set()
            await self._refuse()
            return
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        if fault is Fault.HANG:
            self._flows.clear()
        else:
            self._flows.set()

    async def _refuse(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _drain(self) -> None:
        """Let the tasks of the cut connections end."""
        self._flows.set()
        others = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        behind: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            answers, behind = await asyncio.open_connection(LOOPBACK, self._target)
            self._open.add(behind)
            await asyncio.gather(self._pump(reader, behind), self._pump(answers, writer))
        except OSError:
            pass  # one side has gone: so does the other
        finally:
            for end in (writer, behind):
                if end is not None:
                    self._open.discard(end)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(CHUNK):
            if self._fault is Fault.SLOW:
                await asyncio.sleep(self._slow_seconds)
            await self._flows.wait()
            writer.write(piece)
            await writer.drain()
        await self._flows.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()


def main() -> None:
    """Proxy until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m devstack.faults", description=__doc__)
    parser.add_argument("port", type=int, help="where clients connect")
    parser.add_argument("target", type=int, help="port of the neighbour")
    parser.add_argument("--slow-seconds", type=float, default=0.1, help="how late each piece comes through when slow")
    arguments = parser.parse_args()
    with FaultProxy(arguments.target, arguments.port, arguments.slow_seconds) as proxy:
        for line in sys.stdin:
            try:
                proxy.set(Fault(line.strip()))
            except ValueError as error:
                sys.stderr.write(f"faults: {error}; one of {', '.join(Fault)}\n")


if __name__ == "__main__":
    main()
