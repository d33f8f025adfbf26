"""Bake the default project, run it whole without Docker, and check through nginx that it does what it says.

    python tools/demo.py            stays up until Ctrl-C
    python tools/demo.py --check    stops after the check, and ends with 0 or 1

Everything but the bake is done by the project's own Makefile, as its README says. Talks HTTP with nginx only.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stage import ROOT, stage

FOLDER = ROOT / "build" / "demo"
LOG = "log.txt"
START_SECONDS = 120
WORK_SECONDS = 60
STOP_SECONDS = 30
PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")

EMAIL, PASSWORD = "demo@example.com", "correct-horse-battery-staple"
# Each page about something else, so that finding the right one is no accident.
PAGES = [
    [
        "Harbour handbook",
        "The lighthouse keeper writes down the weather at six in the morning and at six in the evening.",
    ],
    ["Pumps", "The reserve pump in the north dock is tested every second Tuesday, before the tide turns."],
    ["Guests", "Sailing boats up to twelve metres may stay for three nights. The fee is paid at the kiosk."],
]
QUESTION, ANSWER, ANSWER_PAGE = "when is the reserve pump tested", "every second Tuesday", 2


class DemoError(Exception):
    """The demonstration did not show what it should."""


def expect(condition: object, otherwise: str) -> None:
    """Go on, or say what was seen instead."""
    if not condition:
        raise DemoError(otherwise)


@dataclass
class Answer:
    """What nginx sent back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise DemoError(f"not JSON: {self.body[:200]!r}") from error


@dataclass
class Client:
    """A client of the service, at one address of this machine."""

    url: str
    source: str = "127.0.0.1"
    token: str | None = None

    def send(
        self, method: str, path: str, body: object = None, *, expected: int | None = 200, **headers: str
    ) -> Answer:
        """Send one request; `body` is JSON unless it is bytes already."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            where.hostname or "", where.port, timeout=30, source_address=(self.source, 0)
        )
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if content is not None else {}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body=content, headers=sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.msg, response.read())
        except OSError as error:
            raise DemoError(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if expected is not None:
            expect(
                answer.status == expected,
                f"{method} {path}: {answer.status} instead of {expected}: {answer.body[:300]!r}",
            )
        return answer


@dataclass
class Phases:
    """A table of phases with seconds, printed while it grows."""

    rows: list[tuple[str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[list[str]]:
        """Time a phase; what is appended to the list is printed beside it."""
        notes: list[str] = []
        begin = time.monotonic()
        try:
            yield notes
        except BaseException:
            print(f"  {name:<12} {time.monotonic() - begin:7.2f} s  FAILED", flush=True)
            raise
        self.rows.append((name, time.monotonic() - begin))
        print(f"  {name:<12} {self.rows[-1][1]:7.2f} s  {', '.join(notes)}", flush=True)

    def seconds(self, *names: str) -> float:
        """The time that these phases took together."""
        return sum(seconds for name, seconds in self.rows if name in names)


def pdf(pages: list[list[str]]) -> bytes:
    """Write a small PDF: one heading and one paragraph a page, in a font that every reader has."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    kids = []
    for heading, paragraph in pages:
        lines = re.findall(r".{1,80}(?:\s|$)", paragraph)
        drawn = [f"BT /F1 18 Tf 72 760 Td ({heading}) Tj ET"]
        drawn += [f"BT /F1 11 Tf 72 {730 - 16 * row} Td ({line.strip()}) Tj ET" for row, line in enumerate(lines)]
        stream = "\n".join(drawn).encode("latin-1")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    written, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return (
        written
        + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (
            size,
            table,
            size,
            len(written),
        )
    )


def run(command: list[str], cwd: Path, environment: dict[str, str], log_file: Path) -> None:
    """Run a command quietly; when it fails, show how it ended."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with log_file.open("a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n{done.stdout}")
    expect(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def bake(folder: Path, notes: list[str]) -> Path:
    """Bake by the real command line, with the Python that is here."""
    state = next(iter(folder.glob("*/.devstack/state.json")), None)
    expect(state is None, f"a demonstration is running in {folder}; stop it first")
    ours = not folder.exists() or (folder / LOG).exists() or not any(folder.iterdir())
    expect(ours, f"{folder} holds something else")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    python_version = here if here in PYTHON_VERSIONS else PYTHON_VERSIONS[-1]
    with tempfile.TemporaryDirectory() as temporary:
        template = stage(Path(temporary) / "template")
        # Its own home and temporary folder: nobody's defaults come in, and no replay stays behind.
        environment = {**os.environ, "HOME": temporary, "TMPDIR": temporary}
        environment.pop("COOKIECUTTER_CONFIG", None)
        command = [
            sys.executable,
            "-m",
            "cookiecutter",
            str(template),
            "--no-input",
            "--output-dir",
            str(folder),
        ]
        run([*command, f"python_version={python_version}"], folder, environment, folder / LOG)
    project = next(path for path in folder.iterdir() if path.is_dir())
    files = sum(path.is_file() for path in project.rglob("*"))
    notes.append(f"{files} files in {shown(project)}, for Python {python_version}")
    return project


def own_environment(project: Path) -> dict[str, str]:
    """This process's environment without the names that the service would take for its settings."""
    example = (project / ".env.example").read_text(encoding="utf-8")
    settings = set(re.findall(r"(?m)^#? ?([A-Z][A-Z0-9_]*)=", example))
    make = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "VENV", "PYTHON", "CHECK", "ARGS"}
    environment = {name: value for name, value in os.environ.items() if name not in settings | make}
    # `make setup` takes a uv that is on PATH, as on the machine of anybody who has one; the template has.
    return environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"}


class Service:
    """The baked project, running by its own `make dev`."""

    def __init__(self, project: Path, environment: dict[str, str]) -> None:
        self.project = project
        self.state_file = project / ".devstack" / "state.json"
        self.state: dict[str, Any] = {}
        self.log = project.parent / LOG
        self._output = self.log.open("a", encoding="utf-8")
        # A session of its own: Ctrl-C reaches this process first, which then stops the service in order.
        self._process = subprocess.Popen(
            ["make", "dev"],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Return when all processes are ready."""
        deadline = time.monotonic() + START_SECONDS
        while not self.state:
            expect(
                self._process.poll() is None,
                f"`make dev` ended with {self._process.returncode}:\n{tail(self.log)}",
            )
            expect(time.monotonic() < deadline, f"not ready after {START_SECONDS} s:\n{tail(self.log)}")
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError, ValueError):
                self.state = json.loads(self.state_file.read_text(encoding="utf-8"))

    def join(self) -> None:
        """Wait until the service ends by itself, which it does not."""
        self._process.wait()
        raise DemoError(f"the service ended:\n{tail(self.log)}")

    def stop(self) -> None:
        """Stop as Ctrl-C does, and see that nothing is left."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise DemoError(f"still running {STOP_SECONDS} s after Ctrl-C:\n{tail(self.log)}") from None
        finally:
            self._output.close()
        left = [pid for pid in pids_in(self.state) if running(pid)]
        expect(not left, f"processes left behind: {left}")


def shown(path: Path) -> str:
    """A path as short as it can be said."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def tail(path: Path, lines: int = 30) -> str:
    """The end of a file."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def pids_in(state: Any) -> list[int]:
    """Every number in the state that is called a pid, however deep."""
    if isinstance(state, dict):
        own = [value for name, value in state.items() if name == "pid" and isinstance(value, int)]
        listed = state.get("pids")
        own += [pid for pid in listed.values() if isinstance(pid, int)] if isinstance(listed, dict) else []
        return own + [pid for value in state.values() for pid in pids_in(value)]
    if isinstance(state, list):
        return [pid for value in state for pid in pids_in(value)]
    return []


def running(pid: int) -> bool:
    """Whether a process is there and is more than an entry that nobody has collected yet."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    except (PermissionError, OSError):
        return True
    return state != "Z"


def upload(client: Client, content: bytes, name: str) -> Any:
    """Send a file as a browser's form does."""
    boundary = uuid.uuid4().hex
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/pdf\r\n\r\n"
    ).encode()
    body += content + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    return client.send("POST", "/api/v1/documents", body, expected=202, Content_Type=kind).json()


def found(client: Client, document: str, notes: list[str]) -> None:
    """Wait for the worker, then ask in words of one's own."""
    deadline = time.monotonic() + WORK_SECONDS
    status = "pending"
    while status != "ready":
        seen = client.send("GET", f"/api/v1/documents/{document}").json()
        status = seen["status"]
        expect(status != "failed", f"the worker failed: {seen.get('error')}")
        expect(time.monotonic() < deadline, f"still {status} after {WORK_SECONDS} s")
        # Six times a second: far below the rate limit that is shown later.
        time.sleep(0.15 if status != "ready" else 0)
    results = client.send("POST", "/api/v1/documents/search", {"query": QUESTION, "limit": 3}).json()["results"]
    expect(results, "the search found nothing")
    best = results[0]
    expect(
        ANSWER in best["passage"] and best["page"] == ANSWER_PAGE,
        f"the wrong passage was found first: {best}",
    )
    notes.append(f'"{QUESTION}" -> page {best["page"]}')


def check_headers(client: Client, notes: list[str]) -> None:
    """What nginx and the service say beside the answer, and what they must not say."""
    answer = client.send("GET", "/api/v1/accounts/me")
    for name in (
        "X-Request-ID",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "Content-Security-Policy",
        "Referrer-Policy",
    ):
        expect(answer.headers.get_all(name), f"the header {name} is missing")
        expect(len(answer.headers.get_all(name) or []) == 1, f"the header {name} is there twice")
    expect(not re.search(r"\d", answer.headers.get("Server", "")), "the Server header tells a version")
    for path in ("/metrics", "/nothing-here"):
        refused = client.send("GET", path, expected=404)
        expect(
            "problem+json" in refused.headers.get("Content-Type", ""),
            f"{path} is refused without a problem document",
        )
    stranger = Client(client.url).send("GET", "/api/v1/accounts/me", expected=401)
    expect(stranger.json()["request_id"] == stranger.headers["X-Request-ID"], "the error names another request")
    notes.append("security headers once each, /metrics hidden, problem documents")


def check_health(url: str, token: str, notes: list[str]) -> None:
    """Every part is healthy, and only who holds the token is told which parts there are."""
    Client(url).send("GET", "/health")
    Client(url).send("GET", "/health/ready")
    Client(url).send("GET", "/health/detailed", expected=401)
    deadline = time.monotonic() + WORK_SECONDS
    while True:
        answer = Client(url, token=token).send("GET", "/health/detailed", expected=None)
        seen = answer.json()
        if answer.status == 200 and seen["status"] == "healthy":
            break
        expect(time.monotonic() < deadline, f"not healthy: {seen}")
        time.sleep(0.25)
    expect(len(seen["parts"]) >= 5, f"too few parts are looked at: {sorted(seen['parts'])}")
    notes.append(", ".join(sorted(seen["parts"])))


def check_rate_limit(client: Client, notes: list[str]) -> None:
    """A client that asks too often is turned away, and no other."""
    # Linux answers on all of 127.0.0.0/8; elsewhere the one address has to do.
    greedy = Client(client.url, source="127.0.0.77")
    try:
        greedy.send("GET", "/health")
    except DemoError:
        greedy = Client(client.url)
    count, answer = 1, greedy.send("GET", "/health", expected=None)
    while answer.status == 200 and count < 400:
        count, answer = count + 1, greedy.send("GET", "/health", expected=None)
    expect(answer.status == 429, f"{count} requests in a row, and the last one still got {answer.status}")
    expect(answer.headers.get("Retry-After"), "429 without Retry-After")
    expect("problem+json" in answer.headers.get("Content-Type", ""), "429 without a problem document")
    notes.append(f"429 after {count} requests")
    if greedy.source != client.source:
        client.send("GET", "/api/v1/accounts/me")
        notes.append("others still served")


def check(service: Service, phases: Phases) -> None:
    """A person comes, brings a document and finds it again."""
    url = service.state["url"]
    client = Client(url)
    with phases.phase("register") as notes:
        answer = client.send("POST", "/api/v1/accounts/register", {"email": EMAIL, "password": PASSWORD}, expected=202)
        expect(PASSWORD.encode() not in answer.body, "the answer repeats the password")
        notes.append(EMAIL)
    with phases.phase("sign in") as notes:
        client.send("POST", "/api/v1/accounts/sign-in", {"email": EMAIL, "password": "wrong-password"}, expected=401)
        signed = client.send("POST", "/api/v1/accounts/sign-in", {"email": EMAIL, "password": PASSWORD}).json()
        client.token = signed["access_token"]
        expect(client.send("GET", "/api/v1/accounts/me").json()["email"] == EMAIL, "somebody else is signed in")
        notes.append("a wrong password is refused")
    with phases.phase("upload PDF") as notes:
        content = pdf(PAGES)
        document = upload(client, content, "harbour.pdf")
        notes.append(f"{len(PAGES)} pages, {len(content)} bytes, {document['status']}")
    with phases.phase("found") as notes:
        found(client, document["id"], notes)
    with phases.phase("headers") as notes:
        check_headers(client, notes)
    with phases.phase("health") as notes:
        secrets = dict(
            line.split("=", 1)
            for line in (service.project / ".env").read_text(encoding="utf-8").splitlines()
            if re.match(r"[A-Z_]+=", line)
        )
        check_health(url, secrets["HEALTH_TOKEN"].strip("'\""), notes)
    with phases.phase("rate limit") as notes:
        check_rate_limit(client, notes)


def demonstrate(folder: Path, *, stay: bool) -> None:
    """All of it; stops what it started, whatever happens."""
    phases = Phases()
    print("demo: the default project, whole, without Docker", flush=True)
    with phases.phase("bake") as notes:
        project = bake(folder, notes)
    environment = own_environment(project)
    with phases.phase("install") as notes:
        run(["make", "setup", f"PYTHON={sys.executable}"], project, environment, folder / LOG)
        notes.append("make setup")
    service = Service(project, environment)
    try:
        with phases.phase("start") as notes:
            service.wait()
            notes.append(f"make dev, {len(set(pids_in(service.state)))} processes, {service.state['url']}")
        check(service, phases)
        print(f"  bake to ready {phases.seconds('bake', 'install', 'start'):.1f} s", flush=True)
        if stay:
            print(f"\n  service   {service.state['url']}  (API documentation: /docs)")
            print(f"  sign in   {EMAIL}  {PASSWORD}")
            print(f"  project   {shown(project)}\n  log       {shown(service.log)}")
            print("\nCtrl-C stops everything.", flush=True)
            service.join()
    finally:
        with phases.phase("stop") as notes:
            service.stop()
            notes.append("nothing left running")


def interrupt(_signal: int, _frame: object) -> None:
    """Being asked to end is as good as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Run by the Makefile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="stop after the check")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to bake; emptied first")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    begin = time.monotonic()
    try:
        demonstrate(options.folder.resolve(), stay=not options.check)
    except DemoError as error:
        sys.exit(f"demo: FAILED: {error}")
    except KeyboardInterrupt:
        if options.check:
            sys.exit("demo: interrupted")
        return
    print(f"demo: passed in {time.monotonic() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
