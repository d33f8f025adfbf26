"""What Heroku, Render and Railway are given: against a schema of each, and against this project's own rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ops.check.tools import Check, Findings, findings, run

FOLDER = Path("ops/deploy/paas")
#: Read by PostgreSQL's own libraries.
FOREIGN_VARIABLES = frozenset({"PGSSLMODE"})
#: Their values are nobody's to read in a repository.
SECRET = re.compile(r".*_(KEYS?|TOKEN|PASSWORD)$")
#: Seconds from SIGTERM to SIGKILL on Heroku, which nobody can change.
HEROKU_SECONDS = 30
#: Names under which the platforms themselves ask, and by which the service is first reached.
HOSTS = {
    "heroku": ("*.herokuapp.com",),
    "render": ("*.onrender.com",),
    "railway": ("*.up.railway.app", "healthcheck.railway.app"),
}
REPLICAS = {"web": (2, 10), "worker": (1, 5), "beat": (1, 1)}


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of process on a platform.

    Attributes:
        command: what it runs.
        variables: what is set for it; None where the value is asked for, generated or referred to.
        replicas: at least and at most; None where the platform is not told.
        seconds: from SIGTERM to SIGKILL.
        before: what runs before the first new process.
        health: the path by which the platform asks for it as long as it runs.
    """

    command: str
    variables: Mapping[str, str | None]
    replicas: tuple[int, int] | None = None
    seconds: int = HEROKU_SECONDS
    before: str = ""
    health: str = ""


@dataclass(frozen=True, slots=True)
class Platform:
    """One of them, as this project's files describe it.

    Attributes:
        faults: found while reading.
    """

    name: str
    parts: Mapping[str, Part]
    faults: list[str] = field(default_factory=list)


def procfile(root: Path) -> dict[str, str]:
    """The kinds of processes and their commands.

    Raises:
        ValueError: a line is not `name: command`.
    """
    found: dict[str, str] = {}
    for number, line in enumerate((root / "Procfile").read_text("utf-8").splitlines(), 1):
        match = re.fullmatch(r"([a-z][a-z0-9-]*): (\S.*)", line)
        if not match or match[1] in found:
            raise ValueError(f"Procfile:{number}: not a kind of process of its own, a colon and a command: {line!r}")
        found[match[1]] = match[2]
    return found


def heroku(root: Path) -> Platform:
    """From Procfile and app.json."""
    manifest = json.loads((root / "app.json").read_text("utf-8"))
    commands = procfile(root)
    variables = {name: given.get("value") for name, given in manifest["env"].items()}
    added = {f"{addon['as']}_URL": None for addon in manifest["addons"]}
    parts = {
        name: Part(
            command,
            {**added, **variables},
            _fixed(manifest["formation"].get(name, {}).get("quantity", 0)),
            before=commands.get("release", "") if name == "web" else "",
        )
        for name, command in commands.items()
        if name != "release"
    }
    return Platform("heroku", parts)


def render(root: Path) -> Platform:
    """From render.yaml."""
    blueprint = yaml.safe_load((root / "render.yaml").read_text("utf-8"))
    groups = {group["name"]: group["envVars"] for group in blueprint["envVarGroups"]}
    known = {service["name"] for service in blueprint["services"]} | {item["name"] for item in blueprint["databases"]}
    faults: list[str] = []
    parts = {}
    for service in blueprint["services"]:
        name = service["name"].rpartition("-")[2]
        if service["type"] == "keyvalue":
            faults += _faults_of_store(name, service)
            continue
        variables: dict[str, str | None] = {}
        for entry in service["envVars"]:
            group = groups.get(entry.get("fromGroup"), [entry] if "key" in entry else None)
            if group is None:
                faults.append(f"{name}: there is no group {entry['fromGroup']}")
                continue
            variables |= {one["key"]: one.get("value") for one in group}
            source = entry.get("fromService") or entry.get("fromDatabase")
            if source and source["name"] not in known:
                faults.append(f"{name}: {entry['key']} comes from {source['name']}, which there is not")
        scaling = service.get("scaling")
        parts[name] = Part(
            service["dockerCommand"],
            variables,
            (scaling["minInstances"], scaling["maxInstances"]) if scaling else _fixed(service.get("numInstances", 1)),
            service.get("maxShutdownDelaySeconds", 30),
            service.get("preDeployCommand", ""),
            service.get("healthCheckPath", ""),
        )
    for database in blueprint["databases"]:
        if database.get("ipAllowList") != []:
            faults.append(f"{database['name']}: can be reached from outside: ipAllowList")
    return Platform("render", parts, faults)


def railway(root: Path) -> Platform:
    """From the files of ops/deploy/paas/railway."""
    folder = root / FOLDER / "railway"
    pairs = (
        line.split("=", 1) for line in (folder / "variables.env").read_text("utf-8").splitlines() if line[:1] != "#"
    )
    variables = {name: None if not value or "${{" in value else value for name, value in pairs}
    parts = {}
    for path in sorted(folder.glob("*.json")):
        deploy = json.loads(path.read_text("utf-8"))["deploy"]
        parts[path.stem] = Part(
            deploy["startCommand"],
            variables,
            _fixed(deploy.get("numReplicas", 1)),
            deploy.get("drainingSeconds", 0),
            "; ".join(deploy.get("preDeployCommand", ())),
        )
    return Platform("railway", parts)


def _fixed(number: int) -> tuple[int, int]:
    return (number, number)


def _faults_of_store(name: str, store: Mapping[str, Any]) -> Iterator[str]:
    if store["ipAllowList"]:
        yield f"{name}: can be reached from outside: ipAllowList"
    wanted = "noeviction" if name == "broker" else "allkeys-lru"
    if store.get("maxmemoryPolicy") != wanted:
        yield f"{name}: {'may forget tasks' if name == 'broker' else 'stops when it is full'}: maxmemoryPolicy {wanted}"
    if name == "broker" and store.get("persistenceMode", "off") == "off":
        yield "broker: forgets what waits when it restarts: persistenceMode"


def variables(root: Path) -> frozenset[str]:
    """Every variable that the application reads."""
    example = (root / ".env.example").read_text("utf-8").split("\n## Compose:")[0]
    return frozenset(re.findall(r"(?m)^([A-Z][A-Z0-9_]*)=", example))


def faults(platform: Platform, commands: Mapping[str, str], known: frozenset[str]) -> Iterator[str]:
    """What is wrong with a platform by the rules of this project.

    Args:
        platform: as its files describe it.
        commands: the Procfile's.
        known: the variables that the application reads.
    """
    yield from platform.faults
    for name in REPLICAS.keys() - platform.parts.keys():
        yield f"{name}: there is none"
    for name, part in platform.parts.items():
        for fault in (*_faults_of_command(name, part, commands), *_faults_of_variables(platform.name, part, known)):
            yield f"{name}: {fault}"
        least, most = REPLICAS.get(name, (0, 1))
        if part.replicas and not least <= part.replicas[0] <= part.replicas[1] <= most:
            yield f"{name}: {part.replicas[0]} to {part.replicas[1]} of it; between {least} and {most} are meant"


def _faults_of_command(name: str, part: Part, commands: Mapping[str, str]) -> Iterator[str]:
    # A platform's own timetable runs one backup; without one the process keeps the timetable.
    wanted = {commands.get(name), "python -m ops.backup dump" if name == "backup" else None}
    if part.command not in wanted:
        yield f"runs {part.command!r}, and the Procfile says {commands.get(name)!r}"
    migrate = commands.get("release", "")
    if part.before != (migrate if name == "web" else ""):
        yield f"runs {part.before!r} before it starts; {migrate!r} belongs before web, once"
    if part.health not in ("", "/health"):
        yield f"is restarted when {part.health} fails, which depends on neighbours: /health asks the process alone"
    drain = part.variables.get("TASKS_DRAIN_SECONDS")
    if name == "worker" and part.seconds <= int(drain or 60) + 10:
        yield f"is killed after {part.seconds} s, and drains for {drain or 60}: TASKS_DRAIN_SECONDS"


def _faults_of_variables(platform: str, part: Part, known: frozenset[str]) -> Iterator[str]:
    for name, value in part.variables.items():
        if name not in known | FOREIGN_VARIABLES:
            yield f"nothing reads {name}"
        if value is not None and SECRET.fullmatch(name):
            yield f"{name} is a secret, and its value stands in the repository"
    for name in ("DATABASE_URL", "CACHE_URL", "BROKER_URL", "AUTH_SECRET_KEY", "HTTP_ALLOWED_HOSTS", "ENVIRONMENT"):
        if name not in part.variables:
            yield f"{name} is not set"
    hosts = (part.variables.get("HTTP_ALLOWED_HOSTS") or "").split(",")
    yield from (f"does not answer to {host}: HTTP_ALLOWED_HOSTS" for host in HOSTS[platform] if host not in hosts)
    if part.variables.get("LIMITS_PER_CLIENT", "0") == "0":
        yield "has no limit by address, as no nginx stands in front: LIMITS_PER_CLIENT"
    if part.variables.get("HTTP_TRUSTED_PROXIES") == "*":
        yield "believes what clients write into X-Forwarded-For: HTTP_TRUSTED_PROXIES"
    if not (part.variables.get("HTTP_TRUSTED_PROXIES") or part.variables.get("HTTP_CLIENT_HEADER")):
        yield "takes the platform's router for its only client: HTTP_CLIENT_HEADER"


def schemas(root: Path) -> Findings:
    """What the schema of each platform finds in its files."""
    files: dict[str, list[str | Path]] = {
        "heroku": ["app.json"],
        "render": ["render.yaml"],
        "railway": [*sorted((root / FOLDER).glob("railway/*.json"))],
    }
    found = [
        findings(run(root, ["check-jsonschema", "--schemafile", FOLDER / f"schemas/{name}.json", *paths]))
        for name, paths in files.items()
    ]
    return "\n".join(filter(None, found))


def check(root: Path) -> Findings:
    """The rules, for every platform."""
    try:
        commands = procfile(root)
    except ValueError as error:
        return str(error)
    found = [
        f"{platform.name}: {fault}"
        for platform in (heroku(root), render(root), railway(root))
        for fault in faults(platform, commands, variables(root))
    ]
    return "\n".join(dict.fromkeys(found))


CHECKS = (
    Check("paas-schemas", schemas, str(FOLDER)),
    Check("paas", check, str(FOLDER)),
)
