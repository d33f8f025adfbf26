"""Every neighbour dead, hanging and slow: everybody gets the promised answer in time, and all mends itself.

The promises stand in `operations/`; see `faults.py`. Run by `make test-faults`, as it takes a minute and a half.
"""

import itertools
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink

from devstack import USUAL_SERVICES, Stack
from devstack.faults import Fault, FaultProxy
from devstack.ports import LOOPBACK, choose, is_open
from tests.system.conftest import HURRY, access_token
from tests.system.faults import (
    ENVIRONMENT,
    FAULTS,
    NEIGHBOURS,
    RECOVERY_SECONDS,
    ROOT,
    SECONDS,
    Operation,
    World,
    modules,
    operations,
)

pytestmark = pytest.mark.faults

KINDS = {"dead": Fault.DEAD, "hanging": Fault.HANG, "slow": Fault.SLOW}
PARTS = ("postgres", "cache", "broker", "storage")
# What `/health` may take while a neighbour fails: nothing may hold up the event loop. Generous on a busy machine.
LOOP_SECONDS = 1.0


@dataclass(frozen=True)
class Faulty:
    """A service whose every neighbour is behind a proxy."""

    proxies: dict[str, FaultProxy]
    world: World
    stack: Stack

    def set(self, neighbour: str, fault: Fault) -> None:
        """Let a neighbour fail, or no more."""
        for part in NEIGHBOURS[neighbour]:
            self.proxies[part].set(fault)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """The whole stack, with the stand-in for the AI provider and a mail server, each behind a proxy."""
    ports = choose([*PARTS, "ai", "mail"], {})
    with ExitStack() as running:
        proxies = {name: running.enter_context(FaultProxy(port)) for name, port in ports.items()}
        mail = Controller(Sink(), hostname=LOOPBACK, port=ports["mail"])
        mail.start()
        running.callback(mail.stop)
        ai = subprocess.Popen(
            [sys.executable, "-m", "devstack.standin_ai", "--port", str(ports["ai"])],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        running.callback(ai.wait)
        running.callback(ai.terminate)
        passwords = {f"{group}_PASSWORD": secrets.token_hex(12) for group in ("DATABASE", "CACHE", "BROKER")}
        at = {name: f"{LOOPBACK}:{proxy.port}" for name, proxy in proxies.items()}
        env = {
            **HURRY,
            **ENVIRONMENT,
            **passwords,
            "DATABASE_URL": f"postgresql://app:{passwords['DATABASE_PASSWORD']}@{at['postgres']}/app",
            "CACHE_URL": f"redis://:{passwords['CACHE_PASSWORD']}@{at['cache']}/0",
            "BROKER_URL": f"redis://:{passwords['BROKER_PASSWORD']}@{at['broker']}/0",
            "STORAGE_ENDPOINT_URL": f"http://{at['storage']}",
            "AI_OPENAI_BASE_URL": f"http://{at['ai']}/v1",
            "MESSAGES_SMTP_PORT": str(proxies["mail"].port),
        }
        wanted = {name: ports[name] for name in PARTS}
        folder = tmp_path_factory.mktemp("faults")
        stack = running.enter_context(Stack(folder, USUAL_SERVICES, env, ports=wanted))
        while not is_open(ports["ai"]):
            assert ai.poll() is None
            time.sleep(0.05)

        addresses = (f"127.0.{third}.{fourth}" for third in range(1, 255) for fourth in range(1, 255))
        own_address = sys.platform.startswith("linux")

        def new_client() -> httpx.Client:
            transport = httpx.HTTPTransport(local_address=next(addresses) if own_address else None)
            return httpx.Client(base_url=stack.url, transport=transport, timeout=60)

        world = World(new_client, access_token(str(uuid4())), stack.env["HEALTH_TOKEN"])
        for module in modules():
            module.prepare(world)
        yield Faulty(proxies, world, stack)


def measured(operation: Operation, world: World) -> tuple[str, float]:
    """The answer, and the seconds that it took."""
    began = time.monotonic()
    answer = operation.run(world)
    return answer, time.monotonic() - began


def until_usual(operation: Operation, world: World) -> float:
    """Seconds until the usual answer comes."""
    began = time.monotonic()
    for attempt in itertools.count(1):
        answer, _ = measured(operation, world)
        seconds = time.monotonic() - began
        if answer == operation.usual:
            return seconds
        assert seconds < RECOVERY_SECONDS, f"{operation.name}: still {answer} after {attempt} attempts"
        time.sleep(0.2)
    raise AssertionError


class LoopWatch:
    """Asks a process that it lives, over and over, and remembers the longest wait."""

    def __init__(self, stack: Stack) -> None:
        self.worst = 0.0
        self._url = f"http://{LOOPBACK}:{stack.ports['api']}/health"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "LoopWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.wait(0.05):
                began = time.monotonic()
                assert client.get(self._url).status_code == 200
                self.worst = max(self.worst, time.monotonic() - began)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_the_promised_answer_in_time(faulty: Faulty, neighbour: str, fault: str) -> None:
    """Everybody at once, twice: when it begins, and when it is known. Then all is as before, soon and by itself."""
    columns = operations()
    limit = SECONDS[neighbour][fault]
    wrong: list[str] = []
    with ThreadPoolExecutor(len(columns)) as pool:
        faulty.set(neighbour, KINDS[fault])
        try:
            with LoopWatch(faulty.stack) as loop:
                for _ in range(2):
                    results = pool.map(lambda column: measured(column, faulty.world), columns)
                    for column, (answer, seconds) in zip(columns, results, strict=True):
                        expected = column.expected(neighbour, fault)
                        if answer != expected or seconds > limit:
                            wrong.append(f"{column.name}: {answer} after {seconds:.1f} s, not {expected}")
                        print(f"{neighbour} {fault}: {column.name}: {answer} after {seconds:.2f} s")
        finally:
            faulty.set(neighbour, Fault.NONE)
        back = list(pool.map(lambda column: until_usual(column, faulty.world), columns))
    print(f"{neighbour} {fault}: back after {max(back):.1f} s; /health took {loop.worst:.2f} s")
    assert not wrong, wrong
    assert loop.worst < LOOP_SECONDS


def test_what_was_taken_in_meanwhile_is_done(faulty: Faulty) -> None:
    """Nothing that was acknowledged is lost to any of it."""
    for module in modules():
        if hasattr(module, "afterwards"):
            module.afterwards(faulty.world)
