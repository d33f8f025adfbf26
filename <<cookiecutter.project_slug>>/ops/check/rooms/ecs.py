"""What AWS is asked for: templates and requests against AWS' own schemas and models, then against this project's own rules."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import yaml
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.validate import ParamValidator

from ops.check.tools import Check, Findings, findings, run
from ops.deploy.ecs.render import Fault, Object, environments, parameters, read, release

FOLDER = Path("ops/deploy/ecs")
TEMPLATES = ("account", "backups", "environment")
#: Stands for an image that a build has pushed.
IMAGE = f"registry.invalid/app@sha256:{'0' * 64}"
#: Folder of requests -> service and operation that they go to, and what deploy.sh adds to them.
OPERATIONS = {
    "tasks": ("ecs", "RegisterTaskDefinition", {}),
    "services": ("ecs", "CreateService", {"taskDefinition": "app:1"}),
    "updates": ("ecs", "UpdateService", {"taskDefinition": "app:1"}),
    "run": ("ecs", "RunTask", {"taskDefinition": "app:1"}),
    "scaling": ("application-autoscaling", "RegisterScalableTarget", {}),
    "policies": ("application-autoscaling", "PutScalingPolicy", {}),
}
#: How the ARN of a resource begins, where an output is one.
ARNS = {
    "AWS::IAM::Role": "iam::111122223333:role/",
    "AWS::ElasticLoadBalancingV2::TargetGroup": "elasticloadbalancing:eu-central-1:111122223333:targetgroup/app/",
    "AWS::SecretsManager::Secret": "secretsmanager:eu-central-1:111122223333:secret:",  # pragma: allowlist secret
}
#: Read by libpq, by psql or by our own command line, not by the application.
FOREIGN_VARIABLES = re.compile(r"AUTHORITY|PG[A-Z]+|SQL|APP_PASSWORD")
#: A variable that holds a secret, by its name or as an address with a password in it.
SECRETS = re.compile(r"^[A-Z_]*(PASSWORD|SECRET|TOKEN|KEYS?)[A-Z_]*=|://[^/]*:[^/]*@")

Requests = dict[str, Object]


class _Tags(yaml.SafeLoader):
    """Reads CloudFormation's short functions: `!Ref Name` as {"Ref": "Name"}."""


def _function(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Object:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {tag: value}


_Tags.add_multi_constructor("!", _function)


def template(root: Path, name: str) -> Object:
    """One of the templates."""
    loaded: Object = yaml.load((root / FOLDER / f"{name}.yaml").read_text("utf-8"), _Tags)  # noqa: S506 - a SafeLoader
    return loaded


def outputs(made: Object) -> dict[str, str]:
    """What a stack of the template would say, invented: names, and ARNs of the right kind where it would be one."""
    found = {}
    for name, output in made["Outputs"].items():
        value = output["Value"]
        resource = str(next(iter(value.values()))).split(".")[0]
        kind = made["Resources"].get(resource, {}).get("Type", "")
        kind = "AWS::SecretsManager::Secret" if "MasterUserSecret" in str(value) else kind
        found[name] = f"arn:aws:{ARNS[kind]}{name}" if kind in ARNS else f"{name.lower()}-0"
    return found


def check(root: Path) -> Findings:
    """Templates, and the requests of each environment."""
    found: list[str] = []
    whole: dict[str, Requests] = {}
    made = template(root, "environment")
    for environment in environments(root / FOLDER):
        try:
            whole[environment] = release(environment, outputs(made), IMAGE, IMAGE, root / FOLDER)
        except (Fault, KeyError) as fault:
            found.append(f"{environment}: {fault}")
            continue
        requests = whole[environment]
        found += [f"{environment}: {fault}" for fault in model_faults(requests)]
        found += [f"{environment}: {fault}" for fault in faults(requests, variables(root))]
        found += [f"{environment}: {fault}" for fault in parameter_faults(root, environment)]
    found += role_faults(made)
    return "\n".join([*dict.fromkeys(found), *lint(root, next(iter(whole.values()), {}))])


def lint(root: Path, requests: Requests) -> list[str]:
    """What cfn-lint says of the templates, and of the task definitions as resources of one; they differ only in settings."""
    with tempfile.TemporaryDirectory(prefix="ecs-") as scratch:
        resources = {
            name.partition("/")[2]: {
                "Type": "AWS::ECS::TaskDefinition",
                "Properties": capitalised(request, _shape("ecs", "RegisterTaskDefinition")),
            }
            for name, request in requests.items()
            if name.startswith("tasks/")
        }
        tasks = Path(scratch, "service.toml.json")
        tasks.write_text(json.dumps({"Resources": resources}), "utf-8")
        files = [tasks, *(root / FOLDER / f"{name}.yaml" for name in TEMPLATES)]
        result = run(root, ["cfn-lint", "--include-checks", "I3011", "--", *(files if resources else files[1:])])
        return [text.replace(f"{scratch}/", "").replace(f"{root}/", "")] if (text := findings(result)) else []


def capitalised(value: Any, shape: Shape | None) -> Any:
    """A request in the spelling of CloudFormation, where the names of fields begin with capitals."""
    if isinstance(shape, StructureShape):
        return {name[0].upper() + name[1:]: capitalised(item, shape.members.get(name)) for name, item in value.items()}
    if isinstance(shape, ListShape):
        return [capitalised(item, shape.member) for item in value]
    if isinstance(shape, MapShape):
        return {name: capitalised(item, shape.value) for name, item in value.items()}
    return value


def _shape(service: str, operation: str) -> Shape:
    model = botocore.session.get_session().get_service_model(service)
    shape = model.operation_model(operation).input_shape
    assert shape is not None
    return shape


def model_faults(requests: Requests) -> list[str]:
    """What botocore's models of the services find: names, types, what must be there, and the words that may be."""
    found = []
    for name, request in requests.items():
        service, operation, added = OPERATIONS[name.partition("/")[0]]
        shape = _shape(service, operation)
        report = ParamValidator().validate({**request, **added}, shape)
        found += [f"{name}: {line}" for line in report.generate_report().splitlines() if report.has_errors()]
        found += [f"{name}: {fault}" for fault in words(request, shape)]
    return found


def words(value: Any, shape: Shape | None, where: str = "") -> Iterator[str]:
    """Texts that are none of those that the model lists; the validator of botocore leaves them alone."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        for name, item in value.items():
            yield from words(item, shape.members.get(name), f"{where}.{name}")
    elif isinstance(shape, ListShape) and isinstance(value, list):
        for item in value:
            yield from words(item, shape.member, where)
    elif shape is not None and isinstance(value, str):
        allowed = list(getattr(shape, "enum", ()))
        if allowed and value not in allowed:
            yield f"{where.lstrip('.')}: {value!r} is none of {', '.join(allowed)}"


def variables(root: Path) -> frozenset[str]:
    """Every variable that the application reads."""
    example = (root / ".env.example").read_text("utf-8").split("\n## Compose:")[0]
    return frozenset(re.findall(r"(?m)^([A-Z][A-Z0-9_]*)=", example))


def parameter_faults(root: Path, environment: str) -> Iterator[str]:
    """An environment gives the parameters that there are, and all that have no default."""
    chosen = read(environment, root / FOLDER)
    for name in TEMPLATES:
        there = template(root, name)["Parameters"]
        given = parameters(environment, chosen, name)
        yield from (f"{name}.yaml has no parameter {key}" for key in given.keys() - there.keys())
        yield from (
            f"{name}.yaml asks for {key}" for key, value in there.items() if "Default" not in value and key not in given
        )
    if not re.fullmatch(template(root, "environment")["Parameters"]["Name"]["AllowedPattern"], chosen["name"]):
        yield f"name: {chosen['name']!r} has other characters than a-z, 0-9 and -, or more than 48"
    if chosen["region"] == chosen["backup_region"]:
        yield "backup_region: backups lie in the region of the data, and are lost together with them"


def faults(requests: Requests, known: frozenset[str]) -> list[str]:
    """What is wrong with the requests of an environment by the rules of this project.

    Args:
        requests: all of them.
        known: the variables that the application reads.
    """
    rules = (restricted, pinned, probed, named_variables, logged, shut, careful, scaled)
    return [fault for rule in rules for fault in rule(requests, known)]


def tasks(requests: Requests) -> Iterator[tuple[str, Object, Object]]:
    """Name, definition and container of each task."""
    for name, request in requests.items():
        if name.startswith("tasks/"):
            for container in request["containerDefinitions"]:
                yield name.partition("/")[2], request, container


def restricted(requests: Requests, _: frozenset[str]) -> Iterator[str]:
    """No root, no capabilities, nothing to write to but /tmp."""
    for name, task, container in tasks(requests):
        linux = container.get("linuxParameters", {})
        rules = {
            "may run as root: user": not re.fullmatch(r"[1-9]\d*:[1-9]\d*", container.get("user", "")),
            "can write to its file system: readonlyRootFilesystem": container.get("readonlyRootFilesystem") is not True,
            "keeps capabilities: drop": linux.get("capabilities", {}) != {"drop": ["ALL"]},
            "is privileged": bool(container.get("privileged")),
            "has nowhere to write to: tmpfs or a volume on /tmp": "/tmp"  # noqa: S108 - theirs, not ours
            not in {place["containerPath"] for place in [*linux.get("tmpfs", ()), *container.get("mountPoints", ())]},
            "runs on a machine of ours: requiresCompatibilities": task.get("requiresCompatibilities") != ["FARGATE"],
            "shares a network: networkMode": task.get("networkMode") != "awsvpc",
            "may not stop in time: stopTimeout is 120 at most": not 0 < container.get("stopTimeout", 0) <= 120,
        }
        yield from (f"{name}: {text}" for text, broken in rules.items() if broken)


def pinned(requests: Requests, _: frozenset[str]) -> Iterator[str]:
    """Our own image comes by digest."""
    for name, _task, container in tasks(requests):
        if not re.fullmatch(r"[^@\s]+@sha256:[0-9a-f]{64}", container["image"]):
            yield f"{name}: {container['image']} may be another image tomorrow; by digest"


def probed(requests: Requests, _: frozenset[str]) -> Iterator[str]:
    """Each service's task is asked whether it lives, and no answer depends on neighbours."""
    for name, _task, container in tasks(requests):
        asked = " ".join(container.get("healthCheck", {}).get("command", ()))
        if f"services/{name}" in requests and not asked:
            yield f"{name}: nobody asks whether it lives: healthCheck"
        if "/health/" in asked:
            yield f"{name}: its health depends on neighbours: all tasks would be restarted when one is away"


def named_variables(requests: Requests, known: frozenset[str]) -> Iterator[str]:
    """What is set is read by somebody, once, and no secret is readable in a definition."""
    for name, _task, container in tasks(requests):
        settings = {item["name"]: item["value"] for item in container["environment"]}
        secrets = [item["name"] for item in container["secrets"]]
        for variable in [*settings, *secrets]:
            if variable not in known and not FOREIGN_VARIABLES.fullmatch(variable):
                yield f"{name}: nothing reads {variable}"
        yield from (f"{name}: {variable} is a setting and a secret" for variable in settings.keys() & secrets)
        for variable, value in settings.items():
            if not value:
                yield f"{name}: {variable} is empty, which counts as unset: its default is taken"
            if variable != "SQL" and SECRETS.search(f"{variable}={value}"):
                yield f"{name}: {variable} can be read by whoever may look at the task: put it into [secrets]"


def logged(requests: Requests, _: frozenset[str]) -> Iterator[str]:
    """Every line goes to CloudWatch, where the scripts look for it."""
    for name, _task, container in tasks(requests):
        log = container.get("logConfiguration", {})
        if log.get("logDriver") != "awslogs" or log["options"].get("awslogs-stream-prefix") != name:
            yield f"{name}: its lines are lost: awslogs, with the task's name before the stream"


def shut(requests: Requests, _: frozenset[str]) -> Iterator[str]:
    """Nothing has a public address, and only the API is reached."""
    for name, request in requests.items():
        network = request.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
        if network and network.get("assignPublicIp") != "DISABLED":
            yield f"{name}: has a public address: assignPublicIp"
        if not network and name.partition("/")[0] in ("run", "services", "updates"):
            yield f"{name}: is in no network"
        balanced = bool(request.get("loadBalancers"))
        if name.startswith("services/") and balanced != (name == "services/web"):
            yield f"{name}: {'is public' if balanced else 'nobody reaches it'}: loadBalancers"


def careful(requests: Requests, _: frozenset[str]) -> Iterator[str]:
    """A deployment goes back by itself; the old tasks stay until the new ones are healthy, but where two may not be."""
    for name, request in requests.items():
        if name.partition("/")[0] in ("services", "updates"):
            deployment = request.get("deploymentConfiguration", {})
            if deployment.get("deploymentCircuitBreaker") != {"enable": True, "rollback": True}:
                yield f"{name}: does not go back by itself: deploymentCircuitBreaker"
            beside = (deployment.get("minimumHealthyPercent"), deployment.get("maximumPercent"))
            if beside != ((0, 100) if name.endswith("/backup") else (100, 200)):
                yield f"{name}: a deployment takes tasks away before others are there, or has two where one may be"
    for one in ("beat", "backup"):
        if requests[f"services/{one}"]["desiredCount"] != 1 or f"scaling/{one}" in requests:
            yield f"services/{one}: there is to be exactly one"


def scaled(requests: Requests, _: frozenset[str]) -> Iterator[str]:
    """API and workers follow their load, between numbers that make sense."""
    for one in ("web", "worker"):
        target, policy = requests.get(f"scaling/{one}"), requests.get(f"policies/{one}")
        if not target or not policy:
            yield f"scaling.{one}: stays as it is under any load"
            continue
        if not 1 <= target["MinCapacity"] <= target["MaxCapacity"]:
            yield f"scaling.{one}: from {target['MinCapacity']} to {target['MaxCapacity']}"
        if policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] > 90:
            yield f"scaling.{one}: others are started when it is too late"


def role_faults(made: Object) -> Iterator[str]:
    """No role may do everything, the workflow's may not reach the database's master, and the details of the network are as said."""
    for name, resource in made["Resources"].items():
        properties = resource.get("Properties", {})
        policies = [policy["PolicyDocument"] for policy in properties.get("Policies", ())]
        policies += [properties["PolicyDocument"]] if resource["Type"] == "AWS::IAM::ManagedPolicy" else []
        for statement in (each for document in policies for each in document["Statement"]):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if any("*" in action for action in actions):
                yield f"{name}: may do {', '.join(actions)}"
            if statement["Resource"] == "*" and not set(actions) <= {
                "ecr:GetAuthorizationToken",
                "cloudwatch:DescribeAlarms",
            }:
                yield f"{name}: may {', '.join(actions)} everywhere"
            if "iam:PassRole" in actions and ("Database" in str(statement["Resource"]) or "Condition" not in statement):
                yield f"{name}: may start a task with the database's master, or something else than a task"
    for name in ("Database", "Cache", "Broker"):
        properties = made["Resources"][name]["Properties"]
        if not (properties.get("StorageEncrypted") or properties.get("TransitEncryptionEnabled")):
            yield f"{name}: is readable on its disk or on its way"
    if made["Resources"]["Database"]["Properties"].get("PubliclyAccessible") is not False:
        yield "Database: has a public address"


CHECKS = (Check("ecs", check, "ops/deploy/ecs/service.toml"),)
