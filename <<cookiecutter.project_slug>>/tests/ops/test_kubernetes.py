"""The manifests hold what is demanded of them, each rule can fail, and the deploy goes back when it has to."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.check.rooms.kubernetes import IMAGE, Object, faults, render, schema_faults, variables
from ops.check.tools import Foreign, find

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "ops/deploy/kubernetes"
NEW, OLD = (f"registry.invalid/app@sha256:{digit * 64}" for digit in "ab")


@pytest.fixture(scope="module")
def production() -> list[Object]:
    """Production's objects, as a deploy applies them."""
    try:
        return render(ROOT, "production")
    except Foreign as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def the(objects: list[Object], kind: str, name: str) -> Any:
    """One of them."""
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))


def container(objects: list[Object], kind: str, name: str) -> Any:
    """Its first container."""
    spec = the(objects, kind, name)["spec"]
    spec = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
    return spec["template"]["spec"]["containers"][0]


def pod(objects: list[Object], kind: str, name: str) -> Any:
    """What its pods are made from."""
    return the(objects, kind, name)["spec"]["template"]["spec"]


def settings(objects: list[Object]) -> Any:
    """The ConfigMap of settings, whose name ends in a digest."""
    return next(i for i in objects if i["kind"] == "ConfigMap" and i["metadata"]["name"].startswith("settings"))


def test_production_is_faultless(production: list[Object]) -> None:
    """Before anything is broken on purpose."""
    assert faults(production, variables(ROOT)) == []


Break = Callable[[list[Object]], Any]
BROKEN: dict[str, tuple[Break, str]] = {
    "namespace lets any pod in": (
        lambda o: the(o, "Namespace", o[0]["metadata"]["name"])["metadata"].pop("labels"),
        "does not enforce restricted pods",
    ),
    "an object elsewhere": (
        lambda o: the(o, "Service", "web")["metadata"].update(namespace="default"),
        "lies in another namespace",
    ),
    "root": (lambda o: pod(o, "Deployment", "web")["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "system calls": (
        lambda o: pod(o, "Job", "migrate")["securityContext"].pop("seccompProfile"),
        "any system call is open",
    ),
    "token": (
        lambda o: pod(o, "StatefulSet", "broker").pop("automountServiceAccountToken"),
        "holds a token",
    ),
    "node's network": (lambda o: pod(o, "Deployment", "beat").update(hostNetwork=True), "shares the node's"),
    "node's disk": (
        lambda o: pod(o, "Deployment", "web")["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        "mounts the node's disk",
    ),
    "privileges": (
        lambda o: container(o, "Deployment", "worker")["securityContext"].pop("allowPrivilegeEscalation"),
        "may gain privileges",
    ),
    "capabilities": (
        lambda o: container(o, "CronJob", "backup-dump")["securityContext"]["capabilities"].update(add=["NET_RAW"]),
        "keeps capabilities",
    ),
    "writable": (
        lambda o: container(o, "Deployment", "web")["securityContext"].update(readOnlyRootFilesystem=False),
        "can write to its file system",
    ),
    "no request": (
        lambda o: container(o, "Deployment", "web")["resources"].pop("requests"),
        "does not say what it needs",
    ),
    "no limit": (lambda o: container(o, "Deployment", "web")["resources"].pop("limits"), "has no limit of memory"),
    "disk": (
        lambda o: pod(o, "Deployment", "worker")["volumes"][-1].update(emptyDir={}),
        "may fill the node's disk",
    ),
    "open doors": (lambda o: o.remove(the(o, "NetworkPolicy", "default-deny")), "shuts every door"),
    "half-open doors": (
        lambda o: the(o, "NetworkPolicy", "default-deny")["spec"].update(policyTypes=["Ingress"]),
        "shuts every door",
    ),
    "a door for nobody": (
        lambda o: the(o, "NetworkPolicy", "web")["spec"].update(podSelector={"matchLabels": {"component": "wep"}}),
        "opens a door for nobody",
    ),
    "a door to nobody": (
        lambda o: the(o, "NetworkPolicy", "to-redis")["spec"]["egress"][0].update(
            to=[{"podSelector": {"matchLabels": {"component": "valkey"}}}]
        ),
        "names pods that there are not",
    ),
    "every port": (lambda o: the(o, "NetworkPolicy", "redis")["spec"]["ingress"][0].pop("ports"), "opens every port"),
    "everybody": (lambda o: the(o, "NetworkPolicy", "redis")["spec"]["ingress"][0].pop("from"), "lets everybody in"),
    "newest image": (
        lambda o: container(o, "StatefulSet", "cache").update(image="redis:latest"),
        "takes whatever image is newest",
    ),
    "own image by tag": (
        lambda o: container(o, "Deployment", "web").update(image="ghcr.io/owner/app:v1"),
        "our own image comes by digest",
    ),
    "no probe": (lambda o: container(o, "Deployment", "beat").pop("livenessProbe"), "nobody asks whether it lives"),
    "probe of neighbours": (
        lambda o: container(o, "Deployment", "web")["readinessProbe"]["httpGet"].update(path="/health/ready"),
        "depends on neighbours",
    ),
    "endless job": (lambda o: the(o, "Job", "migrate")["spec"].pop("activeDeadlineSeconds"), "may run for ever"),
    "overlap": (
        lambda o: the(o, "CronJob", "backup-dump")["spec"].update(concurrencyPolicy="Allow"),
        "may overtake itself",
    ),
    "secret of nobody": (
        lambda o: o.remove(the(o, "ExternalSecret", "backup")),
        "nothing makes the secret backup",
    ),
    "key of no secret": (
        lambda o: container(o, "Deployment", "web")["env"][0]["valueFrom"]["secretKeyRef"].update(key="passwort"),
        "has no passwort",
    ),
    "variable of no secret": (
        lambda o: container(o, "StatefulSet", "broker")["env"][0]["valueFrom"]["secretKeyRef"].update(
            key="BROKER_PASS"
        ),
        "has no BROKER_PASS",
    ),
    "no map": (
        lambda o: container(o, "Deployment", "web")["envFrom"][0]["configMapRef"].update(name="settings"),
        "there is no ConfigMap settings",
    ),
    "no account": (
        lambda o: pod(o, "Deployment", "web").update(serviceAccountName="web"),
        "there is no ServiceAccount web",
    ),
    "unknown setting": (lambda o: settings(o)["data"].update(HTTP_WORKER="2"), "nothing reads HTTP_WORKER"),
    "unknown variable": (
        lambda o: container(o, "Deployment", "web")["env"].append({"name": "DATABASE_URI", "value": "x"}),
        "nothing reads DATABASE_URI",
    ),
    "made of nothing": (
        lambda o: container(o, "Deployment", "web")["env"].reverse(),
        "is made of DATABASE_PASSWORD, which is not set before it",
    ),
    "service of nobody": (
        lambda o: the(o, "Service", "web")["spec"].update(selector={"component": "wep"}),
        "service/web: selects no pod",
    ),
    "no such port": (
        lambda o: the(o, "Service", "web")["spec"]["ports"][0].update(targetPort="https"),
        "no pod has a port https",
    ),
    "budget of nobody": (
        lambda o: the(o, "PodDisruptionBudget", "worker")["spec"]["selector"].update(matchLabels={"component": "wrk"}),
        "poddisruptionbudget/worker: selects no pod",
    ),
    "scales nothing": (
        lambda o: the(o, "ScaledObject", "worker")["spec"]["scaleTargetRef"].update(name="celery"),
        "scales celery, which there is not",
    ),
    "fixed number": (
        lambda o: the(o, "Deployment", "web")["spec"].update(replicas=2),
        "every deploy would undo the autoscaler",
    ),
    "any host": (lambda o: the(o, "HTTPRoute", "web")["spec"].pop("hostnames"), "answers to every name"),
    "to nowhere": (
        lambda o: the(o, "HTTPRoute", "web")["spec"]["rules"][0]["backendRefs"][0].update(name="api"),
        "leads to api, which there is not",
    ),
    "everything public": (
        lambda o: the(o, "HTTPRoute", "web")["spec"]["rules"][0].pop("matches"),
        "lets the public reach /metrics",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_rule_can_fail(production: list[Object], broken: str) -> None:
    """A rule that finds nothing in a manifest broken on purpose would find nothing ever."""
    objects = copy.deepcopy(production)
    change, expected = BROKEN[broken]
    change(objects)
    assert any(expected in fault for fault in faults(objects, variables(ROOT)))


def test_a_misspelt_field_is_found_in_every_kind(production: list[Object]) -> None:
    """By the schemas: Kubernetes' own kinds and the custom ones, at the top and deep within."""
    seen: dict[str, Object] = {}
    for item in copy.deepcopy(production):
        item["spec" if "spec" in item else "metadata"]["mispelt"] = True
        seen.setdefault(item["kind"], item)
    deep = copy.deepcopy(the(production, "Cluster", "postgres"))
    deep["spec"]["plugins"][0]["isWalArchiver"] = deep["spec"]["plugins"][0].pop("isWALArchiver")
    wrong = copy.deepcopy(the(production, "HorizontalPodAutoscaler", "web"))
    wrong["spec"]["maxReplicas"] = "ten"
    old = copy.deepcopy(the(production, "CronJob", "backup-dump")) | {"apiVersion": "batch/v1beta1"}
    found = "\n".join(schema_faults(ROOT, [*seen.values(), deep, wrong, old], "1.37"))
    assert [kind for kind in seen if not re.search(rf"-{kind}-.*mispelt", found)] == []
    assert "isWalArchiver" in found
    assert "'ten' is not of type" in found
    assert "no schema for batch/v1beta1 CronJob" in found


def test_every_command_exists(production: list[Object]) -> None:
    """What a Job, a CronJob or a Deployment runs is a command of the project."""
    from typer.main import get_command

    from app.cli import cli as app_cli
    from ops.backup.__main__ import cli as backup_cli

    commands = {
        "app.cli": set(get_command(app_cli).commands),  # type: ignore[attr-defined]
        "ops.backup": set(get_command(backup_cli).commands),  # type: ignore[attr-defined]
    }
    ran = 0
    for item in production:
        if item["kind"] in ("Deployment", "Job", "CronJob"):
            command = container(production, item["kind"], item["metadata"]["name"]).get("command", [])
            if command[:2] == ["python", "-m"]:
                assert command[3] in commands[command[2]], command
                ran += 1
    assert ran >= 9


def test_the_alarms_are_those_of_every_other_place() -> None:
    """The rules of the operator are made of the rule files; there is nothing to compare where nothing is watched."""
    script = FOLDER / "generate.py"
    if script.exists():
        result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


# The scripts, with a cluster that is none: it answers as one would, and writes down what it was told.
CLUSTER = r"""#!PYTHON
import json, os, subprocess, sys
arguments = sys.argv[1:]
if arguments[0] == "kustomize":
    os.execv(os.environ["REAL_KUBECTL"], ["kubectl", *arguments])
folder = os.environ["CLUSTER"]
with open(f"{folder}/calls", "a") as calls:
    print(json.dumps(arguments), file=calls)
if arguments[0] == "--namespace":
    arguments = arguments[2:]
line = " ".join(arguments)
state = json.load(open(f"{folder}/state"))
if "--filename -" in line:
    state["release"] = sys.stdin.read()
elif line.startswith("apply") and "--selector step=app" in line:
    state["revision"] += 1
elif line.startswith("rollout undo"):
    state["undone"] = state.get("undone", []) + [line]
elif line.startswith("rollout status") and line.split()[2] == state.get("never ready") and "undone" not in state:
    sys.exit("error: deployment exceeded its progress deadline")
elif line.startswith("get deployment/"):
    print(state["revision"] or "", end="")
elif line.startswith("get job/"):
    print("Failed" if line.split()[1] == state.get("failing job") else "Complete", end="")
elif line.startswith("wait") and line.split()[1] == state.get("not ready"):
    sys.exit("error: timed out waiting for the condition")
elif "jsonpath={.data.image}" in line:
    print(*state["images"], end="")
elif "jsonpath={.data.previous}" in line:
    print(state["images"][0], end="")
elif "jsonpath={.data.previous-backup}" in line:
    print(state["images"][1], end="")
if state != json.load(open(f"{folder}/state")):  # two calls in one pipe run at once: each replaces it whole
    json.dump(state, open(f"{folder}/state.{os.getpid()}", "w"))
    os.replace(f"{folder}/state.{os.getpid()}", f"{folder}/state")
"""


class Cluster:
    """What a script was told to do, and what the cluster looks like afterwards."""

    def __init__(self, folder: Path, **state: Any) -> None:
        self.folder = folder
        self.result: subprocess.CompletedProcess[str]
        (folder / "bin").mkdir()
        program = folder / "bin/kubectl"
        program.write_text(CLUSTER.replace("PYTHON", sys.executable, 1))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (folder / "state").write_text(json.dumps({"revision": 3, "images": [OLD, OLD], **state}))

    def run(self, script: str, *arguments: str, **environment: str) -> None:
        """Run a script of the folder."""
        self.result = subprocess.run(
            ["bash", FOLDER / script, *arguments],
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "REAL_KUBECTL": find("kubectl") or "",
                "CLUSTER": str(self.folder),
                "POLL_SECONDS": "0",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """Each in one line, without the namespace."""
        lines = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [" ".join(words[2:] if words[0] == "--namespace" else words) for words in lines]

    def number(self, beginning: str) -> int:
        """When the first call that begins so was made."""
        return next(number for number, call in enumerate(self.calls) if re.match(beginning, call))

    @property
    def state(self) -> dict[str, Any]:
        """What has come of it."""
        return dict(json.loads((self.folder / "state").read_text()))


@pytest.fixture
def cluster(tmp_path: Path, production: list[Object]) -> Iterator[Callable[..., Cluster]]:
    """Make one with a fault: `cluster(**{"never ready": "deployment/web"})`."""
    assert production
    yield lambda **state: Cluster(tmp_path, **state)
    shutil.rmtree(ROOT / ".release", ignore_errors=True)


def test_a_deploy_migrates_before_it_switches(cluster: Callable[..., Cluster]) -> None:
    """Dry run, neighbours, migrations, switch, schedules; in this order, and each waited for."""
    made = cluster()
    made.run("deploy.sh", "staging", NEW, NEW)
    assert made.result.returncode == 0, made.result.stderr
    order = [
        made.number("apply .*--dry-run=server"),
        made.number("apply .*--selector step notin"),
        made.number("wait externalsecret"),
        made.number("rollout status statefulset/broker"),
        made.number("wait cluster/postgres"),
        made.number("delete job migrate"),
        made.number("apply .*--selector step=jobs"),
        made.number("get job/migrate"),
        made.number("apply .*--selector step=app"),
        made.number("rollout status deployment/web"),
        made.number("rollout status deployment/worker"),
        made.number("rollout status deployment/beat"),
        made.number("apply .*--selector step=schedules"),
    ]
    assert order == sorted(order)
    assert "undone" not in made.state


def test_a_failed_migration_switches_nothing(cluster: Callable[..., Cluster]) -> None:
    """The old version never notices."""
    made = cluster(**{"failing job": "job/migrate"})
    made.run("deploy.sh", "staging", NEW, NEW)
    assert made.result.returncode == 1
    assert "nothing was switched" in made.result.stderr
    assert not any("step=app" in call or "undo" in call for call in made.calls)
    assert any(call.startswith("logs job/migrate") for call in made.calls)


def test_a_version_that_does_not_come_up_goes_back(cluster: Callable[..., Cluster]) -> None:
    """To the revisions of before, all three, and the exit code says so."""
    made = cluster(**{"never ready": "deployment/worker"})
    made.run("deploy.sh", "staging", NEW, NEW)
    assert made.result.returncode == 1
    assert made.state["undone"] == [
        f"rollout undo deployment/{name} --to-revision=3" for name in ("web", "worker", "beat")
    ]
    assert not any("step=schedules" in call for call in made.calls)


def test_a_version_that_does_not_answer_from_outside_goes_back(cluster: Callable[..., Cluster]) -> None:
    """Ready pods are not enough."""
    made = cluster()
    curl = made.folder / "bin/curl"
    curl.write_text("#!/bin/sh\nexit 22\n")
    curl.chmod(0o755)
    made.run("deploy.sh", "staging", NEW, NEW, DEPLOY_URL="https://service.invalid")
    assert made.result.returncode == 1
    assert len(made.state["undone"]) == 3


def test_a_first_deploy_that_fails_has_nothing_to_go_back_to(cluster: Callable[..., Cluster]) -> None:
    """It says that it failed, and undoes nothing."""
    made = cluster(revision=0, **{"never ready": "deployment/web"})
    made.run("deploy.sh", "staging", NEW, NEW)
    assert made.result.returncode == 1
    assert "undone" not in made.state


def test_secrets_that_are_not_there_stop_the_deploy(cluster: Callable[..., Cluster]) -> None:
    """Before anything of the application has changed."""
    made = cluster(**{"not ready": "externalsecret"})
    made.run("deploy.sh", "staging", NEW, NEW)
    assert made.result.returncode == 1
    assert "docs/kubernetes.md" in made.result.stderr
    assert not any("step=jobs" in call for call in made.calls)


def test_a_rollback_takes_the_backups_along(cluster: Callable[..., Cluster]) -> None:
    """And a second one would return: what ran is what runs before."""
    made = cluster()
    made.run("rollback.sh", "production")
    assert made.result.returncode == 0, made.result.stderr
    assert made.state["undone"] == [f"rollout undo deployment/{name}" for name in ("web", "worker", "beat")]
    assert f"set image cronjob --all app={OLD}" in made.calls
    assert made.number("set image") > made.number("rollout status deployment/beat")


@pytest.mark.parametrize("image", ["ghcr.io/owner/app:v1", "ghcr.io/owner/app", f"{IMAGE}0", "a b@sha256:" + "0" * 64])
def test_only_a_digest_is_deployed(cluster: Callable[..., Cluster], image: str) -> None:
    """A tag may be another image tomorrow."""
    made = cluster()
    made.run("render.sh", "production", image, NEW)
    assert made.result.returncode == 2
    assert "is no NAME@sha256" in made.result.stderr


def test_kubectl_knows_every_option_that_is_used(cluster: Callable[..., Cluster]) -> None:
    """The cluster above takes any; the real program is asked for those that it has."""
    made = cluster(**{"never ready": "deployment/web"})
    made.run("deploy.sh", "staging", NEW, NEW)
    used: dict[str, set[str]] = {}
    for call in made.calls:
        words = call.split()
        command = " ".join(words[:2]) if words[0] in ("rollout", "create", "set") else words[0]
        used.setdefault(command, set()).update(word.split("=")[0] for word in words if word.startswith("--"))
    real = find("kubectl")
    assert real
    for command, options in used.items():
        text = subprocess.run([real, *command.split(), "--help"], capture_output=True, text=True, check=True).stdout
        assert {option for option in options if not re.search(rf"{option}\b", text)} == set(), command
