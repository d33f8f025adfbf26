"""The whole production stack: healthy in time, hardened, closed, and up again when killed."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import Versions
from tests.containers.engine import inspect, run, wait_for
from tests.containers.server import LABEL, ROOT, Server

pytestmark = pytest.mark.containers

#: Services that may do what others may not, by the end of their name, and why. Everything else is not root and has no
#: capability at all.
EXCEPTIONS: dict[str, tuple[set[str], str]] = {
    "-volume": (
        {"CHOWN", "FOWNER", "FSETID"},
        "a fresh volume belongs to root, and who uses it is not: runs once, without a network",
    ),
}


def service_of(container: dict[str, Any]) -> str:
    """The service's name."""
    name: str = container["Config"]["Labels"][f"{LABEL}.service"]
    return name


def health_of(container: dict[str, Any]) -> str:
    """What its health check says."""
    status: str = container["State"].get("Health", {}).get("Status", "none")
    return status


def test_everything_is_healthy_within_a_minute(live: Server) -> None:
    """Stopped and started whole, as after a new kernel. START_SECONDS: more than 60, for a machine that does much else."""
    names = [container["Name"] for container in live.containers()]
    run("docker", "stop", "--time", "60", *names)
    began = time.monotonic()
    run("make", "up", "ENV=prod", env=live.env, cwd=live.folder)
    seconds = time.monotonic() - began
    assert {health_of(container) for container in live.containers()} == {"healthy"}
    assert live.ready()
    print(f"{len(names)} containers healthy in {seconds:.1f} s")
    assert seconds < float(os.environ.get("START_SECONDS", "60"))


def test_no_port_is_open_but_those_of_nginx(live: Server) -> None:
    """As the engine says it, and as the machine does: whoever listens for the outside, Docker's own proxy included."""
    published = {
        service_of(container): sorted(
            int(binding["HostPort"])
            for ports in container["NetworkSettings"]["Ports"].values()
            for binding in ports or ()
        )
        for container in live.containers()
    }
    open_ports = {service: sorted(set(ports)) for service, ports in published.items() if ports}
    assert open_ports == {"nginx": sorted([live.http_port, live.https_port])}

    # What the kernel says: the two are open, and the engine's proxies for this stack hold no other one.
    listening = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text("ascii").splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, port = local.split(":")
            if state == "0A" and not address.endswith(("0100007F", "01000000")):  # LISTEN, and not on loopback
                listening.add(int(port, 16))
    assert {live.http_port, live.https_port} <= listening
    assert set(proxied_ports(live)) <= {live.http_port, live.https_port}


def proxied_ports(server: Server) -> list[int]:
    """The ports that this project's containers hold on the machine, from the processes of Docker's proxy."""
    addresses = {
        network["IPAddress"]
        for container in server.containers()
        for network in container["NetworkSettings"]["Networks"].values()
        if network["IPAddress"]
    }
    ports = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if words[0].endswith("docker-proxy") and words[words.index("-container-ip") + 1] in addresses:
            ports.append(int(words[words.index("-host-port") + 1]))
    return ports


def test_every_container_is_hardened(live: Server) -> None:
    """No root, nothing to write to but tmpfs and volumes, no new privileges, no capability, limits, bounded logs."""
    containers = live.containers(every=True)
    assert {"nginx", "api", "worker", "beat", "postgres", "cache", "broker"} <= {service_of(one) for one in containers}
    for container in containers:
        service, host = service_of(container), container["HostConfig"]
        allowed = next((names for end, (names, _) in EXCEPTIONS.items() if service.endswith(end)), set())
        user = container["Config"]["User"].partition(":")[0]
        added = {name.removeprefix("CAP_") for name in host["CapAdd"] or ()}
        assert allowed or user not in ("", "0", "root"), service
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert added <= allowed, service
        assert not allowed or (host["NetworkMode"], host["RestartPolicy"]["Name"]) == ("none", "no"), service
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]), service
        assert not host["Privileged"], service
        assert host["PidMode"] == host["UTSMode"] == "", service
        assert host["NetworkMode"] != "host", service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"] > 0, service
        assert host["NanoCpus"] > 0, service
        assert host["LogConfig"]["Config"]["max-size"], service
        assert not any("docker.sock" in mount["Source"] for mount in container["Mounts"]), service
        written = {mount["Destination"] for mount in container["Mounts"] if mount["Type"] == "bind" and mount["RW"]}
        assert written == set(), service


def test_the_kernel_agrees(live: Server) -> None:
    """What the processes really have: no capability in any set, no way to gain one, a user that is not root."""
    for container in live.containers():
        status = Path(f"/proc/{container['State']['Pid']}/status").read_text("ascii")
        facts = dict(re.findall(r"(?m)^(\w+):\s+(\S+)", status))
        service = service_of(container)
        assert facts["Uid"] != "0", service
        assert {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}, service
        assert facts["NoNewPrivs"] == "1", service
        assert facts["Seccomp"] == "2", service


def test_the_neighbours_have_no_way_out(live: Server) -> None:
    """Whoever takes over the database cannot send it anywhere; nginx cannot even see it."""
    networks = {network["Name"]: network for network in inspect([f"{live.name}_{name}" for name in ("front", "back")])}
    assert networks[f"{live.name}_back"]["Internal"]
    (nginx,) = live.containers("nginx")
    assert f"{live.name}_back" not in nginx["NetworkSettings"]["Networks"]
    for service in ("postgres", "cache", "broker"):
        (container,) = live.containers(service)
        assert set(container["NetworkSettings"]["Networks"]) == {f"{live.name}_back"}, service


def test_the_image_holds_what_it_runs_and_nothing_else(live: Server, versions: Versions) -> None:
    """No tests, no .env, no compiler, no installer; one image for API, worker and beat."""
    listing = run("docker", "run", "--rm", "--network", "none", "--entrypoint", "ls", versions.first, "-A", "/srv")
    assert set(listing.split()) == {"alembic.ini", "app", "migrations", "ops", "pyproject.toml"}
    tools = "for name in gcc uv git curl /usr/local/bin/pip; do command -v $name && exit 1; done; test ! -w /srv && test ! -w /opt/venv"
    run("docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", versions.first, "-c", tools)
    assert {live.runs(service) for service in ("api", "worker", "beat")} == {live.runs("api")}
    (image,) = inspect([versions.first])
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Healthcheck"]
    assert not any(re.search(r"PASSWORD|SECRET|_KEY=", line) for line in image["Config"]["Env"])


def test_what_is_secret_does_not_reach_the_build(tmp_path: Path) -> None:
    """The context is what .dockerignore lets through: a .env beside the Dockerfile is not in it."""
    (tmp_path / ".dockerignore").write_bytes((ROOT / ".dockerignore").read_bytes())
    for name in (
        ".env",
        ".env.production",
        "app/.env",
        "ops/nginx/certs/privkey.pem",
        "tests/x",
        ".git/config",
        "app/x.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", "utf-8")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n", "utf-8")
    out = tmp_path / "out"
    run("docker", "build", "--quiet", "--output", f"type=local,dest={out}", str(tmp_path))
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {"app/x.py"}


def test_whatever_is_killed_comes_back(live: Server, versions: Versions) -> None:
    """kill -9 of the main process of each container, one after another, as the kernel does when memory runs out."""
    for before in live.containers():
        service, identity = service_of(before), before["Id"]
        # By a process beside them: `docker kill` would count as a person's wish that it stay down.
        run(
            *("docker", "run", "--rm", "--pid", "host", "--user", "0", "--network", "none", "--entrypoint", "python"),
            *(versions.first, "-c", f"import os; os.kill({before['State']['Pid']}, 9)"),
        )

        def up_again(identity: str = identity, before: dict[str, Any] = before) -> bool:
            (now,) = inspect([identity])
            return now["State"]["StartedAt"] != before["State"]["StartedAt"] and health_of(now) == "healthy"

        wait_for(f"{service} is up again", up_again)
    wait_for("a request is answered", live.ready)
    assert {health_of(container) for container in live.containers()} == {"healthy"}
