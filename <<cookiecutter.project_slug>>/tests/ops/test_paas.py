"""The files of the platforms hold what is demanded of them, each rule can fail, and a deploy goes back when it has to."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ops.check.rooms import paas

ROOT = Path(__file__).resolve().parents[2]
NEW, BACKUP = (f"registry.invalid/{name}@sha256:{'a' * 64}" for name in ("app", "app-backup"))
FILES = ("Procfile", "app.json", "render.yaml", ".env.example", "ops/deploy/paas")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that are judged, to be broken."""
    for name in FILES:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return tmp_path


def test_they_are_faultless(project: Path) -> None:
    """Before anything is broken on purpose."""
    assert paas.check(project) == ""
    assert paas.schemas(project) == ""


# What is broken: file, what stands there, what takes its place (the first time), and what is said.
BROKEN = {
    "no command": ("Procfile", "beat: ", "beat ", "Procfile:4: not a kind of process"),
    "another command": (
        "Procfile",
        "app.cli worker",
        "app.cli wrk",
        "render: worker: runs 'python -m app.cli worker', and the",
    ),
    "nobody migrates": ("Procfile", "release: python -m app.cli migrate\n", "", "render: web: runs 'python -m app.cli"),
    "migrates twice": (
        "ops/deploy/paas/railway/worker.json",
        '"startCommand"',
        '"preDeployCommand": ["python -m app.cli migrate"], "startCommand"',
        "railway: worker: runs 'python -m app.cli migrate' before it starts",
    ),
    "two beats": (
        "render.yaml",
        "numInstances: 1",
        "numInstances: 2",
        "render: beat: 2 to 2 of it; between 1 and 1",
    ),
    "one web": ("app.json", '"web": { "quantity": 2', '"web": { "quantity": 1', "heroku: web: 1 to 1 of it"),
    "too many": ("render.yaml", "maxInstances: 5", "maxInstances: 6", "render: worker: 1 to 6"),
    "no worker": (
        "render.yaml",
        "-worker\n",
        "-wrk\n",
        "render: worker: there is none",
    ),
    "killed in its work": (
        "render.yaml",
        "maxShutdownDelaySeconds: 90",
        "maxShutdownDelaySeconds: 60",
        "render: worker: is killed after 60 s",
    ),
    "drains too long": (
        "app.json",
        '"TASKS_DRAIN_SECONDS": { "description": "What has not stopped after 30 s is killed.", "value": "15" }',
        '"TASKS_DRAIN_SECONDS": { "value": "60" }',
        "heroku: worker: is killed after 30 s, and drains for 60",
    ),
    "asks neighbours": (
        "render.yaml",
        "healthCheckPath: /health ",
        "healthCheckPath: /health/ready ",
        "depends on neighbours",
    ),
    "forgets tasks": ("render.yaml", "noeviction", "allkeys-lru", "render: broker: may forget tasks"),
    "loses them": ("render.yaml", "journal-snapshot", '"off"', "broker: forgets what waits"),
    "full cache": ("render.yaml", "maxmemoryPolicy: allkeys-lru", "maxmemoryPolicy: noeviction", "cache: stops when"),
    "open store": ("render.yaml", "ipAllowList: []", "ipAllowList: [{ source: 0.0.0.0/0 }]", "reached from outside"),
    "open database": (
        "render.yaml",
        "storageAutoscalingEnabled: true\n    ipAllowList: []",
        "storageAutoscalingEnabled: true",
        "-postgres: can be reached from outside",
    ),
    "no group": ("render.yaml", "fromGroup: ", "fromGroup: no-", "web: there is no group no-"),
    "no such service": ("render.yaml", "{ type: keyvalue, name: ", "{ type: keyvalue, name: no-", "which there is not"),
    "misspelt": ("app.json", "HTTP_HTTPS_ONLY", "HTTPS_ONLY", "heroku: web: nothing reads HTTPS_ONLY"),
    "readable secret": (
        "app.json",
        '"STORAGE_SECRET_KEY": {}',
        '"STORAGE_SECRET_KEY": { "value": "x" }',
        "STORAGE_SECRET_KEY is a secret",
    ),
    "readable secret in a group": (
        "render.yaml",
        "key: AUTH_SECRET_KEY, generateValue: true",
        "key: AUTH_SECRET_KEY, value: x",
        "AUTH_SECRET_KEY is a secret",
    ),
    "no database": (
        "ops/deploy/paas/railway/variables.env",
        "DATABASE_URL=",
        "# DATABASE_URL=",
        "DATABASE_URL is not set",
    ),
    "no broker": ("app.json", '"as": "BROKER"', '"as": "REDIS"', "heroku: web: BROKER_URL is not set"),
    "deaf to the platform": (
        "ops/deploy/paas/railway/variables.env",
        "healthcheck.railway.app,",
        "",
        "does not answer to healthcheck.railway.app",
    ),
    "no limit": ("render.yaml", "LIMITS_PER_CLIENT, value: ", "WS_MAX_PER_USER, value: ", "has no limit by address"),
    "believes anybody": ("app.json", '"value": "10.0.0.0/8"', '"value": "*"', "believes what clients write"),
    "one client": (
        "ops/deploy/paas/railway/variables.env",
        "HTTP_CLIENT_HEADER=",
        "# HTTP_CLIENT_HEADER=",
        "for its only client",
    ),
}


def spoil(project: Path, name: str, old: str, new: str) -> None:
    """Put something else in the place of what stands in a file."""
    text = (project / name).read_text("utf-8")
    assert old in text
    (project / name).write_text(text.replace(old, new, 1), "utf-8")


@pytest.mark.parametrize("broken", BROKEN)
def test_each_rule_can_fail(project: Path, broken: str) -> None:
    """A rule that finds nothing in a file broken on purpose would find nothing ever."""
    *change, expected = BROKEN[broken]
    spoil(project, *change)
    assert expected in paas.check(project)


def test_what_a_platform_does_not_know_is_found(project: Path) -> None:
    """By the models: a field misspelt, one of another kind, a value that is none, a pair that only the prose forbids."""
    spoil(project, "app.json", '"stack"', '"stacks"')
    spoil(project, "app.json", '"generator": "secret"', '"generator": "secret", "value": "x"')
    spoil(project, "app.json", "standard-2x", "standard-9x")
    spoil(project, "render.yaml", "healthCheckPath", "healthcheckPath")
    spoil(project, "render.yaml", "persistenceMode: journal-snapshot", "persistenceMode: always")
    spoil(project, "render.yaml", "ipAllowList: [] # nobody from outside", "")
    spoil(project, "render.yaml", "key: BACKUP_KEYS, sync: false", "key: BACKUP_KEYS, sync: false, value: x")
    spoil(project, "render.yaml", "diskSizeGB: 15", "diskSizeGB: 16")
    spoil(project, "ops/deploy/paas/railway/web.json", "ALWAYS", "SOMETIMES")
    spoil(project, "ops/deploy/paas/railway/beat.json", "numReplicas", "replicas")
    spoil(project, "ops/deploy/paas/railway/backup.json", "0 3 * * *", "daily")
    found = paas.schemas(project)
    for word in ("stacks", "standard-9x", "AUTH_SECRET_KEY", "healthcheckPath", "always", "ipAllowList", "SOMETIMES"):
        assert word in found, word
    for place in ("beat.json", "backup.json", "databases[0].diskSizeGB", r"envVars[5]"):
        assert place in found, place


def test_every_command_exists() -> None:
    """What the Procfile runs is a command of the project, with its options."""
    from typer.main import get_command

    from app.cli import cli as app_cli
    from ops.backup.__main__ import cli as backup_cli

    known = {"app.cli": get_command(app_cli), "ops.backup": get_command(backup_cli)}
    for command in {*paas.procfile(ROOT).values(), "python -m ops.backup dump"}:
        python, dash, module, name, *options = command.split()
        assert (python, dash) == ("python", "-m")
        found = known[module].commands[name]  # type: ignore[attr-defined]
        assert {word for word in options if word[:2] == "--"} <= {flag for one in found.params for flag in one.opts}


@pytest.mark.parametrize("platform", ["heroku", "render", "railway"])
@pytest.mark.parametrize("part", ["worker", "beat"])
def test_what_is_set_is_enough_for_production(platform: str, part: str) -> None:
    """With a value for each that is asked for or made: no fault, and no variable that looks like a setting and is none."""
    made = "p7Qw3" * 4 + "Zx9Kd2Lm8"
    secret = "k1:" + "MDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk8="
    variables = getattr(paas, platform)(ROOT).parts[part].variables
    values = {name: value or (secret if name.endswith("_KEYS") else made) for name, value in variables.items()}
    for name in ("DATABASE", "CACHE", "BROKER"):
        values[f"{name}_URL"] = (
            f"{'postgres' if name == 'DATABASE' else 'rediss'}://u:{made}@{name.lower()}.example.com/1"
        )
    own = {name: value for name, value in os.environ.items() if name not in paas.variables(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "app.cli", "settings", "check"],
        cwd=ROOT,
        # Which models to pay for is nobody's to say beforehand.
        env={**own, **values, "ENV_FILE": "", "AI_ALLOW_OFFLINE": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


# The platforms, each as one would answer: it keeps what it was told, and has the fault that a test asks for.


class Standin:
    """A server that speaks one of the interfaces, as far as a deploy goes.

    Attributes:
        calls: what it was told, in order.
        fault: what goes wrong: the name of a service that does not come up, or "release", "smoke".
        live: what runs, by service.
    """

    def __init__(self, platform: str) -> None:
        self.platform, self.fault = platform, ""
        self.calls: list[str] = []
        self.live = dict.fromkeys(("web", "worker", "beat", "backup"), "old")
        self.busy = 2
        answer: Callable[..., tuple[int, Any]] = getattr(self, platform)

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def handle_one(handler) -> None:  # noqa: N805
                size = int(handler.headers.get("Content-Length") or 0)
                body = json.loads(handler.rfile.read(size)) if size else {}
                code, content = self.reply(answer, handler, body)
                text = json.dumps(content).encode()
                handler.send_response(code)
                handler.send_header("Content-Length", str(len(text)))
                handler.end_headers()
                handler.wfile.write(text)

            do_GET = do_POST = do_PATCH = handle_one  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reply(
        self, answer: Callable[..., tuple[int, Any]], handler: BaseHTTPRequestHandler, body: Any
    ) -> tuple[int, Any]:
        """Health as a client asks for it; else the platform's own, which is busy at first."""
        if handler.path == "/health/ready":
            self.calls.append("smoke")
            return (503 if self.fault == "smoke" else 200), {}
        if "k3y" not in str(handler.headers.get("Authorization")) + str(handler.headers.get("Project-Access-Token")):
            return 401, {"message": "who are you?"}
        if handler.command == "GET" and self.busy:
            self.busy -= 1
            return 503, {"message": "busy"}
        parts = urlsplit(handler.path)
        return answer(handler.command, parts.path, parse_qs(parts.query), body)

    releases: list[dict[str, Any]]

    def heroku(self, method: str, path: str, _: Any, body: Any) -> tuple[int, Any]:
        """Its Platform API."""
        if not hasattr(self, "releases"):
            self.releases = [
                {"id": f"r{number}", "version": number, "status": "succeeded", "description": text}
                for number, text in ((3, "Deployed web (c)"), (2, "Set X config vars"), (1, "Deployed web (a)"))
            ]
        newest = self.releases[0]
        if method == "PATCH":
            self.calls.append("switch " + " ".join(f"{one['type']}={one['docker_image']}" for one in body["updates"]))
            self.formation = body["updates"]
            status = "failed" if self.fault == "release" else "succeeded"
            text = "Deployed web (d)"
            self.releases.insert(
                0, {"id": "r4", "version": 4, "status": "pending", "then": status, "description": text}
            )
            return 200, []
        if method == "POST":
            self.calls.append(f"back to {body['release']}")
            text = f"Rollback to v{body['release'][1:]}"
            entry = {"id": "r9", "version": 9, "status": "succeeded", "description": text}
            self.releases.insert(0, entry)
            return 201, entry
        if path.endswith("/formation"):
            return 200, [{"type": "web"}, {"type": "worker"}]
        if path.endswith("/dynos"):
            states = {kind: "crashed" if kind == self.fault and newest["version"] == 4 else "up" for kind in self.live}
            dynos = [
                {"type": kind, "name": f"{kind}.1", "state": state, "release": newest} for kind, state in states.items()
            ]
            return 200, [*dynos, {"type": "run", "name": "run.1", "state": "up", "release": self.releases[-1]}]
        if path.endswith("/releases"):
            return 200, self.releases
        found = next(one for one in self.releases if path.endswith(f"/{one['id']}"))
        answer = dict(found)
        found["status"] = found.get("then", found["status"])  # pending the first time
        return 200, answer

    def render(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Its REST API."""
        if path == "/services":
            name = query["name"][0]
            listed = [{"service": {"id": f"srv-{one}", "name": one}} for one in (name, f"{name}-staging")]
            return 200, listed
        service, *rest = path.removeprefix("/services/srv-it-").split("/")
        if method == "POST":
            what = "back to " + body["deployId"] if rest == ["rollback"] else body["imageUrl"].split("@")[0]
            self.calls.append(f"{service}: {what}")
            wanted = body.get("deployId", "new")
            fails = service == self.fault and wanted == "new"
            if not fails:
                self.live[service] = wanted
            self.ends = {**getattr(self, "ends", {}), service: "update_failed" if fails else "live"}
            return 201, {"id": "new", "status": "created"}
        if rest == ["deploys"]:
            found = {"live": [self.live[service]], "deactivated": ["older"]}[query["status"][0]]
            return 200, [{"deploy": {"id": one}} for one in found]
        self.looks = getattr(self, "looks", 0) + 1
        return 200, {"status": self.ends[service] if self.looks % 2 == 0 else "update_in_progress"}

    def railway(self, *asked: Any) -> tuple[int, Any]:
        """Its GraphQL API: one address for everything."""
        question, given = asked[-1]["query"], asked[-1]["variables"]
        data: Any
        if "projectToken" in question:
            data = {"projectToken": {"projectId": "p", "environmentId": "e"}}
        elif "services {" in question:
            data = {"project": {"services": {"edges": [{"node": {"id": f"s-{n}", "name": n}} for n in self.live]}}}
        elif "deployments(" in question:
            name = given["input"]["serviceId"][2:]
            nodes = [{"id": self.live[name], "status": "SUCCESS", "canRollback": True}]
            nodes += [{"id": "gone", "status": "REMOVED", "canRollback": False}]
            nodes += [{"id": "older", "status": "REMOVED", "canRollback": True}]
            data = {"deployments": {"edges": [{"node": node} for node in nodes]}}
        elif "serviceInstanceUpdate" in question:
            told = given["input"]
            credentials = told.get("registryCredentials", {}).get("username", "-")
            self.calls.append(f"{given['service'][2:]}: {told['source']['image'].split('@')[0]} {credentials}")
            self.settings = {**getattr(self, "settings", {}), given["service"][2:]: told}
            data = {"serviceInstanceUpdate": True}
        elif "serviceInstanceDeployV2" in question:
            name = given["service"][2:]
            if name != self.fault:
                self.live[name] = f"new-{name}"
            data = {"serviceInstanceDeployV2": f"new-{name}"}
        elif "deploymentRollback" in question:
            if self.fault == "no way back":
                return 200, {"errors": [{"message": "Not allowed"}], "data": None}
            self.calls.append(f"back to {given['id']}")
            data = {"deploymentRollback": {"id": f"back-{given['id']}"}}
        else:
            data = {"deployment": {"status": "CRASHED" if given["id"] == f"new-{self.fault}" else "SUCCESS"}}
        return 200, {"data": data}


DOCKER = """#!PYTHON
import json, os, sys
given = sys.argv[1:]
with open(os.environ["DOCKER_CALLS"], "a") as calls:
    print(json.dumps([given, "" if given[0] == "buildx" and given[1] != "build" else sys.stdin.read()]), file=calls)
if given[:2] == ["buildx", "inspect"]:
    sys.exit(1)
if given[:2] == ["buildx", "build"]:
    told = next(word.split("=", 1)[1] for word in given if word.startswith("--metadata-file="))
    name = next(word for word in given if word.startswith("--output=")).split("name=")[1].split(",")[0]
    json.dump({"containerimage.config.digest": "sha256:" + name.rpartition("/")[2]}, open(told, "w"))
"""
KEYS = {
    "heroku": {"HEROKU_APP": "it", "HEROKU_API_KEY": "k3y"},
    "render": {"RENDER_PREFIX": "it", "RENDER_API_KEY": "k3y"},
    "railway": {"RAILWAY_TOKEN": "k3y", "REGISTRY_USER": "ada", "REGISTRY_PASSWORD": "t0ken"},
}


@pytest.fixture
def standin(request: pytest.FixtureRequest) -> Iterator[Standin]:
    """The platform that the test names."""
    made = Standin(request.param)
    yield made
    made.server.shutdown()
    made.server.server_close()


every_platform = pytest.mark.parametrize("standin", ["heroku", "render", "railway"], indirect=True)


def run(standin: Standin, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, as the workflow runs it: without anything installed."""
    docker = folder / "docker"
    docker.write_text(DOCKER.replace("PYTHON", sys.executable, 1))
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    return subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import sys, runpy; sys.path.insert(0, '.'); runpy.run_module('ops.deploy.paas', run_name='__main__')",
            *arguments,
        ],
        cwd=ROOT,
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "DOCKER_CALLS": str(folder / "docker-calls"),
            f"{standin.platform.upper()}_API_URL": standin.url,
            "DEPLOY_URL": standin.url,
            "POLL_SECONDS": "0",
            **KEYS[standin.platform],
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@every_platform
def test_a_deploy_switches_everything_and_tries_it(standin: Standin, tmp_path: Path) -> None:
    """Web first, where the migrations are; the backups have their own image; and the end is asked from outside."""
    result = run(standin, tmp_path, "deploy", standin.platform, NEW, BACKUP)
    assert result.returncode == 0, result.stdout + result.stderr
    app, backup = "registry.invalid/app", "registry.invalid/app-backup"
    if standin.platform == "heroku":
        kinds = ("release", "web", "worker", "beat", "backup")
        assert standin.calls == ["switch " + " ".join(f"{kind}=sha256:{kind}" for kind in kinds), "smoke"]
    else:
        credentials = " ada" if standin.platform == "railway" else ""
        assert standin.calls == [
            *(f"{name}: {app}{credentials}" for name in ("web", "worker", "beat")),
            f"backup: {backup}{credentials}",
            "smoke",
        ]
    assert f"{standin.platform} runs {NEW}" in result.stdout


@pytest.mark.parametrize("standin", ["heroku"], indirect=True)
def test_each_kind_of_process_is_the_image_with_a_command(standin: Standin, tmp_path: Path) -> None:
    """Pushed in the one form that the registry takes; numbers are told for what has not run before."""
    assert run(standin, tmp_path, "deploy", "heroku", NEW, BACKUP).returncode == 0
    calls = [json.loads(line) for line in (tmp_path / "docker-calls").read_text().splitlines()]
    assert calls[0] == [["login", "--username=_", "--password-stdin", "registry.heroku.com"], "k3y"]
    assert not any("k3y" in word for words, _ in calls for word in words)
    built = {words[-2].split("/it/")[1].split(",")[0]: (words, text) for words, text in calls if words[1] == "build"}
    for kind, command in paas.procfile(ROOT).items():
        words, dockerfile = built[kind]
        image = BACKUP if kind == "backup" else NEW
        assert dockerfile == f"FROM {image}\nCMD {json.dumps(command.split())}\n"
        assert {"--provenance=false", "--sbom=false", "--platform=linux/amd64"} <= set(words)
        assert "oci-mediatypes=false" in words[-2]
    numbers = {one["type"]: one.get("quantity") for one in standin.formation}
    assert numbers == {"release": None, "web": None, "worker": None, "beat": 1, "backup": 1}


@pytest.mark.parametrize("standin", ["railway"], indirect=True)
def test_each_service_is_told_what_its_file_says(standin: Standin, tmp_path: Path) -> None:
    """Everything that the file has, and the image."""
    assert run(standin, tmp_path, "deploy", "railway", NEW, BACKUP).returncode == 0
    for name, told in standin.settings.items():
        file = json.loads((ROOT / f"ops/deploy/paas/railway/{name}.json").read_text())["deploy"]
        assert file.items() <= told.items()


@every_platform
@pytest.mark.parametrize("fault", ["web", "worker", "smoke"])
def test_what_does_not_come_up_goes_back(standin: Standin, tmp_path: Path, fault: str) -> None:
    """Whatever was switched by then, and nothing else; the exit code says so."""
    standin.fault = fault
    result = run(standin, tmp_path, "deploy", standin.platform, NEW, BACKUP)
    assert result.returncode == 1
    assert "the old version runs" in result.stderr
    if standin.platform == "heroku":
        assert standin.calls[-1] == "back to r3"
        return
    switched = {"web": 0, "worker": 1, "smoke": 4}[fault]
    backs = [call for call in standin.calls if "back to old" in call]
    assert len(backs) == switched, standin.calls


@pytest.mark.parametrize("standin", ["heroku"], indirect=True)
def test_a_failed_migration_switches_nothing(standin: Standin, tmp_path: Path) -> None:
    """The platform keeps the old release, and nothing is undone that was not done."""
    standin.fault = "release"
    result = run(standin, tmp_path, "deploy", "heroku", NEW, BACKUP)
    assert result.returncode == 1
    assert "failed before the switch" in result.stdout
    assert [call for call in standin.calls if not call.startswith("switch")] == []


@pytest.mark.parametrize("standin", ["railway"], indirect=True)
def test_an_old_version_that_does_not_come_up_is_said(standin: Standin, tmp_path: Path) -> None:
    """The worst case ends with its own words, and where to go on."""
    standin.fault = "no way back"
    result = run(standin, tmp_path, "deploy", "railway", NEW, BACKUP, DEPLOY_URL="http://127.0.0.1:9/")
    assert result.returncode == 1
    assert "did not come up either: railway: Not allowed: docs/runbook/rollback.md" in result.stderr


@every_platform
def test_a_rollback_takes_the_deploy_before(standin: Standin, tmp_path: Path) -> None:
    """Not a change of settings, nor one that cannot be gone back to."""
    result = run(standin, tmp_path, "rollback", standin.platform)
    assert result.returncode == 0, result.stdout + result.stderr
    expected = {
        "heroku": ["back to r1"],
        "render": [f"{name}: back to older" for name in standin.live],
        "railway": ["back to older"] * 4,
    }
    assert standin.calls == [*expected[standin.platform], "smoke"]


@every_platform
def test_a_wrong_key_is_said_and_not_shown(standin: Standin, tmp_path: Path) -> None:
    """One line; and what is missing is named all at once."""
    names = [name for name in KEYS[standin.platform] if not name.startswith("REGISTRY")]
    result = run(standin, tmp_path, "deploy", standin.platform, NEW, BACKUP, **{names[-1]: "wr0ng"})
    assert result.returncode == 1
    assert "401" in result.stderr
    assert "wr0ng" not in result.stdout + result.stderr
    result = run(standin, tmp_path, "deploy", standin.platform, NEW, BACKUP, **dict.fromkeys(names, ""))
    assert (result.returncode, f"not set: {', '.join(names)}" in result.stderr) == (1, True)


@pytest.mark.parametrize("standin", ["render"], indirect=True)
@pytest.mark.parametrize("image", ["ghcr.io/owner/app:v1", "ghcr.io/owner/app", f"{NEW}0", "a b@sha256:" + "0" * 64])
def test_only_a_digest_is_deployed(standin: Standin, tmp_path: Path, image: str) -> None:
    """A tag may be another image tomorrow."""
    result = run(standin, tmp_path, "deploy", "render", NEW, image)
    assert (result.returncode, standin.calls) == (2, [])
    assert "is no NAME@sha256" in result.stderr


@pytest.mark.parametrize("standin", ["heroku", "railway"], indirect=True)
def test_settings_are_complete_and_fresh(standin: Standin, tmp_path: Path) -> None:
    """Yours are asked for, all at once; ours are made, and other ones each time."""
    result = run(standin, tmp_path, "settings", standin.platform)
    assert result.returncode == 1
    assert re.search(r"not given: (BACKUP_KEYS, )?STORAGE_ACCESS_KEY, STORAGE_SECRET_KEY", result.stderr)
    asked = result.stderr.split("not given: ")[1].split(";")[0].split(", ")
    mine = {name: f"mine-{name}" for name in asked}
    first, second = (
        dict(
            line.split("=", 1)
            for line in run(standin, tmp_path, "settings", standin.platform, **mine).stdout.splitlines()
        )
        for _ in range(2)
    )
    assert mine.items() <= first.items()
    fresh = {name for name in first if first[name] != second[name]}
    assert {"AUTH_SECRET_KEY", "HEALTH_TOKEN", "ENCRYPTION_KEYS"} <= fresh
    from app.core.settings.encryption import read_keys

    assert len(read_keys(first["ENCRYPTION_KEYS"])) == 1
