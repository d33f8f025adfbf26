"""What AWS is asked for holds what is demanded of it, each rule can fail, and the deploy goes back when it has to."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import jmespath  # type: ignore[import-untyped]
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError, ParamValidationError
from botocore.model import ListShape, StructureShape
from moto import mock_aws
from moto.backends import get_backend

from ops.check.rooms import ecs
from ops.check.rooms.ecs import IMAGE, Requests, faults, model_faults, outputs, template, variables
from ops.deploy.ecs.fill import fill
from ops.deploy.ecs.render import Fault, Object, command, environments, filled, merged, read, release

if TYPE_CHECKING:
    from devstack import Stack

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "ops/deploy/ecs"
NEW, OLD = (f"registry.invalid/app@sha256:{digit * 64}" for digit in "ab")
REGION = "eu-central-1"


@pytest.fixture(scope="module")
def made() -> Object:
    """The template of an environment."""
    return template(ROOT, "environment")


@pytest.fixture(scope="module")
def production(made: Object) -> Requests:
    """Production's requests, as a deploy sends them."""
    return release("production", outputs(made), IMAGE, IMAGE)


def container(requests: Requests, task: str) -> Any:
    """Its only container."""
    return requests[f"tasks/{task}"]["containerDefinitions"][0]


def network(requests: Requests, name: str) -> Any:
    """Where it is."""
    return requests[name]["networkConfiguration"]["awsvpcConfiguration"]


@pytest.mark.parametrize("environment", environments(FOLDER))
def test_every_environment_is_faultless(made: Object, environment: str) -> None:
    """Before anything is broken on purpose."""
    requests = release(environment, outputs(made), IMAGE, IMAGE)
    assert model_faults(requests) + faults(requests, variables(ROOT)) == []
    assert [*ecs.parameter_faults(ROOT, environment)] == []


BROKEN: dict[str, tuple[Callable[[Requests], Any], str]] = {
    "root": (lambda r: container(r, "web").update(user="0:0"), "web: may run as root"),
    "no user": (lambda r: container(r, "backup").pop("user"), "backup: may run as root"),
    "writable": (lambda r: container(r, "worker").pop("readonlyRootFilesystem"), "can write to its file system"),
    "capabilities": (
        lambda r: container(r, "beat")["linuxParameters"].update(capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}),
        "keeps capabilities",
    ),
    "nowhere to write": (lambda r: container(r, "web")["linuxParameters"].pop("tmpfs"), "has nowhere to write to"),
    "killed late": (lambda r: container(r, "worker").update(stopTimeout=300), "may not stop in time"),
    "machines": (lambda r: r["tasks/web"].update(requiresCompatibilities=["EC2"]), "runs on a machine of ours"),
    "shared network": (lambda r: r["tasks/web"].update(networkMode="host"), "shares a network"),
    "a tag": (lambda r: container(r, "migrate").update(image="registry.invalid/app:v1"), "may be another image"),
    "no probe": (lambda r: container(r, "beat").pop("healthCheck"), "nobody asks whether it lives"),
    "probe of neighbours": (
        lambda r: container(r, "web")["healthCheck"].update(command=["CMD-SHELL", "curl localhost:8000/health/ready"]),
        "depends on neighbours",
    ),
    "unknown setting": (
        lambda r: container(r, "web")["environment"].append({"name": "HTTP_WORKER", "value": "2"}),
        "nothing reads HTTP_WORKER",
    ),
    "unknown secret": (
        lambda r: container(r, "web")["secrets"].append({"name": "AUTH_SECRET", "valueFrom": "x"}),
        "nothing reads AUTH_SECRET",
    ),
    "twice": (
        lambda r: container(r, "web")["environment"].append({"name": "CACHE_URL", "value": "x"}),
        "CACHE_URL is a setting and a secret",
    ),
    "readable secret": (
        lambda r: container(r, "web")["environment"].append({"name": "ADMIN_SECRET_KEY", "value": "0123"}),
        "can be read by whoever may look",
    ),
    "readable address": (
        lambda r: container(r, "web")["environment"].append({"name": "DATABASE_REPLICA_URL", "value": "x://a:b@c"}),
        "can be read by whoever may look",
    ),
    "empty setting": (
        lambda r: container(r, "web")["environment"].append({"name": "HTTP_DOCS", "value": ""}),
        "HTTP_DOCS is empty, which counts as unset",
    ),
    "no log": (lambda r: container(r, "web").pop("logConfiguration"), "its lines are lost"),
    "log elsewhere": (
        lambda r: container(r, "migrate")["logConfiguration"]["options"].update({"awslogs-stream-prefix": "app"}),
        "its lines are lost",
    ),
    "public address": (
        lambda r: network(r, "services/worker").update(assignPublicIp="ENABLED"),
        "has a public address",
    ),
    "no network": (lambda r: r["run"].pop("networkConfiguration"), "run: is in no network"),
    "public worker": (
        lambda r: r["services/worker"].update(loadBalancers=r["services/web"]["loadBalancers"]),
        "services/worker: is public",
    ),
    "private web": (lambda r: r["services/web"].pop("loadBalancers"), "nobody reaches it"),
    "no way back": (
        lambda r: r["updates/web"]["deploymentConfiguration"]["deploymentCircuitBreaker"].update(rollback=False),
        "does not go back by itself",
    ),
    "a gap": (
        lambda r: r["services/web"]["deploymentConfiguration"].update(minimumHealthyPercent=50),
        "takes tasks away before others are there",
    ),
    "two makers of backups": (
        lambda r: r["updates/backup"]["deploymentConfiguration"].update(maximumPercent=200),
        "has two where one may be",
    ),
    "two beats": (lambda r: r["services/beat"].update(desiredCount=2), "services/beat: there is to be exactly one"),
    "many beats": (lambda r: r.update({"scaling/beat": {}}), "services/beat: there is to be exactly one"),
    "fixed number": (lambda r: r.pop("policies/worker"), "scaling.worker: stays as it is"),
    "upside down": (lambda r: r["scaling/web"].update(MinCapacity=20), "scaling.web: from 20 to 10"),
    "too late": (
        lambda r: r["policies/web"]["TargetTrackingScalingPolicyConfiguration"].update(TargetValue=99.0),
        "when it is too late",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_rule_can_fail(production: Requests, broken: str) -> None:
    """A rule that finds nothing in a request broken on purpose would find nothing ever."""
    requests = copy.deepcopy(production)
    change, expected = BROKEN[broken]
    change(requests)
    assert any(expected in fault for fault in faults(requests, variables(ROOT)))


def test_the_models_of_aws_find_what_it_would_refuse(production: Requests) -> None:
    """A field that there is not, a wrong type, a word that there is not, and what is missing; in every kind of request."""
    requests = copy.deepcopy(production)
    container(requests, "web")["readonlyRootFileSystem"] = True
    requests["services/web"]["desiredCount"] = "two"
    requests["updates/web"]["availabilityZoneRebalancing"] = "ON"
    network(requests, "run").pop("subnets")
    requests["scaling/web"]["ScalableDimension"] = "ecs:service:Count"
    requests["policies/web"]["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] = "70 %"
    found = "\n".join(model_faults(requests))
    for expected in (
        r'tasks/web: Unknown parameter in containerDefinitions\[0\]: "readonlyRootFileSystem"',
        r"services/web: Invalid type for parameter desiredCount",
        r"updates/web: availabilityZoneRebalancing: 'ON' is none of",
        r'run: Missing required parameter in networkConfiguration.awsvpcConfiguration: "subnets"',
        r"scaling/web: ScalableDimension: 'ecs:service:Count' is none of",
        r"policies/web: Invalid type for parameter TargetTrackingScalingPolicyConfiguration.TargetValue",
    ):
        assert re.search(expected, found), expected


def replaced(path: Path, old: str, new: str) -> None:
    """Plant a fault."""
    text = path.read_text("utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_the_check_finds_what_is_planted(tmp_path: Path) -> None:
    """One fault in each kind of file: cfn-lint finds those of AWS' schemas, and the sizes that Fargate does not have."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "ops/deploy/ecs"))
    shutil.copy(ROOT / ".env.example", tmp_path)
    replaced(folder / "environment.yaml", "Scheme: internet-facing", "Scheme: public")
    replaced(folder / "environment.yaml", "VPCSecurityGroups: [!GetAtt DatabaseGroup.GroupId]", "VpcSecurityGroups: []")
    replaced(
        folder / "environment.yaml",
        "Action: logs:FilterLogEvents, Resource: !GetAtt Logs.Arn",
        'Action: logs:*, Resource: "*"',
    )
    replaced(folder / "environment.yaml", "PubliclyAccessible: false", "PubliclyAccessible: true")
    replaced(folder / "account.yaml", "ImageTagMutability: IMMUTABLE", "ImageTagMutability: FIXED")
    replaced(folder / "backups.yaml", "    DeletionPolicy: Retain\n", "")
    replaced(folder / "service.toml", 'memory = "1024"', 'memory = "8192"')
    replaced(folder / "environments/staging.toml", 'LogDays = "14"', 'LogDay = "14"')
    replaced(folder / "environments/production.toml", 'name = "', 'name = "Über-')
    replaced(folder / "environments/staging.toml", 'backup_region = "eu-west-1"', 'backup_region = "eu-central-1"')
    found = ecs.check(tmp_path)
    for expected in (
        "'public' is not one of",
        "VpcSecurityGroups",
        "'FIXED' is not one of",
        "Both 'UpdateReplacePolicy' and 'DeletionPolicy'",
        "Cpu '512' is not compatible with memory '8192'",
        "environment.yaml has no parameter LogDay\n",
        "backups lie in the region of the data",
        "name: 'Über-.* has other characters",
        r"Deploy: may do logs:\*",
        r"Deploy: may logs:\* everywhere",
        "Database: has a public address",
    ):
        assert re.search(expected, found), f"{expected} not in\n{found}"


def test_the_workflow_may_not_reach_the_master(made: Object) -> None:
    """The rule finds the role that would let it."""
    broken = copy.deepcopy(made)
    for statement in broken["Resources"]["Deploy"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]:
        if statement["Action"] == "iam:PassRole":
            statement["Resource"].append({"GetAtt": "DatabaseExecution.Arn"})
    assert [*ecs.role_faults(made)] == []
    assert any("the database's master" in fault for fault in ecs.role_faults(broken))


def test_what_is_not_there_is_named(tmp_path: Path, made: Object) -> None:
    """An image by tag, an environment, an output."""
    with pytest.raises(Fault, match="is no NAME@sha256"):
        release("staging", outputs(made), "registry.invalid/app:v1", IMAGE)
    with pytest.raises(Fault, match="no environment 'prod': production, staging"):
        read("prod")
    with pytest.raises(Fault, match=r"\$\{Custer\} is no output"):
        filled({"cluster": ["${Custer}"]}, {"Cluster": "x"})
    assert merged({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}}) == {"a": {"b": 1, "c": [2]}}


def test_every_command_exists(production: Requests) -> None:
    """What a task runs is a command of the project."""
    from typer.main import get_command

    from app.cli import cli as app_cli
    from ops.backup.__main__ import cli as backup_cli

    commands = {
        "app.cli": set(get_command(app_cli).commands),  # type: ignore[attr-defined]
        "ops.backup": set(get_command(backup_cli).commands),  # type: ignore[attr-defined]
    }
    ran = [
        re.search(r"exec python -m (\S+) (\S+)", line["command"][-1])
        for _, _, line in ecs.tasks(production)
        if "psql" not in line["command"][-1]
    ]
    assert len(ran) == 5
    assert all(found and found[2] in commands[found[1]] for found in ran)


def environment_of(requests: Requests, task: str) -> dict[str, str]:
    """What its process would find, with secrets as they would be."""
    secret = {
        "AUTHORITY": "-----BEGIN CERTIFICATE-----\n…",
        "DATABASE_URL": f"postgresql://app:{'x1y2z3w4' * 5}@host:5432/app?sslmode=verify-full&sslrootcert=/tmp/authority.pem",
        "CACHE_URL": f"rediss://:{'x1y2z3w4' * 5}@host:6379/0",
        "BROKER_URL": f"rediss://:{'x1y2z3w4' * 5}@host:6379/0?ssl_cert_reqs=required",
        "ENCRYPTION_KEYS": "k1:" + "A" * 43 + "=",
        "BACKUP_KEYS": "k1:" + "A" * 43 + "=",
    }
    line = container(requests, task)
    return {item["name"]: item["value"] for item in line["environment"]} | {
        item["name"]: secret.get(item["name"], "x1y2z3w4v5" * 4) for item in line["secrets"]
    }


@pytest.mark.parametrize("task", ["web", "worker", "beat", "migrate", "backup"])
def test_production_accepts_the_settings(production: Requests, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what only a person can choose: the provider of models."""
    from app.core.settings import load_settings
    from app.features import settings_of_features
    from ops.backup.config import Config

    for name in [name for name in os.environ if re.match("[A-Z]+_", name) and name in variables(ROOT)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ENV_FILE", "")
    monkeypatch.setenv("AI_ALLOW_OFFLINE", "true")
    for name, value in environment_of(production, task).items():
        monkeypatch.setenv(name, value)
    settings = load_settings(settings_of_features())
    assert settings.production
    assert settings.storage.endpoint_url.endswith(".amazonaws.com")
    assert settings.storage.access_key == ""
    if task == "backup":
        assert Config.from_settings(settings).store.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
        assert settings.backup.redis_at == ""


def run_shell(line: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What ECS would run, with a folder in the place of /tmp and a program that shows what it was given."""
    (folder / "bin").mkdir(exist_ok=True)
    shown = folder / "bin/python"
    shown.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@"; echo "hosts=$HTTP_ALLOWED_HOSTS"\n'
    )
    shown.chmod(0o755)
    return subprocess.run(
        [part.replace("/tmp/", f"{folder}/") for part in line],  # noqa: S108 - the container's own
        env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "AUTHORITY": "-----BEGIN…\nand so on", **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_task_finds_the_authority_and_its_own_address(production: Requests, tmp_path: Path) -> None:
    """The load balancer asks by an address that nobody knows before, and libpq reads a file."""
    result = run_shell(container(production, "web")["command"], tmp_path)
    assert (tmp_path / "authority.pem").read_text() == "-----BEGIN…\nand so on\n"
    assert result.stdout.splitlines()[0] == "-m app.cli serve --host 0.0.0.0 --port 8000"
    assert re.search(r"hosts=domain-0,localhost,\d+\.\d+\.\d+\.\d+$", result.stdout.splitlines()[1])


def test_what_runs_once_keeps_its_words(tmp_path: Path) -> None:
    """A command with spaces and quotes arrives as it was given."""
    words = ["python", "-m", "app.cli", "a b", "it's", "$HOME"]
    result = run_shell(command(words)["containerOverrides"][0]["command"], tmp_path)
    assert result.stdout.splitlines()[0] == "-m app.cli a b it's $HOME"


# The scripts, with an AWS that is moto's: it keeps what it was told, and every request is checked by botocore's models. What
# moto has not (deployments that come up or do not, a stack's outputs, lines of logs) is added here.

AWS = """#!/bin/bash
exec 3<>"/dev/tcp/127.0.0.1/$AWS_PORT"
printf '%s\\0' "$#" "$@" >&3
read -r code complaints <&3
for ((; complaints > 0; complaints--)); do IFS= read -r line <&3; echo "$line" >&2; done
cat <&3
exit "$code"
"""  # not Python, which would take longer to start than all its work, forty times a deploy


ALL = ("web", "worker", "beat", "backup")


class Refused(Exception):
    """What the command line says before it asks anybody."""


class Cloud:
    """An account with one environment in it.

    Attributes:
        calls: what was asked: "ecs run-task" and its parameters, in order.
        broken: services whose new tasks never get healthy.
        failing: tasks that end with 1.
    """

    def __init__(self, folder: Path, account: Mapping[str, Any], given: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = 0
        self.calls: list[tuple[str, Object]] = []
        self.broken: set[str] = set()
        self.failing: set[str] = set()
        self.before: dict[str, str] = {}
        self.looks: dict[str, int] = {}
        self.clients = account
        self.name = str(read("staging")["name"])
        self.account = str(read("staging")["account"]["Name"])
        self.outputs = {**given, "Cluster": self.name, "LogGroup": f"/ecs/{self.name}", "Region": REGION}
        account["ecs"].create_cluster(clusterName=self.name)
        for parameter in ("release", "release-before"):
            account["ssm"].put_parameter(Name=f"/{self.name}/{parameter}", Value="none", Type="String")

    def stands(self) -> None:
        """As after a first release, without the time that it takes."""
        requests = release("staging", self.outputs, OLD, OLD)
        client, lines = self.clients["ecs"], []
        for task in ("migrate", *ALL):
            client.register_task_definition(**runnable(requests[f"tasks/{task}"]))
        for service in ALL:
            made = client.create_service(**requests[f"services/{service}"], taskDefinition=f"{self.name}-{service}:1")
            lines.append(f"{service}\t{made['service']['taskDefinition']}")
        value = "\n".join(lines)
        self.clients["ssm"].put_parameter(Name=f"/{self.name}/release", Value=value, Overwrite=True)

    def answer(self, arguments: list[str]) -> tuple[int, str, str]:
        """What the command line prints, and its exit code."""
        try:
            found = self.ask(arguments)
        except (Refused, ClientError, ParamValidationError) as error:
            return 254, "", f"aws: {error}\n"
        query = arguments[arguments.index("--query") + 1] if "--query" in arguments else "@"
        wanted = jmespath.search(query, found)
        if "--output" in arguments and arguments[arguments.index("--output") + 1] == "text":
            return 0, text(wanted), ""
        return 0, json.dumps(wanted, default=str) + "\n", ""

    def ask(self, arguments: list[str]) -> Any:
        """Read the arguments as the command line does, by the models, and ask moto."""
        service, operation, *rest = arguments
        if (service, operation) == ("cloudformation", "deploy"):  # no request of its own, but several
            self.calls.append(("cloudformation deploy", deployed(rest)))
            return {}
        client = self.clients[service]
        names = {xform_name(name, "-"): name for name in client.meta.service_model.operation_names}
        if operation not in names:
            raise Refused(f"{service} has no command {operation}")
        shape = client.meta.service_model.operation_model(names[operation]).input_shape
        members = {f"--{xform_name(name, '-')}": (name, member) for name, member in shape.members.items()}
        given: Object = {}
        words = iter([*rest, "--"])
        word = next(words)
        while word != "--":
            values = []
            option, word = word, next(words)
            while not word.startswith("--"):
                values.append(word)
                word = next(words)
            if option == "--cli-input-json":
                given = {**json.loads(Path(values[0].removeprefix("file://")).read_text()), **given}
            elif option in members:
                name, member = members[option]
                given[name] = converted(values, member)
            elif option not in ("--query", "--output", "--region"):
                raise Refused(f"{service} {operation}: unknown option {option}")
        self.calls.append((f"{service} {operation}", given))
        return self.act(f"{service} {operation}", given, getattr(client, xform_name(names[operation])))

    def act(self, what: str, given: Object, ask: Callable[..., Any]) -> Any:
        """Ask moto, and add what it has not."""
        if what == "cloudformation describe-stacks":
            if given["StackName"] not in (self.name, f"{self.account}-account"):
                raise Refused("Stack does not exist")
            return {"Stacks": [{"Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in self.outputs.items()]}]}
        if what == "cloudformation update-termination-protection":
            return {}
        if what == "logs filter-log-events":
            return {"events": [{"message": f"a line of {given['logStreamNames'][0]}"}]}
        if what == "ecs update-service":
            found = self.clients["ecs"].describe_services(cluster=self.name, services=[given["service"]])
            self.before[given["service"]] = found["services"][0]["taskDefinition"]
        if what == "ecs register-task-definition":
            given = runnable(given)
        found = ask(**given)
        if what == "ecs describe-tasks":
            self.advance(found["tasks"][0])
        if what == "ecs describe-services":
            for each in found["services"]:
                self.deploy(each)
        return found

    def advance(self, task: Object) -> None:
        """A task runs at the first look and has stopped at the second."""
        self.looks[task["taskArn"]] = self.looks.get(task["taskArn"], 0) + 1
        stopped = self.looks[task["taskArn"]] > 1
        failed = any(f"-{name}:" in task["taskDefinitionArn"] for name in self.failing)
        container = {"name": "app"} | ({"exitCode": int(failed)} if stopped else {})
        task |= {"lastStatus": "STOPPED" if stopped else "RUNNING", "containers": [container]}

    def deploy(self, service: Object) -> None:
        """A deployment is under way at the first look; a broken one ends with the old revision by the circuit breaker."""
        name, wanted = service["serviceName"], service["taskDefinition"]
        key = f"{name} {wanted}"
        self.looks[key] = self.looks.get(key, 0) + 1
        state = "COMPLETED" if self.looks[key] > 1 else "IN_PROGRESS"
        if name in self.broken and wanted != self.before.get(name, "none") and self.looks[key] > 1:
            state = "FAILED"
            if name in self.before:  # else there is nothing that it could go back to
                self.broken.discard(name)
                self.clients["ecs"].update_service(cluster=self.name, service=name, taskDefinition=self.before[name])
                service["taskDefinition"] = wanted = self.before[name]
        service["deployments"] = [{"status": "PRIMARY", "taskDefinition": wanted, "rolloutState": state}]

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the folder."""
        self.calls.clear()
        return subprocess.run(
            ["bash", FOLDER / script, *arguments],
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "AWS_PORT": str(self.port),
                "POLL_SECONDS": "0",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def running(self) -> dict[str, int]:
        """Services to the numbers of their revisions."""
        client = self.clients["ecs"]
        names = [arn.split("/")[-1] for arn in client.list_services(cluster=self.name)["serviceArns"]]
        found = client.describe_services(cluster=self.name, services=names)["services"] if names else []
        return {each["serviceName"]: int(each["taskDefinition"].split(":")[-1]) for each in found}

    def number(self, what: str, **parameters: str) -> int:
        """When it was first asked that."""
        return next(
            number
            for number, (call, given) in enumerate(self.calls)
            if call == what and all(value in str(given.get(name)) for name, value in parameters.items())
        )


def runnable(task: Object) -> Object:
    """The same for moto, which runs only what says its memory for each container."""
    return {**task, "containerDefinitions": [{"memory": 1, **each} for each in task["containerDefinitions"]]}


def deployed(words: list[str]) -> Object:
    """The options of `cloudformation deploy`, which are no model's; the template is a file that there is."""
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word] = last = []
        else:
            last.append(word)
    known = {"--region", "--stack-name", "--template-file", "--capabilities", "--parameter-overrides"}
    assert options.pop("--no-fail-on-empty-changeset") == []
    assert options.keys() == known
    assert (ROOT / options["--template-file"][0]).exists()
    given = dict(each.split("=", 1) for each in options["--parameter-overrides"])
    return {name.strip("-"): values[0] for name, values in options.items()} | {"parameters": given}


def converted(values: list[str], shape: Any) -> Any:
    """What an option stands for."""
    if isinstance(shape, StructureShape):
        return json.loads(Path(values[0].removeprefix("file://")).read_text())
    if isinstance(shape, ListShape):
        if isinstance(shape.member, StructureShape):
            return [dict(part.split("=", 1) for part in value.split(",")) for value in values]
        return values
    return values[0] if values else True


def text(value: Any) -> str:
    """As the command line prints it: a list in a line, lists in a list line by line."""
    if isinstance(value, list):
        if any(isinstance(item, list) for item in value):
            return "".join(text(item) for item in value)
        return "\t".join(map(str, value)) + "\n" if value else ""
    return f"{value}\n"


SERVICES = ("application-autoscaling", "cloudformation", "ecr", "ecs", "logs", "secretsmanager", "ssm")


@pytest.fixture(scope="module")
def account() -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Clients of moto, made once as that costs most, and a network."""
    with mock_aws():
        clients = {name: boto3.client(name, region_name=REGION) for name in (*SERVICES, "ec2")}  # type: ignore[call-overload]
        subnets = [each["SubnetId"] for each in clients["ec2"].describe_subnets()["Subnets"]]
        tasks, web = (
            clients["ec2"].create_security_group(GroupName=name, Description=name)["GroupId"]
            for name in ("tasks", "web")
        )
        yield clients, {"SubnetA": subnets[0], "SubnetB": subnets[1], "TasksGroup": tasks, "WebGroup": web}


@pytest.fixture
def clients(account: tuple[dict[str, Any], dict[str, str]]) -> dict[str, Any]:
    """The same, in an account in which nothing was done yet."""
    for name in SERVICES:
        for regions in get_backend(name).values():  # type: ignore[call-overload]
            regions.reset()
    return account[0]


@pytest.fixture
def cloud(
    tmp_path: Path,
    made: Object,
    account: tuple[dict[str, Any], dict[str, str]],
    clients: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cloud]:
    """One that answers to `aws`."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/aws"
    program.write_text(AWS)
    program.chmod(0o755)
    monkeypatch.delenv("DEPLOY_URL", raising=False)

    class Door(socketserver.StreamRequestHandler):
        def word(self) -> str:
            return b"".join(iter(lambda: self.rfile.read(1), b"\0")).decode()

        def handle(self) -> None:
            code, found, complaint = answering.answer([self.word() for _ in range(int(self.word()))])
            lines = complaint.splitlines()
            self.wfile.write("\n".join([f"{code} {len(lines)}", *lines, found]).encode())

    answering = Cloud(tmp_path, clients, outputs(made) | account[1])
    with socketserver.TCPServer(("127.0.0.1", 0), Door) as server:
        answering.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield answering
        server.shutdown()
        thread.join()


def succeeds(result: subprocess.CompletedProcess[str]) -> str:
    """What it said, if it went well."""
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_a_deploy_migrates_before_it_switches(cloud: Cloud, made: Object) -> None:
    """The first one makes the services, the second one brings them new revisions; and each step is waited for."""
    succeeds(cloud.run("deploy.sh", "staging", OLD, OLD))
    assert cloud.running() == dict.fromkeys(ALL, 1)
    assert "waiting for web worker beat" in succeeds(cloud.run("deploy.sh", "staging", NEW, NEW))
    assert cloud.running() == dict.fromkeys(ALL, 2)
    order = [
        cloud.number("cloudformation describe-stacks"),
        cloud.number("ecs register-task-definition", family="-migrate"),
        cloud.number("ecs register-task-definition", family="-backup"),
        cloud.number("ecs run-task", taskDefinition="-migrate:2"),
        cloud.number("ecs describe-tasks"),
        cloud.number("logs filter-log-events", logStreamNames="migrate/app/"),
        *(cloud.number("ecs update-service", service=name) for name in ("web", "worker", "beat")),
        cloud.number("ecs update-service", service="backup"),
        cloud.number("application-autoscaling register-scalable-target", ResourceId="web"),
        cloud.number("application-autoscaling put-scaling-policy", ResourceId="worker"),
        cloud.number("ssm put-parameter", Name="release-before"),
    ]
    assert order == sorted(order)
    scaled = cloud.clients["application-autoscaling"].describe_scalable_targets(ServiceNamespace="ecs")[
        "ScalableTargets"
    ]
    assert {each["ResourceId"].split("/")[-1]: (each["MinCapacity"], each["MaxCapacity"]) for each in scaled} == {
        "web": (1, 3),
        "worker": (1, 2),
    }
    assert_allowed(cloud, made)


def assert_allowed(cloud: Cloud, made: Object) -> None:
    """The role of the workflow may do all that the script did."""
    policy = made["Resources"]["Deploy"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    actions: set[str] = set()
    for statement in policy:
        actions |= {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
    asked = set()
    for call, _ in cloud.calls:
        service, operation = call.split()
        asked.add(f"{service}:{''.join(word.title() for word in operation.split('-'))}")
    assert asked <= actions


def test_a_failed_migration_switches_nothing(cloud: Cloud) -> None:
    """The old version never notices, and its last lines are shown."""
    cloud.stands()
    cloud.failing = {"migrate"}
    result = cloud.run("deploy.sh", "staging", NEW, NEW)
    assert result.returncode == 1
    assert "migrate ended with 1" in result.stderr
    assert "migrate failed; nothing was switched" in result.stderr
    assert "a line of migrate/app/" in result.stderr
    assert cloud.running() == dict.fromkeys(ALL, 1)
    assert not any(call in ("ecs update-service", "ssm put-parameter") for call, _ in cloud.calls)


@pytest.mark.parametrize("broken", ["web", "beat"])
def test_a_version_that_does_not_come_up_goes_back(cloud: Cloud, broken: str) -> None:
    """ECS has taken the one service back; the script takes the others, and says so by its exit code."""
    cloud.stands()
    cloud.broken = {broken}
    result = cloud.run("deploy.sh", "staging", NEW, NEW)
    assert result.returncode == 1
    assert f"{broken}: ECS went back to {cloud.name}-{broken}:1 by itself" in result.stderr
    assert cloud.running() == dict.fromkeys(ALL, 1)
    assert "ssm put-parameter" not in [call for call, _ in cloud.calls]


def test_backups_that_do_not_come_up_take_everything_back(cloud: Cloud) -> None:
    """A release without backups is none."""
    cloud.stands()
    cloud.broken = {"backup"}
    assert cloud.run("deploy.sh", "staging", NEW, NEW).returncode == 1
    assert cloud.running() == dict.fromkeys(ALL, 1)


def test_a_version_that_does_not_answer_from_outside_goes_back(cloud: Cloud) -> None:
    """Healthy tasks are not enough; the backups were not touched by then."""
    cloud.stands()
    curl = cloud.folder / "bin/curl"
    curl.write_text("#!/bin/sh\nexit 22\n")
    curl.chmod(0o755)
    result = cloud.run("deploy.sh", "staging", NEW, NEW, DEPLOY_URL="https://service.invalid")
    assert result.returncode == 1
    assert cloud.running() == dict.fromkeys(ALL, 1)
    assert ("ecs update-service", "backup") not in [(call, given.get("service")) for call, given in cloud.calls]


def test_a_first_deploy_that_fails_has_nothing_to_go_back_to(cloud: Cloud) -> None:
    """It says that it failed, and undoes nothing."""
    cloud.broken = {"web"}
    result = cloud.run("deploy.sh", "staging", NEW, NEW)
    assert result.returncode == 1
    assert f"web: {cloud.name}-web:1 does not come up" in result.stderr
    assert "there is nothing to go back to" in result.stderr
    assert "did not come up" not in result.stderr
    assert "ecs update-service" not in [call for call, _ in cloud.calls]


def test_a_rollback_returns_and_returns_again(cloud: Cloud) -> None:
    """To what ran before, with the settings of then; a second one to where it was."""
    assert "nothing was deployed here" in cloud.run("rollback.sh", "staging").stderr
    cloud.stands()
    assert cloud.run("rollback.sh", "staging").returncode == 1
    succeeds(cloud.run("deploy.sh", "staging", NEW, NEW))
    assert f"staging runs {cloud.name}-web:1 again" in succeeds(cloud.run("rollback.sh", "staging"))
    assert cloud.running() == dict.fromkeys(ALL, 1)
    succeeds(cloud.run("rollback.sh", "staging"))
    assert cloud.running() == dict.fromkeys(ALL, 2)


@pytest.mark.parametrize("image", ["app:v1", "app", f"{IMAGE}0", "a b@sha256:" + "0" * 64])
def test_only_a_digest_is_deployed(cloud: Cloud, image: str) -> None:
    """A tag may be another image tomorrow."""
    result = cloud.run("deploy.sh", "staging", image, NEW)
    assert result.returncode == 2
    assert "is no NAME@sha256" in result.stderr
    assert [call for call, _ in cloud.calls] == ["cloudformation describe-stacks"]


def test_what_is_missing_is_said(cloud: Cloud) -> None:
    """An environment that there is not; one that was not provisioned; nothing to run a command beside."""
    assert "no environment 'prod'" in cloud.run("deploy.sh", "prod", NEW, NEW).stderr
    result = cloud.run("deploy.sh", "production", NEW, NEW)
    assert (result.returncode, "docs/ecs.md, Once" in result.stderr) == (1, True)
    assert "nothing is deployed in staging yet" in cloud.run("once.sh", "staging", "true").stderr


def test_a_command_runs_once_beside_the_services(cloud: Cloud) -> None:
    """With the revision of the API, in its network, and its exit code is the script's."""
    cloud.stands()
    result = cloud.run("once.sh", "staging", "python", "-m", "app.cli", "tasks", "dead")
    succeeds(result)
    assert "a line of web/app/" in result.stdout
    given = next(given for call, given in cloud.calls if call == "ecs run-task")
    assert given["taskDefinition"].endswith("-web:1")
    assert given["overrides"]["containerOverrides"][0]["command"][-3:] == ["app.cli", "tasks", "dead"]
    assert given["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "DISABLED"
    cloud.failing = {"web"}
    assert cloud.run("once.sh", "staging", "false").returncode == 1


def test_the_role_of_the_database_is_made_by_a_person(cloud: Cloud, made: Object) -> None:
    """By a task that the workflow's role may not start, as it may not pass the one that reads the master's password."""
    succeeds(cloud.run("database.sh", "staging", NEW))
    given = next(given for call, given in cloud.calls if call == "ecs register-task-definition")
    assert given["executionRoleArn"] == cloud.outputs["DatabaseExecution"]
    assert "taskRoleArn" not in given
    assert "AUTH_SECRET_KEY" not in json.dumps(given)
    passed = [
        statement["Resource"]
        for statement in made["Resources"]["Deploy"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        if statement["Action"] == "iam:PassRole"
    ]
    assert "DatabaseExecution" not in str(passed)
    assert "AppExecution" in str(passed)


def test_what_lives_long_is_made_in_order(cloud: Cloud) -> None:
    """The account's share, the bucket in the other region, the environment, its secrets; and what to tell GitHub is printed."""
    for program, does in {
        "curl": 'while [ "$1" != --output ]; do shift; done; echo "$3" >"$2"',
        "python": f'echo "$@" "$(cat "$4")" >{cloud.folder}/filled',
    }.items():
        (cloud.folder / "bin" / program).write_text(f"#!/bin/sh\n{does}\n")
        (cloud.folder / "bin" / program).chmod(0o755)
    result = cloud.run("provision.sh", "staging")
    succeeds(result)
    made = [given for call, given in cloud.calls if call == "cloudformation deploy"]
    assert [(each["stack-name"], each["region"]) for each in made] == [
        (f"{cloud.account}-account", REGION),
        (f"{cloud.name}-backups", "eu-west-1"),
        (cloud.name, REGION),
    ]
    assert made[1]["parameters"]["BucketName"] == made[2]["parameters"]["BackupBucketName"]
    assert made[2]["parameters"]["GitHubEnvironment"] == "staging"
    assert [call for call, _ in cloud.calls].count("cloudformation update-termination-protection") == 3
    filled = (cloud.folder / "filled").read_text()
    assert re.match(r"-m ops\.deploy\.ecs\.fill staging \S+authority\.pem", filled)
    assert filled.strip().endswith(f"/{REGION}/{REGION}-bundle.pem")
    assert f"DeployRole\t{cloud.outputs['DeployRole']}" in result.stdout


def test_a_digest_is_found_by_its_tag(cloud: Cloud) -> None:
    """What promotes an image to production; a tag that there is not is an error."""
    client = cloud.clients["ecr"]
    client.create_repository(repositoryName="group/app")
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:x"}, "layers": []})
    put = client.put_image(
        repositoryName="group/app",
        imageManifest=manifest,
        imageManifestMediaType="application/vnd.oci.image.manifest.v1+json",
        imageTag="0123",
    )["image"]
    result = cloud.run("digest.sh", "111122223333.dkr.ecr.eu-central-1.amazonaws.com/group/app", "0123")
    assert result.stdout.strip().endswith(f"/group/app@{put['imageId']['imageDigest']}")
    assert cloud.run("digest.sh", "host/group/app", "4567").returncode != 0


AUTHORITY_NAME = "authority.pem"


@pytest.fixture
def authority(tmp_path: Path) -> str:
    """A certificate that signs itself."""
    path = tmp_path / AUTHORITY_NAME
    subject = ["-subj", "/CN=authority", "-days", "2", "-keyout", "/dev/null", "-out", str(path)]
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *subject]
    subprocess.run(made, capture_output=True, check=True)
    return path.read_text("ascii")


def test_secrets_are_made_once_and_kept(
    authority: str, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ours gets a value, what is not is named, what is there stays."""
    chosen = read("staging")
    client = clients["secretsmanager"]
    names = [f"{chosen['name']}/{kind}" for kind in ("app", "backup")]
    for name in names:
        client.create_secret(Name=name, SecretString="{}")
    monkeypatch.setattr("ops.deploy.ecs.fill.read", lambda _: chosen)
    chosen["secrets"]["app"].append("AI_OPENAI_API_KEY")
    assert fill("staging", authority) == {names[0]: ["AI_OPENAI_API_KEY"]}

    def value(name: str) -> dict[str, str]:
        return dict(json.loads(client.get_secret_value(SecretId=name)["SecretString"]))

    first = value(names[0])
    assert set(first) == {"AUTHORITY", "AUTH_SECRET_KEY", "ENCRYPTION_KEYS", "HEALTH_TOKEN"}
    assert first["AUTHORITY"] == authority
    assert re.fullmatch(r"k\d{8}\w+:[\w+/]{43}=", value(names[1])["BACKUP_KEYS"])
    client.put_secret_value(SecretId=names[0], SecretString=json.dumps(first | {"AI_OPENAI_API_KEY": "given"}))
    assert fill("staging", authority) == {}
    assert value(names[0]) == first | {"AI_OPENAI_API_KEY": "given"}
    with pytest.raises(Fault, match="is no certificate"):
        fill("staging", "<html>not found</html>")


def test_the_database_is_prepared_without_a_superuser(stack: Stack) -> None:
    """By a master as RDS has it, on a real server, twice; the role owns its database and may not make roles."""
    from devstack.programs import postgres_bin

    names = "DROP DATABASE IF EXISTS ecs_app; DROP ROLE IF EXISTS ecs_app, ecs_master;"
    stack.sql(
        f"{names} CREATE ROLE ecs_master LOGIN CREATEDB CREATEROLE PASSWORD 'master';"
        " GRANT pg_read_all_stats TO ecs_master WITH ADMIN OPTION;"
    )
    script = re.sub(r"\bapp\b", "ecs_app", (FOLDER / "database.sql").read_text("utf-8"))
    address = {"PGHOST": stack.env["DATABASE_HOST"], "PGPORT": stack.env["DATABASE_PORT"], "PATH": os.environ["PATH"]}

    def psql(user: str, password: str, database: str, text: str, **more: str) -> str:
        result = subprocess.run(
            [postgres_bin() / "psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "-At"],
            env={**address, "PGUSER": user, "PGPASSWORD": password, "PGDATABASE": database, **more},
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    for password in ("first", "it's another"):
        psql("ecs_master", "master", "postgres", script, APP_PASSWORD=password)
    asked = """SELECT rolsuper, rolcreaterole, rolcreatedb, pg_has_role('pg_read_all_stats', 'member'),
        (SELECT datdba = pg_roles.oid FROM pg_database WHERE datname = current_database()),
        (SELECT count(*) FROM pg_extension WHERE extname = 'vector') FROM pg_roles WHERE rolname = current_user"""
    assert psql("ecs_app", "it's another", "ecs_app", asked) == "f|f|t|t|t|1"
    stack.sql(names.replace("; ", ";\n"))
