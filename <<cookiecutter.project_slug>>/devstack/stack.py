"""The stack: which parts, on which ports, with which settings; started in the order they need, stopped in reverse."""

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from dotenv import dotenv_values

from devstack import guard
from devstack.errors import Interrupted, StackError
from devstack.lock import FolderLock
from devstack.ports import LOOPBACK, choose
from devstack.postgres import Postgres, Replica
from devstack.process import Guard, Process, Sink
from devstack.services import STEPS, Api, Beat, Broker, Cache, Context, Nginx, Service, Step, Storage, Worker

SERVICES: Mapping[str, type[Service]] = {
    kind.name: kind for kind in (Postgres, Replica, Cache, Broker, Storage, Api, Worker, Beat, Nginx)
}
NEIGHBOURS = ("postgres", "cache", "broker", "storage")
# Parts that a stack has only when they are named.
OPTIONAL = ("replica",)
USUAL_SERVICES = tuple(name for name in SERVICES if name not in OPTIONAL)
PROJECT = Path(__file__).resolve().parent.parent
STEP_SECONDS = 120

# Made at random where no `.env` gives them.
SECRETS = {
    "DATABASE_PASSWORD": 24,
    "BACKUP_REPLICATION_PASSWORD": 24,
    "CACHE_PASSWORD": 24,
    "BROKER_PASSWORD": 24,
    "STORAGE_ACCESS_KEY": 10,
    "STORAGE_SECRET_KEY": 20,
    "AUTH_SECRET_KEY": 32,
    "HEALTH_TOKEN": 24,
}
# Likewise, in a form of its own.
ENCRYPTION = "ENCRYPTION_KEYS"
# What other commands need to find the parts; the passwords they have from `.env`.
ADDRESSES = (
    *(f"{group}_{field}" for group in ("DATABASE", "CACHE", "BROKER") for field in ("HOST", "PORT")),
    "STORAGE_ENDPOINT_URL",
    "BACKUP_S3_ENDPOINT_URL",
)
# Every setting of the service is named there.
EXAMPLE = PROJECT / ".env.example"

Progress = Callable[[str, float], None]


class Stack:
    """Real neighbours, and if wanted the whole service, as child processes of this one.

    Use it as a context manager or by `start` and `stop`. Whatever happens to this process, the children end with it.

    Attributes:
        env: the environment for processes of the service, complete.
        ports: where each part listens.
        processes: the running parts by name; they can be killed, stopped, started, paused.
    """

    def __init__(
        self,
        data: Path,
        services: Sequence[str] = NEIGHBOURS,
        env: Mapping[str, str] | None = None,
        *,
        dotenv: Path | None = None,
        ports: Mapping[str, int] | None = None,
        durable: bool = False,
        workers: int = 1,
        sink: Sink | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Plan a stack; nothing is touched before `start`.

        Args:
            data: folder for everything the parts keep; made if missing.
            services: names out of `SERVICES`.
            env: settings that win over all others.
            dotenv: file with the passwords, and with what else the service reads from it. None: fresh random
                passwords, and the caller's own settings are kept out.
            ports: ports to take where they are free. None: any free ones.
            durable: survive a crash of the machine. Data of tests need not.
            workers: processes of the API.
            sink: is given every line that the parts write, as (name, line); it is in `data`/logs anyway.
            progress: is told each part or step that is ready and the seconds it took.

        Raises:
            StackError: there is no such part.
        """
        if unknown := set(services) - set(SERVICES):
            raise StackError(f"there is no part {', '.join(sorted(unknown))}", f"the parts are {', '.join(SERVICES)}")
        self.names = tuple(name for name in SERVICES if name in services)
        # Absolute but not resolved: a short symbolic link may be there on purpose.
        self.data = Path(data).absolute()
        self.processes: dict[str, Process] = {}
        self.env: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self._given = dict(env or {})
        self._dotenv = dotenv
        self._wanted_ports = ports
        self._durable = durable
        self._workers = workers
        self._sink = sink
        self._progress = progress or _silent
        self._abort = threading.Event()
        self._guard: Guard | None = None
        self._lock = FolderLock(self.data)
        self._services: dict[str, Service] = {}

    @property
    def url(self) -> str:
        """Where a client finds the service: nginx, or the API itself where the stack has no nginx."""
        return f"http://{LOOPBACK}:{self.ports['nginx' if 'nginx' in self.ports else 'api']}"

    @property
    def state_file(self) -> Path:
        """Says while the stack is ready where everything is."""
        return self.data / "state.json"

    @property
    def addresses_file(self) -> Path:
        """The same for make: so that `make migrate` and `make backup` find a stack that had to take other ports."""
        return self.data / "addresses.mk"

    @property
    def guard_alive(self) -> bool:
        """Whether the process that cleans up after a kill is there."""
        return self._guard is not None and guard.alive(self._guard.pid)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, side by side where nothing has to wait, and return when all of it is ready.

        Raises:
            StackError: a part does not start, or another stack uses the folder; nothing is left running.
        """
        self._abort.clear()
        self._lock.acquire()
        try:
            self._forget_state()
            shutil.rmtree(self.data / "logs", ignore_errors=True)
            self.ports = choose([name for name in self.names if name != "beat"], dict(self._wanted_ports or {}))
            self.env, self._known = self._environment()
            self._guard = Guard((self.state_file, self.addresses_file), self._lock.fileno())
            self._plan()
            self._run_start()
            self._write_state()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything: the service first, then what it stands on. May be called at any time, more than once."""
        if not self._lock.held:
            return  # the folder, and what runs in it, may be somebody else's
        self._forget_state()
        for names in (("nginx", "api", "worker", "beat"), ("replica",), NEIGHBOURS):
            threads = [
                threading.Thread(target=self.processes[name].stop, name=f"stop {name}")
                for name in names
                if name in self.processes
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._guard:
            self._guard.close()
            self._guard = None
        self._lock.release()

    def interrupt(self) -> None:
        """Make a `start` that is still waiting give up. Safe in a signal handler."""
        self._abort.set()

    def reset(self) -> None:
        """Forget all data of a stack that does not run.

        Raises:
            StackError: it runs.
        """
        self._lock.acquire()
        try:
            for entry in self.data.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry != self._lock.path:
                    entry.unlink()
        finally:
            self._lock.release()

    def sql(self, script: str, database: str = "template1", server: str = "postgres") -> str:
        """Run a psql script as the superuser of a database server and return what it printed."""
        postgres = self._services[server]
        assert isinstance(postgres, Postgres)
        return postgres.sql(script, database=database)

    def run(self, *arguments: str, seconds: float = STEP_SECONDS) -> str:
        """Run this Python with `arguments` in the project's folder and the service's environment; return its output.

        Raises:
            StackError: it failed.
        """
        result = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            cwd=PROJECT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
        if result.returncode:
            raise StackError(f"`python {' '.join(arguments)}` failed:\n{result.stdout.strip()}")
        return result.stdout

    def _environment(self) -> tuple[dict[str, str], dict[str, str]]:
        """The environment of the service's processes, and the same with what they read from the file themselves."""
        if self._dotenv is None:
            own = {name: value for name, value in os.environ.items() if name not in _settings_names()}
            own["ENV_FILE"] = ""
            from_file = {}
        else:
            # Not handed on: the service reads the file, so that a change of it counts at the next restart.
            own = dict(os.environ)
            from_file = {name: value for name, value in dotenv_values(self._dotenv).items() if value}
        own |= self._given
        for name, size in SECRETS.items():
            own[name] = own.get(name) or from_file.get(name) or secrets.token_hex(size)
        fresh = f"stack:{base64.b64encode(secrets.token_bytes(32)).decode()}"
        own[ENCRYPTION] = own.get(ENCRYPTION) or from_file.get(ENCRYPTION) or fresh
        addresses = self._addresses(from_file | own)
        env = own | addresses | self._given
        return env, from_file | env

    def _addresses(self, known: Mapping[str, str]) -> dict[str, str]:
        """Where the parts of this stack are, in the service's variables."""
        found: dict[str, str] = {}
        if "postgres" in self.names:
            user, name = known.get("DATABASE_USER") or "app", known.get("DATABASE_NAME") or "app"
            port = self.ports["postgres"]
            found |= {
                "DATABASE_HOST": LOOPBACK,
                "DATABASE_PORT": str(port),
                "DATABASE_USER": user,
                "DATABASE_NAME": name,
            }
            password = quote(known["DATABASE_PASSWORD"], safe="")
            # The whole address as well: one in the shell or the file would win over the parts.
            found["DATABASE_URL"] = (
                f"postgresql://{quote(user, safe='')}:{password}@{LOOPBACK}:{port}/{quote(name, safe='')}"
            )
            if "replica" in self.names:
                found["DATABASE_REPLICA_URL"] = found["DATABASE_URL"].replace(f":{port}/", f":{self.ports['replica']}/")
        for part in ("cache", "broker"):
            if part in self.names:
                group, port = part.upper(), self.ports[part]
                password = quote(known[f"{group}_PASSWORD"], safe="")
                found |= {f"{group}_HOST": LOOPBACK, f"{group}_PORT": str(port)}
                found[f"{group}_URL"] = f"redis://:{password}@{LOOPBACK}:{port}/0"
        if "storage" in self.names:
            endpoint = f"http://{LOOPBACK}:{self.ports['storage']}"
            keys = {"ACCESS_KEY": known["STORAGE_ACCESS_KEY"], "SECRET_KEY": known["STORAGE_SECRET_KEY"]}
            for group, bucket in (("STORAGE", "app"), ("BACKUP_S3", "backup")):
                found |= {f"{group}_{name}": value for name, value in keys.items()}
                found[f"{group}_ENDPOINT_URL"] = endpoint
                found[f"{group}_BUCKET"] = known.get(f"{group}_BUCKET") or bucket
        if "worker" in self.names:
            found |= {"METRICS_WORKER_HOST": LOOPBACK, "METRICS_WORKER_PORT": str(self.ports["worker"])}
        return found

    def _plan(self) -> None:
        assert self._guard
        context = Context(PROJECT, self.data, self.ports, self.env, self._known, self._durable, self._workers)
        self._services = {name: SERVICES[name](context) for name in self.names}
        self.processes = {name: self._process(service, self._guard) for name, service in self._services.items()}

    def _process(self, service: Service, its_guard: Guard) -> Process:
        process = Process(
            name=service.name,
            command=service.command,
            environment=service.environment,
            cwd=PROJECT,
            log=self.data / "logs" / f"{service.name}.log",
            guard=its_guard,
            ready=service.ready,
            abort=self._abort,
            sink=self._sink,
            before_start=service.prepare,
            stop_signal=service.stop_signal,
        )
        service.process = process
        return process

    def _step(self, step: Step) -> Process:
        assert self._guard
        return Process(
            name=step.name,
            command=lambda: [sys.executable, *step.arguments],
            environment=lambda: self.env,
            cwd=PROJECT,
            log=self.data / "logs" / f"{step.name}.log",
            guard=self._guard,
            ready=lambda: True,
            abort=self._abort,
            sink=self._sink,
            start_seconds=STEP_SECONDS,
        )

    def _run_start(self) -> None:
        """Every part and step in a thread that first waits for what it needs."""
        has_app = any(service.is_app for service in self._services.values())
        nodes: list[Service | Step] = [*self._services.values(), *(STEPS if has_app else ())]
        done = {node.name: threading.Event() for node in nodes}
        steps = {node.name: self._step(node) for node in nodes if isinstance(node, Step)}

        def run(node: Service | Step) -> None:
            for name in node.after:
                while name in done and not done[name].wait(0.05):
                    if self._abort.is_set():
                        raise Interrupted("the start was interrupted")
            began = time.monotonic()
            if isinstance(node, Step):
                steps[node.name].run_to_end()
            else:
                self.processes[node.name].start()
                node.settle()
            self._progress(node.name, time.monotonic() - began)
            done[node.name].set()

        with ThreadPoolExecutor(len(nodes), thread_name_prefix="start") as pool:
            futures: list[Future[None]] = [pool.submit(run, node) for node in nodes]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if any(not future.done() or future.exception() for future in futures):
                    self._abort.set()
        errors = [error for future in futures if (error := future.exception())]
        # What failed first made the others give up.
        errors.sort(key=lambda error: isinstance(error, Interrupted))
        if errors:
            raise errors[0]

    def _write_state(self) -> None:
        state = {
            "url": self.url if {"nginx", "api"} & set(self.names) else None,
            "pid": os.getpid(),
            "addresses": {name: f"{LOOPBACK}:{port}" for name, port in self.ports.items()},
            "pids": {name: process.pid for name, process in self.processes.items()},
        }
        lines = [f"export {name} ?= {self.env[name]}\n" for name in ADDRESSES if name in self.env]
        for file, text in (
            (self.addresses_file, "".join(lines)),
            (self.state_file, json.dumps(state, indent=2) + "\n"),
        ):
            unfinished = file.with_suffix(".new")
            unfinished.write_text(text)
            unfinished.rename(file)

    def _forget_state(self) -> None:
        self.state_file.unlink(missing_ok=True)
        self.addresses_file.unlink(missing_ok=True)


def _settings_names() -> set[str]:
    """The variables that a shell may hold for the service; a stack that is given no `.env` must not see them."""
    text = EXAMPLE.read_text() if EXAMPLE.exists() else ""
    return set(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", text, re.MULTILINE))


def _silent(_name: str, _seconds: float) -> None:
    pass
