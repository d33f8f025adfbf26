"""Put together what a release brings: service.toml, one of the environments, and what the stack of that environment says.

By Python's own library alone, as a runner of the workflow has nothing else. `render.py ENVIRONMENT COMMAND`:

    variables               name, region, region of the backups and name of the account's stack, with tabs between
    parameters TEMPLATE     KEY=VALUE, a line each, of account, environment or backups
    release FOLDER IMAGE BACKUP_IMAGE
                            reads FOLDER/outputs.json and writes the requests to ECS beside it
    command WORDS...        overrides for a task that runs something else
"""

from __future__ import annotations

import copy
import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
IMAGE = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
OUTPUT = re.compile(r"\$\{(\w+)\}")
#: Keys of a task in service.toml that are not AWS'.
OURS = ("bare", "container", "run", "secrets", "settings")
#: What a service can be given when it is there already.
UPDATABLE = (
    "availabilityZoneRebalancing",
    "cluster",
    "deploymentConfiguration",
    "healthCheckGracePeriodSeconds",
    "loadBalancers",
    "networkConfiguration",
    "platformVersion",
)
#: libpq and asyncpg read the authority of the database's certificate from a file; a task can be given variables only.
AUTHORITY = """printf '%s\\n' "$AUTHORITY" >/tmp/authority.pem; """

Object = dict[str, Any]


class Fault(Exception):
    """The files do not fit together; the text says where."""


def environments(folder: Path = FOLDER) -> list[str]:
    """The names of all environments."""
    return sorted(path.stem for path in (folder / "environments").glob("*.toml"))


def read(environment: str, folder: Path = FOLDER) -> Object:
    """What differs in an environment.

    Raises:
        Fault: there is no such one.
    """
    if environment not in environments(folder):
        raise Fault(f"no environment {environment!r}: {', '.join(environments(folder))}")
    return tomllib.loads((folder / f"environments/{environment}.toml").read_text("utf-8"))


def variables(chosen: Object) -> dict[str, str]:
    """What the scripts have to know."""
    return {name: str(chosen[name]) for name in ("name", "region", "backup_region")} | {
        "account": str(chosen["account"]["Name"])
    }


def parameters(environment: str, chosen: Object, template: str) -> dict[str, str]:
    """The parameters of one of the templates."""
    bucket = str(chosen["parameters"]["BackupBucketName"])
    shared = {"Name": str(chosen["name"]), "Images": str(chosen["account"]["Name"])}
    shared |= {"Repository": str(chosen["account"]["Repository"]), "GitHubEnvironment": environment}
    return {
        "account": {name: str(value) for name, value in chosen["account"].items()},
        "backups": {"BucketName": bucket},
        "environment": shared | {name: str(value) for name, value in chosen["parameters"].items()},
    }[template]


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`; objects are joined, all else is replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: merged(below.get(key), above.get(key, below.get(key))) for key in below | above}
    return copy.deepcopy(above)


def filled(value: Any, known: Mapping[str, Any]) -> Any:
    """The same with each ${Name} replaced; a text that is nothing else becomes what the name stands for.

    Raises:
        Fault: there is no such name.
    """
    if isinstance(value, dict):
        return {key: filled(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, known) for item in value]
    if not isinstance(value, str):
        return value
    if unknown := [name for name in OUTPUT.findall(value) if name not in known]:
        raise Fault(f"service.toml: ${{{unknown[0]}}} is no output of environment.yaml and nothing of the release")
    if whole := OUTPUT.fullmatch(value):
        return known[whole[1]]
    return OUTPUT.sub(lambda match: str(known[match[1]]), value)


def release(
    environment: str, outputs: Mapping[str, str], image: str, backup_image: str, folder: Path = FOLDER
) -> dict[str, Object]:
    """Every request of a release.

    Args:
        environment: its name.
        outputs: of its stack.
        image: NAME@sha256:… of the application.
        backup_image: the same of the backups.
        folder: where service.toml is.

    Returns:
        File names to requests: tasks/NAME to RegisterTaskDefinition, services/NAME to CreateService, updates/NAME to
        UpdateService, scaling/NAME to RegisterScalableTarget, policies/NAME to PutScalingPolicy, run to RunTask.

    Raises:
        Fault: an image is not named by its digest, or a name stands for nothing.
    """
    for given in (image, backup_image):
        if not IMAGE.fullmatch(given):
            raise Fault(f"'{given}' is no NAME@sha256:…: a tag may be another image tomorrow")
    chosen = read(environment, folder)
    service = tomllib.loads((folder / "service.toml").read_text("utf-8"))
    known: dict[str, Any] = {**outputs, **chosen["scaling"], "Image": image, "BackupImage": backup_image}
    known["BackupRegion"] = chosen["backup_region"]
    known["DatabaseSql"] = (folder / "database.sql").read_text("utf-8")
    requests: dict[str, Object] = {}
    for name, task in service["tasks"].items():
        requests[f"tasks/{name}"] = filled(_task(name, chosen, service["task"], task), {**known, "Task": name})
    for name, given in service["services"].items():
        made = filled(merged(service["service"], given), known)
        requests[f"services/{name}"] = made
        requests[f"updates/{name}"] = {"service": made["serviceName"]} | {
            key: value for key, value in made.items() if key in UPDATABLE
        }
    for name, given in service["scaling"].items():
        target = {
            "ServiceNamespace": "ecs",
            "ResourceId": f"service/{known['Cluster']}/{service['services'][name]['serviceName']}",
            "ScalableDimension": "ecs:service:DesiredCount",
        }
        requests[f"scaling/{name}"] = target | filled(given, known)
        requests[f"policies/{name}"] = target | filled(service["policy"], known)
    once = ("cluster", "launchType", "networkConfiguration", "platformVersion")
    requests["run"] = filled({key: service["service"][key] for key in once}, known) | {"count": 1}
    return requests


def _task(name: str, chosen: Object, common: Object, task: Object) -> Object:
    """One task definition: what all have, what this one has, and what the environment adds."""
    whole = merged(common, task)
    settings, secrets = whole["settings"], whole["secrets"]
    if whole.get("bare"):
        settings, secrets = task["settings"], {"AUTHORITY": common["secrets"]["AUTHORITY"], **task["secrets"]}
        del whole["taskRoleArn"]
    else:
        settings = settings | chosen["settings"]
        secrets = secrets | dict.fromkeys(chosen["secrets"]["app"], "${AppSecret}")
    definition = {key: value for key, value in whole.items() if key not in OURS}
    return definition | {
        "family": f"{chosen['name']}-{name}",
        "containerDefinitions": [
            whole["container"]
            | {
                "command": ["sh", "-ec", AUTHORITY + whole["run"]],
                "environment": [{"name": key, "value": value} for key, value in sorted(settings.items())],
                "secrets": [_secret(key, value) for key, value in sorted(secrets.items())],
            }
        ],
    }


def _secret(variable: str, place: str) -> Object:
    """Where ECS finds a variable: in an object of them under its name or another one; "secret:" is the whole text."""
    secret, has_name, other = place.partition(":")
    key = other if has_name else variable
    return {"name": variable, "valueFrom": f"{secret}:{key}::" if key else secret}


def command(words: Sequence[str]) -> Object:
    """Overrides of a task that is to run something else, once."""
    return {"containerOverrides": [{"name": "app", "command": ["sh", "-ec", f'{AUTHORITY}exec "$@"', "sh", *words]}]}


def main(arguments: Sequence[str]) -> None:
    """Run from the command line."""
    environment, what, *rest = arguments
    chosen = read(environment)
    if what == "variables":
        print(*variables(chosen).values(), sep="\t")
    elif what == "parameters":
        print(*(f"{name}={value}" for name, value in parameters(environment, chosen, *rest).items()), sep="\n")
    elif what == "command":
        print(json.dumps(command(rest)))
    elif what == "release":
        folder, image, backup_image = Path(rest[0]), *rest[1:]
        given = json.loads((folder / "outputs.json").read_text("utf-8"))
        outputs = {output["OutputKey"]: output["OutputValue"] for output in given}
        for name, request in release(environment, outputs, image, backup_image).items():
            path = folder / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(request, indent=2), "utf-8")
    else:
        raise Fault(f"no command {what!r}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fault as fault:
        sys.exit(f"render.py: {fault}")
