"""The compose model of each environment, as Compose itself merges it, held against the rules of this project."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from ops.check.tools import Findings, Unavailable, find, findings, run

ENVIRONMENTS = ("dev", "stage", "prod")  # prod: where it runs by Compose
REQUIRED = re.compile(r"\$\{([A-Z][A-Z0-9_]*):\?")


def files(root: Path, environment: str) -> list[Path]:
    """The files of an environment in the order of the Makefile."""
    folder = root / "ops/compose"
    return [root / "compose.yaml", *sorted(folder.glob("rooms/*.yaml")), folder / f"{environment}.yaml"]


def model(root: Path, environment: str) -> dict[str, Any]:
    """The merged model.

    Raises:
        ValueError: Compose refuses the files; the text says why.
    """
    paths = files(root, environment)
    # Every secret that the files insist on; their values do not matter here.
    texts = [path.read_text("utf-8") for path in [*paths, root / "ops/compose/base.yaml"]]
    secrets = {name: "given" for text in texts for name in REQUIRED.findall(text)}
    compose = ["docker-compose"] if find("docker-compose") else ["docker", "compose"]
    if not find(compose[0]):
        raise Unavailable("docker-compose is not installed: make setup")
    with tempfile.NamedTemporaryFile(suffix=".env") as empty:  # a person's .env must not decide the result
        options = [word for path in paths for word in ("--file", str(path))]
        result = run(
            root,
            [
                *compose,
                "--project-directory",
                str(root),
                "--env-file",
                empty.name,
                *options,
                "config",
                "--format",
                "json",
            ],
            env=secrets,
        )
    if text := findings(result):
        raise ValueError(text)
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def check(root: Path) -> Findings:
    """All environments."""
    found = []
    for environment in ENVIRONMENTS:
        if not files(root, environment)[-1].exists():
            continue
        try:
            merged = model(root, environment)
        except ValueError as error:
            found.append(f"{environment}: {error}")
            continue
        for name, service in merged["services"].items():
            found += [f"{environment}: {name}: {fault}" for fault in faults(environment, name, service)]
    return "\n".join(found)


def faults(environment: str, name: str, service: dict[str, Any]) -> list[str]:
    """What is wrong with one service."""
    rules = {
        "publishes a port; in stage and prod only nginx may": environment != "dev"
        and name != "nginx"
        and "ports" in service,
        "publishes a port to the network; in dev only 127.0.0.1 may": environment == "dev"
        and any(port.get("host_ip") != "127.0.0.1" for port in service.get("ports", ())),
        "can write to its file system: read_only": not service.get("read_only"),
        "keeps capabilities: cap_drop": service.get("cap_drop") != ["ALL"],
        "may gain privileges: security_opt": "no-new-privileges:true" not in service.get("security_opt", ()),
        "runs as root: user": str(service.get("user", "0")).split(":")[0] in ("0", "root")
        and not (_prepares(service) or _reads_the_logs_of_others(service)),
        "is given capabilities: cap_add": bool(service.get("cap_add")) and not _prepares(service),
        "sees more of the machine than it may: privileged, pid, ipc, network_mode, devices": any(
            service.get(name) for name in ("privileged", "devices", "userns_mode")
        )
        or "host" in (service.get("pid"), service.get("ipc"), service.get("network_mode")),
        "could command the engine: docker.sock": any("docker.sock" in source for source in _mounts(service)),
        "can write to a folder of the machine: volumes": environment != "dev" and bool(_mounts(service, writable=True)),
        "does not come back: restart": service.get("restart") not in ("unless-stopped", "no"),
        "starts before what it needs is healthy: depends_on": any(
            need.get("condition") == "service_started" for need in service.get("depends_on", {}).values()
        ),
        "has no limit of processors": not _limits(service).get("cpus"),
        "has no limit of memory": not _limits(service).get("memory"),
        "has no limit of processes": not _limits(service).get("pids"),
        "has logs without end: logging": "max-size" not in service.get("logging", {}).get("options", {}),
        "has no health check": _needs_health_check(service) and not service.get("healthcheck"),
        "takes whatever image is newest": _floating(service.get("image", "")),
    }
    return [text for text, broken in rules.items() if broken]


def _prepares(service: dict[str, Any]) -> bool:
    """Whether it prepares a fresh volume, which takes root: such a one runs once and has no network."""
    return (service.get("restart"), service.get("network_mode")) == ("no", "none")


def _reads_the_logs_of_others(service: dict[str, Any]) -> bool:
    """Whether it is there for the files that Docker writes, which belong to root: it may write nothing on the machine."""
    return any(source.endswith("/docker/containers") for source in _mounts(service)) and not _mounts(
        service, writable=True
    )


def _mounts(service: dict[str, Any], *, writable: bool = False) -> list[str]:
    """The folders of the machine that it sees; `writable`: those that it may write to."""
    mounts = [mount for mount in service.get("volumes", ()) if mount.get("type") == "bind"]
    return [mount.get("source", "") for mount in mounts if not (writable and mount.get("read_only"))]


def _limits(service: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = service.get("deploy", {}).get("resources", {}).get("limits", {})
    return limits


def _needs_health_check(service: dict[str, Any]) -> bool:
    # What runs once has an exit code instead, and the image built here brings its own.
    return service.get("restart") != "no" and "build" not in service


def _floating(image: str) -> bool:
    name = image.rsplit("/", 1)[-1]
    return "@" not in image and (":" not in name or name.endswith(":latest"))
