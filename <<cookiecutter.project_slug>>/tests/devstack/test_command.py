"""`make dev` keeps its promises: it says what it does, keeps data, and leaves nothing running, however it ends."""

import fcntl
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack import guard
from devstack.ports import LOOPBACK, USUAL
from tests.devstack.running import DEADLINE_SECONDS, ROOT, Running, eventually, nothing_left

NEIGHBOURS = "postgres,cache,broker,storage"
Start = Callable[..., Running]


@pytest.fixture(autouse=True)
def _usual_ports() -> Iterator[None]:
    """One command at a time: two that start in the same moment would both find the usual ports free."""
    with (Path(tempfile.gettempdir()) / "devstack-usual-ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start devstacks that share one folder; all of them end with the test."""
    started: list[Running] = []

    def run(services: str = NEIGHBOURS, *options: str, env: dict[str, str] | None = None, root: Path = ROOT) -> Running:
        started.append(Running(tmp_path, services, *options, env=env, root=root))
        return started[-1]

    yield run
    for running in started:
        running.clean_up()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(start: Start, number: signal.Signals) -> None:
    """Ctrl-C, `kill` and a closed terminal end every process and remove state.json."""
    running = start().until_ready()
    members = running.family()
    assert set(running.state["pids"].values()) <= set(members)
    assert running.end(number) == 0
    assert nothing_left(members)
    assert not (running.data / "state.json").exists()
    assert not (running.data / "addresses.mk").exists()
    assert "nothing is left running" in running.output


def test_a_signal_during_the_start_stops_everything(start: Start) -> None:
    """Whoever changes their mind early does not wait, and leaves nothing either."""
    running = start()
    running.until_printed("ready after")
    members = running.family()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(DEADLINE_SECONDS) in (0, 130)
    assert nothing_left(members)


def test_kill_9_leaves_nothing_and_the_next_start_works(start: Start) -> None:
    """A devstack that was killed takes its processes along, and the folder can be used again at once."""
    first = start().until_ready()
    members = first.family()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = start().until_ready()
    assert nothing_left(members)
    assert second.end() == 0


def test_kill_9_without_a_successor_leaves_nothing(start: Start) -> None:
    """Nobody has to start it again for that."""
    running = start().until_ready()
    members = running.family()
    running.end(signal.SIGKILL)
    eventually(lambda: nothing_left(members), "every process of a killed devstack ends")
    eventually(lambda: not (running.data / "state.json").exists(), "state.json goes")
    eventually(lambda: not (running.data / "addresses.mk").exists(), "addresses.mk goes")


def test_a_second_start_in_one_folder_is_refused(start: Start) -> None:
    """It says who uses the folder and what to do; the first one does not notice."""
    first = start("cache").until_ready()
    second = start("cache")
    assert second.process.wait(DEADLINE_SECONDS) == 1
    assert f"process {first.process.pid}" in second.output
    assert "next:" in second.output
    assert first.process.poll() is None
    assert first.state["pid"] == first.process.pid


def test_a_usual_port_that_is_taken_is_replaced_and_said(start: Start) -> None:
    """Somebody else's Redis keeps its port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind((LOOPBACK, USUAL["cache"]))
            other.listen()
        except OSError:
            pass  # taken already, by a real one
        running = start("cache").until_ready()
        assert running.state["addresses"]["cache"] != f"{LOOPBACK}:{USUAL['cache']}"
        eventually(lambda: f"the usual {USUAL['cache']} was taken" in running.output, "it says so")
        port = running.state["addresses"]["cache"].rpartition(":")[2]
        assert f"export CACHE_PORT ?= {port}\n" in (running.data / "addresses.mk").read_text()


def test_a_port_that_is_insisted_on_is_not_replaced(start: Start) -> None:
    """DEVSTACK_CACHE_PORT means that port or none."""
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = str(other.getsockname()[1])
        running = start("cache", env={"DEVSTACK_CACHE_PORT": port})
        assert running.process.wait(DEADLINE_SECONDS) == 1
        assert f"port {port} is taken" in running.output


def test_data_is_kept_until_reset(start: Start) -> None:
    """Objects stay between runs; --reset throws them away."""
    first = start("storage").until_ready()
    (first.data / "storage" / "bucket").mkdir()
    first.end()
    second = start("storage").until_ready()
    assert (second.data / "storage" / "bucket").is_dir()
    second.end()
    third = start("storage", "--reset").until_ready()
    assert not (third.data / "storage" / "bucket").exists()


def test_reset_of_a_running_stack_is_refused(start: Start) -> None:
    """Nobody loses data under a running server."""
    first = start("storage").until_ready()
    (first.data / "storage" / "bucket").mkdir()
    assert start("storage", "--reset").process.wait(DEADLINE_SECONDS) == 1
    assert (first.data / "storage" / "bucket").is_dir()


def test_a_neighbour_that_ends_ends_the_stack(start: Start) -> None:
    """Without its database a stack is of no use: it says which part ended and exits with 1."""
    running = start("cache,storage").until_ready()
    members = running.family()
    os.kill(running.state["pids"]["cache"], signal.SIGKILL)
    assert running.process.wait(DEADLINE_SECONDS) == 1
    assert "cache ended (signal SIGKILL)" in running.output
    assert nothing_left(members)


def test_a_part_of_the_service_that_crashes_starts_again(start: Start) -> None:
    """Loudly, and under the same name with a new process."""
    running = start(f"{NEIGHBOURS},beat").until_ready()
    before = running.state["pids"]["beat"]
    os.kill(before, signal.SIGKILL)
    running.until_printed("beat crashed (signal SIGKILL)")
    running.until_printed("beat is ready again")
    assert not guard.alive(before)
    members = running.family()
    assert running.end() == 0
    assert nothing_left(members)


def test_a_change_restarts_the_service_and_a_mistake_waits_for_the_next(start: Start, tmp_path: Path) -> None:
    """Saving a file is all it takes, also after one that does not even compile. In a copy: the project stays as it is."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "tests", "docs", "__pycache__"))
    running = start(f"{NEIGHBOURS},beat", root=copy).until_ready()
    module = copy / "app" / "core" / "project.py"
    good = module.read_text()

    module.write_text(good + "\ndef broken(:\n")
    running.until_printed("changed: app/core/project.py")
    running.until_printed("beat does not start")
    assert "SyntaxError" in running.output

    module.write_text(good + "\n# a remark\n")
    running.until_printed("beat is ready again")
    assert running.end() == 0


def test_no_secret_stands_on_a_command_line(start: Start, tmp_path: Path) -> None:
    """Every user of the machine can read those."""
    secret = "spoken-of-nowhere-0123456789"
    names = ("DATABASE_PASSWORD", "CACHE_PASSWORD", "BROKER_PASSWORD", "STORAGE_ACCESS_KEY", "STORAGE_SECRET_KEY")
    (tmp_path / "env").write_text("".join(f"{name}={secret}\n" for name in names))
    running = start().until_ready()
    for pid in running.family():
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists():
            assert secret.encode() not in command.read_bytes()


def test_without_an_env_file_it_says_what_to_do(start: Start, tmp_path: Path) -> None:
    """The passwords come from `make setup`."""
    running = start("cache", env={"ENV_FILE": str(tmp_path / "missing")})
    assert running.process.wait(DEADLINE_SECONDS) == 1
    assert "make setup" in running.output


def test_an_unknown_part_is_named(start: Start) -> None:
    """A slip of the pen does not start half a stack."""
    running = start("postgres,chache")
    assert running.process.wait(DEADLINE_SECONDS) == 1
    assert "chache" in running.output
