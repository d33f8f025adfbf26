"""As many sockets as one process of the API may hold, through nginx and all quiet; in numbers, and in memory."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from devstack import USUAL_SERVICES, Stack
from tests.system.conftest import HURRY, access_token
from tests.system.helpers import ORIGIN

SOCKETS = 1000
# As in compose.yaml: what the API's container may take.
MEMORY_LIMIT = 768 * 2**20
# From so many addresses; the limit of connections of nginx counts by address.
ADDRESSES = 20
AT_ONCE = 8
PING_SECONDS = 5
SECONDS = 120
LIMITS = {
    "WS_MAX_CONNECTIONS": str(SOCKETS),
    "WS_MAX_PER_USER": str(SOCKETS + 1),
    "WS_PING_SECONDS": str(PING_SECONDS),
    "WS_HELLO_SECONDS": "60",
    "RATE_LIMIT": "100000r/m",
    "RATE_LIMIT_BURST": "5000",
    "LIMITS_PER_USER": "0",
    "LIMITS_SENSITIVE": "100000",
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """One of its own, with one process of the API."""
    parts = [part for part in USUAL_SERVICES if part not in ("worker", "beat")]
    with Stack(tmp_path, parts, HURRY | LIMITS) as made:
        yield made


def memory(stack: Stack) -> int:
    """Bytes that the API's processes hold for themselves."""
    number = stack.processes["api"].pid
    smaps = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in smaps if line.startswith("Pss:"))


def test_a_thousand_quiet_sockets_are_held_by_the_api(stack: Stack) -> None:
    """All signed in by tickets of their own, quiet for longer than a ping may stay unanswered, all alive; one more is refused."""
    place = stack.url.replace("http", "ws", 1) + "/ws"
    headers = {"Authorization": f"Bearer {access_token(str(uuid4()))}"}
    gate = asyncio.Semaphore(AT_ONCE)

    async def run() -> int:
        async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=SECONDS) as client:
            before = memory(stack)

            async def open_one(number: int) -> ClientConnection:
                answer = await client.post("/api/v1/realtime/tickets")
                assert answer.status_code == 201, answer.text
                source = (f"127.0.1.{1 + number % ADDRESSES}", 0)
                made = await connect(
                    place, origin=Origin(ORIGIN), open_timeout=SECONDS, local_addr=source, compression=None
                )
                await made.send(json.dumps({"type": "hello", "ticket": answer.json()["ticket"]}))
                assert json.loads(await asyncio.wait_for(made.recv(), SECONDS))["type"] == "ready"
                return made

            async def patiently(number: int) -> ClientConnection:
                # A busy machine answers late, and the service says "try again later": so clients do.
                async with gate, asyncio.timeout(SECONDS):
                    while True:
                        try:
                            return await open_one(number)
                        except ConnectionClosed as error:
                            if not error.rcvd or "events are not available" not in error.rcvd.reason:
                                raise
                            await asyncio.sleep(float(error.rcvd.reason.rpartition("=")[2]) / 1000)

            made = await asyncio.gather(*(patiently(number) for number in range(SOCKETS)))
            assert (await client.get("/health/ready")).status_code == 200
            with pytest.raises(ConnectionClosed) as full:
                await patiently(SOCKETS)
            assert full.value.rcvd
            assert full.value.rcvd.code == 1013
            # Whoever leaves a ping unanswered for as long as the pause between two is dropped.
            await asyncio.sleep(3 * PING_SECONDS)
            for socket in made:
                await socket.send('{"type":"ping"}')
            for socket in made:
                assert json.loads(await asyncio.wait_for(socket.recv(), SECONDS)) == {"type": "pong"}
            held = memory(stack) - before
            for socket in made:
                socket.transport.abort()
            return held

    held = asyncio.run(run())
    print(f"{SOCKETS} sockets: {held / 2**20:.0f} MB, {held / SOCKETS / 1024:.0f} kB each")
    assert memory(stack) < MEMORY_LIMIT
